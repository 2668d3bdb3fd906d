"""What runs late of one guarded generation: its detectors of late faults and its rounds, in the shared counter file.

The state is a few numbers for each arm on trial: of each detector (stats.detector) how many outcomes it has been told,
and its sums; of each place of rounds (stats.rounds) the number of its round, and what had been counted when that began.
Who looks takes the file's lock without waiting, tells the detectors what has been counted since, writes the state beside
the old one, and then says which holds. So all processes judge the same sums, one that is killed in between changes
nothing, one that is stopped in between keeps nobody from judging, and a restart goes on.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate

import numpy as np

from modelyard.core.traffic import Guard, Traffic, TrafficCounts
from modelyard.serving.counter_file import BLOCK, STATE
from modelyard.serving.counter_sums import Outcomes, judged, outcomes_in
from modelyard.serving.counters import Counters
from modelyard.serving.rules import quantiles_of
from modelyard.stats.detector import Detector
from modelyard.stats.rollback import (
    ANSWERS,
    ERRORS,
    Counts,
    State,
    bets_of,
    by_round,
    events_of,
    lately,
    steps,
    up_to_now,
)
from modelyard.stats.rounds import SERIES, number_at

Tests = dict[str, tuple[float, ...]]
CATEGORIES = {ERRORS: 1, ANSWERS: 4}
SIZES = {test: 2 * many + 2 + len(bets_of(test)) for test, many in CATEGORIES.items()}
STARTS = dict(zip(SIZES, accumulate(SIZES.values(), initial=0), strict=False))
BEGUN = sum(SIZES.values())  # where the rounds' numbers lie in the state, and after them what had been counted
COUNTED = BEGUN + len(SERIES)
assert COUNTED + len(SERIES) * 2 * BLOCK <= STATE


def tests_of(counters: Counters, canary: int, baseline: int, guard: Guard) -> Tests:
    """How far the guard's tests are, without telling the detectors anything."""
    numbers = _numbers(counters)[canary]
    return _tests(guard, counters.outcomes(canary, baseline, guard), numbers)


def tests_told(counters: Counters, canary: int, baseline: int, guard: Guard) -> Tests:
    """The same by what all servers of a database have told each other: what each of them sees alike."""
    numbers = _numbers(counters)[canary]
    return _tests(guard, outcomes_in(counters.told()[[canary, baseline]], guard), numbers)


def counted(counters: Counters, traffic: Traffic) -> TrafficCounts:
    """Everything counted so far, with how far the guards' tests are: of several servers, by what all of them know."""
    tested = tests_of if counters.judges == 1 else tests_told
    names = [arm.name for arm in traffic.arms]
    places = [(names.index(one.arm), names.index(one.control), one) for one in traffic.guards]
    tests = {arm: tested(counters, arm, control, one) for arm, control, one in places}
    return with_tests(counters.merged(traffic), traffic, tests)


def with_tests(counts: TrafficCounts, traffic: Traffic, tests: Mapping[int, Tests]) -> TrafficCounts:
    """The counts with how far the tests of arms are, by the arms' places."""
    found = {traffic.arms[place].name: each for place, each in tests.items()}
    arms = {name: replace(arm, tests=found.get(name, {})) for name, arm in counts.arms.items()}
    return replace(counts, arms=arms) if found else counts


def judged_now(counters: Counters, canary: int, baseline: int, guard: Guard) -> Tests:
    """The same, after the detectors have been told what is new."""
    numbers = _numbers(counters)[canary]  # first: they never say more than what is counted then
    seen = counters.outcomes(canary, baseline, guard)
    known = _known(numbers, guard, seen.alone)
    if any(known[test][0] != _told(pair) for test, pair in seen.alone.items()) and not counters.led:
        with _alone(counters) as alone:
            if alone and not counters.led:
                seen = counters.outcomes(canary, baseline, guard)
                numbers = _moved(counters, canary, guard, seen.alone)
    return _tests(guard, seen, numbers)


def begin_rounds(counters: Counters, guards: Mapping[int, Guard], baseline: int, seconds: float) -> None:
    """Begin the round that is due so many seconds after the generation began; only one process at a time.

    It begins for all arms on trial at once, for they share what is forgotten of units, in the place of the round that has
    the least evidence against any of them.
    """
    number = number_at(seconds)
    if counters.led or not _due(_numbers(counters), guards, number):
        return
    with _alone(counters) as alone:
        if not alone or counters.led:
            return
        numbers = _numbers(counters)
        if not _due(numbers, guards, number):
            return
        place = _given_up(counters, guards, baseline, numbers)
        known = {
            arm: numbers[arm, COUNTED : COUNTED + len(SERIES) * 2 * BLOCK].reshape(len(SERIES), -1) for arm in guards
        }
        if any((counters.rounds(arm, baseline)[place].ravel() != known[arm][place]).any() for arm in guards):
            counters.forget(place)  # it has met units
        counters.run(place)
        for arm in guards:  # what was counted since it forgot is left out, of both arms
            numbers[arm, BEGUN + place], known[arm][place] = number, counters.rounds(arm, baseline)[place].ravel()
        _write(counters, numbers)


def state_of(counters: Counters) -> bytes:
    """All that stands here of what runs late, for another server to go on from."""
    return _numbers(counters).tobytes().rstrip(b"\0")  # most of it is of arms that are not on trial


def take(counters: Counters, state: bytes) -> bool:
    """Go on from another server's state; False while a process is telling the detectors."""
    with _alone(counters) as alone:
        if alone:
            whole = counters.states[0].nbytes
            _write(counters, np.frombuffer(state.ljust(whole, b"\0")).reshape(counters.states.shape[1:]))
        return alone


def _due(numbers: np.ndarray, guards: Mapping[int, Guard], number: int) -> bool:
    return any(number > numbers[arm, BEGUN:COUNTED].max() for arm in guards)


def _given_up(counters: Counters, guards: Mapping[int, Guard], baseline: int, numbers: np.ndarray) -> int:
    """The place that no round has yet in this generation, or else that of the round with the least evidence."""
    for place in SERIES:
        if not any(numbers[arm, BEGUN + place] for arm in guards):
            return place
    each = (_tests(one, counters.outcomes(arm, baseline, one), numbers[arm]) for arm, one in guards.items())
    found = np.max([by_round(tests) for tests in each], axis=0)
    return int(found.argmin())


def _tests(guard: Guard, seen: Outcomes, numbers: np.ndarray) -> Tests:
    names = quantiles_of(guard)
    late = {test: one for test, (_, one) in _known(numbers, guard, seen.alone).items()}
    before = numbers[COUNTED : COUNTED + seen.rounds.size].reshape(seen.rounds.shape).astype(np.int64)
    begun = np.maximum(seen.rounds - before, 0)  # what servers have told may lag behind a round that has begun
    rounds = [(int(numbers[BEGUN + series]), judged(begun[series], names)) for series in range(len(SERIES))]
    tests = up_to_now(guard.carried, seen.now, guard.share, names, late)
    if any(number for number, _ in rounds):
        tests |= lately(guard.carried, rounds, guard.share, names)
    return tests


def _moved(counters: Counters, arm: int, guard: Guard, counts: Counts) -> np.ndarray:
    """Tell the detectors what has been counted since, and write their state down; only one process at a time."""
    every = _numbers(counters)
    numbers: np.ndarray = every[arm]
    known = _known(numbers, guard, counts)
    new = {test: _since(known[test][0], _told(pair)) for test, pair in counts.items()}
    grown = steps(new, guard.share, quantiles_of(guard))
    for test, pair in counts.items():
        late = known[test][1].after(grown[test], events_of(*new[test]))
        start = STARTS[test]
        numbers[start : start + SIZES[test]] = [*_padded(test, _told(pair)), late.events, late.begun, *late.logs]
    _write(counters, every)
    return numbers


def _write(counters: Counters, numbers: np.ndarray) -> None:
    counters.states[(counters.version + 1) % 2] = numbers
    counters.version += 1


def _numbers(counters: Counters) -> np.ndarray:
    """A copy of every arm's state as it was written last; zeros before it ever was."""
    while True:
        version = counters.version
        numbers: np.ndarray = counters.states[version % 2].copy()
        if counters.version == version:
            return numbers


def _known(numbers: np.ndarray, guard: Guard, counts: Counts) -> dict[str, tuple[list[int], Detector]]:
    """What each detector has been told, and the detector; as the last step left it where nothing is written yet."""
    found = {}
    for test, pair in counts.items():
        half, many = len(pair[0]), CATEGORIES[test]
        own = numbers[STARTS[test] : STARTS[test] + SIZES[test]].tolist()
        if not any(own):
            found[test] = [0] * (2 * half), State.of(guard.carried.get(test, ())).late
            continue
        told, rest = own[: 2 * many], own[2 * many :]
        kept = [int(one) for one in (*told[:half], *told[many : many + half])]
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
