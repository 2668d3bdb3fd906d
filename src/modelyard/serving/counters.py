"""Counts of one generation of an endpoint, in a file that all serving processes map: one slot a process, one writer a slot.

Layout, in 64-bit words: a header (see the constants), 64 words that say which slots were ever used, twice eight times 136
for what runs late of each arm on trial (serving.detectors); then for each slot the arms and the shadow, 1,080 words each:
72 counts and a latency histogram (stats.sketch, clipped at the top, which is 9.9 minutes). After them three bytes for each
of 2^22 unit hashes mark what has been counted of a unit. Counts only grow, and a process that dies leaves its own behind,
so that a merge needs no lock and loses nothing. Four slots are no process's: what other servers of the same database have
counted, and what all have told each other, is written into two of them while the other two hold.
"""

from __future__ import annotations

import mmap
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.core.traffic import DISTANCES, ArmCounts, Guard, ShadowCounts, Traffic, TrafficCounts
from modelyard.serving.places import ELSEWHERE, MAX_SLOTS, TOLD, Places
from modelyard.serving.rules import MAX_ARMS, QUANTILES, quantiles_of, slower_of
from modelyard.stats.rollback import ANSWERS, ERRORS, Counts
from modelyard.stats.rounds import SERIES
from modelyard.stats.sketch import bucket

MAGIC = 0x6D796172_64000004  # "myard", layout 4
WORD, HEADER, ROW, HEAD = 8, 2304, 1080, 72
# The header: MAGIC, whether a guard has tripped, whether the warm-up is over, the version of what runs late, when the
# file was made (microseconds since 1970), which series of rounds run (bits), whether others look for late faults. Where
# servers share a database (serving.fleet): the file's own name among theirs, how often the others' counts were written,
# how many servers judge, and until when this one looks for late faults (monotonic nanoseconds).
TRIPPED, WARM, VERSION, BORN, RUNNING, LED, USED, STATES, STATE = 1, 2, 3, 4, 5, 6, 64, 128, 136
NAME, TURNS, JUDGES, LEADS = 7, 8, 9, 10
# An arm's counts: requests; then of a guarded generation units (and requests without one), those that failed, and those
# whose first answer was above p50, p95, p99 and the hard limit. After them blocks of what the guard's tests judge: of
# requests without a unit, of units in the rollout, and of units in the last round of each series. A block is: answers
# (of units first ones), those above p50, p95 and p99, those that failed, and units that failed at any time.
REQUESTS, UNITS, BAD, SLOWER, ALONE, EVER, ROUNDS = 0, 1, 2, 3, 7, 13, 19
MET, ABOVE, MET_FAILED, FAILED_EVER, BLOCK = 0, 1, 4, 5, 6
LIMIT = len(QUANTILES)  # the place of the hard limit among what an answer may be above
EVER_FAILED, EVER_MET, HERE_MET, HERE_FAILED = 1, 1 << 3, 1 << 4, 1 << 5  # of a unit's first byte
ONCE = EVER_FAILED | EVER_MET  # what counts once in the rollout
COMPARED, AGREED, FAILED, DROPPED, APART = 0, 1, 2, 3, 4  # the shadow's counts; APART is the first of its distances'
SHADOW = MAX_ARMS
SLOT = (MAX_ARMS + 1) * ROW
SEEN = (HEADER + MAX_SLOTS * SLOT) * WORD
PLACES = 1 << 22
MET_LATELY, FAILED_LATELY = SEEN + PLACES, SEEN + 2 * PLACES  # bytes with a bit for each series of rounds
SIZE = SEEN + 3 * PLACES
TOP = ROW - HEAD - 1
MANY = 4096  # marks of units: as many as there are pages of them
COLD = 10  # of a process's first answers: each process meets code, memory and pools of a new version for the first time
assert ROUNDS + len(SERIES) * BLOCK <= HEAD
assert STATES + 2 * MAX_ARMS * STATE == HEADER


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a guard judges: all evidence, that of requests without a unit, and sums of units in rounds.

    `rounds` has the shape (series, canary and baseline, BLOCK), since the file was made.
    """

    now: Counts
    alone: Counts
    rounds: np.ndarray


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
        self._base, self._judged, self._known, self._turn = 0, 0.0, b"", 0
        self._cold, self._calls = [COLD] * MAX_ARMS, [0] * MAX_ARMS
        self.path = path
        self.states = np.frombuffer(self._map, np.float64, 2 * MAX_ARMS * STATE, STATES * WORD).reshape(
            2, MAX_ARMS, STATE
        )
        if slot is not None:
            self._base = HEADER + slot * SLOT
            self._words[USED + slot] = 1

    @property
    def tripped(self) -> bool:
        """Whether a guard has sent everything back to the control."""
        return self._words[TRIPPED] != 0

    @property
    def warm(self) -> bool:
        """Whether the declared warm-up is over, so that bad events count."""
        return self._words[WARM] != 0

    def trip(self) -> None:
        """Make every process route to the control from its next request on."""
        self._words[TRIPPED] = 1

    def cold(self, arm: int) -> bool:
        """Whether an answer of an arm on trial is one of its first here, which are not called slow."""
        if self._cold[arm]:
            self._cold[arm] -= 1
            return True
        return False

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
        for series in _bits(new):
            self._first(blocks + series * BLOCK, failed, above)
        broken = self._unmarked(FAILED_LATELY + place, running) if failed else 0
        for series in _bits(broken):
            self._words[blocks + series * BLOCK + FAILED_EVER] += 1
        return new | broken

    def _unmarked(self, place: int, bits: int) -> int:
        """Those of the bits that were not marked at a place until now."""
        seen = self._map[place]
        new = bits & ~seen
        if new:
            self._map[place] = seen | bits
        return new

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
    def led(self) -> bool:
        """Whether somebody else, who has the counts of all, looks for late faults."""
        words = self._words
        return words[LED] != 0 or (words[JUDGES] > 1 and time.monotonic_ns() >= words[LEADS])

    def follow(self) -> None:
        """Leave late faults to somebody else."""
        self._words[LED] = 1

    @property
    def born(self) -> float:
        """When the generation began, by this machine's clock: seconds since 1970."""
        return self._words[BORN] / 1e6

    @property
    def age(self) -> float:
        """How many seconds ago that was."""
        return time.time() - self.born

    def older(self, seconds: float) -> None:
        """Be as old as another server's file of the generation, where that is older."""
        born = time.time() - seconds
        if born < self.born - 1.0:  # what is told has been under way
            self._words[BORN] = int(born * 1e6)

    @property
    def marks(self) -> np.ndarray:
        """The live bytes that say what has been counted of units, by the units' hashes."""
        return np.frombuffer(self._map, np.uint8, PLACES, SEEN)

    def inherit(self, other: Counters) -> None:
        """Take over what was counted of units as evidence, so that none is evidence twice in one rollout."""
        marked = other.marks & np.uint8(ONCE)
        places = np.flatnonzero(marked)
        self.marks[places] |= marked[places]

    def run(self, series: int) -> None:
        """Have a series of rounds count from now on."""
        self._words[RUNNING] |= 1 << series

    def forget(self, series: int) -> None:
        """Have a series count every unit anew."""
        bit = np.uint8(1 << series)
        for at in (MET_LATELY, FAILED_LATELY):
            table = np.frombuffer(self._map, np.uint8, PLACES, at)
            marked = table & bit
            if np.count_nonzero(marked) > MANY:  # from end to end takes a millisecond, and writes every page
                np.bitwise_and(table, ~bit, out=table)
            else:
                table[np.flatnonzero(marked != 0)] &= ~bit  # a twentieth of the time that it takes of numbers

    def rest(self) -> None:
        """Have no round count any more, and forget what they have met: somebody else's count."""
        running, self._words[RUNNING] = self._words[RUNNING], 0
        for series in _bits(running):
            self.forget(series)

    @property
    def name(self) -> str:
        """What this file is called among those of other servers; the same for as long as it is there."""
        return f"{self._words[NAME]:016x}"

    @property
    def judges(self) -> int:
        """How many servers judge, each by what it has seen."""
        return max(1, self._words[JUDGES])

    def share(self, judges: int, leads: int = 0) -> None:
        """Be one of so many servers' counts. `leads` is until when this one looks for late faults."""
        self._words[LEADS], self._words[JUDGES] = leads, judges

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
            stream.seek(BORN * WORD)
            stream.write((time.time_ns() // 1000).to_bytes(WORD, "little"))
            stream.seek(NAME * WORD)
            stream.write(secrets.randbits(63).to_bytes(WORD, "little"))
        os.link(part, path)
    except FileExistsError:
        return  # another process made it first
    finally:
        os.unlink(part)


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


def _bits(number: int) -> list[int]:
    return [place for place in range(len(SERIES)) if number >> place & 1]


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
