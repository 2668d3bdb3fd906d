"""A file of counts that all serving processes map: its layout, its header, and what it marks of units.

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
import time
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.serving.places import MAX_SLOTS
from modelyard.serving.rules import MAX_ARMS, QUANTILES
from modelyard.stats.rounds import SERIES

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
assert ROUNDS + len(SERIES) * BLOCK <= HEAD
assert STATES + 2 * MAX_ARMS * STATE == HEADER


class CounterFile:
    """One generation's file: whether its guard has tripped, what runs late, who judges, and which units have been met."""

    def __init__(self, path: Path) -> None:
        create(path)
        with path.open("r+b") as stream:
            if os.fstat(stream.fileno()).st_size != SIZE:
                raise Damaged(f"{path} is no counter file of this modelyard. Publish the endpoint again.")
            self._map = mmap.mmap(stream.fileno(), SIZE)
        self._words = memoryview(self._map)[:SEEN].cast("q")
        if self._words[0] != MAGIC:
            raise Damaged(f"{path} is no counter file of this modelyard. Publish the endpoint again.")
        self.path = path
        self.states = np.frombuffer(self._map, np.float64, 2 * MAX_ARMS * STATE, STATES * WORD).reshape(
            2, MAX_ARMS, STATE
        )

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

    def warm_up(self) -> None:
        """End the warm-up."""
        self._words[WARM] = 1

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

    def inherit(self, other: CounterFile) -> None:
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
        for series in bits_of(running):
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


def bits_of(number: int) -> list[int]:
    """The places of the bits that are set."""
    return [place for place in range(len(SERIES)) if number >> place & 1]
