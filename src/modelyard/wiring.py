"""Who hears of what: one table from events to handlers. Areas never call each other; they meet here.

INSIDE handlers run in the transaction of the event and may refuse it. AFTER handlers run once it has committed, each
with a cursor of its own over the event table: at least once and in order, so they are idempotent.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.core.errors import Conflict, Forbidden, NotFound, YardError
from modelyard.core.events import Event, EventType
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.core.work import Handler, Store, Work, event_from_row

log = logging.getLogger("modelyard.wiring")

Areas = Callable[[str], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One AFTER handler: the events it hears and the events it may cause."""

    name: str
    hears: tuple[EventType, ...]
    causes: tuple[EventType, ...]
    handle: Callable[[Areas, Event], None]


def only_approved_versions(work: Work, event: Event) -> None:
    """Live traffic goes only to versions whose stage allows it; a shadow's answers reach nobody, so it may be new."""
    model = ModelRef(event.details["model"], event.details["version"])
    row = work.rows.one(
        "SELECT stage FROM model_versions WHERE name = :name AND version = :version",
        name=model.name,
        version=model.version,
    )
    if row is None or row["stage"] in ("staging", "production") or event.details["strategy"] == "shadow":
        return
    raise Forbidden(
        f"{model.name} {model.version} cannot get live traffic: its stage is {row['stage']}. "
        f"Ask for approval: modelyard registry request-promotion {model.name} {model.version} --target-stage production"
    )


def route(areas: Areas, event: Event) -> None:
    """Carry out the routing that a deployment decided."""
    if not event.details.get("traffic"):
        return
    try:
        areas("serving").apply(msgspec.convert(event.details["traffic"], Traffic, strict=False))
    except Conflict as error:  # a newer routing is in force already
        log.info("routing of %s skipped: %s", event.resource_id, error)


def crown(areas: Areas, event: Event) -> None:
    """A version whose rollout completed becomes its model's champion."""
    if event.details.get("strategy") == "shadow":
        return
    try:
        areas("registry").promote_champion(event.details["model"], event.details["version"], actor=event.actor)
    except (NotFound, Forbidden, Conflict) as error:  # not registered here, or not in production
        log.info("%s has no new champion: %s", event.details["model"], error)


def settle(areas: Areas, event: Event) -> None:
    """A rollback that the serving processes decided becomes the deployment's state."""
    areas("deployment").record_trip(msgspec.convert(event.details["trip"], GuardTrip, strict=False))


INSIDE: dict[EventType, tuple[Handler, ...]] = {EventType.DEPLOYMENT_STARTED: (only_approved_versions,)}

ROUTING = (
    EventType.DEPLOYMENT_STARTED,
    EventType.DEPLOYMENT_ADVANCED,
    EventType.DEPLOYMENT_COMPLETED,
    EventType.DEPLOYMENT_ROLLED_BACK,
    EventType.DEPLOYMENT_ABORTED,
)

AFTER = (
    Wire(name="settle", hears=(EventType.GUARD_TRIPPED,), causes=(EventType.DEPLOYMENT_ROLLED_BACK,), handle=settle),
    Wire(name="route", hears=ROUTING, causes=(EventType.TRAFFIC_CHANGED,), handle=route),
    Wire(name="crown", hears=(EventType.DEPLOYMENT_COMPLETED,), causes=(EventType.ALIAS_SET,), handle=crown),
)


class Dispatcher:
    """Hands committed events to the AFTER handlers."""

    def __init__(self, store: Store, areas: Areas) -> None:
        self._store = store
        self._areas = areas
        self._lock = threading.Lock()
        self._thread = 0  # the thread that is handing on

    def after(self, events: list[Event]) -> None:
        """Called when a transaction has committed: hand on if anybody hears of what happened."""
        heard = {kind for wire in AFTER for kind in wire.hears}
        if any(event.event_type in heard for event in events):
            self.catch_up()

    def catch_up(self) -> None:
        """Run every handler over the events it has not seen yet, also those its own calls cause."""
        if self._thread == threading.get_ident():  # a handler's own transaction: the loop below sees its events
            return
        with self._lock:
            self._thread = threading.get_ident()
            try:
                while sum(self._run(wire) for wire in AFTER):
                    pass
            finally:
                self._thread = 0

    def _run(self, wire: Wire) -> bool:
        """True if the handler saw an event. A failing handler stops at that event and is tried again next time."""
        reader = f"wiring.{wire.name}"
        kinds = ", ".join(f"'{kind.value}'" for kind in wire.hears)
        with self._store.reading() as rows:
            row = rows.one("SELECT position FROM event_cursors WHERE reader = :reader", reader=reader)
            seen = row["position"] if row else 0
            waiting = rows.all(
                f"SELECT * FROM events WHERE position > :seen AND event_type IN ({kinds}) ORDER BY position LIMIT 500",
                seen=seen,
            )
        done = seen
        for event in map(event_from_row, waiting):
            try:
                wire.handle(self._areas, event)
            except YardError:
                log.exception("%s could not handle event %s; it will be tried again", wire.name, event.event_id)
                break
            done = event.position or done
        if done > seen:
            with self._store.work() as work:
                work.rows.run(ADVANCE, reader=reader, position=done)
        return done > seen


ADVANCE = """
INSERT INTO event_cursors (reader, position) VALUES (:reader, :position)
ON CONFLICT (reader) DO UPDATE SET position = excluded.position WHERE excluded.position > event_cursors.position
"""


def connect(store: Store, areas: Areas) -> Dispatcher:
    """Put the table into force on a store."""
    dispatcher = Dispatcher(store, areas)
    store.wires.inside = {kind: list(handlers) for kind, handlers in INSIDE.items()}
    hand_on = weakref.WeakMethod(dispatcher.after)  # the store must not keep its yard alive

    def after(events: list[Event]) -> None:
        method = hand_on()
        if method is not None:
            method(events)

    store.wires.after = after
    return dispatcher
