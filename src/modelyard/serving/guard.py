"""The guard: every serving process judges the canary from the shared counts and, by itself, sends everything back.

The decision is a file that only one process can make. Telling the rest of modelyard about it happens off the request
path, is repeated until it succeeds, and any process can do it: the decision itself waits for nobody.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from modelyard.core.errors import Invalid
from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.serving.counters import Counters
from modelyard.serving.detectors import Tests, begin_rounds, judged_now, tests_of
from modelyard.serving.lasting import keep
from modelyard.serving.places import Places, read, write_once
from modelyard.serving.rules import trip_of, trips
from modelyard.stats.rollback import strongest

Report = Callable[[str, GuardTrip], object]
log = logging.getLogger("modelyard.serving")
RETRY_S = 1.0
LOOK_S = 0.05  # slow answers are so frequent that they are judged together


class Guarded(Protocol):
    """Traffic with its counts, and the places of its arms."""

    @property
    def traffic(self) -> Traffic:
        """What is carried out."""
        ...

    @property
    def counters(self) -> Counters:
        """What has been counted of it."""
        ...

    @property
    def canary(self) -> int:
        """The place of the canary's arm."""
        ...

    @property
    def baseline(self) -> int:
        """The place of the baseline's arm."""
        ...


def check(places: Places, route: Guarded) -> bool:
    """Judge a guarded route now; True if its guard has tripped, by this look or before."""
    guard, counters = route.traffic.guard, route.counters
    if guard is None:
        return False
    if counters.tripped:
        return True
    if not counters.warm or not counters.news():
        return False
    tests = judged_now(counters, route.canary, route.baseline, guard)
    if not trips(guard, strongest(tests)[0]):
        return False
    _write(places, route, tests)
    counters.trip()
    return True


def look(places: Places, routes: Iterable[Guarded]) -> None:
    """Judge every guarded route, and follow or write down a decision whose process died or could not write."""
    for route in routes:
        guard, counters = route.traffic.guard, route.counters
        if guard is None:
            continue
        if places.trip(guard.rollout_id, guard.step).exists():
            counters.trip()
        elif counters.tripped:
            _write(places, route, tests_of(counters, route.canary, route.baseline, guard))
        else:
            if counters.warm:
                begin_rounds(counters, route.canary, route.baseline, guard, time.time() - counters.born)
            check(places, route)


def _write(places: Places, route: Guarded, tests: Tests) -> None:
    guard = route.traffic.guard
    assert guard is not None  # only a guarded route is judged
    counts = replace(route.counters.merged(route.traffic), tests=tests)
    decision = trip_of(route.traffic, counts=counts, at=time.time())
    try:
        if write_once(places.trip(guard.rollout_id, guard.step), decision):
            log.warning("%s rolled back to the baseline: %s", route.traffic.endpoint, decision.reason)
    except OSError as error:  # a full disk: the traffic goes back all the same, and the next look tries again
        log.error("%s is rolled back, but that cannot be written down yet: %s", route.traffic.endpoint, error)  # noqa: TRY400


def unrecorded(places: Places) -> list[Path]:
    """The decisions that nobody has recorded yet."""
    return [path for path in places.trips.glob("*.json") if not _mark(path).exists()]


def mark_recorded(path: Path) -> None:
    """Note that a decision is known to the store."""
    _mark(path).touch()


def report_all(places: Places, place: str, report: Report) -> bool:
    """Report what is not recorded; True if nothing is left to do."""
    done = [_report_one(path, place, report) for path in unrecorded(places)]
    return all(done)


def _report_one(path: Path, place: str, report: Report) -> bool:
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _mark(path).exists():
            report(place, read(path, GuardTrip))
            mark_recorded(path)
    except BlockingIOError:
        return False  # another process is at it; if it dies, the lock is free and the next look does it
    except Exception:  # the hook is another area's: whatever stops it, the decision stands and is told again
        log.exception("%s could not be reported. It is tried again in %g s.", path, RETRY_S)
        return False
    finally:
        os.close(handle)
    return True


def _mark(path: Path) -> Path:
    return path.with_suffix(".recorded")


def hook(reference: str) -> Report:
    """The function behind `module:function`."""
    module, colon, name = reference.partition(":")
    if not colon or not module or not name:
        raise Invalid(f"{reference!r} names no function. Write it as module:function.")
    found: Report = getattr(importlib.import_module(module), name)
    return found


class Reporter(threading.Thread):
    """Reports decisions in the background; the hook's module is imported when there is the first one to report."""

    def __init__(self, places: Places, place: str, reference: str) -> None:
        super().__init__(name="modelyard-reporter", daemon=True)
        self._places, self._place, self._reference = places, place, reference
        self._ended = threading.Event()

    def run(self) -> None:
        """Look four times a second until stopped."""
        keep(RETRY_S / 4, self._look, "Decisions cannot be reported", ended=self._ended)

    def _look(self) -> None:
        if unrecorded(self._places):
            report_all(self._places, self._place, self._call)

    def _call(self, place: str, trip: GuardTrip) -> object:
        return hook(self._reference)(place, trip)

    def stop(self) -> None:
        """End after what is being reported."""
        self._ended.set()
        self.join(10)
