"""Bytes are stored once, come back as they were or not at all, and go when nobody needs them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.rules import blob_key
from modelyard.core.errors import Conflict, Damaged, Invalid, NotFound, Unavailable
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.work import Store


@pytest.fixture
def artifacts(yard: Path, clock: FixedClock) -> ArtifactStore:
    return ArtifactStore(yard, clock=clock)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "notes.txt"
    path.write_text("some notes\n" * 1000)
    return path


def _events(store: Store) -> list[str]:
    with store.reading() as rows:
        return [row["event_type"] for row in rows.all("SELECT event_type FROM events ORDER BY position")]


def test_a_file_is_known_by_the_sha256_of_its_bytes_and_stored_once(
    artifacts: ArtifactStore, file: Path, tmp_path: Path
) -> None:
    first = artifacts.admit(file)
    copy = Path(shutil.copy(file, tmp_path / "another-name.txt"))
    again = artifacts.admit(copy)
    assert first.digest == hashlib.sha256(file.read_bytes()).hexdigest() == again.digest
    assert list(artifacts.store.blobs.keys()) == [blob_key(first.digest)]
    assert _events(artifacts.store) == [EventType.ARTIFACT_STORED.value]


def test_what_is_fetched_is_a_read_only_copy_with_the_files_name(artifacts: ArtifactStore, file: Path) -> None:
    path = artifacts.fetch(artifacts.admit(file).digest)
    assert (path.name, path.stat().st_mode & 0o777) == ("notes.txt", 0o444)
    assert path.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("spoil", ["change", "delete", "add", "link"])
def test_a_spoilt_copy_is_made_anew(spoil: str, artifacts: ArtifactStore, file: Path, tmp_path: Path) -> None:
    path = artifacts.fetch(artifacts.admit(file).digest)
    good = file.read_bytes()
    match spoil:
        case "change":
            path.chmod(0o644)
            path.write_bytes(b"spoilt")
        case "delete":
            path.unlink()
        case "add":
            (path.parent / "extra.txt").write_text("more")
        case "link":
            path.unlink()
            path.symlink_to(file)
    again = artifacts.fetch(hashlib.sha256(good).hexdigest())
    assert again.read_bytes() == good
    assert [entry.name for entry in again.parent.iterdir()] == ["notes.txt"]
    assert not again.is_symlink()


def test_changed_bytes_are_damaged_and_told(artifacts: ArtifactStore, file: Path) -> None:
    digest = artifacts.admit(file).digest
    stored = artifacts.store.blobs.path(blob_key(digest))
    stored.chmod(0o644)
    stored.write_bytes(b"other bytes")
    with pytest.raises(Damaged, match="not what was admitted"):
        artifacts.verify(digest)
    with pytest.raises(Damaged, match="not what was admitted"):
        artifacts.fetch(digest)
    stored.unlink()
    with pytest.raises(Damaged, match="are gone"):
        artifacts.verify(digest)
    assert _events(artifacts.store)[1:] == [EventType.SECURITY_VIOLATION.value] * 3


def test_links_and_devices_are_refused(artifacts: ArtifactStore, file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.txt").symlink_to(file)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked").symlink_to(folder)
    for source in (folder, folder / "link.txt", tmp_path / "pipe", tmp_path / "linked"):
        with pytest.raises(Invalid, match=r"link|regular"):
            artifacts.admit(source)


def test_folders_without_files_or_with_twin_names_are_refused(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (tmp_path / "twins").mkdir()
    (tmp_path / "twins" / "a.txt").write_text("1")
    (tmp_path / "twins" / "A.txt").write_text("2")
    for name, why in (("empty", "no files"), ("twins", "two files")):
        with pytest.raises(Invalid, match=why):
            artifacts.admit(tmp_path / name)
    with pytest.raises(NotFound, match="nowhere"):
        artifacts.admit(tmp_path / "nowhere")
    with pytest.raises(Invalid):
        artifacts.admit(Path("nul\0byte"))


def test_a_file_made_to_have_a_folders_digest_does_not_take_its_place(artifacts: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("hello there")
    found = artifacts.admit(tmp_path / "folder")
    (tmp_path / "twin.json").write_text(json.dumps(dict(found.members), separators=(",", ":")))
    with pytest.raises(Conflict, match="digest of a stored folder"):
        artifacts.admit(tmp_path / "twin.json")


def test_unknown_digests_and_limits_are_clear_errors(artifacts: ArtifactStore) -> None:
    with pytest.raises(NotFound, match="list-artifacts"):
        artifacts.get("0" * 64)
    for bad in ("../x", "", "0" * 63, "0" * 64 + "\n", "' OR 1=1 --"):
        with pytest.raises(Invalid, match="digest"):
            artifacts.fetch(bad)
    with pytest.raises(Invalid, match="limit"):
        artifacts.list_artifacts(limit=0)
    with pytest.raises(Invalid, match="grace_hours"):
        artifacts.collect(float("nan"))


def test_only_what_nobody_holds_goes_and_only_after_the_grace_period(
    artifacts: ArtifactStore, clock: FixedClock, tmp_path: Path
) -> None:
    held, loose = tmp_path / "held.txt", tmp_path / "loose.txt"
    held.write_text("held")
    loose.write_text("loose")
    kept, gone = artifacts.admit(held), artifacts.admit(loose)
    with artifacts.store.work() as work:
        artifacts.hold(work.rows, kept.digest, "model m:1.0.0")
    clock.advance(3600)
    assert artifacts.collect(grace_hours=2).artifacts == ()
    clock.advance(7201)
    artifacts.admit(loose)
    assert artifacts.collect(grace_hours=2).artifacts == (), "admitting it again begins the grace period anew"
    clock.advance(7201)
    assert artifacts.collect(grace_hours=2).artifacts == (gone.digest,)
    assert list(artifacts.store.blobs.keys()) == [
        blob_key(min(kept.digest, gone.digest)),
        blob_key(max(kept.digest, gone.digest)),
    ]
    clock.advance(7201)
    assert artifacts.collect(grace_hours=2).blobs == (gone.digest,)
    assert artifacts.verify(kept.digest) == kept
    with pytest.raises(NotFound):
        artifacts.get(gone.digest)
    with artifacts.store.work() as work:
        artifacts.release(work.rows, kept.digest, "model m:1.0.0")
    clock.advance(7201)
    assert artifacts.collect(grace_hours=2).artifacts == (kept.digest,)


def test_bytes_that_a_collector_takes_during_an_admission_are_stored_again(
    artifacts: ArtifactStore, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = artifacts.store.blobs
    real, taken = blobs.put, []

    def put_then_lose(key, source):
        stored = real(key, source)
        if not taken:
            taken.append(blobs.delete(key))
        return stored

    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    known = artifacts.admit(
        file
    )  # known bytes are not inspected again, so the loss is only seen when they are recorded
    artifacts.store.blobs.delete(blob_key(digest))
    monkeypatch.setattr(blobs, "put", put_then_lose)
    assert artifacts.admit(file) == known
    assert taken == [True]
    assert artifacts.verify(digest) == known


KILLED = """
import os, signal, sys, threading
from pathlib import Path
from modelyard.artifacts import ArtifactStore
store = ArtifactStore(Path(sys.argv[1]))
step, seen = int(sys.argv[2]), 0
def maybe_die(frame, event, argument):
    global seen
    if event == "c_call" and getattr(argument, "__module__", None) in ("posix", None, "sqlite3", "_hashlib"):
        seen += 1
        if seen == step:
            os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.setprofile(maybe_die)
store.admit(Path(sys.argv[3]))
sys.setprofile(None)
print("done", seen, flush=True)
"""


def test_a_kill_at_any_moment_of_an_admission_leaves_no_half_of_anything(yard: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name * 200_000)
    whole = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.txt", "b.txt")}
    for step in (25, 60, 100, 150, 200, 300):
        place = Path(shutil.copytree(yard, tmp_path / f"yard{step}"))
        run = subprocess.run(
            [sys.executable, "-c", KILLED, place, str(step), folder], capture_output=True, text=True, check=False
        )
        assert run.stdout.startswith("ready"), run.stderr
        assert run.returncode in (0, -signal.SIGKILL), run.stderr
        artifacts = ArtifactStore(place)
        for key in list(artifacts.store.blobs.keys()):
            with artifacts.store.blobs.open(key) as stream:
                assert blob_key(hashlib.sha256(stream.read()).hexdigest()) == key
        for found in artifacts.list_artifacts():
            assert set(artifacts.verify(found.digest).members.values()) == whole
        assert set(artifacts.admit(folder).members.values()) == whole, "the next admission completes"


def test_a_full_disk_leaves_nothing_and_says_so(yard: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk: the kernel fails the write in the middle."""
    big = tmp_path / "big.txt"
    big.write_text("x" * 5_000_000)
    code = (
        "import resource, sys; from pathlib import Path; from modelyard.artifacts import ArtifactStore\n"
        "from modelyard.core.errors import Unavailable\n"
        "store = ArtifactStore(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "try: store.admit(Path(sys.argv[2]))\n"
        "except Unavailable as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, yard, big], capture_output=True, text=True, check=True)
    assert "Nothing was stored" in run.stdout
    assert [path for path in (yard / "blobs").rglob("*") if path.is_file()] == []
    assert ArtifactStore(yard).list_artifacts() == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting a small disk needs root")
def test_a_disk_that_is_really_full_leaves_nothing(yard: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = Store.at(yard)
        store.blobs.folder = disk / "blobs"  # type: ignore[attr-defined]
        artifacts = ArtifactStore(store)
        big = tmp_path / "big.txt"
        big.write_text("x" * 3_000_000)
        with pytest.raises(Unavailable, match="is full"):
            artifacts.admit(big)
        assert [path for path in disk.rglob("*") if path.is_file()] == []
        small = tmp_path / "small.txt"
        small.write_text("fits")
        assert artifacts.verify(artifacts.admit(small).digest).size == 4
    finally:
        subprocess.run(["umount", disk], check=True)
