"""Loading a version may end the process that does it: what has done so is not tried for ever, nor by all processes.

A process marks what it begins to load with a file that it locks, and takes the mark away when that is over. A mark that
nobody locks is of a process that ended meanwhile. FOLDER/serving/trials/KEY.MARK; KEY.loaded once it has been loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from modelyard.core.errors import Damaged, YardError
from modelyard.serving.places import Places, held
from modelyard.serving.values import Installed

STANDING, FRESH = 1, 2  # deaths after which a process that has an older routing, and one that has none, tries no more
FORGOTTEN_S = 3600.0  # after that it may have been the machine's fault
LOAD_S = 300.0  # what has not been loaded by then is not loaded any more


class TriedElsewhere(YardError):
    """Another process is trying a version, and this one has its turn after that."""


@contextmanager
def trial(places: Places, installed: Installed, stamp: object, *, standing: bool) -> Iterator[Path | None]:
    """Load the version within this. Damaged where loading it has ended processes before: one, if this process has an
    older routing to go on with, else two.

    Processes that have something to lose take turns, so that a version ends one of them at most: TriedElsewhere while it
    is another one's. What it yields is the mark; without one, ending within this is no word against the version.
    """
    key = key_of(installed, stamp)
    done = places.trials / f"{key}.loaded"
    if done.exists():
        yield None
        return
    places.trials.mkdir(parents=True, exist_ok=True)
    with _turn(places.trials / f"{key}.turn") if standing else nullcontext():
        ended = len(deaths(places, key))
        if ended >= (STANDING if standing else FRESH):
            raise Damaged(
                f"{installed.model} {installed.version} ended {ended} of the processes that loaded it. Their reason is in "
                "the log of the serving processes. Install it again to have it tried again."
            )
        mark, handle = _marked(places, key)
        try:
            yield mark
            done.touch()
        finally:
            mark.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """The right to be the one that tries; the kernel hands it on when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TriedElsewhere("Another process is loading it first.") from None
        yield
    finally:
        os.close(handle)


def deaths(places: Places, key: str) -> list[Path]:
    """The marks of processes that ended while they loaded it, within the last hour."""
    since = time.time() - FORGOTTEN_S
    marks = [
        path for path in places.trials.glob(f"{key}.*") if path.suffix not in (".loaded", ".turn") and not held(path)
    ]
    return [path for path in marks if path.exists() and path.stat().st_mtime > since]


def forget(places: Places, model: str, version: str) -> None:
    """Let the version be tried again."""
    for path in places.trials.glob(f"{_name(model, version)}-*"):
        path.unlink(missing_ok=True)


def key_of(installed: Installed, stamp: object) -> str:
    """What is loaded: the version, how, and from which state of its file."""
    what = hashlib.sha256(msgspec.json.encode([installed, stamp])).hexdigest()[:24]
    return f"{_name(installed.model, installed.version)}-{what}"


def _name(model: str, version: str) -> str:
    return hashlib.sha256(f"{model}\0{version}".encode()).hexdigest()[:16]


def _marked(places: Places, key: str) -> tuple[Path, int]:
    """A mark that is locked before anybody can see it."""
    handle, part = tempfile.mkstemp(dir=places.trials, prefix=".")
    fcntl.flock(handle, fcntl.LOCK_EX)
    mark = places.trials / f"{key}.{os.getpid()}-{time.monotonic_ns()}"
    os.rename(part, mark)
    return mark, handle
