"""Counts of one generation of an endpoint, in a file that all serving processes map: one slot a process, one writer a slot.

Layout, in 64-bit words: a header (magic, tripped, warmed up), 64 words that say which slots were ever used, then for each
slot the arms and the shadow, 1,024 words each: 16 counts and a latency histogram (stats.sketch, clipped at the top, which
is 9.9 minutes). After them one byte for each of 2^22 unit hashes marks what has been counted of a unit in this step.
Counts only grow, and a process that dies leaves its own behind, so that a merge needs no lock and loses nothing.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.core.traffic import ArmCounts, Guard, ShadowCounts, Traffic, TrafficCounts
from modelyard.serving.places import MAX_SLOTS
from modelyard.serving.rules import ERRORS, MAX_ARMS, QUANTILES, Pairs
from modelyard.stats.sketch import bucket

MAGIC = 0x6D796172_64000001  # "myard", layout 1
WORD, HEADER, ROW, HEAD = 8, 128, 1024, 16
TRIPPED, WARM, USED = 1, 2, 64
REQUESTS, BAD, SLOWER = 0, 1, 2  # an arm's counts; SLOWER is the first of three
COMPARED, AGREED, FAILED, DROPPED = 0, 1, 2, 3  # the shadow's counts
SHADOW = MAX_ARMS
SLOT = (MAX_ARMS + 1) * ROW
SEEN = (HEADER + MAX_SLOTS * SLOT) * WORD
UNITS = 1 << 22
SIZE = SEEN + UNITS
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
        self._base = 0
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

    def bad(self, arm: int, what: int) -> None:
        """Count a bad event of an arm: BAD, or SLOWER + the quantile's place."""
        with self._lock:
            self._words[self._base + arm * ROW + what] += 1

    def first(self, hashed: int, what: int) -> bool:
        """Whether this is the first bad event of its kind of the unit in this step; marks it.

        Two units that share a byte lose events, of both arms alike.
        """
        place, bit = SEEN + (hashed & (UNITS - 1)), 1 << what
        with self._lock:
            seen = self._map[place]
            self._map[place] = seen | bit
        return not seen & bit

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
    def marks(self) -> np.ndarray:
        """The live bytes that say which units' bad events were counted in this step, by the units' hashes."""
        return np.frombuffer(self._map, np.uint8, UNITS, SEEN)

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

    def pairs(self, canary: int, baseline: int, guard: Guard) -> Pairs:
        """The bad events of canary and baseline by metric, over all processes."""
        heads = self.heads()
        found = {ERRORS: (int(heads[canary, BAD]), int(heads[baseline, BAD]))}
        for name in guard.latency_ms:
            column = SLOWER + QUANTILES.index(name)
            found[name] = (int(heads[canary, column]), int(heads[baseline, column]))
        return found

    def merged(self, traffic: Traffic) -> TrafficCounts:
        """Everything counted so far, over all processes."""
        rows = self._all[self._used != 0].sum(axis=0)
        limits = traffic.guard.latency_ms if traffic.guard else {}
        return TrafficCounts(
            endpoint=traffic.endpoint,
            generation=traffic.generation,
            arms={arm.name: _arm(rows[index], limits) for index, arm in enumerate(traffic.arms)},
            shadow=_shadow(rows[SHADOW]) if traffic.shadow else None,
        )


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


def _arm(row: np.ndarray, limits: Mapping[str, float]) -> ArmCounts:
    return ArmCounts(
        requests=int(row[REQUESTS]),
        errors=int(row[BAD]),
        slower={name: int(row[SLOWER + QUANTILES.index(name)]) for name in limits},
        latency=_histogram(row),
    )


def _shadow(row: np.ndarray) -> ShadowCounts:
    return ShadowCounts(
        compared=int(row[COMPARED]),
        agreed=int(row[AGREED]),
        errors=int(row[FAILED]),
        dropped=int(row[DROPPED]),
        latency=_histogram(row),
    )


def _histogram(row: Sequence[int] | np.ndarray) -> dict[int, int]:
    counts = np.asarray(row)[HEAD:]
    return {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
