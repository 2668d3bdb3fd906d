"""Blobs in an object store (S3, Google Cloud, Azure), with read-only copies on this machine."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import obstore
from obstore import exceptions, store

from modelyard.core.errors import Invalid, NotFound, Unavailable
from modelyard.storage.files import CHUNK, FileBlobs, checked_key

ONE_REQUEST = 256 << 20  # bytes; one conditional put holds its body in memory
IN_MEMORY = 8 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ObjectBlobs:
    """`Blobs` under an object-store URL such as s3://bucket/folder. Credentials come from the environment (AWS_*, ...).

    A put is conditional (If-None-Match: *), so of two writers one wins and neither tears the other's bytes. Larger
    objects than `ONE_REQUEST` go up in parts, which no condition covers: such a key must name its own content.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url
        self.cache = FileBlobs(cache or _cache_of(url))
        self._whole: dict[str, tuple[int, int, int]] = {}
        try:
            self.store = store.from_url(url, **_checked(url))
        except (exceptions.BaseError, ValueError) as error:
            raise Invalid(f"{url!r} is no object-store URL: {error}. Write it as s3://bucket/folder.") from error

    def put(self, key: str, source: BinaryIO) -> bool:
        """Store the stream under the key unless it is taken; True if this call stored it."""
        checked_key(key)
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
            shutil.copyfileobj(source, copy, CHUNK)  # read first: an error of the source must upload nothing
            size = copy.tell()
            copy.seek(0)
            with self._errors():
                if size <= ONE_REQUEST:
                    return self._create(key, cast(IO[bytes], copy))
                if self._there(key):
                    return False
                obstore.put(self.store, key, cast(IO[bytes], copy), use_multipart=True)
                return True

    def open(self, key: str) -> BinaryIO:
        """The bytes as a binary stream; NotFound for an unknown key."""
        return self.path(key).open("rb")

    def path(self, key: str) -> Path:
        """A read-only copy on this machine, fetched on first use, and again if it is not what its key names."""
        checked_key(key)
        try:
            found = self.cache.path(key)
        except NotFound:
            return self._fetched(key)
        if not self._is_whole(key, found):
            self.cache.delete(key)
            return self._fetched(key)
        return found

    def _fetched(self, key: str) -> Path:
        with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as copy:
            with self._errors(), _known(key, self.url):
                for chunk in obstore.get(self.store, key):
                    copy.write(chunk)
            copy.seek(0)
            self.cache.put(key, cast(BinaryIO, copy))
        return self.cache.path(key)

    def delete(self, key: str) -> bool:
        """Remove the blob here and there; True if it was there."""
        checked_key(key)
        self.cache.delete(key)
        with self._errors():
            there = self._there(key)
            if there:
                obstore.delete(self.store, key)
        return there

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with the prefix, in order."""
        folder = prefix.rpartition("/")[0]  # object stores list by whole segments
        with self._errors():
            found = [entry["path"] for page in obstore.list(self.store, folder or None) for entry in page]
        return iter(sorted(key for key in found if key.startswith(prefix)))

    def _is_whole(self, key: str, copy: Path) -> bool:
        """False for a copy whose bytes are not those that its key names; each is read once for as long as it stands."""
        named = key.rpartition("/")[2]
        if not _DIGEST.fullmatch(named):
            return True
        stat = copy.stat()
        state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if self._whole.get(key) != state:
            with copy.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != named:
                    return False
            self._whole[key] = state
        return True

    def _create(self, key: str, copy: IO[bytes]) -> bool:
        try:
            obstore.put(self.store, key, copy, mode="create", use_multipart=False)
        except exceptions.AlreadyExistsError:
            return False
        return True

    def _there(self, key: str) -> bool:
        try:
            obstore.head(self.store, key)
        except (exceptions.NotFoundError, FileNotFoundError):
            return False
        return True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (exceptions.BaseError, FileNotFoundError, PermissionError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise Unavailable(f"{self.url} cannot be used: {reason}. Check the address and the credentials.") from error


@contextmanager
def _known(key: str, url: str) -> Iterator[None]:
    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"There is no blob {key} in {url}.") from error


def _checked(url: str) -> Any:
    """S3 is sent a SHA-256 with each object: it refuses bytes that were changed on their way, and a bucket with object
    lock takes nothing without one."""
    return {"checksum_algorithm": "SHA256"} if url.startswith("s3://") else {}


def _cache_of(url: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "modelyard" / "objects" / hashlib.sha256(url.encode()).hexdigest()[:16]
