"""The laws of the Blobs port, for files and for an object store (on obstore's local back end, same code as for S3)."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.ports import Blobs
from modelyard.storage import files
from modelyard.storage.files import FileBlobs, checked_key
from modelyard.storage.objects import ObjectBlobs
from modelyard.testing.contracts import BlobsContract


@pytest.fixture(params=["files", "named files", "objects"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if request.param == "objects":
        (tmp_path / "bucket").mkdir()
        return ObjectBlobs(f"file://{tmp_path}/bucket", cache=tmp_path / "cache")
    made = FileBlobs(tmp_path / "blobs")
    if request.param == "named files":  # as on a file system without unnamed files
        monkeypatch.setattr(made, "_write", made._write_named)
    return made


def test_a_blob_is_stored_once_and_read_back(blobs) -> None:
    assert blobs.put("a/b", io.BytesIO(b"one"))
    assert not blobs.put("a/b", io.BytesIO(b"two"))
    with blobs.open("a/b") as stream:
        assert stream.read() == b"one"
    assert blobs.path("a/b").read_bytes() == b"one"
    assert blobs.path("a/b").stat().st_mode & 0o222 == 0
    assert blobs.put("empty", io.BytesIO(b""))
    assert blobs.path("empty").read_bytes() == b""


def test_keys_come_in_order_and_by_prefix(blobs) -> None:
    names = ["a/b", "a-b", "a/b2/c", "b", "a.b", "ab/c"]
    for name in names:
        blobs.put(name, io.BytesIO(b"x"))
    assert list(blobs.keys()) == sorted(names)
    for prefix in ("a", "a/", "a/b", "a/b2/c", "z", "a/z"):
        assert list(blobs.keys(prefix)) == sorted(name for name in names if name.startswith(prefix))


def test_a_deleted_blob_is_gone(blobs) -> None:
    blobs.put("k", io.BytesIO(b"x"))
    blobs.path("k")
    assert blobs.delete("k")
    assert not blobs.delete("k")
    for read in (blobs.open, blobs.path):
        with pytest.raises(NotFound, match="no blob k"):
            read("k")
    assert list(blobs.keys()) == []


@pytest.mark.parametrize(
    "key", ["", "/a", "a//b", "a/", "../a", "a/../b", "a/.", ".hidden", "a\\b", "a\0b", "a/\n", "x" * 256]
)
def test_keys_that_leave_the_folder_are_refused(blobs, key: str) -> None:
    for use in (blobs.open, blobs.path, blobs.delete, lambda k: blobs.put(k, io.BytesIO(b""))):
        with pytest.raises(Invalid, match="no blob key"):
            use(key)


@given(st.text(max_size=30))
def test_a_checked_key_stays_in_its_folder(key: str) -> None:
    try:
        checked_key(key)
    except Invalid:
        return
    assert (Path("/folder") / key).resolve().is_relative_to("/folder/" + key.partition("/")[0])


def test_of_many_writers_one_wins_and_its_bytes_are_whole(blobs) -> None:
    bodies = [bytes([number]) * 300_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda body: blobs.put("k", io.BytesIO(body)), bodies))
    assert won.count(True) == 1
    assert blobs.path("k").read_bytes() == bodies[won.index(True)]


def test_a_source_that_fails_stores_nothing(blobs) -> None:
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 2_000_000:
                raise ValueError("the connection is lost")
            return super().read(min(size, 500_000))

    with pytest.raises(ValueError, match="connection is lost"):
        blobs.put("k", Broken(b"x" * 5_000_000))
    assert list(blobs.keys()) == []


def test_a_crashed_writers_leftover_is_forgotten_after_a_day(tmp_path: Path) -> None:
    import os

    blobs = FileBlobs(tmp_path)
    incoming = tmp_path / files.INCOMING
    incoming.mkdir()
    for name, age in (("old", 2 * files.FORGOTTEN_AFTER), ("new", 0)):
        (incoming / name).write_bytes(b"half")
        stamp = (incoming / name).stat().st_mtime - age
        os.utime(incoming / name, (stamp, stamp))
    blobs._write_named(tmp_path / "k", io.BytesIO(b"x"))
    assert [entry.name for entry in incoming.iterdir()] == ["new"]
    assert list(blobs.keys()) == ["k"]


def test_an_unknown_object_store_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="s3://"):
        ObjectBlobs("nonsense://x", cache=tmp_path)


class TestObjects(BlobsContract):
    @pytest.fixture
    def blobs(self, tmp_path: Path) -> Blobs:
        (tmp_path / "bucket").mkdir()
        return ObjectBlobs(f"file://{tmp_path}/bucket", cache=tmp_path / "cache")
