"""Each system call of an admission is made to fail, or the process is killed there: nothing torn, nothing half-visible.

strace injects the fault (man strace, --inject), so that what runs is the real store on the real kernel.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.rules import blob_key

pytestmark = pytest.mark.slow
TRACED = shutil.which("strace")

# Waits for a folder's name on its standard input, forks, and lets the child admit `source` there once it is told to go.
DRIVER = """
import os, signal, sys
from pathlib import Path
from modelyard.artifacts import ArtifactStore
from modelyard.core.errors import YardError
from modelyard.storage.files import FileBlobs
source, named = Path(sys.argv[1]), sys.argv[2] == "named"
warm = ArtifactStore(Path(sys.argv[3]))
warm.fetch(warm.admit(source).digest)  # everything is imported and each path taken once
warm.close()
if named:
    FileBlobs._write = FileBlobs._write_named
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for line in sys.stdin:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        continue
    print(os.getpid(), flush=True)
    place = line.strip()
    code = 70
    try:
        store = ArtifactStore(Path(place))
        store.list_artifacts()
        print("waiting", flush=True)
        signal.sigwait({signal.SIGUSR1})
        store.admit(source)
        code = 0
    except YardError:
        code = 1
    except BaseException:
        import traceback
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
"""


class Driver:
    """Runs an admission in a fresh copy of a yard, with a fault."""

    def __init__(self, yard: Path, source: Path, place: Path, how: str) -> None:
        self.yard, self.place, self.runs = yard, place, 0
        warm = Path(shutil.copytree(yard, place / "warm"))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", DRIVER, source, how, warm],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def admitted(self, fault: str) -> tuple[Path, int, bool]:
        """(yard, exit status, whether the fault came to be) of an admission with a fault."""
        self.runs += 1
        folder = self.place / f"run{self.runs}"
        yard = Path(shutil.copytree(self.yard, folder / "yard"))
        log = folder / "log"
        self.process.stdin.write(f"{yard}\n")
        self.process.stdin.flush()
        child = int(self.process.stdout.readline())
        assert self.process.stdout.readline() == "waiting\n"
        tracer = subprocess.Popen(
            [TRACED, "-f", "-qq", "-o", log, "-e", f"trace={fault.partition(':')[0]}", "-e", f"inject={fault}",
             "-p", str(child)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{child}/status").read_text() or tracer.poll() is not None)
        refused = tracer.poll() is not None
        os.kill(child, signal.SIGUSR1)
        if refused:
            self.process.stdout.readline()
            pytest.skip("strace may not trace here")
        status = int(self.process.stdout.readline())
        tracer.wait()
        text = log.read_text()
        return yard, status, "INJECTED" in text or "killed by SIGKILL" in text

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def _until(done) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "folder"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text(name * 3_000)
    return folder


@pytest.fixture(scope="module", params=["unnamed", "named"])
def driver(
    request: pytest.FixtureRequest, migrated: Path, source: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Driver]:
    if TRACED is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("strace is not installed. Install it: apt-get install strace")
        pytest.skip("strace is not installed. Install it: apt-get install strace")
    made = Driver(migrated, source, tmp_path_factory.mktemp("faults"), request.param)
    yield made
    made.close()


CALLS = ("openat", "write", "pwrite64", "fsync", "fdatasync", "mkdir", "linkat", "fchmod", "unlink", "close", "read")
KINDS = ("error=EIO", "error=ENOSPC", "signal=KILL")


def _check(yard: Path, source: Path, status: int) -> None:
    whole = {hashlib.sha256(file.read_bytes()).hexdigest() for file in source.iterdir()}
    artifacts = ArtifactStore(yard)
    for key in artifacts.store.blobs.keys():  # noqa: SIM118 - the port's own method
        with artifacts.store.blobs.open(key) as stream:
            assert blob_key(hashlib.sha256(stream.read()).hexdigest()) == key, "a torn blob"
    found = artifacts.list_artifacts()
    for artifact in found:
        assert set(artifacts.verify(artifact.digest).members.values()) == whole, "a half-visible artifact"
    if status == 0:
        assert len(found) == 1, "what was acknowledged is there"
    again = artifacts.admit(source)
    assert not found or found == [again]
    assert set(artifacts.verify(again.digest).members.values()) == whole, "the next admission completes"
    assert {path.name for path in artifacts.fetch(again.digest).iterdir()} == {"a.txt", "b.txt"}
    artifacts.collect(grace_hours=0)
    artifacts.collect(grace_hours=0)
    artifacts.close()
    assert not [path for path in (yard / "blobs" / "sha256").rglob("*") if path.is_file()], (
        "a collection cleans the rest"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_at_any_call_tears_nothing(call: str, kind: str, driver: Driver, source: Path) -> None:
    for number in _places(call):
        yard, status, happened = driver.admitted(f"{call}:{kind}:when={number}")
        if not happened:
            assert status == 0
            shutil.rmtree(yard.parent)
            return
        assert status in (0, 1, -9), f"{call} {kind} {number}: {status}"
        _check(yard, source, status)
        shutil.rmtree(yard.parent)


def _places(call: str) -> Iterator[int]:
    """Each of the first calls; of a long row of them, ever fewer."""
    number = 1
    while number < 60:
        yield number
        number += 1 + (number // 3 if call in ("read", "close", "openat") or os.environ.get("CI") != "true" else 0)
