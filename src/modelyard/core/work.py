"""Store and Work: one place for every area's rows, and one transaction in which rows and events commit together."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.ids import ordered_id
from modelyard.core.instants import SYSTEM_CLOCK, from_micros, micros
from modelyard.core.ports import Artifacts, Blobs, Clock, Connection, Database, Row
from modelyard.core.refs import Resource
from modelyard.core.traffic import TrafficCounts

EVENT_COLUMNS = (
    "event_id",
    "event_type",
    "severity",
    "actor",
    "resource_type",
    "resource_id",
    "occurred_at",
    "details",
)
INSERT_EVENTS = f"""
INSERT INTO events ({", ".join(EVENT_COLUMNS)}) VALUES ({", ".join(f":{name}" for name in EVENT_COLUMNS)})
"""
INSERT_EVENT = f"{INSERT_EVENTS} RETURNING position"
LAST_POSITION = "SELECT coalesce(max(position), 0) FROM events"
POSITIONS_AFTER = "SELECT min(position), max(position) FROM events WHERE position > :before"
EACH_POSITION_AFTER = "SELECT position FROM events WHERE position > :before ORDER BY position"

# Of a row of events: whether anybody may act on it. Ranges do not overlap, so the last one that begins before it decides.
HEARD = (
    "coalesce((SELECT q.last_position FROM quiet_events q WHERE q.first_position <= position "
    "ORDER BY q.first_position DESC LIMIT 1), 0) < position"
)
LENGTHEN_QUIET = "UPDATE quiet_events SET last_position = :last WHERE last_position = :before"
INSERT_QUIET = "INSERT INTO quiet_events (first_position, last_position) VALUES (:first, :last)"

Handler = Callable[["Work", Event], None]


@dataclass(slots=True)
class Wires:
    """Who hears of events: `inside` handlers in the transaction, `after` once it has committed. Set by a Yard.

    `counts` is what serving has counted for an endpoint now, None for one that it does not know; `generation` that of its
    routing, in an open transaction, 0 without one. `area` gives an area as the Yard has opened it.
    """

    inside: dict[EventType, list[Handler]] = field(default_factory=dict)
    after: Callable[[list[Event]], None] | None = None
    counts: Callable[[str], TrafficCounts | None] | None = None
    generation: Callable[[Connection, str], int] | None = None
    area: Callable[[str], Any] | None = None


class Store:
    """One database, one place for bytes and one clock, shared by the areas that are opened on it."""

    def __init__(self, database: Database, folder: Path, *, blobs_url: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self.database = database
        self.folder = folder
        self.clock = clock
        self.wires = Wires()
        self._blobs_url = blobs_url
        self._local = threading.local()

    @classmethod
    def at(cls, place: str | Path | Store, *, files: str | Path | None = None, clock: Clock = SYSTEM_CLOCK) -> Store:
        """The store on a folder or a database URL; a Store is returned as it is.

        `files` is where bytes live: a folder or an object-store URL. For a folder it is the folder itself;
        for a database URL it is ./yard unless it is given.
        """
        if isinstance(place, Store):
            return place
        text = str(place)
        scheme, colon, _ = text.partition("://")
        blobs_url = str(files) if files and "://" in str(files) else ""
        if colon:
            folder = Path(files or "yard") if not blobs_url else Path("yard")
            kind = "postgresql" if scheme in ("postgres", "postgresql") else scheme
            return cls(plugins.load("database", kind)(text), folder.absolute(), blobs_url=blobs_url, clock=clock)
        if not text.strip():
            raise Invalid(
                "The storage path is empty. Pass a folder such as ./yard or a URL such as postgresql://host/db."
            )
        folder = Path(text).absolute()
        return cls(plugins.load("database", "sqlite")(folder), folder, blobs_url=blobs_url, clock=clock)

    @cached_property
    def blobs(self) -> Blobs:
        """Where bytes live: files under the folder, or an object store."""
        if self._blobs_url:
            blobs: Blobs = plugins.load("blobs", self._blobs_url.partition("://")[0])(self._blobs_url)
        else:
            blobs = plugins.load("blobs", "file")(self.folder / "blobs")
        return blobs

    @cached_property
    def artifacts(self) -> Artifacts:
        """The artifact store on the same database and bytes."""
        found: Artifacts = plugins.load("area", "artifacts")(self)
        return found

    @contextmanager
    def work(self, actor: str = "system") -> Iterator[Work]:
        """A transaction: rows and events commit together, or not at all."""
        with self._marked(), self.database.write() as connection:
            work = Work(self, connection, actor)
            if getattr(self._local, "quiet", False):
                before = last_position(connection)
                yield work
                hush(connection, before)
            else:
                yield work
        if work.events and self.wires.after is not None:
            self.wires.after(work.events)

    @contextmanager
    def trying(self, actor: str = "system") -> Iterator[Work]:
        """A transaction of which nothing stays: what a change would do, or be refused for, without making it."""
        try:
            with self.work(actor) as work:
                yield work
                raise _Undone
        except _Undone:
            return

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """What this thread changes until the end of the block is told as ever, but nobody acts on it: no traffic moves, no
        webhook is sent. For what has happened elsewhere and comes over; projections and the audit log read it all the same.
        """
        before, self._local.quiet = getattr(self._local, "quiet", False), True
        try:
            yield
        finally:
            self._local.quiet = before

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view for reading."""
        with self._marked(), self.database.read() as connection:
            yield connection

    @property
    def busy(self) -> bool:
        """Whether this thread is within a transaction of this store."""
        return getattr(self._local, "depth", 0) > 0

    @contextmanager
    def _marked(self) -> Iterator[None]:
        depth = self._local.depth = getattr(self._local, "depth", 0) + 1
        try:
            yield
        finally:
            self._local.depth = depth - 1

    def close(self) -> None:
        """Give connections back. Not closing loses nothing."""
        self.database.close()


class _Undone(BaseException):
    """Ends a transaction that was only tried. No Exception, so that nobody takes it for a fault."""


class Work:
    """One open transaction: `rows` to change things, `emit` to tell of it."""

    def __init__(self, store: Store, rows: Connection, actor: str) -> None:
        self.store = store
        self.rows = rows
        self.actor = actor
        self.now = store.clock.now()
        self.events: list[Event] = []

    def emit(
        self,
        event_type: EventType,
        resource: Resource,
        details: Mapping[str, Any] | None = None,
        *,
        severity: EventSeverity = EventSeverity.INFO,
        actor: str | None = None,
    ) -> Event:
        """Write an event into this transaction and call the handlers that keep projections."""
        values = {
            "event_id": ordered_id("evt"),
            "event_type": event_type.value,
            "severity": severity.value,
            "actor": actor or self.actor,
            "resource_type": resource.kind,
            "resource_id": resource.id,
            "occurred_at": micros(self.now),
            "details": dumps(details or {}),
        }
        row = self.rows.one(INSERT_EVENT, **values)
        assert row is not None  # RETURNING always answers
        event = event_from_row({**values, **row})
        self.events.append(event)
        for handler in self.store.wires.inside.get(event_type, ()):
            handler(self, event)
        return event


def last_position(rows: Connection) -> int:
    """The newest event's position, 0 before the first."""
    return int(rows.tuples(LAST_POSITION)[0][0])


def hush(rows: Connection, before: int) -> None:
    """Nobody acts on the events that this transaction has written behind a position."""
    last = last_position(rows)
    if last > before and not rows.run(LENGTHEN_QUIET, before=before, last=last):
        rows.run(INSERT_QUIET, first=before + 1, last=last)


def insert_events(rows: Connection, events: Sequence[Mapping[str, Any]]) -> list[int]:
    """Write several events at once, for nobody to hear of within the transaction; returns their positions in order."""
    before = rows.tuples(LAST_POSITION)[0][0]
    rows.many(INSERT_EVENTS, events)
    low, high = rows.tuples(POSITIONS_AFTER, before=before)[0]
    if low is not None and high - low + 1 == len(events):  # nobody else writes: one row's worth instead of all of them
        return list(range(low, high + 1))
    return [position for (position,) in rows.tuples(EACH_POSITION_AFTER, before=before)]


def event_from_row(row: Row) -> Event:
    """The event that a row of the events table holds."""
    return Event(
        event_id=row["event_id"],
        event_type=EventType(row["event_type"]),
        severity=EventSeverity(row["severity"]),
        actor=row["actor"],
        resource_type=row["resource_type"],
        resource_id=row["resource_id"],
        occurred_at=from_micros(row["occurred_at"]),
        details=json.loads(row["details"]),
        position=row["position"],
    )
