"""What each thread of a serving process is calling, and when its event loop last turned, in memory that outlives it.

A process that a model has crashed or hangs cannot count that: whoever looks after it reads here what it was at.

Layout of slots/SLOT.vitals in 64-bit words: 64 of the process (a mark, its id, its last turn, its gauges, its parent), then 64
for each thread: since when it is calling (below 0: its last call is over, which began then), until when somebody waits
for that (below 0: calls of the same model wait behind it), the thread's two identities, the unit's hash (-1: none), and a
text that says what it calls, with its length. Times are those of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import mmap
import os
import random
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any, TypeVar

T = TypeVar("T")

MAGIC = 0x6D796172_64564954
PID, TURNED, IN_FLIGHT, CONNECTIONS, WAITING, LOGGING, ABANDONED, PARENT = 1, 2, 3, 4, 5, 6, 7, 8
GAUGES = {"in_flight": IN_FLIGHT, "connections": CONNECTIONS, "waiting": WAITING, "logging": LOGGING}
HEADER = RECORD = 64
SINCE, UNTIL, IDENT, NATIVE, UNIT, LENGTH, TEXT = 0, 1, 2, 3, 4, 5, 6
ROOM = (RECORD - TEXT) * 8
LOOP, THREADS = 0, 4  # the event loop's record, and those of the prediction threads, 1 to 4
SHADOW, LOADER = THREADS + 1, THREADS + 2
BROKE = THREADS + 3  # a copy of the record of the call that closed what this process needs
RECORDS = THREADS + 4
SIZE = (HEADER + RECORDS * RECORD) * 8
FOREVER = (1 << 63) - 1
_UNIT = (1 << 62) - 1  # what of a hash is noted: more than the counters look at
CALL, LOAD, UNKNOWN = "call", "load", "unknown"  # what a record's text begins with


def mark(*parts: object) -> bytes:
    """What a call is called in a record: its length and its text."""
    text = "\t".join(map(str, parts)).encode()[:ROOM]
    return struct.pack("<q", len(text)) + text


class Calls:
    """The records of this process. Until `attach` they are in memory of its own."""

    def __init__(self) -> None:
        self._map: Any = bytearray(SIZE)
        self._words = memoryview(self._map).cast("q")
        self._lock = threading.Lock()
        self._taken = 0
        self._own = threading.local()
        self._files: tuple[tuple[int, tuple[int, int]], ...] = ()
        self._awaited: dict[int, tuple[bytes, int | None]] = {}
        self._keys = itertools.count()
        self.broken = False  # whether a call has closed descriptors that are looked at

    def attach(self, path: Path) -> None:
        """Keep the records in a file from now on; what another process left there is gone."""
        with path.open("w+b") as stream:
            stream.truncate(SIZE)
            self._map = mmap.mmap(stream.fileno(), SIZE)
        self._words = memoryview(self._map).cast("q")
        self._words[0], self._words[PID], self._words[PARENT] = MAGIC, os.getpid(), os.getppid()
        self.known(LOOP)

    def known(self, place: int) -> None:
        """Note that a record is this thread's."""
        base = HEADER + place * RECORD
        self._words[base + IDENT], self._words[base + NATIVE] = threading.get_ident(), threading.get_native_id()

    def join(self) -> None:
        """Give this prediction thread a record."""
        with self._lock:
            self._taken += 1
            self._own.place = place = (self._taken - 1) % THREADS + 1
        self.known(place)

    def turned(self, **gauges: int) -> None:
        """The event loop turns."""
        words = self._words
        for name, value in gauges.items():
            words[GAUGES[name]] = value
        words[TURNED] = perf_counter_ns()

    def abandoned(self) -> None:
        """Count a request whose client hung up before it was answered. The event loop's thread only."""
        self._words[ABANDONED] += 1

    def here(self, marked: bytes, unit: int | None, function: Callable[[Any], T], argument: Any) -> T:
        """A call in the event loop's thread, with its record."""
        return self._call(HEADER, marked, unit, FOREVER, function, argument)

    def threaded(self, marked: bytes, unit: int | None, until: int, function: Callable[[Any], T], argument: Any) -> T:
        """A call in a prediction thread, with its record; `until` is when nobody waits for it any more."""
        base = HEADER + getattr(self._own, "place", LOOP) * RECORD
        return self._call(base, marked, unit, until, function, argument)

    def at(self, place: int, marked: bytes, function: Callable[[Any], T], argument: Any) -> T:
        """A call in the thread that has this record."""
        self.known(place)
        return self._call(HEADER + place * RECORD, marked, None, FOREVER, function, argument)

    def _call(  # noqa: PLR0917 - names cost a tenth of a microsecond a request
        self,
        base: int,
        marked: bytes,
        unit: int | None,
        until: int,
        function: Callable[[Any], T],
        argument: Any,
    ) -> T:
        words = self._words
        at = (base + LENGTH) * 8
        self._map[at : at + len(marked)] = marked
        words[base + UNIT] = -1 if unit is None else unit & _UNIT
        words[base + UNTIL] = until
        words[base + SINCE] = since = perf_counter_ns()
        try:
            return function(argument)
        finally:
            if self._files:
                self._look()
            words[base + SINCE] = -since

    def watch(self, files: Sequence[int]) -> None:
        """Look at the end of each call from now on whether these descriptors are still what they are now."""
        self._files = () if self.broken else tuple((file, stamp) for file in files if (stamp := _stamp(file)))

    @contextmanager
    def awaiting(self, marked: bytes, unit: int | None) -> Iterator[None]:
        """A call of a coroutine, which has no thread of its own: it is known for as long as this."""
        key = next(self._keys)
        self._awaited[key] = marked, unit
        try:
            yield
        finally:
            if self._files:
                self._look()
            del self._awaited[key]

    def _look(self) -> None:
        """Where descriptors are not what they were, keep which call it was: one of those that are not over, since every call
        looks before it is. It is drawn of them, so that no arm pays more often than by its share."""
        if all(_stamp(file) == stamp for file, stamp in self._files):
            return
        self._files, self.broken = (), True
        made = [HEADER + place * RECORD for place in range(BROKE)]
        suspects: list[int | tuple[bytes, int | None]] = [base for base in made if self._words[base + SINCE] > 0]
        suspects += tuple(self._awaited.values())
        one = random.choice(suspects)  # noqa: S311 - no secret
        if isinstance(one, int):
            self._broke(self._map[(one + LENGTH) * 8 : (one + RECORD) * 8], self._words[one + UNIT])
        else:
            self._broke(one[0], -1 if one[1] is None else one[1] & _UNIT)

    def broke_unseen(self) -> None:
        """Note that this process ends since descriptors are closed, and that it is not known which call did that."""
        if not self.broken:
            self._files, self.broken = (), True
            self._broke(mark(UNKNOWN), -1)

    def _broke(self, marked: bytes, unit: int) -> None:
        base = HEADER + BROKE * RECORD
        at = (base + LENGTH) * 8
        self._map[at : at + len(marked)] = marked
        self._words[base + UNIT], self._words[base + SINCE] = unit, perf_counter_ns()

    def stuck(self) -> int:
        """How many prediction threads are at a call that nobody waits for any more: all, if others wait behind it."""
        return _stuck(self._words)

    @property
    def busy(self) -> bool:
        """Whether a prediction thread is at a call."""
        return any(self._words[HEADER + place * RECORD + SINCE] > 0 for place in range(1, THREADS + 1))


@dataclass(slots=True)
class Underway:
    """A call that is made later: how it is to be noted, when it began and ended, and of how many rows if it led others."""

    calls: Calls
    marked: bytes
    unit: int | None
    until: int
    begun: int = 0
    ended: int = 0
    joined: int = 0

    def begins(self) -> None:
        """Note that it begins now."""
        self.begun = perf_counter_ns()

    def call(self, function: Callable[[Any], T], argument: Any) -> T:
        """Make it now, in this thread."""
        return self.calls.threaded(self.marked, self.unit, self.until, function, argument)

    def lead(self, function: Callable[[Any], T], argument: Any) -> T:
        """Make it now, while others of the same model wait for its end."""
        return self.calls.threaded(self.marked, self.unit, -self.until, function, argument)

    def timed(self, function: Callable[[Any], T], argument: Any) -> T:
        """Make it now and note when."""
        self.begun = perf_counter_ns()
        try:
            return self.call(function, argument)
        finally:
            self.ended = perf_counter_ns()


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One thread's call: since when, by which thread, for which unit, and what (`mark`'s parts)."""

    since: int
    ident: int
    native: int
    unit: int | None
    what: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """A process's records as another process reads them."""

    pid: int
    parent: int
    turned: int
    gauges: dict[str, int]
    abandoned: int
    stuck: int
    calls: tuple[Call, ...]  # that are being made
    last: Call | None  # of those that are over, the one that began last
    broke: Call | None = None  # the one that closed what the process needs; UNKNOWN where that is not known


def read(path: Path) -> Vitals | None:
    """The records in a file; None where there are none."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) != SIZE:
        return None
    words = memoryview(data).cast("q")
    if words[0] != MAGIC:
        return None
    *calls, broke = [_record(data, words, HEADER + place * RECORD) for place in range(RECORDS)]
    over = [call for call in calls if call.since < 0 and call.what[0] == CALL]
    return Vitals(
        pid=words[PID],
        parent=words[PARENT],
        turned=words[TURNED],
        gauges={name: words[place] for name, place in GAUGES.items()},
        abandoned=words[ABANDONED],
        stuck=_stuck(words),
        calls=tuple(call for call in calls if call.since > 0),
        last=min(over, key=lambda call: call.since, default=None),
        broke=broke if broke.since > 0 else None,
    )


def gauges(path: Path, pid: int) -> dict[str, int]:
    """What a process holds now, with how many threads are `stuck` and how many requests were `abandoned`; else nothing."""
    vitals = read(path)
    if vitals is None or vitals.pid != pid:
        return {}
    return {**vitals.gauges, "stuck": vitals.stuck, "abandoned": vitals.abandoned}


def _record(data: bytes, words: memoryview, base: int) -> Call:
    start = (base + TEXT) * 8
    text = data[start : start + max(0, min(words[base + LENGTH], ROOM))]
    unit = words[base + UNIT]
    return Call(
        since=words[base + SINCE],
        ident=words[base + IDENT],
        native=words[base + NATIVE],
        unit=None if unit < 0 else unit,
        what=tuple(text.decode("utf-8", "replace").split("\t")),
    )


def _stamp(file: int) -> tuple[int, int] | None:
    """What a descriptor is of; None for a closed one."""
    try:
        stat = os.fstat(file)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _stuck(words: memoryview) -> int:
    now = perf_counter_ns()
    bases = [HEADER + place * RECORD for place in range(1, THREADS + 1)]
    over = [words[base + UNTIL] for base in bases if words[base + SINCE] > 0 and abs(words[base + UNTIL]) < now]
    return THREADS if any(until < 0 for until in over) else len(over)
