"""The files of runs: any bytes by path, equal ones stored once, verified when they are read.

A file here is a file and no model: nothing of it is loaded, and a pickle is as welcome as a picture. It meets the checks
that models meet when somebody registers it.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import micros
from modelyard.core.ports import Blobs, Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.tracking import file_store

BYTES = "sha256"  # where the artifact store keeps bytes too: registering a run's file stores nothing a second time
CHUNK = 1 << 20
IN_MEMORY = 1 << 20  # bytes of a stream that wait for their digest in memory; more wait in a file
LONGEST_PATH, LONGEST_NAME = 4_096, 255  # bytes, as file systems have them
MOST_PARTS = 10_000
GRACE = timedelta(days=1)  # how long bytes that nothing names, and uploads that nobody completes, are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file, or a folder, which has no size and no digest (SHA-256)."""

    path: str
    is_dir: bool
    size: int | None = None
    digest: str | None = None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class _Stored(NamedTuple):
    digest: str
    size: int


def checked_path(path: str) -> str:
    """The path itself if it is relative and of plain parts. The only check of paths; decode %xx once before it.

    >>> checked_path("1/ab12/artifacts/model/MLmodel")
    '1/ab12/artifacts/model/MLmodel'
    >>> checked_path("1/../../etc/passwd")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: '1/../../etc/passwd' is no path of a file. ...
    """
    if (
        not isinstance(path, str)
        or not path
        or not all(_plain(part) for part in path.split("/"))
        or _bytes(path) > LONGEST_PATH
    ):
        raise Invalid(
            f"{path!r:.300} is no path of a file. Use a relative path of names such as model/MLmodel: none empty, none . or "
            f".., no backslash, no control character, no name over {LONGEST_NAME} bytes."
        )
    return path


def _plain(part: str) -> bool:
    return part not in ("", ".", "..") and part.isprintable() and "\\" not in part and _bytes(part) <= LONGEST_NAME


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class ArtifactFiles:
    """Files by path, for example `1/ab12/artifacts/model/MLmodel`, on a store's database and bytes.

    >>> import io
    >>> from modelyard.core.refs import Resource
    >>> from modelyard.core.work import Store
    >>> files = ArtifactFiles(Store.at(folder))
    >>> files.write("1/ab12/artifacts/notes.txt", io.BytesIO(b"hello")).size
    5
    >>> files.open("1/ab12/artifacts/notes.txt").read()
    b'hello'
    >>> [(entry.name, entry.is_dir, entry.size) for entry in files.list("1/ab12")]
    [('artifacts', True, None)]
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(self, path: str, source: BinaryIO) -> FileEntry:
        """The file with the stream's bytes, in the place of an earlier one; durable when this returns.

        Conflict where a part of the path is a file, or the path is a folder.
        """
        checked_path(path)
        with _spooled(source, self._spool_folder()) as (spool, stored):
            self._keep(spool, stored)
        with self.store.work() as work:
            self._note(work.rows, stored)
            _put_file(work.rows, path, stored)
        return FileEntry(path=path, is_dir=False, size=stored.size, digest=stored.digest)

    def add(self, source: Path, path: str) -> FileEntry:
        """The stored copy of a local file, or of a folder with every file in it and below."""
        if source.is_dir():
            for inner in sorted(one for one in source.rglob("*") if one.is_file()):
                self.add(inner, f"{path}/{inner.relative_to(source).as_posix()}")
            return self.entry(path)
        if not source.is_file():
            raise Invalid(f"{source} is no file and no folder, so it cannot be stored.")
        with source.open("rb") as stream:
            return self.write(path, stream)

    def entry(self, path: str) -> FileEntry:
        """The file or folder at a path; NotFound if there is none."""
        folder, _, name = checked_path(path).rpartition("/")
        with self.store.reading() as rows:
            row = file_store.find_entry(rows, folder, name)
            if row is None:
                known = [entry["name"] for entry in file_store.entries(rows, folder)]
                raise NotFound(f"There is no file {path!r:.300}. {nearest(name, known[:100])}")
        return FileEntry(path=path, is_dir=row["digest"] is None, size=row["size"], digest=row["digest"])

    def open(self, path: str) -> BinaryIO:
        """The file's bytes as a stream. Reading its last byte raises Damaged if the bytes are not those that were written."""
        entry = self.entry(path)
        if entry.digest is None:
            raise Invalid(f"{path!r:.300} is a folder. List it, or open one of its files.")
        return io.BufferedReader(_Verified(self.store.blobs.open(_key(entry.digest)), entry), CHUNK)

    def list(self, folder: str = "") -> list[FileEntry]:
        """What lies right in a folder, by name; nothing in one that does not exist."""
        if folder:
            checked_path(folder)
        with self.store.reading() as rows:
            found = file_store.entries(rows, folder)
        inside = f"{folder}/" if folder else ""
        return [
            FileEntry(path=inside + row["name"], is_dir=row["digest"] is None, size=row["size"], digest=row["digest"])
            for row in found
        ]

    def walk(self, folder: str = "") -> Iterator[FileEntry]:
        """Every file in a folder and below."""
        for entry in self.list(folder):
            if entry.is_dir:
                yield from self.walk(entry.path)
            else:
                yield entry

    def delete(self, path: str, *, user: str = "system") -> int:
        """Remove a file, or a folder with all that is in it; returns how many files. Folders left empty go too.

        The bytes go at a later `collect`.
        """
        with self.store.work(user) as work:
            gone = remove(work.rows, checked_path(path))
            if not gone:
                raise NotFound(f"There is no file {path!r:.300}, so there is nothing to delete.")
            work.emit(EventType.RUN_FILES_REMOVED, Resource("run_files", path), {"files": gone})
        return gone

    def save(self, path: str, target: Path) -> FileEntry:
        """The file at a path, copied to a local one, which is there only once all bytes are verified."""
        entry = self.entry(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{new_id('part')}")
        try:
            with self.open(path) as source, part.open("xb") as out:
                shutil.copyfileobj(source, out, CHUNK)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return entry

    def copy_to(self, path: str, target: Path) -> int:
        """How many files were copied below a local folder: the file under its name, or all in a folder and below."""
        entry = self.entry(path)
        files = list(self.walk(path)) if entry.is_dir else [entry]
        base = path if entry.is_dir else path.rpartition("/")[0]
        for file in files:
            self.save(file.path, target / (file.path.removeprefix(f"{base}/") if base else file.path))
        return len(files)

    def begin(self, path: str) -> str:
        """The id of a new upload in parts, which becomes the file when it is completed."""
        upload_id = new_id("upload")
        with self.store.work() as work:
            file_store.add_upload(work.rows, upload_id, checked_path(path), micros(work.now))
        return upload_id

    def write_part(self, upload_id: str, number: int, source: BinaryIO) -> str:
        """The digest of a part, numbered from 1; one with the same number is replaced."""
        if type(number) is not int or not 1 <= number <= MOST_PARTS:
            raise Invalid(f"The part has the number {number!r}. Number parts from 1 to {MOST_PARTS:,}.")
        with self.store.reading() as rows:
            _upload(rows, upload_id)
        with _spooled(source, self._spool_folder()) as (spool, stored):
            self._keep(spool, stored)
        with self.store.work() as work:
            _upload(work.rows, upload_id)
            self._note(work.rows, stored)
            file_store.put_part(work.rows, upload_id, number, stored.digest, stored.size)
        return stored.digest

    def complete(self, upload_id: str, parts: Sequence[tuple[int, str]]) -> FileEntry:
        """The file that the parts make, told as (number, digest) in order. Conflict if one is not what was uploaded."""
        with self.store.reading() as rows:
            path = str(_upload(rows, upload_id)["path"])
            known = {row["number"]: row["digest"] for row in file_store.parts(rows, upload_id)}
        numbers = [number for number, _ in parts]
        if not parts or numbers != sorted(set(numbers)):
            raise Invalid("Tell the parts in the order of their numbers, each once, and at least one.")
        for number, digest in parts:
            if known.get(number) != digest.strip('"'):
                raise Conflict(f"Part {number} of {upload_id} is not there with that digest. Upload it again.")
        joined = _Joined(self.store.blobs, [known[number] for number in numbers])
        with io.BufferedReader(joined, CHUNK) as source:
            entry = self.write(path, source)
        self.abort(upload_id)
        return entry

    def abort(self, upload_id: str) -> bool:
        """Forget an upload and its parts; True if it was there."""
        with self.store.work() as work:
            return file_store.drop_upload(work.rows, upload_id)

    def collect(self) -> int:
        """How many stored bytes of nobody's were removed: those that no file has named and nobody has stored for a day."""
        with self.store.work() as work:
            before = micros(work.now - GRACE)
            for upload_id in file_store.old_uploads(work.rows, before):
                file_store.drop_upload(work.rows, upload_id)
            for key in self.store.blobs.keys(f"{BYTES}/"):
                digest = key.rpartition("/")[2]
                if not file_store.is_known(work.rows, digest):  # a writer was killed: it has a day from now
                    file_store.touch_blob(work.rows, digest, 0, micros(work.now))
            loose = file_store.loose_blobs(work.rows, before)
            gone = [digest for digest in loose if not file_store.is_admitted(work.rows, digest)]
            for digest in gone:
                self.store.blobs.delete(_key(digest))
            for digest in loose:
                file_store.drop_blob(work.rows, digest)
        return len(gone)

    def _keep(self, spool: BinaryIO, stored: _Stored) -> None:
        """Store bytes. Where they were there already, a collection may be removing them: claim them and look again."""
        if not self.store.blobs.put(_key(stored.digest), spool):
            with self.store.work() as work:
                self._note(work.rows, stored)
            spool.seek(0)
            self.store.blobs.put(_key(stored.digest), spool)

    def _note(self, rows: Connection, stored: _Stored) -> None:
        file_store.touch_blob(rows, stored.digest, stored.size, micros(self.store.clock.now()))

    def _spool_folder(self) -> str | None:
        """Beside the data, which has room for it, where there is such a place."""
        return str(self.store.folder) if self.store.folder.is_dir() else None


def remove(rows: Connection, path: str) -> int:
    """Remove a file, or a folder with all that is in it, and the folders left empty above; returns how many files."""
    folder, _, name = path.rpartition("/")
    row = file_store.find_entry(rows, folder, name)
    if row is None:
        return 0
    gone = 1 if row["digest"] is not None else _empty(rows, path)
    file_store.drop_entry(rows, folder, name)
    while folder and not file_store.entries(rows, folder):
        folder, _, name = folder.rpartition("/")
        file_store.drop_entry(rows, folder, name)
    return gone


def _key(digest: str) -> str:
    return f"{BYTES}/{digest[:2]}/{digest}"


def _put_file(rows: Connection, path: str, stored: _Stored) -> None:
    """Write a file's row and those of the folders above it."""
    folder, _, name = path.rpartition("/")
    parts = folder.split("/") if folder else []
    for depth, part in enumerate(parts):
        above = "/".join(parts[:depth])
        known = file_store.find_entry(rows, above, part)
        if known is None:
            file_store.put_entry(rows, above, part, None, None)
        elif known["digest"] is not None:
            raise Conflict(f"{'/'.join(parts[: depth + 1])!r:.300} is a file, so {path!r:.300} cannot lie in it.")
    known = file_store.find_entry(rows, folder, name)
    if known is not None and known["digest"] is None:
        raise Conflict(f"{path!r:.300} is a folder. Choose another name for the file, or delete the folder.")
    file_store.put_entry(rows, folder, name, stored.digest, stored.size)


def _empty(rows: Connection, folder: str) -> int:
    """Remove all that lies in a folder; returns how many files."""
    gone = 0
    for row in file_store.entries(rows, folder):
        gone += 1 if row["digest"] is not None else _empty(rows, f"{folder}/{row['name']}")
    file_store.drop_entries(rows, folder)
    return gone


def _upload(rows: Connection, upload_id: str) -> dict[str, str]:
    found = file_store.find_upload(rows, upload_id)
    if found is None:
        raise NotFound(f"There is no upload {upload_id!r:.100}; it may be complete or given up. Begin another.")
    return dict(found)


@contextmanager
def _spooled(source: BinaryIO, folder: str | None) -> Iterator[tuple[BinaryIO, _Stored]]:
    """The stream once more from its beginning, with its digest and size."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=folder) as spool:
        digest, size = hashlib.sha256(), 0
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            spool.write(chunk)
        spool.seek(0)
        yield spool, _Stored(digest.hexdigest(), size)  # type: ignore[misc]  # a spool reads as any binary stream does


class _Verified(io.RawIOBase):
    """A stream that gives its last chunk only once all bytes are seen to be those of the digest."""

    def __init__(self, raw: BinaryIO, entry: FileEntry) -> None:
        self._raw, self._entry = raw, entry
        self._digest = hashlib.sha256()
        self._ahead = b""
        self._done = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # as RawIOBase reads
        while not self._done and len(self._ahead) <= len(buffer):
            chunk = self._raw.read(CHUNK)
            self._digest.update(chunk)
            self._ahead += chunk
            if not chunk:
                self._done = True
                if self._digest.hexdigest() != self._entry.digest:
                    raise Damaged(
                        f"{self._entry.path} is damaged: its bytes are not those that were logged. Log the file again."
                    )
        count = min(len(buffer), len(self._ahead))
        buffer[:count], self._ahead = self._ahead[:count], self._ahead[count:]
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Joined(io.RawIOBase):
    """Blobs one after the other."""

    def __init__(self, blobs: Blobs, digests: Sequence[str]) -> None:
        self._blobs, self._waiting = blobs, list(digests)
        self._open: BinaryIO = io.BytesIO()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # as RawIOBase reads
        while not (chunk := self._open.read(len(buffer))):
            if not self._waiting:
                return 0
            self._open.close()
            self._open = self._blobs.open(_key(self._waiting.pop(0)))
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        self._open.close()
        super().close()
