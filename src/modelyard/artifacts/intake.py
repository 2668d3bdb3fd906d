"""Bringing files in: found without following links, hashed while they are read, and stored only if the bytes are those."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from modelyard.artifacts import rules
from modelyard.core.errors import Invalid, NotFound, Unavailable, YardError
from modelyard.core.ports import Blobs

CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One file of a source, whose bytes are among the blobs."""

    path: str  # within its folder; the file's own name if it stands alone
    digest: str
    size: int
    new: bool  # this call stored the bytes


@dataclass(slots=True)
class Hashing:
    """A stream that passes on another's bytes, and fails at the end unless they have the expected digest."""

    source: BinaryIO
    expected: str
    hash: Any = field(default_factory=hashlib.sha256)

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data = self.source.read(size)
        self.hash.update(data)
        if not data and self.hash.hexdigest() != self.expected:
            raise Invalid("The file changed while it was read. Try again when nothing writes to it.")
        return data


def files_of(source: Path) -> list[tuple[str, Path]]:
    """(relative path, file) of a file or of everything in a folder, in order; links and devices are refused."""
    try:
        mode = source.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"There is no file or folder {source}. Check the path.") from error
    except (OSError, ValueError) as error:
        raise Invalid(f"{source!s:.200} cannot be read: {error}") from error
    if stat.S_ISDIR(mode):
        found = sorted(_walk(source, ""))
        rules.check_paths([path for path, _ in found])
        return found
    _regular(source, mode)
    return [(source.name, source)]


def _walk(folder: Path, above: str) -> Iterator[tuple[str, Path]]:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise Invalid(f"{folder} cannot be read: {error.strerror}. Check its permissions and its disk.") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), f"{above}{entry.name}/")
        else:
            _regular(Path(entry.path), entry.stat(follow_symlinks=False).st_mode)
            yield above + entry.name, Path(entry.path)


def _regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
        raise Invalid(f"{path} is {kind}. Only files and folders are admitted: copy what it stands for.")


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """An error of a disk, said plainly: whatever was begun is taken up by the next try or by a collection."""
    try:
        yield
    except YardError:
        raise
    except OSError as error:
        raise Unavailable(f"The disk failed to {what}: {error.strerror or error}. Check it and try again.") from error


def store(blobs: Blobs, path: str, file: Path) -> Stored:
    """Put one file among the blobs under its digest."""
    with _opened(file) as stream:
        digest, size = measured(stream)
        stream.seek(0)
        new = blobs.put(rules.blob_key(digest), cast(BinaryIO, Hashing(stream, digest)))
    return Stored(path=path, digest=digest, size=size, new=new)


def _opened(file: Path) -> BinaryIO:
    try:  # a link that took the file's place a moment ago is not followed, nor is a pipe waited for
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}. Check its permissions.") from error
    stream = os.fdopen(handle, "rb")
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        stream.close()
        raise Invalid(f"{file} is no regular file. Only files and folders are admitted.")
    return stream


def measured(stream: BinaryIO) -> tuple[str, int]:
    """(SHA-256, length) of a stream, read in pieces."""
    found, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        found.update(chunk)
        size += len(chunk)
    return found.hexdigest(), size
