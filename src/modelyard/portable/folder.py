"""A folder of the portable layout: written beside its place and moved there whole, read by its manifest."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Damaged, NotFound, Unavailable, YardError

FORMAT, VERSION = "modelyard-yard", 1
MANIFEST = "manifest.json"
CHUNK = 1 << 20
DOCUMENT_LIMIT = 1 << 30  # bytes of one document that is read at once


@dataclass(slots=True)
class Writing:
    """A folder that is being written. `files` has the digest and size of every file so far, by its path."""

    root: Path
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    _growing: dict[str, BinaryIO] = field(default_factory=dict)  # at most one file, which lines are being added to

    def document(self, path: str, value: Any) -> None:
        """Write a value as indented JSON with sorted keys."""
        self.text(path, dumps(value, indent=2) + "\n")

    def text(self, path: str, text: str) -> None:
        """Write a text."""
        self._new(path).write_bytes(text.encode("utf-8", "surrogatepass"))
        self.measured(path)

    def line(self, path: str, line: bytes) -> None:
        """Append a line; call `measured` when the file is whole."""
        if path not in self._growing:
            self.release()
            self.files.setdefault(path, {})
            self._growing[path] = self._new(path).open("ab")
        self._growing[path].write(line + b"\n")

    def release(self) -> None:
        """Close what lines are being added to."""
        for file in self._growing.values():
            file.close()
        self._growing.clear()

    def copy(self, path: str, source: BinaryIO, digest: str) -> None:
        """Copy a stream; Damaged unless it has the digest."""
        with self._new(path).open("xb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        self.measured(path)
        if self.files[path]["sha256"] != digest:
            raise Damaged(
                f"The stored bytes of {path} have changed. Find out more: modelyard artifacts verify {digest}"
            )

    def measured(self, path: str) -> None:
        """Note a written file's digest and size, once it is on the disk."""
        if path in self._growing:
            self.release()
        with (self.root / path).open("rb") as file:
            self.files[path] = {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": file.tell()}
            os.fsync(file.fileno())

    def _new(self, path: str) -> Path:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place


@contextmanager
def writing(folder: Path) -> Iterator[Writing]:
    """A folder to write, which takes its place when the block ends; nothing is left of it if the block fails."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} exists already. Name a folder that is not there yet.")
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        made = Writing(part)
        try:
            yield made
        finally:
            made.release()
        part.rename(folder)  # onto an empty folder, or where there is none
        _sync(folder.parent)
    except OSError as error:
        if isinstance(error, YardError):
            raise
        raise Unavailable(f"{folder} cannot be written: {error.strerror}. Choose another place.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finish(made: Writing, head: dict[str, Any]) -> str:
    """Write the manifest, which is the last file; returns its SHA-256."""
    files = dict(sorted(made.files.items()))
    made.document(MANIFEST, {"format": FORMAT, "format_version": VERSION, **head, "files": files})
    return str(made.files[MANIFEST]["sha256"])


@dataclass(frozen=True, slots=True)
class Reading:
    """A folder whose every file has the digest that the manifest gives it."""

    root: Path
    manifest: dict[str, Any]
    sha256: str  # of the manifest

    def paths(self, prefix: str) -> list[str]:
        """The files whose path starts so, in order."""
        return [path for path in self.manifest["files"] if path.startswith(prefix)]

    def text(self, path: str) -> str:
        """A file as text, compared with its digest once more as it is read."""
        if path not in self.manifest["files"]:
            raise Damaged(f"{self.root} has no {path}, without which it is no whole export.")
        data = _small(self.root / path)
        if hashlib.sha256(data).hexdigest() != self.manifest["files"][path]["sha256"]:
            raise Damaged(f"{self.root / path} changed while it was read.")
        return data.decode("utf-8", "surrogatepass")

    def document(self, path: str) -> Any:
        """A JSON document; Damaged unless it is an object."""
        try:
            found = json.loads(self.text(path))
        except (ValueError, RecursionError) as error:
            raise Damaged(f"{self.root / path} is no JSON document: {error}") from error
        if not isinstance(found, dict):
            raise Damaged(f"{self.root / path} is no JSON object.")
        return found


def reading(folder: Path) -> Reading:
    """The folder, once every file has been compared with the manifest; Damaged for one that is missing, changed or strange."""
    if not (folder / MANIFEST).is_file():
        raise NotFound(f"There is no {MANIFEST} in {folder}. Name a folder that `modelyard export` wrote.")
    data = _small(folder / MANIFEST)
    manifest = _manifest(folder, data)
    there = {path: size for path, size in _walk(folder, "") if path != MANIFEST}
    if odd := sorted(there.keys() ^ manifest["files"].keys()):
        raise Damaged(f"{folder} has not the files that its manifest names: {', '.join(odd[:5])}.")
    for path, kept in manifest["files"].items():
        if there[path] != kept["size"]:
            raise Damaged(f"{folder / path} has {there[path]:,} bytes, not the {kept['size']:,} of the manifest.")
        with (folder / path).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != kept["sha256"]:
                raise Damaged(f"{folder / path} is not what was exported: its SHA-256 differs from the manifest's.")
    return Reading(folder, manifest, hashlib.sha256(data).hexdigest())


def _manifest(folder: Path, data: bytes) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(data)
        known = manifest["format"] == FORMAT
        version, files = manifest["format_version"], manifest["files"]
        shaped = all(
            isinstance(path, str) and type(kept["size"]) is int and isinstance(kept["sha256"], str)
            for path, kept in files.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder / MANIFEST} is no manifest of an export ({type(error).__name__}: {error}).") from error
    if not known or not shaped or not isinstance(version, int):
        raise Damaged(f"{folder / MANIFEST} is no manifest of an export.")
    if version > VERSION:
        raise Damaged(f"{folder} has the format version {version}. Upgrade modelyard: pip install -U modelyard")
    return manifest


def _walk(folder: Path, above: str) -> Iterator[tuple[str, int]]:
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(Path(entry.path), f"{above}{entry.name}/")
        elif stat.S_ISREG(status.st_mode):
            yield above + entry.name, status.st_size
        else:
            raise Damaged(f"{entry.path} is a link or a device, which no export has.")


def _small(path: Path) -> bytes:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            data = file.read(DOCUMENT_LIMIT + 1)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    if len(data) > DOCUMENT_LIMIT:
        raise Damaged(f"{path} is larger than a document may be ({DOCUMENT_LIMIT:,} bytes).")
    return data


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
