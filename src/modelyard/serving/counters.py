"""Counts of one generation of an endpoint, in a file that all serving processes map: one slot a process, one writer a slot.

Layout, in 64-bit words: a header (magic, tripped, warmed up, version of the detectors), 64 words that say which slots were
ever used, twice 64 for the detectors (serving.detectors); then for each slot the arms and the shadow, 1,024 words each: 16
counts and a latency histogram (stats.sketch, clipped at the top, which is 9.9 minutes). After them one byte for each of
2^22 unit hashes marks what has been counted of a unit. Counts only grow, and a process that dies leaves its own behind, so
that a merge needs no lock and loses nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.core.traffic import DISTANCES, ArmCounts, Guard, ShadowCounts, Traffic, TrafficCounts
from modelyard.serving.places import MAX_SLOTS, Places
from modelyard.serving.rules import MAX_ARMS, QUANTILES, quantiles_of
from modelyard.stats.rollback import ANSWERS, ERRORS, P95, P99
from modelyard.stats.sketch import bucket

MAGIC = 0x6D796172_64000002  # "myard", layout 2
WORD, HEADER, ROW, HEAD = 8, 256, 1024, 16
TRIPPED, WARM, VERSION, USED, STATES, STATE = 1, 2, 3, 64, 128, 64
# An arm's counts of a guarded generation. Evidence, once in the rollout: failures, and units' first answers above p95 and
# p99; of requests without a unit and units' first requests: how many, above p50, p95 and p99, and failed. Once in the
# generation: units (and requests without one), those that failed, and those whose first answer was above p50, p95 and p99.
REQUESTS, FAILED_EVER, SLOW_EVER, UNITS, BAD, SLOWER, MET, ABOVE, MET_FAILED = 0, 1, 2, 4, 5, 6, 9, 10, 13
EVER_FAILED, EVER_MET, HERE_MET, HERE_FAILED = 1, 1 << 3, 1 << 4, 1 << 5  # of a unit's byte; 1 << 1, 1 << 2: p95, p99
EVER, EVIDENCE = 0b1111, 0b0111  # what counts once in the rollout, and of that what is never good
COMPARED, AGREED, FAILED, DROPPED, APART = 0, 1, 2, 3, 4  # the shadow's counts; APART is the first of its distances'
SHADOW = MAX_ARMS
SLOT = (MAX_ARMS + 1) * ROW
SEEN = (HEADER + MAX_SLOTS * SLOT) * WORD
PLACES = 1 << 22
SIZE = SEEN + PLACES
TOP = ROW - HEAD - 1


class Counters:
    """The shared counts of one generation; `slot` is this process's own, None to read only."""

    def __init__(self, path: Path, slot: int | None = None) -> None:
        create(path)
        with path.open("r+b") as stream:
            if os.fstat(stream.fileno()).st_size != SIZE:
                raise Damaged(f"{path} is no counter file of this modelyard. Publish the endpoint again.")
            self._map = mmap.mmap(stream.fileno(), SIZE)
        self._words = memoryview(self._map)[:SEEN].cast("q")
        if self._words[0] != MAGIC:
            raise Damaged(f"{path} is no counter file of this modelyard. Publish the endpoint again.")
        self._all = np.frombuffer(self._map, np.int64, MAX_SLOTS * SLOT, HEADER * WORD).reshape(
            MAX_SLOTS, MAX_ARMS + 1, ROW
        )
        self._used = np.frombuffer(self._map, np.int64, MAX_SLOTS, USED * WORD)
        self._lock = threading.Lock()
        self._base, self._judged, self._known = 0, 0.0, b""
        self.path = path
        self.states = np.frombuffer(self._map, np.float64, 2 * STATE, STATES * WORD).reshape(2, STATE)
        if slot is not None:
            self._base = HEADER + slot * SLOT
            self._words[USED + slot] = 1

    @property
    def tripped(self) -> bool:
        """Whether a guard has sent everything back to the baseline."""
        return self._words[TRIPPED] != 0

    @property
    def warm(self) -> bool:
        """Whether the declared warm-up is over, so that bad events count."""
        return self._words[WARM] != 0

    def trip(self) -> None:
        """Make every process route to the baseline from its next request on."""
        self._words[TRIPPED] = 1

    def warm_up(self) -> None:
        """End the warm-up."""
        self._words[WARM] = 1

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
        bits = EVER_MET | HERE_MET | (EVER_FAILED | HERE_FAILED if failed else 0)
        if hashed is None:
            with self._lock:
                if failed or above:
                    self._add(row, bits, failed, above)
                else:  # nearly every request
                    self._words[row + MET] += 1
                    self._words[row + UNITS] += 1
            return failed or bool(above)
        for which in above:
            bits |= 1 << which & 0b110  # no mark for p50: every unit passes it soon
        place = SEEN + (hashed & (PLACES - 1))
        with self._lock:
            seen = self._map[place]
            new = bits & ~seen
            if new:
                self._map[place] = seen | bits
                self._add(row, new, failed, above)
        return new & EVIDENCE != 0 or (new & EVER_MET != 0 and bool(above))

    def _add(self, row: int, new: int, failed: bool, above: Sequence[int]) -> None:
        words = self._words
        if new & EVER_MET:
            words[row + MET] += 1
            words[row + MET_FAILED] += failed
            for which in above:
                words[row + ABOVE + which] += 1
        if new & HERE_MET:
            words[row + UNITS] += 1
            for which in above:
                words[row + SLOWER + which] += 1
        if failed:
            words[row + FAILED_EVER] += new & EVER_FAILED
            words[row + BAD] += new & HERE_FAILED != 0
        for which in (1, 2):
            words[row + SLOW_EVER + which - 1] += new >> which & 1

    def news(self) -> bool:
        """Whether anything has been counted since this was last asked here."""
        now = self.heads().tobytes()
        if now == self._known:
            return False
        self._known = now
        return True

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

    def row(self, slot: int) -> np.ndarray:
        """The live words of one slot, shape (arms + 1, 1024), for whoever holds that slot."""
        self._used[slot] = 1
        row: np.ndarray = self._all[slot]
        return row

    @property
    def version(self) -> int:
        """How often the detectors' state has been written; the state of version n is in `states[n % 2]`."""
        return self._words[VERSION]

    @version.setter
    def version(self, number: int) -> None:
        self._words[VERSION] = number

    @property
    def marks(self) -> np.ndarray:
        """The live bytes that say what has been counted of units, by the units' hashes."""
        return np.frombuffer(self._map, np.uint8, PLACES, SEEN)

    def inherit(self, other: Counters) -> None:
        """Take over what was counted of units as evidence, so that none is evidence twice in one rollout."""
        marked = other.marks & np.uint8(EVER)
        places = np.flatnonzero(marked)
        self.marks[places] |= marked[places]

    def total(self) -> np.ndarray:
        """The words of all slots summed, shape (arms + 1, 1024)."""
        rows: np.ndarray = self._all[self._used != 0].sum(axis=0)
        return rows

    def heads(self) -> np.ndarray:
        """The counts of every arm and the shadow over all processes, shape (arms + 1, 16)."""
        heads: np.ndarray = self._all[self._used != 0, :, :HEAD].sum(axis=0)
        return heads

    def requests(self, arm: int) -> int:
        """How many requests an arm has had, over all processes."""
        return int(self._all[self._used != 0, arm, REQUESTS].sum())

    def outcomes(self, canary: int, baseline: int, guard: Guard) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """What the tests of stats.rollback judge: the outcomes of canary and baseline, over all processes."""
        heads = self.heads()
        new, old = heads[canary].tolist(), heads[baseline].tolist()
        found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {ERRORS: ((new[FAILED_EVER],), (old[FAILED_EVER],))}
        names = quantiles_of(guard)
        if names:
            found[ANSWERS] = _levels(new, names), _levels(old, names)
        for name, column in ((P95, SLOW_EVER), (P99, SLOW_EVER + 1)):
            if name in names:
                found[name] = (new[column],), (old[column],)
        return found

    def merged(self, traffic: Traffic) -> TrafficCounts:
        """Everything counted so far, over all processes."""
        rows = self._all[self._used != 0].sum(axis=0)
        limits = quantiles_of(traffic.guard) if traffic.guard else ()
        return TrafficCounts(
            endpoint=traffic.endpoint,
            generation=traffic.generation,
            arms={
                arm.name: _arm(rows[index], limits, traffic.guard is not None) for index, arm in enumerate(traffic.arms)
            },
            shadow=_shadow(rows[SHADOW]) if traffic.shadow else None,
        )


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


def create(path: Path) -> None:
    """Make an empty counter file unless it is there; sparse, so that it takes what is counted and no more."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.truncate(SIZE)
            stream.write(MAGIC.to_bytes(WORD, "little"))
        os.link(part, path)
    except FileExistsError:
        return  # another process made it first
    finally:
        os.unlink(part)


def _levels(row: Sequence[int], names: Sequence[str]) -> tuple[int, ...]:
    """How many lie between the quantiles, best first; last are the slowest and the failed."""
    failed = row[MET_FAILED]
    above = [row[MET], *(row[ABOVE + QUANTILES.index(name)] + failed for name in names), 0]
    return tuple(one - worse for one, worse in pairwise(above))


def _arm(row: np.ndarray, limits: Sequence[str], guarded: bool) -> ArmCounts:
    return ArmCounts(
        requests=int(row[REQUESTS]),
        errors=int(row[BAD]),
        units=int(row[UNITS]) if guarded else None,
        slower={name: int(row[SLOWER + QUANTILES.index(name)]) for name in limits},
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
