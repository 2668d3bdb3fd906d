"""The guard: every serving process judges what is on trial from the shared counts and, by itself, sends everything back.

The decision is a file that only one process can make. Telling the rest of modelyard about it happens off the request
path, is repeated until it succeeds, and any process can do it: the decision itself waits for nobody.
"""

from __future__ import annotations

import fcntl
import importlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from modelyard.core.errors import Invalid
from modelyard.core.traffic import Guard, GuardTrip, Traffic, known_part
from modelyard.serving.counters import Counters
from modelyard.serving.detectors import Tests, begin_rounds, judged_now, tests_of, tests_told, with_tests
from modelyard.serving.lasting import Lasting, keep
from modelyard.serving.places import Places, read, write_once
from modelyard.serving.rules import trip_of, trips
from modelyard.stats.rollback import strongest

Report = Callable[[str, GuardTrip], object]
log = logging.getLogger("modelyard.serving")
RETRY_S = 1.0
_WRITING = Lasting("A rollback is carried out, but cannot be written down yet", log)
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
    def watched(self) -> Mapping[int, Guard]:
        """The places of the arms on trial, with their guards."""
        ...

    @property
    def baseline(self) -> int:
        """The place of the control's arm."""
        ...


def check(places: Places, route: Guarded) -> bool:
    """Judge a guarded route now; True if its guard has tripped, by this look or before."""
    counters, watched = route.counters, route.watched
    if not watched:
        return False
    if counters.tripped:
        return True
    if not counters.warm or not counters.news():
        return False
    tests = {arm: judged_now(counters, arm, route.baseline, one) for arm, one in watched.items()}
    servers, known = counters.judges, known_part(counters.judges)
    if not _decided(watched, tests, known if servers == 1 else (1 - known) / servers):
        if servers == 1 or not counters.heard():
            return False
        tests = {arm: tests_told(counters, arm, route.baseline, one) for arm, one in watched.items()}
        if not _decided(watched, tests, known):
            return False
    _write(places, route, tests)
    counters.trip()
    return True


def _decided(watched: Mapping[int, Guard], tests: Mapping[int, Tests], part: float) -> bool:
    """Whether an arm's evidence has reached 1/alpha, with a part of alpha."""
    return any(trips(watched[arm], strongest(one)[0] + math.log(part)) for arm, one in tests.items())


def look(places: Places, routes: Iterable[Guarded]) -> None:
    """Judge every guarded route, and follow or write down a decision whose process died or could not write."""
    for route in routes:
        guard, counters = route.traffic.guard, route.counters
        if guard is None:
            continue
        if places.trip(guard.rollout_id, guard.step).exists():
            counters.trip()
        elif counters.tripped:
            watched = route.watched.items()
            _write(places, route, {arm: tests_of(counters, arm, route.baseline, one) for arm, one in watched})
        else:
            if counters.warm:
                begin_rounds(counters, route.watched, route.baseline, counters.age)
            check(places, route)


def _write(places: Places, route: Guarded, tests: Mapping[int, Tests]) -> None:
    guard = route.traffic.guard
    assert guard is not None  # only a guarded route is judged
    counts = with_tests(route.counters.merged(route.traffic), route.traffic, tests)
    decision = trip_of(route.traffic, counts=counts, at=time.time())
    with _WRITING.round():  # a full disk: the traffic goes back all the same, and the next look tries again
        if write_once(places.trip(guard.rollout_id, guard.step), decision):
            log.warning("%s rolled back to the %s: %s", route.traffic.endpoint, guard.control, decision.reason)


def unrecorded(places: Places) -> list[Path]:
    """The decisions that nobody has recorded yet."""
    return [path for path in places.trips.glob("*.json") if not _mark(path).exists()]


def mark_recorded(path: Path) -> None:
    """Note that a decision is known to the store."""
    _mark(path).touch()


def report_one(path: Path, place: str, report: Report) -> None:
    """Report a decision that is not recorded, unless another process is at it; what the hook raises goes through."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _mark(path).exists():
            report(place, read(path, GuardTrip))
            mark_recorded(path)
    except BlockingIOError:
        pass  # if the other dies, the lock is free and the next look does it
    finally:
        os.close(handle)


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
        self._lasting = Lasting("A rollback cannot be recorded yet", log)  # it stands, and is told again

    def run(self) -> None:
        """Look four times a second until stopped; what could not be recorded waits for a second."""
        keep(RETRY_S / 4, self.look, "Decisions cannot be looked for", ended=self._ended)

    def look(self) -> None:
        """Report each decision that is not recorded; one that cannot be keeps no other waiting."""
        waiting = unrecorded(self._places)
        for path in waiting:
            with self._lasting.round():
                report_one(path, self._place, self._call)
        if waiting and unrecorded(self._places):
            self._ended.wait(RETRY_S)

    def _call(self, place: str, trip: GuardTrip) -> object:
        return hook(self._reference)(place, trip)

    def stop(self) -> None:
        """End after what is being reported."""
        self._ended.set()
        self.join(10)
