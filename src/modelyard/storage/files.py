"""Blobs as plain files in a folder: each appears whole, durable and read-only, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from modelyard.core.errors import Invalid, NotFound, Unavailable

CHUNK = 1 << 20
INCOMING = ".incoming"  # only where the file system has no unnamed files
FORGOTTEN_AFTER = 86_400.0  # seconds: no single upload of a blob takes a day
FULL = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EFBIG: "allows no file of this size"}
NO_UNNAMED = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT, errno.EPERM}


def checked_key(key: str) -> str:
    """The key itself if it is a relative path of plain segments.

    >>> checked_key("sha256/ab/abcd")
    'sha256/ab/abcd'
    >>> checked_key("a/../b")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: 'a/../b' is no blob key. ...
    """
    segments = key.split("/")
    if not all(0 < len(part.encode("utf-8", "surrogatepass")) <= 255 and _plain(part) for part in segments):
        raise Invalid(
            f"{key!r} is no blob key. Use a relative path of segments such as sha256/ab/abcd: none empty, "
            "none starting with a dot, no backslash, no control character."
        )
    return key


def _plain(segment: str) -> bool:
    return segment[0] != "." and segment.isprintable() and "\\" not in segment


class FileBlobs:
    """`Blobs` in a folder. A file is written without a name, synced, and linked into place, so that neither a crash,
    nor a full disk, nor another writer can show half of one."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def put(self, key: str, source: BinaryIO) -> bool:
        """Store the stream under the key unless it is taken; True if this call stored it, and it is on disk."""
        target = self.folder / checked_key(key)
        with _told(target):
            self._make(target.parent)
            stored = not target.exists() and self._write(target, source)
            _sync(target.parent)  # also for a blob that another writer linked a moment ago
        return stored

    def open(self, key: str) -> BinaryIO:
        """The bytes as a binary stream; NotFound for an unknown key."""
        return self.path(key).open("rb")

    def path(self, key: str) -> Path:
        """The file itself, which is read-only."""
        path = self.folder / checked_key(key)
        if not path.is_file():
            raise NotFound(f"There is no blob {key} in {self.folder}.")
        return path

    def delete(self, key: str) -> bool:
        """Remove the blob; True if it was there."""
        path = self.folder / checked_key(key)
        try:
            path.unlink()
        except FileNotFoundError:
            return False
        _sync(path.parent)
        return True

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix, in order."""
        return _keys(self.folder, "", prefix)

    def _write(self, target: Path, source: BinaryIO) -> bool:
        try:
            handle = os.open(target.parent, getattr(os, "O_TMPFILE", 0) | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in NO_UNNAMED:
                raise
            return self._write_named(target, source)
        with os.fdopen(handle, "wb") as file:
            _fill(file, source)
            return _link(f"/proc/self/fd/{file.fileno()}", target)

    def _write_named(self, target: Path, source: BinaryIO) -> bool:
        """The same where files must have names (macOS, NFS): a crash leaves a name that a later writer removes."""
        incoming = self.folder / INCOMING
        incoming.mkdir(parents=True, exist_ok=True)
        _forget_old(incoming)
        part = incoming / secrets.token_hex(16)
        try:
            with part.open("xb") as file:
                _fill(file, source)
            return _link(str(part), target)
        finally:
            part.unlink(missing_ok=True)

    def _make(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


class _OfTheSource(Exception):
    """Carries an error of the source of the bytes past the handling of the disk's own."""

    def __init__(self, error: OSError) -> None:
        self.error = error


def _fill(file: BinaryIO, source: BinaryIO) -> None:
    while chunk := _read(source):
        file.write(chunk)
    file.flush()
    os.fchmod(file.fileno(), 0o444)
    os.fsync(file.fileno())


def _read(source: BinaryIO) -> bytes:
    try:
        return source.read(CHUNK)
    except OSError as error:
        raise _OfTheSource(error) from error


def _link(source: str, target: Path) -> bool:
    folder = os.open(target.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:  # a folder handle makes Python call linkat with AT_SYMLINK_FOLLOW, which unnamed files need: man 2 open
        os.link(source, target.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    finally:
        os.close(folder)
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _forget_old(incoming: Path) -> None:
    for entry in list(incoming.iterdir()):
        try:
            if entry.stat().st_mtime < time.time() - FORGOTTEN_AFTER:
                entry.unlink()
        except FileNotFoundError:
            continue  # its own writer was faster


def _keys(folder: Path, above: str, prefix: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name + "/" * entry.is_dir(), entry.is_dir()) for entry in entries]
    except FileNotFoundError:
        return
    for name, is_folder in sorted(found):  # "a-b" < "a/x" < "ab": a folder sorts with its slash, as its keys do
        key = above + name
        if name.startswith(".") or not (key.startswith(prefix) or prefix.startswith(key)):
            continue
        if is_folder:
            yield from _keys(folder / name, key, prefix)
        elif key.startswith(prefix):
            yield key


@contextmanager
def _told(target: Path) -> Iterator[None]:
    """Errors of the disk, said plainly. Errors that the source raised itself pass unchanged."""
    try:
        yield
    except _OfTheSource as error:
        raise error.error from None
    except PermissionError as error:
        raise Unavailable(f"{target.parent} cannot be written: {error.strerror}. Check its permissions.") from error
    except OSError as error:
        what = FULL.get(error.errno or 0, f"failed ({error.strerror})")
        raise Unavailable(
            f"The disk that holds {target.parent} {what}. Nothing was stored. Free some space or check the disk, and try again."
        ) from error
