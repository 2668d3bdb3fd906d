"""Counts of one generation of an endpoint: one slot of a shared file a process, one writer a slot (counter_file).

Counts only grow, and a process that dies leaves its own behind, so that a merge needs no lock and loses nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from modelyard.core.traffic import Traffic
from modelyard.serving.counter_file import (
    ABOVE,
    ALONE,
    BAD,
    BLOCK,
    EVER,
    EVER_FAILED,
    EVER_MET,
    FAILED_EVER,
    FAILED_LATELY,
    HEAD,
    HEADER,
    HERE_FAILED,
    HERE_MET,
    LIMIT,
    MET,
    MET_FAILED,
    MET_LATELY,
    PLACES,
    REQUESTS,
    ROUNDS,
    ROW,
    RUNNING,
    SEEN,
    SHADOW,
    SLOT,
    SLOWER,
    TOP,
    UNITS,
    USED,
    bits_of,
    create,
)
from modelyard.serving.counter_sums import CounterSums
from modelyard.serving.places import Places
from modelyard.serving.rules import MAX_ARMS
from modelyard.stats.sketch import bucket

COLD = 10  # of a process's first answers: each process meets code, memory and pools of a new version for the first time


class Counters(CounterSums):
    """The shared counts of one generation; `slot` is this process's own, None to read only."""

    def __init__(self, path: Path, slot: int | None = None) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._base, self._judged = 0, 0.0
        self._cold, self._calls = [COLD] * MAX_ARMS, [0] * MAX_ARMS
        if slot is not None:
            self._base = HEADER + slot * SLOT
            self._words[USED + slot] = 1

    def answered(self, arm: int, micros: float) -> None:
        """Count a request of an arm and how long it took."""
        row = self._base + arm * ROW
        place = row + HEAD + min(bucket(micros), TOP)
        with self._lock:
            self._words[row + REQUESTS] += 1
            self._words[place] += 1

    def failed(self, arm: int) -> None:
        """Count a failure of an arm that no guard watches."""
        with self._lock:
            self._words[self._base + arm * ROW + BAD] += 1

    def outcome(
        self, arm: int, hashed: int | None, *, failed: bool, above: Sequence[int] = (), slot: int | None = None
    ) -> bool:
        """Count for the guard whether a request failed, or which quantiles it was slower than; True if that is evidence.

        A unit, by its hash, counts once of each kind. Two units that share a byte lose events, of both arms alike.
        """
        row = (self._base if slot is None else HEADER + slot * SLOT) + arm * ROW
        if hashed is None:
            with self._lock:
                self._words[row + UNITS] += 1
                self._words[row + ALONE + MET] += 1
                if failed or above:
                    self._bad(row, row + ALONE, failed, above)
            return failed or bool(above)
        bits = EVER_MET | HERE_MET | (EVER_FAILED | HERE_FAILED if failed else 0)
        place = hashed & (PLACES - 1)
        with self._lock:
            seen = self._map[SEEN + place]
            new = bits & ~seen
            if new:
                self._map[SEEN + place] = seen | bits
                self._add(row, new, failed, above)
            running = self._words[RUNNING]
            lately = running & ~self._map[MET_LATELY + place]
            if lately or (failed and running):
                lately = self._lately(row + ROUNDS, place, running, failed, above)
        return new & EVER_FAILED != 0 or (bool(above) and (new & EVER_MET or lately) != 0) or (failed and lately != 0)

    def again(self, arm: int, hashed: int | None) -> None:
        """Count a failure that is no evidence of its own: it is shown, and the guard's tests do not hear of it."""
        row = self._base + arm * ROW
        with self._lock:
            if hashed is None:
                self._words[row + UNITS] += 1
                self._words[row + BAD] += 1
                return
            place = SEEN + (hashed & (PLACES - 1))
            new = (HERE_MET | HERE_FAILED) & ~self._map[place]
            self._map[place] |= new
            self._add(row, new, True, ())

    def told_of(self, arm: int, call: int) -> bool:
        """Whether a failure of an arm's call has been told of before, by a mark of the call that is not 0."""
        known, self._calls[arm] = self._calls[arm], call
        return call != 0 and known == call

    def cold(self, arm: int) -> bool:
        """Whether an answer of an arm on trial is one of its first here, which are not called slow."""
        if self._cold[arm]:
            self._cold[arm] -= 1
            return True
        return False

    def due(self, seconds: float) -> bool:
        """Whether the guard was last judged here so long ago; then it is now."""
        now = time.monotonic()
        if now - self._judged < seconds:
            return False
        self._judged = now
        return True

    def shadowed(self, what: int, micros: float | None = None) -> None:
        """Count what became of a shadow's copy of a request."""
        row = self._base + SHADOW * ROW
        with self._lock:
            self._words[row + what] += 1
            if micros is not None:
                self._words[row + HEAD + min(bucket(micros), TOP)] += 1

    def _bad(self, row: int, block: int, failed: bool, above: Sequence[int]) -> None:
        words = self._words
        words[row + BAD] += failed
        words[block + MET_FAILED] += failed
        words[block + FAILED_EVER] += failed
        for which in above:
            words[row + SLOWER + which] += 1
            if which < LIMIT:
                words[block + ABOVE + which] += 1

    def _add(self, row: int, new: int, failed: bool, above: Sequence[int]) -> None:
        words = self._words
        if new & EVER_MET:
            self._first(row + EVER, failed, above)
        if new & HERE_MET:
            words[row + UNITS] += 1
            for which in above:
                words[row + SLOWER + which] += 1
        words[row + EVER + FAILED_EVER] += new & EVER_FAILED
        words[row + BAD] += new & HERE_FAILED != 0

    def _first(self, block: int, failed: bool, above: Sequence[int]) -> None:
        words = self._words
        words[block + MET] += 1
        words[block + MET_FAILED] += failed
        for which in above:
            if which < LIMIT:
                words[block + ABOVE + which] += 1

    def _lately(self, blocks: int, place: int, running: int, failed: bool, above: Sequence[int]) -> int:
        """Count a unit in the rounds that run; those to which it is news, as bits."""
        new = self._unmarked(MET_LATELY + place, running)
        for series in bits_of(new):
            self._first(blocks + series * BLOCK, failed, above)
        broken = self._unmarked(FAILED_LATELY + place, running) if failed else 0
        for series in bits_of(broken):
            self._words[blocks + series * BLOCK + FAILED_EVER] += 1
        return new | broken

    def _unmarked(self, place: int, bits: int) -> int:
        """Those of the bits that were not marked at a place until now."""
        seen = self._map[place]
        new = bits & ~seen
        if new:
            self._map[place] = seen | bits
        return new


def begin(places: Places, traffic: Traffic) -> Path:
    """The counter file of a traffic that is about to be published: a new one goes on where the rollout's last one is."""
    file = places.counters(traffic.endpoint, traffic.generation)
    if file.exists():
        return file
    create(file)
    if traffic.guard is not None and places.traffic(traffic.endpoint).exists():
        before = places.read_traffic(traffic.endpoint).traffic
        older = places.counters(traffic.endpoint, before.generation)
        same = before.guard is not None and before.guard.rollout_id == traffic.guard.rollout_id
        if same and before.salt == traffic.salt and older.exists():
            Counters(file).inherit(Counters(older))
    return file
