"""What all processes have counted together, and as values: what guards judge, and what people are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from modelyard.core.traffic import DISTANCES, ArmCounts, Guard, ShadowCounts, Traffic, TrafficCounts
from modelyard.serving.counter_file import (
    ABOVE,
    AGREED,
    ALONE,
    APART,
    BAD,
    BLOCK,
    COMPARED,
    DROPPED,
    EVER,
    FAILED,
    FAILED_EVER,
    HEAD,
    HEADER,
    MET,
    MET_FAILED,
    REQUESTS,
    ROUNDS,
    ROW,
    SHADOW,
    SLOT,
    SLOWER,
    TURNS,
    UNITS,
    USED,
    WORD,
    CounterFile,
)
from modelyard.serving.places import ELSEWHERE, MAX_SLOTS, TOLD
from modelyard.serving.rules import MAX_ARMS, QUANTILES, quantiles_of, slower_of
from modelyard.stats.rollback import ANSWERS, ERRORS, Counts
from modelyard.stats.rounds import SERIES


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a guard judges: all evidence, that of requests without a unit, and sums of units in rounds.

    `rounds` has the shape (series, canary and baseline, BLOCK), since the file was made.
    """

    now: Counts
    alone: Counts
    rounds: np.ndarray


class CounterSums(CounterFile):
    """The counts of a file over all its slots, and of one for who writes in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._all = np.frombuffer(self._map, np.int64, MAX_SLOTS * SLOT, HEADER * WORD).reshape(
            MAX_SLOTS, MAX_ARMS + 1, ROW
        )
        self._used = np.frombuffer(self._map, np.int64, MAX_SLOTS, USED * WORD)
        self._known, self._turn = b"", 0

    def row(self, slot: int) -> np.ndarray:
        """The live words of one slot, shape (arms + 1, ROW), for whoever holds that slot."""
        self._used[slot] = 1
        row: np.ndarray = self._all[slot]
        return row

    def elsewhere(self, words: np.ndarray, told: np.ndarray) -> None:
        """Count what other servers have counted so far, and note what all have told each other: at once for whoever looks.

        One caller at a time.
        """
        turn = self._words[TURNS] + 1
        self._all[ELSEWHERE[turn % 2]], self._all[TOLD[turn % 2]] = words, told
        self._words[TURNS] = turn

    def here(self) -> np.ndarray:
        """The words of all slots summed but for what others have counted elsewhere, shape (arms + 1, ROW)."""
        rows: np.ndarray = self._all[self._used != 0].sum(axis=0)
        return rows

    def total(self) -> np.ndarray:
        """The words of all slots summed, shape (arms + 1, ROW)."""
        return self._summed(slice(None), slice(None))

    def heads(self) -> np.ndarray:
        """The counts of every arm and the shadow over all processes, shape (arms + 1, HEAD)."""
        return self._summed(slice(None), slice(HEAD))

    def requests(self, arm: int) -> int:
        """How many requests an arm has had, over all processes."""
        return int(self._summed(slice(arm, arm + 1), slice(REQUESTS + 1))[0, REQUESTS])

    def _summed(self, arms: slice, places: slice) -> np.ndarray:
        """Some words summed over all slots. Of the two that hold others' counts the one that counts is not written."""
        while True:
            turn = self._words[TURNS]
            live = self._used != 0
            live[ELSEWHERE[turn % 2]] |= turn > 0
            rows: np.ndarray = self._all[live, arms, places].sum(axis=0)
            if self._words[TURNS] == turn:
                return rows

    def told(self) -> np.ndarray:
        """The counts of every arm and the shadow as all servers see them alike: what they have told each other."""
        while True:
            turn = self._words[TURNS]
            heads: np.ndarray = self._all[TOLD[turn % 2], :, :HEAD].copy()
            if self._words[TURNS] == turn:
                return heads

    def news(self) -> bool:
        """Whether anything has been counted since this was last asked here."""
        now = self._words[TURNS].to_bytes(WORD, "little") + self.heads().tobytes()
        if now == self._known:
            return False
        self._known = now
        return True

    def heard(self) -> bool:
        """Whether servers have told each other anything since this was last asked here."""
        before, self._turn = self._turn, self._words[TURNS]
        return self._turn != before

    def outcomes(self, canary: int, baseline: int, guard: Guard) -> Outcomes:
        """What the tests of stats.rollback judge: the outcomes of canary and baseline, over all processes."""
        return outcomes_in(self.heads()[[canary, baseline]], guard)

    def rounds(self, canary: int, baseline: int) -> np.ndarray:
        """What of `outcomes` is counted in rounds."""
        return _rounds(self.heads()[[canary, baseline]])

    def merged(self, traffic: Traffic) -> TrafficCounts:
        """Everything counted so far, over all processes."""
        return self._told(traffic, self.total())

    def merged_here(self, traffic: Traffic) -> TrafficCounts:
        """The same without what other servers have counted, which tell it themselves."""
        return replace(self._told(traffic, self.here()), servers=1)

    def _told(self, traffic: Traffic, rows: np.ndarray) -> TrafficCounts:
        limits = slower_of(traffic.guard) if traffic.guard else {}
        return TrafficCounts(
            endpoint=traffic.endpoint,
            generation=traffic.generation,
            servers=self.judges if self._words[TURNS] else 1,
            arms={
                arm.name: _arm(rows[index], limits, traffic.guard is not None) for index, arm in enumerate(traffic.arms)
            },
            shadow=_shadow(rows[SHADOW]) if traffic.shadow else None,
        )


def _rounds(arms: np.ndarray) -> np.ndarray:
    return arms[:, ROUNDS : ROUNDS + len(SERIES) * BLOCK].reshape(2, len(SERIES), BLOCK).swapaxes(0, 1)


def outcomes_in(arms: np.ndarray, guard: Guard) -> Outcomes:
    """The outcomes from the counts of canary and baseline."""
    names = quantiles_of(guard)
    alone = arms[:, ALONE : ALONE + BLOCK]
    return Outcomes(
        now=judged(alone + arms[:, EVER : EVER + BLOCK], names),
        alone=judged(alone, names),
        rounds=_rounds(arms),
    )


def judged(blocks: np.ndarray, names: Sequence[str]) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """The outcomes by test from the blocks of canary and baseline, shape (2, BLOCK)."""
    new, old = blocks.tolist()
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {ERRORS: ((new[FAILED_EVER],), (old[FAILED_EVER],))}
    if names:
        found[ANSWERS] = _levels(new, names), _levels(old, names)
    return found


def _levels(block: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """How many lie between the quantiles, best first; last are the slowest and the failed."""
    failed = block[MET_FAILED]
    above = [block[MET], *(block[ABOVE + QUANTILES.index(name)] + failed for name in names), 0]
    return tuple(one - worse for one, worse in pairwise(above))


def _arm(row: np.ndarray, limits: Mapping[str, int], guarded: bool) -> ArmCounts:
    return ArmCounts(
        requests=int(row[REQUESTS]),
        errors=int(row[BAD]),
        units=int(row[UNITS]) if guarded else None,
        slower={name: int(row[SLOWER + place]) for name, place in limits.items()},
        latency=_histogram(row),
    )


def _shadow(row: np.ndarray) -> ShadowCounts:
    return ShadowCounts(
        compared=int(row[COMPARED]),
        agreed=int(row[AGREED]),
        errors=int(row[FAILED]),
        dropped=int(row[DROPPED]),
        distances=tuple(int(count) for count in row[APART : APART + len(DISTANCES) + 1]),
        latency=_histogram(row),
    )


def _histogram(row: Sequence[int] | np.ndarray) -> dict[int, int]:
    counts = np.asarray(row)[HEAD:]
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
