"""The object store's promises against a real S3 server (moto, in an environment of its own)."""

from __future__ import annotations

import hashlib
import io
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.rules import blob_key
from modelyard.core.errors import Damaged, Invalid, NotFound, Unavailable
from modelyard.core.ports import Blobs
from modelyard.core.work import Store
from modelyard.storage import objects
from modelyard.storage.objects import ObjectBlobs
from modelyard.testing.contracts import BlobsContract
from modelyard.testing.servers import free_port


@pytest.fixture
def blobs(bucket: str, tmp_path: Path) -> ObjectBlobs:
    return ObjectBlobs(bucket, cache=tmp_path / "cache")


class TestS3(BlobsContract):
    @pytest.fixture
    def blobs(self, bucket: str, tmp_path: Path) -> Blobs:
        return ObjectBlobs(bucket, cache=tmp_path / "cache")


def test_of_eight_processes_worth_of_writers_one_wins(bucket: str, tmp_path: Path) -> None:
    writers = [ObjectBlobs(bucket, cache=tmp_path / str(number)) for number in range(8)]
    for round_number in range(5):
        bodies = [bytes([number]) * 400_000 for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            won = list(
                pool.map(lambda n, b=bodies, r=round_number: writers[n].put(f"k{r}", io.BytesIO(b[n])), range(8))
            )
        assert won.count(True) == 1
        for reader in writers:
            assert reader.path(f"k{round_number}").read_bytes() == bodies[won.index(True)]


def test_listing_goes_on_past_a_thousand_keys(blobs: ObjectBlobs) -> None:
    keys = [f"sha256/{number % 7}/{number:05}" for number in range(1_203)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: blobs.put(key, io.BytesIO(b"x")), keys))
    assert list(blobs.keys("sha256/")) == sorted(keys)
    assert list(blobs.keys("sha256/3/0")) == sorted(key for key in keys if key.startswith("sha256/3/0"))


def test_a_large_object_goes_up_in_parts(blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(objects, "ONE_REQUEST", 6 << 20)
    data = os.urandom(1 << 20) * 17
    digest = hashlib.sha256(data).hexdigest()
    assert blobs.put(blob_key(digest), io.BytesIO(data))
    assert not blobs.put(blob_key(digest), io.BytesIO(data))
    fresh = ObjectBlobs(blobs.url, cache=tmp_path / "elsewhere")
    assert hashlib.sha256(fresh.path(blob_key(digest)).read_bytes()).hexdigest() == digest


def test_a_large_object_whose_source_breaks_leaves_nothing(blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "ONE_REQUEST", 6 << 20)

    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 9_000_000:
                raise ConnectionResetError("the connection is lost")
            return super().read(min(size, 500_000))

    with pytest.raises(ConnectionResetError):
        blobs.put("k", Broken(b"x" * 12_000_000))
    assert list(blobs.keys()) == []


@pytest.fixture
def artifacts(yard: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "objects"))
    store = Store.at(yard)
    return ArtifactStore(Store(store.database, yard, blobs_url=bucket))


def test_artifacts_live_in_the_bucket_and_come_back_whole(artifacts: ArtifactStore, small_model: Path) -> None:
    found = artifacts.add(small_model)
    assert artifacts.fetch(found.digest).read_bytes() == small_model.read_bytes()
    assert artifacts.verify(found.digest) == found
    assert list(artifacts.store.blobs.keys()) == [blob_key(found.digest)]
    assert not (artifacts.store.folder / "blobs").exists() or not any((artifacts.store.folder / "blobs").rglob("*"))


def test_an_upload_in_parts_works_on_the_bucket(artifacts: ArtifactStore) -> None:
    data = b"some notes\n" * 40_000
    digest = hashlib.sha256(data).hexdigest()
    upload = artifacts.begin_upload("notes.txt", len(data), digest)
    for start in range(0, len(data), 150_000):
        artifacts.append(upload.upload_id, start, data[start : start + 150_000])
    assert artifacts.finish_upload(upload.upload_id).digest == digest
    assert list(artifacts.store.blobs.keys()) == [blob_key(digest)]


def test_a_changed_copy_on_this_machine_is_fetched_again(
    artifacts: ArtifactStore, small_model: Path, tmp_path: Path
) -> None:
    found = artifacts.add(small_model)
    for _ in range(2):
        copy = artifacts.store.blobs.path(blob_key(found.digest))
        assert copy.is_relative_to(tmp_path)
        copy.chmod(0o644)
        copy.write_bytes(b"changed")
        assert artifacts.verify(found.digest) == found
        assert artifacts.fetch(found.digest).read_bytes() == small_model.read_bytes()


def test_a_changed_object_in_the_bucket_is_damaged(artifacts: ArtifactStore, small_model: Path) -> None:
    found = artifacts.add(small_model)
    blobs = artifacts.store.blobs
    blobs.delete(blob_key(found.digest))
    blobs.put(blob_key(found.digest), io.BytesIO(b"changed"))
    with pytest.raises(Damaged, match="not what was admitted"):
        artifacts.verify(found.digest)
    with pytest.raises(Damaged):
        artifacts.fetch(found.digest)


def test_missing_and_wrong_addresses_are_clear_errors(
    blobs: ObjectBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotFound, match="no blob k"):
        blobs.open("k")
    with pytest.raises(Unavailable, match="credentials"):
        ObjectBlobs("s3://no-such-bucket-here/x", cache=tmp_path / "c").put("k", io.BytesIO(b"x"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="address"):
        ObjectBlobs(blobs.url, cache=tmp_path / "c").put("k", io.BytesIO(b"x"))
    assert time.monotonic() - began < 60


def test_missing_credentials_are_a_clear_error(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    with pytest.raises((Unavailable, Invalid), match="credentials"):
        ObjectBlobs(bucket, cache=tmp_path / "c").put("k", io.BytesIO(b"x"))
