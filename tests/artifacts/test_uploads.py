"""A file that comes in parts survives any break, and is the file that was announced or nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.rules import blob_key
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, Unavailable, YardError
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store

DATA = b"some notes\n" * 40_000
DIGEST = hashlib.sha256(DATA).hexdigest()
PART = 100_000


@pytest.fixture
def artifacts(yard: Path, clock: FixedClock) -> ArtifactStore:
    return ArtifactStore(yard, clock=clock)


def _sent(artifacts: ArtifactStore, data: bytes = DATA, digest: str = DIGEST) -> str:
    upload = artifacts.begin_upload("notes.txt", len(data), digest, "ana")
    for start in range(0, len(data), PART):
        upload = artifacts.append(upload.upload_id, start, data[start : start + PART])
    assert upload.received == len(data)
    return upload.upload_id


def test_parts_become_the_file_that_was_announced(artifacts: ArtifactStore) -> None:
    found = artifacts.finish_upload(_sent(artifacts), "ana")
    assert (found.digest, found.size, found.name, found.format) == (DIGEST, len(DATA), "notes.txt", "text")
    assert artifacts.fetch(found.digest).read_bytes() == DATA
    assert list(artifacts.store.blobs.keys()) == [blob_key(DIGEST)], "the parts are gone"


def test_an_upload_goes_on_after_a_restart_where_it_stopped(artifacts: ArtifactStore, yard: Path) -> None:
    upload = artifacts.begin_upload("notes.txt", len(DATA), DIGEST)
    artifacts.append(upload.upload_id, 0, DATA[:PART])
    artifacts.close()
    again = ArtifactStore(yard)
    received = again.get_upload(upload.upload_id).received
    assert received == PART
    again.append(upload.upload_id, received, DATA[received:])
    assert again.finish_upload(upload.upload_id).digest == DIGEST


def test_a_part_at_another_place_is_told_where_to_go_on(artifacts: ArtifactStore) -> None:
    upload = artifacts.begin_upload("notes.txt", len(DATA), DIGEST).upload_id
    artifacts.append(upload, 0, DATA[:PART])
    for offset in (1, PART + 1, -1):
        with pytest.raises(Conflict, match="from byte 100,000"):
            artifacts.append(upload, offset, b"x")
    with pytest.raises(Conflict, match="from byte 100,000"):
        artifacts.append(upload, 0, b"other bytes")
    assert artifacts.append(upload, 0, DATA[:PART]).received == PART, "the same part again changes nothing"
    with pytest.raises(Conflict, match="100,000 of 440,000"):
        artifacts.finish_upload(upload)
    with pytest.raises(Invalid, match="past the 440,000"):
        artifacts.append(upload, PART, DATA)


def test_other_bytes_than_announced_are_damaged_and_leave_nothing(artifacts: ArtifactStore) -> None:
    upload = _sent(artifacts, DATA[:-1] + b"x")
    with pytest.raises(Damaged, match="Nothing was stored"):
        artifacts.finish_upload(upload)
    assert list(artifacts.store.blobs.keys()) == []
    assert artifacts.list_artifacts() == []
    with pytest.raises(NotFound, match="finished, cancelled"):
        artifacts.get_upload(upload)


def test_knowing_a_digest_is_not_having_the_bytes(artifacts: ArtifactStore) -> None:
    artifacts.finish_upload(_sent(artifacts))
    upload = _sent(artifacts, b"x" * len(DATA))
    with pytest.raises(Damaged):
        artifacts.finish_upload(upload)
    assert artifacts.verify(DIGEST).size == len(DATA)


def test_what_would_run_code_is_refused_at_the_end(artifacts: ArtifactStore) -> None:
    data = pickle.dumps(print)
    upload = _sent(artifacts, data, hashlib.sha256(data).hexdigest())
    with pytest.raises(Invalid, match="refused"):
        artifacts.finish_upload(upload)
    assert list(artifacts.store.blobs.keys()) == []


def test_an_upload_that_nobody_goes_on_with_is_collected(artifacts: ArtifactStore, clock: FixedClock) -> None:
    old = artifacts.begin_upload("notes.txt", len(DATA), DIGEST).upload_id
    artifacts.append(old, 0, DATA[:PART])
    clock.advance(23 * 3600)
    new = artifacts.begin_upload("notes.txt", len(DATA), DIGEST).upload_id
    artifacts.append(new, 0, DATA[:PART])
    clock.advance(2 * 3600)
    artifacts.collect()
    with pytest.raises(NotFound):
        artifacts.append(old, PART, DATA[PART:])
    assert {key.split("/")[1] for key in artifacts.store.blobs.keys("uploads/")} == {new}
    artifacts.cancel_upload(new)
    assert list(artifacts.store.blobs.keys("uploads/")) == []


def test_two_senders_of_one_upload_never_mix(artifacts: ArtifactStore) -> None:
    upload = artifacts.begin_upload("notes.txt", len(DATA), DIGEST).upload_id

    def send(_: int) -> None:
        for _attempt in range(1_000):
            received = artifacts.get_upload(upload).received
            if received == len(DATA):
                return
            try:
                artifacts.append(upload, received, DATA[received : received + PART // 4])
            except Conflict:
                continue

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    assert artifacts.finish_upload(upload).digest == DIGEST


@pytest.mark.parametrize(
    ("name", "size", "digest"),
    [("a/b", 1, DIGEST), ("..", 1, DIGEST), ("a", 0, DIGEST), ("a", 1 << 50, DIGEST), ("a", 1, "xyz"), ("", 1, DIGEST)],
)
def test_uploads_that_make_no_sense_are_refused(name: str, size: int, digest: str, artifacts: ArtifactStore) -> None:
    with pytest.raises(Invalid):
        artifacts.begin_upload(name, size, digest)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_order_of_parts_and_repeats_gives_the_file_or_a_clear_error(data: st.DataObject, migrated: Path) -> None:
    place = Path(shutil.copytree(migrated, migrated.parent / f"yard-{os.urandom(8).hex()}"))
    artifacts, body = ArtifactStore(place), data.draw(st.binary(min_size=1, max_size=50)) + b"\ntext\n"
    body = body.hex().encode()
    upload = artifacts.begin_upload("n.txt", len(body), hashlib.sha256(body).hexdigest()).upload_id
    for _ in range(data.draw(st.integers(0, 8))):
        start, stop = sorted((data.draw(st.integers(0, len(body))), data.draw(st.integers(0, len(body)))))
        try:
            artifacts.append(upload, start, body[start:stop])
        except YardError:
            continue
    received = artifacts.get_upload(upload).received
    if received < len(body):
        artifacts.append(upload, received, body[received:])
    assert artifacts.fetch(artifacts.finish_upload(upload).digest).read_bytes() == body
    artifacts.close()
    shutil.rmtree(place)


KILLED = """
import sys
from pathlib import Path
from modelyard.artifacts import ArtifactStore
store, upload, data = ArtifactStore(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3]).read_bytes()
while (at := store.get_upload(upload).received) < len(data):
    store.append(upload, at, data[at : at + 20_000])
    print(store.get_upload(upload).received, flush=True)
"""


def test_a_sender_that_is_killed_loses_no_part_that_was_acknowledged(
    artifacts: ArtifactStore, yard: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_bytes(DATA)
    upload = artifacts.begin_upload("notes.txt", len(DATA), DIGEST).upload_id
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, yard, upload, tmp_path / "notes.txt"], stdout=subprocess.PIPE
        ) as sender:
            told = [int(sender.stdout.readline()) for _ in range(3)]
            sender.send_signal(signal.SIGKILL)
        received = artifacts.get_upload(upload).received
        assert received >= told[-1]
    artifacts.append(upload, received, DATA[received:])
    assert artifacts.finish_upload(upload).digest == DIGEST


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
def test_a_full_disk_stops_an_upload_which_goes_on_when_there_is_room(yard: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = Store.at(yard)
        store.blobs.folder = disk / "blobs"  # type: ignore[attr-defined]
        artifacts = ArtifactStore(store)
        upload = _sent(artifacts)
        with pytest.raises(Unavailable, match="is full"):
            artifacts.finish_upload(upload)
        assert artifacts.get_upload(upload).received == len(DATA)
        assert list(store.blobs.keys("sha256/")) == []
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        assert artifacts.verify(artifacts.finish_upload(upload).digest).size == len(DATA)
    finally:
        subprocess.run(["umount", disk], check=True)
