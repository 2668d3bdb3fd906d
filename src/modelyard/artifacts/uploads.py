"""Uploads in parts: each part is stored whole or not at all, so that a lost connection or a restart loses no more than one."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, BinaryIO, cast

from modelyard.artifacts import intake, rules, store_uploads
from modelyard.artifacts.arrivals import Arrivals
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import micros
from modelyard.core.models import Artifact
from modelyard.core.operations import operation
from modelyard.core.ports import Blobs, Row
from modelyard.core.work import Work

LARGEST = 64 << 30
LARGEST_PART = 256 << 20
MOST_PARTS = 10_000
EXPIRES_HOURS = 24.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload under way: `received` bytes of `size` are stored; the next part starts there."""

    upload_id: str
    name: str
    digest: str
    size: int
    received: int


class Uploads(Arrivals):
    """Files that come in parts: begun with their size and digest, continued after any break, checked as a whole."""

    @operation("POST", "/artifacts/uploads", needs="artifacts.write")
    def begin_upload(self, name: str, size: int, digest: str, user: str = "system") -> Upload:
        """A new upload of a file with this name, size in bytes and SHA-256; one that waits for a day is forgotten.

        >>> import hashlib
        >>> from modelyard.artifacts import ArtifactStore
        >>> data = model_file.read_bytes()
        >>> upload = ArtifactStore(folder).begin_upload("m.txt", len(data), hashlib.sha256(data).hexdigest())
        >>> upload.received
        0
        """
        digest = rules.checked_digest(digest)
        if type(size) is not int or not 0 < size <= LARGEST:
            raise Invalid(f"size is {size!r:.40}. Pass the number of bytes, 1 to {LARGEST:,}.")
        name = checked_name(name, "name")
        with self.store.work(user) as work:
            upload = Upload(upload_id=new_id("upl"), name=name, digest=digest, size=size, received=0)
            store_uploads.begin(work.rows, upload, by=user, now=micros(work.now))
        return upload

    @operation("GET", "/artifacts/uploads/{upload_id}", needs="artifacts.read")
    def get_upload(self, upload_id: str) -> Upload:
        """The upload, with the number of bytes that are stored: go on from there.

        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.get_upload(artifacts.begin_upload("m.txt", 10, "0" * 64).upload_id).size
        10
        """
        with self.store.reading() as rows:
            return _known(store_uploads.load(rows, upload_id), upload_id)

    def append(self, upload_id: str, offset: int, data: bytes) -> Upload:
        """The upload after one more part, which is on disk; Conflict, saying where to go on, if it starts elsewhere.

        A part that was stored already may be sent again: nothing changes if it holds the same bytes.
        """
        if not 0 < len(data) <= LARGEST_PART:
            raise Invalid(f"The part has {len(data):,} bytes. Send 1 to {LARGEST_PART:,}.")
        upload = self.get_upload(upload_id)
        self._check_place(upload, offset, data)
        if offset < upload.received:
            return upload
        # named by its content, so that two senders of one place never mix
        key = f"uploads/{upload_id}/{offset:015}-{hashlib.sha256(data).hexdigest()[:32]}"
        self.store.blobs.put(key, io.BytesIO(data))
        with self.store.work() as work:
            if not store_uploads.append(work.rows, upload_id, offset, len(data), key, now=micros(work.now)):
                found = _known(store_uploads.load(work.rows, upload_id), upload_id)
                raise Conflict(f"Another part was stored first. Go on from byte {found.received:,}.")
        return self.get_upload(upload_id)

    @operation("POST", "/artifacts/uploads/{upload_id}/finish", needs="artifacts.write")
    def finish_upload(self, upload_id: str, user: str = "system") -> Artifact:
        """The artifact, admitted as any other file; Damaged if the bytes have another digest, which ends the upload.

        >>> import hashlib
        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts, data = ArtifactStore(folder), model_file.read_bytes()
        >>> upload = artifacts.begin_upload("m.txt", len(data), hashlib.sha256(data).hexdigest())
        >>> for start in range(0, len(data), 1000):
        ...     _ = artifacts.append(upload.upload_id, start, data[start : start + 1000])
        >>> artifacts.finish_upload(upload.upload_id).format
        'lightgbm'
        """
        with self.store.reading() as rows:
            upload = _known(store_uploads.load(rows, upload_id), upload_id)
            parts = store_uploads.parts(rows, upload_id)
        if upload.received != upload.size:
            raise Conflict(
                f"{upload.received:,} of {upload.size:,} bytes are here. Go on from byte {upload.received:,}."
            )
        try:
            with intake.disk_errors(f"store {upload.name}"):
                stored = self._joined(upload, parts)
                artifact = self._admitted_blob(upload.name, stored, user)
        except (Damaged, Invalid):
            self._forget(upload_id)
            raise
        self._forget(upload_id)
        return artifact

    @operation("DELETE", "/artifacts/uploads/{upload_id}", needs="artifacts.write")
    def cancel_upload(self, upload_id: str, user: str = "system") -> None:  # noqa: ARG002 - who did it is in the request log
        """Forget an upload and its parts.

        >>> from modelyard.artifacts import ArtifactStore
        >>> artifacts = ArtifactStore(folder)
        >>> artifacts.cancel_upload(artifacts.begin_upload("m.txt", 10, "0" * 64).upload_id)
        """
        self.get_upload(upload_id)
        self._forget(upload_id)

    def _check_place(self, upload: Upload, offset: int, data: bytes) -> None:
        if offset + len(data) > upload.size:
            raise Invalid(
                f"The part ends at byte {offset + len(data):,}, past the {upload.size:,} that were announced."
            )
        if offset == upload.received:
            if len(self._parts(upload.upload_id)) >= MOST_PARTS:
                raise Invalid(f"The upload has {MOST_PARTS:,} parts already. Begin anew with larger ones.")
            return
        known = {row["start"]: row for row in self._parts(upload.upload_id)}.get(offset)
        if known is None or not str(known["blob"]).endswith(hashlib.sha256(data).hexdigest()[:32]):
            raise Conflict(f"The part starts at byte {offset:,}. Go on from byte {upload.received:,}.")

    def _parts(self, upload_id: str) -> list[Any]:
        with self.store.reading() as rows:
            return store_uploads.parts(rows, upload_id)

    def _joined(self, upload: Upload, parts: list[Any]) -> intake.Stored:
        """The parts as one blob, if they have the digest that was announced."""
        source = intake.Hashing(
            cast(BinaryIO, _Joined(self.store.blobs, [row["blob"] for row in parts])), upload.digest
        )
        try:
            new = self.store.blobs.put(rules.blob_key(upload.digest), cast(BinaryIO, source))
        except Invalid as error:
            raise Damaged(
                f"The bytes of {upload.name} have the SHA-256 {source.hash.hexdigest()[:12]}..., not {upload.digest[:12]}... "
                "Nothing was stored. Begin the upload again."
            ) from error
        if not new:
            self._check_all(upload, parts)
        return intake.Stored(path=upload.name, digest=upload.digest, size=upload.size, new=new)

    def _check_all(self, upload: Upload, parts: list[Any]) -> None:
        """The same for bytes that were here already: nobody gets an artifact for knowing its digest."""
        found, size = intake.measured(cast(BinaryIO, _Joined(self.store.blobs, [row["blob"] for row in parts])))
        if (found, size) != (upload.digest, upload.size):
            raise Damaged(f"The bytes of {upload.name} have the SHA-256 {found[:12]}..., not {upload.digest[:12]}...")

    def _forget(self, upload_id: str) -> None:
        for key in [*self.store.blobs.keys(f"uploads/{upload_id}/")]:
            self.store.blobs.delete(key)
        with self.store.work() as work:
            store_uploads.drop(work.rows, upload_id)

    def _forget_old_uploads(self, work: Work) -> int:
        """Drop the rows of uploads that nobody went on with, and the parts of those that have no row."""
        before = micros(work.now - timedelta(hours=EXPIRES_HOURS))
        for upload_id in store_uploads.waiting_since(work.rows, before):
            store_uploads.drop(work.rows, upload_id)
        gone = 0
        for key in list(self.store.blobs.keys("uploads/")):
            if not store_uploads.is_known(work.rows, key.split("/")[1]):
                gone += self.store.blobs.delete(key)
        return gone


class _Joined:
    """The parts' bytes as one stream."""

    def __init__(self, blobs: Blobs, keys: list[str]) -> None:
        self._chunks = self._read(blobs, keys)
        self._left = b""

    @staticmethod
    def _read(blobs: Blobs, keys: list[str]) -> Iterator[bytes]:
        for key in keys:
            with blobs.open(key) as stream:
                while chunk := stream.read(intake.CHUNK):
                    yield chunk

    def read(self, size: int = -1) -> bytes:
        """The next bytes, fewer than asked at a part's end."""
        data = self._left or next(self._chunks, b"")
        if size < 0:
            data, self._left = data + b"".join(self._chunks), b""
            return data
        data, self._left = data[:size], data[size:]
        return data


def _known(row: Row | None, upload_id: str) -> Upload:
    if row is None:
        raise NotFound(
            f"There is no upload {upload_id[:60]!r}: it is finished, cancelled or older than a day. Begin anew."
        )
    return Upload(
        upload_id=row["upload_id"],
        name=row["name"],
        digest=row["digest"],
        size=row["size"],
        received=int(row["received"]),  # PostgreSQL sums big integers as decimals
    )
