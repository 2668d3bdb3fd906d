"""The detectors of late faults of one guarded generation: their state in the shared counter file, moved by whoever looks.

The state is a few numbers a test: how many outcomes the detector has been told, and its sums (stats.detector). Who looks
takes the file's lock without waiting, tells the detectors what has been counted since, writes the state beside the old one,
and then says which holds. So all processes judge the same sums, one that is killed in between changes nothing, one that is
stopped in between keeps nobody from judging, and a restart goes on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate

import numpy as np

from modelyard.core.traffic import BASELINE, CANARY, Guard, Traffic, TrafficCounts
from modelyard.serving.counters import STATE, Counters
from modelyard.serving.rules import quantiles_of
from modelyard.stats.detector import Detector
from modelyard.stats.rollback import ANSWERS, PARTS, Counts, State, bets_of, events_of, steps, up_to_now

Tests = dict[str, tuple[float, ...]]
CATEGORIES = {test: 4 if test == ANSWERS else 1 for test in PARTS}
SIZES = {test: 2 * CATEGORIES[test] + 2 + len(bets_of(test)) for test in PARTS}
STARTS = dict(zip(PARTS, accumulate(SIZES.values(), initial=0), strict=False))
assert sum(SIZES.values()) <= STATE


def tests_of(counters: Counters, canary: int, baseline: int, guard: Guard) -> Tests:
    """How far the guard's tests are, without telling the detectors anything."""
    counts = counters.outcomes(canary, baseline, guard)
    return _with(guard, counts, {test: late for test, (_, late) in _read(counters, guard, counts).items()})


def counted(counters: Counters, traffic: Traffic) -> TrafficCounts:
    """Everything counted so far, with how far the guard's tests are."""
    counts, names = counters.merged(traffic), [arm.name for arm in traffic.arms]
    if traffic.guard is None or CANARY not in names or BASELINE not in names:
        return counts
    tests = tests_of(counters, names.index(CANARY), names.index(BASELINE), traffic.guard)
    return replace(counts, tests=tests)


def judged_now(counters: Counters, canary: int, baseline: int, guard: Guard) -> Tests:
    """The same, after the detectors have been told what is new."""
    counts = counters.outcomes(canary, baseline, guard)
    known = _read(counters, guard, counts)
    if any(known[test][0] != _told(pair) for test, pair in counts.items()):
        with _alone(counters) as alone:
            if alone:
                counts = counters.outcomes(canary, baseline, guard)
                known = _moved(counters, guard, counts)
    return _with(guard, counts, {test: late for test, (_, late) in known.items()})


def _with(guard: Guard, counts: Counts, late: Mapping[str, Detector]) -> Tests:
    return up_to_now(guard.carried, counts, guard.share, quantiles_of(guard), late)


def _moved(counters: Counters, guard: Guard, counts: Counts) -> dict[str, tuple[list[int], Detector]]:
    """Tell the detectors what has been counted since, and write their state down; only one process at a time."""
    known = _read(counters, guard, counts)
    new = {test: _since(known[test][0], _told(pair)) for test, pair in counts.items()}
    grown = steps(new, guard.share, quantiles_of(guard))
    found, after = {}, counters.states[counters.version % 2].copy()
    for test, pair in counts.items():
        late = known[test][1].after(grown[test], events_of(*new[test]))
        told = _told(pair)
        found[test] = told, late
        start = STARTS[test]
        after[start : start + SIZES[test]] = [*_padded(test, told), late.events, late.begun, *late.logs]
    counters.states[(counters.version + 1) % 2] = after
    counters.version += 1
    return found


def _read(counters: Counters, guard: Guard, counts: Counts) -> dict[str, tuple[list[int], Detector]]:
    """What each detector has been told, and the detector; as the last step left it where nothing is written yet."""
    version = 0
    numbers: list[float] = []
    while counters.version and (not numbers or counters.version != version):
        version = counters.version
        numbers = counters.states[version % 2].tolist()
    found = {}
    for test, pair in counts.items():
        half = len(pair[0])
        own = numbers[STARTS[test] : STARTS[test] + SIZES[test]]
        if not any(own):
            found[test] = [0] * (2 * half), State.of(guard.carried.get(test, ())).late
            continue
        told, rest = own[: 2 * CATEGORIES[test]], own[2 * CATEGORIES[test] :]
        kept = [int(one) for one in (*told[:half], *told[CATEGORIES[test] : CATEGORIES[test] + half])]
        found[test] = kept, Detector(tuple(rest[2:]), int(rest[0]), int(rest[1]))
    return found


def _told(pair: tuple[Sequence[int], Sequence[int]]) -> list[int]:
    return [*pair[0], *pair[1]]


def _since(before: Sequence[int], now: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    more = [one - other for one, other in zip(now, before, strict=True)]
    return tuple(more[: len(more) // 2]), tuple(more[len(more) // 2 :])


def _padded(test: str, told: Sequence[int]) -> np.ndarray:
    row = np.zeros((2, CATEGORIES[test]))
    row[:, : len(told) // 2] = np.reshape(told, (2, -1))
    return row.ravel()


@contextmanager
def _alone(counters: Counters) -> Iterator[bool]:
    """Whether nobody else is telling the detectors at this moment."""
    try:
        handle = os.open(counters.path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # of a generation long ago
        yield False
        return
    try:
        yield _locked(handle)
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
