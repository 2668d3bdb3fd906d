"""One generation of an endpoint that several servers count: what this one tells of it, and what it has heard."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.serving import detectors
from modelyard.serving.counter_file import ALONE, BAD, BLOCK, EVER, MET, MET_FAILED, PLACES, UNITS
from modelyard.serving.counters import Counters
from modelyard.serving.nodes import Sparse, decode, dense, encode, sparse
from modelyard.serving.places import Places, write_once
from modelyard.serving.store_fleet import Line

LEASE_NS = 10_000_000_000
RENEW_NS = 3_000_000_000
PART = 4096  # marks of units in a row: the last one is written anew until it is full
MOST = 65_536  # marks in a turn: what is more waits for the next
COUNTS = 0  # the part that holds counts; marks are in those after it

Key = tuple[str, int]
Pairs = tuple[np.ndarray, np.ndarray]  # places of units (int32) and bits of what was counted of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server's processes have counted; of the one that looks for late faults its detectors' state, and how many
    seconds ago the generation began there."""

    routing: str
    words: Sparse
    trip: GuardTrip | None = None
    state: bytes = b""
    age: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """Units that a server's processes have met: their places (int32) and what was counted of them."""

    routing: str
    places: bytes
    bits: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """Who looks for late faults, "" for nobody. Each renewal has another number."""

    routing: str
    holder: str
    number: int


class Shared:
    """A turn is `look`, then `hear` of each line, `lines` and `confirm` where something is told, and `carry_out`."""

    def __init__(self, traffic: Traffic, counters: Counters, routing: str) -> None:
        self.traffic, self.counters, self.routing = traffic, counters, routing
        self.key: Key = (traffic.endpoint, traffic.generation)
        self.name = counters.name
        self._began = 0
        self._others: dict[str, Told] = {}
        self._changed = False  # whether they are to be counted anew
        self._said: Told | None = None
        self._saying: Told | None = None
        self._units = Units(self.name, routing) if traffic.guards else None
        self._lease: Lease | None = None
        self._leasing: Lease | None = None
        self._noticed = self._renewed = 0
        self._state = self._taken = b""  # of the detectors, as who looks for late faults tells it
        self._age = 0.0
        counters.share(counters.judges)  # a lease of the server's last process is not this one's

    def look(self, places: Places) -> None:
        """Begin a turn: see what has been counted here. The state comes first, so that it says no more than the counts, and
        marks of units come last, so that none that is counted lacks its mark."""
        self._began = time.monotonic_ns()
        state = detectors.state_of(self.counters) if self._leads else b""
        rows = self.counters.here()
        said = Told(routing=self.routing, words=sparse(rows), trip=self._trip(places), state=state)
        news = self._said is None or replace(self._said, age=0.0) != said
        self._saying = replace(said, age=self.counters.age) if news else None
        if self._units is not None:
            self._units.look(self.counters, rows)

    @property
    def has_news(self) -> bool:
        """Whether something is to be told."""
        return self._saying is not None or self._lease_due or (self._units is not None and self._units.has_news)

    def hear(self, line: Line) -> None:
        """Take in what was told. The same again changes nothing; Damaged for what is not understood."""
        if not line.source:
            lease: Lease = decode(line.body, Lease)
            if lease.routing == self.routing and lease != self._lease:
                self._lease, self._noticed = lease, time.monotonic_ns()
        elif line.part != COUNTS:
            if self._units is not None:
                self._units.hear(line)
        elif line.source != self.name:
            told: Told = decode(line.body, Told)
            if told.routing == self.routing:
                self._others[line.source], self._changed = told, True

    def lines(self) -> Iterator[tuple[str, int, bytes]]:
        """What is to be told: source, part and content."""
        if self._saying is not None:
            yield self.name, COUNTS, encode(self._saying)
        if self._units is not None:
            yield from self._units.lines()
        self._leasing = None
        if self._lease_due:
            self._adopt()
            number = self._lease.number + 1 if self._lease else 1
            self._leasing = Lease(routing=self.routing, holder=self.name, number=number)
            yield "", COUNTS, encode(self._leasing)

    def confirm(self) -> None:
        """What was to be told is told."""
        if self._saying is not None:
            self._said, self._changed = self._saying, True
        if self._units is not None:
            self._units.confirm()
        if self._leasing is not None:
            self._lease, self._renewed = self._leasing, self._began

    def carry_out(self, places: Places) -> None:
        """Have what was heard count here: marks before counts, so that no unit counts that has been counted elsewhere."""
        if self._units is not None:
            self._units.carry_out(self.counters)
        if self._changed and self._said is not None:
            nothing = np.zeros_like(self.counters.here())
            others = sum((dense(told.words, nothing) for told in self._others.values()), nothing)
            self.counters.elsewhere(others, others + dense(self._said.words, nothing))
            self._changed = False
        for told in self._others.values():
            if told.trip is not None and not self.counters.tripped:
                try:
                    write_once(places.trip(told.trip.rollout_id, told.trip.step), told.trip)
                finally:  # a full disk: the traffic goes back all the same
                    self.counters.trip()
        self._follow()

    def _follow(self) -> None:
        """Look for late faults from where who did has left off, or leave them to who does."""
        self._adopt()
        if self._state != self._taken and detectors.take(self.counters, self._state):
            self._taken = self._state
            self.counters.older(self._age)
        leads = self._leads and self._state == self._taken
        if not leads:
            self.counters.rest()
        until = self._renewed + LEASE_NS if leads else 0
        self.counters.share(len(self._others) + 1, leads=until)

    def _adopt(self) -> None:
        """Note how far who looks for late faults has come."""
        told = self._others.get(self._lease.holder) if self._lease else None
        if told is not None and told.state:
            self._state, self._age = told.state, told.age

    @property
    def _leads(self) -> bool:
        return self._lease is not None and self._lease.holder == self.name and self._renewed > 0

    @property
    def _lease_due(self) -> bool:
        if not self.traffic.guards:
            return False
        if self._lease is None:
            return True
        if self._lease.holder == self.name:
            return self._began - self._renewed >= RENEW_NS or not self._renewed
        return time.monotonic_ns() - self._noticed >= LEASE_NS

    def _trip(self, places: Places) -> GuardTrip | None:
        guard = self.traffic.guard
        if guard is None or not self.counters.tripped:
            return None
        return places.read_trip(guard.rollout_id, guard.step)


class Units:
    """Which units have been met: what this server has marked and no other has told, and what they tell."""

    def __init__(self, name: str, routing: str) -> None:
        self._name, self._routing = name, routing
        self._unknown = np.full(PLACES, 255, np.uint8)  # the bits of which nobody has told yet
        self._heard: list[Pairs] = []  # that is not in the shared memory yet
        self._counted: list[int] | None = None  # of units, when all that was marked had been told
        self._counting: list[int] | None = None
        nothing: Pairs = (np.zeros(0, np.int32), np.zeros(0, np.uint8))
        self._new = self._tail = self._rest = nothing
        self._part = self._next = COUNTS + 1

    @property
    def has_news(self) -> bool:
        """Whether marks are to be told."""
        return len(self._new[0]) > 0

    def look(self, counters: Counters, rows: np.ndarray) -> None:
        """See what has been marked here; nothing is where no unit has been counted since."""
        counted = [
            *rows[:, EVER : EVER + BLOCK].ravel().tolist(),
            *(rows[:, [UNITS, BAD]] - rows[:, [ALONE + MET, ALONE + MET_FAILED]]).ravel().tolist(),
        ]
        if counted == self._counted:
            return
        new = counters.marks.view(np.uint64) & self._unknown.view(np.uint64)  # eight at a time
        some = np.flatnonzero(new)
        places = np.flatnonzero(new[some].view(np.uint8))
        bits = new[some].view(np.uint8)[places[:MOST]]
        places = (8 * some[places // 8] + places % 8)[:MOST].astype(np.int32)
        self._new, self._counting = (places, bits), counted if len(places) < MOST else None
        if not len(places):
            self._counted = counted

    def hear(self, line: Line) -> None:
        """Take in what was told, by this server's own last process too."""
        told: Marked = decode(line.body, Marked)
        if told.routing != self._routing:
            return
        places, bits = np.frombuffer(told.places, np.int32), np.frombuffer(told.bits, np.uint8)
        np.bitwise_and.at(self._unknown, places, ~bits)
        if line.source != self._name:
            self._heard.append((places, bits))
        elif not len(self._tail[0]):
            self._part = max(self._part, line.part + 1)

    def lines(self) -> Iterator[tuple[str, int, bytes]]:
        """What is to be told."""
        places, bits = self._new
        bits = bits & self._unknown[places]  # another may have told of them since
        news = bits != 0
        self._new = places[news], bits[news]
        self._next, self._rest = self._part, self._tail
        if not news.any():
            return
        places = np.concatenate((self._tail[0], self._new[0]))
        bits = np.concatenate((self._tail[1], self._new[1]))
        full = len(places) // PART * PART
        self._next, self._rest = self._part + full // PART, (places[full:], bits[full:])
        for number, start in enumerate(range(0, len(places), PART)):
            some = slice(start, start + PART)
            told = Marked(routing=self._routing, places=places[some].tobytes(), bits=bits[some].tobytes())
            yield self._name, self._part + number, encode(told)

    def confirm(self) -> None:
        """What was to be told is told."""
        places, bits = self._new
        self._unknown[places] &= ~bits
        self._part, self._tail = self._next, self._rest
        self._new, self._counted = (places[:0], bits[:0]), self._counting

    def carry_out(self, counters: Counters) -> None:
        """Mark here what others have met."""
        for places, bits in self._heard:
            np.bitwise_or.at(counters.marks, places, bits)
        self._heard = []
