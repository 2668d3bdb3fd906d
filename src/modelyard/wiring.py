"""Who hears of what: one table from events to handlers. Areas never call each other; they meet here.

INSIDE handlers run in the transaction of the event and may refuse it. AFTER handlers run once it has committed, each
with a cursor of its own over the event table: at least once and in order, so they are idempotent. A new one begins with
the first event. None acts on what an import brought (`Store.quietly`): it has had its effects where it happened.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modelyard.access.persons import only_named_roles, only_other_people
from modelyard.conditions import (
    keep_artifact,
    only_approved_versions,
    only_files_free_of_holds,
    only_fitting_tests,
    only_free_of_holds,
    only_known_versions,
    only_living_runs,
    only_newer_routing,
    only_sound_winners,
    only_unneeded_runs,
    only_unused_names,
    only_unused_versions,
    only_who_did_not_run_it,
    only_without_tests,
    release_artifact,
    routing_generation,
)
from modelyard.consequences import (
    Areas,
    carry,
    crown,
    enrol,
    interrupt,
    learn,
    provide,
    release,
    route,
    settle,
    track,
    uncrown,
)
from modelyard.core import plugins
from modelyard.core.errors import NotFound, YardError
from modelyard.core.events import Event, EventType
from modelyard.core.lasting import Lasting
from modelyard.core.traffic import TrafficCounts
from modelyard.core.work import HEARD, Handler, Store, event_from_row
from modelyard.marketplace.hearing import follow_renaming, withdraw_deleted

log = logging.getLogger("modelyard.wiring")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One AFTER handler: the events it hears and the events it may cause."""

    name: str
    hears: tuple[EventType, ...]
    causes: tuple[EventType, ...]
    handle: Callable[[Areas, Event], None]


INSIDE: dict[EventType, tuple[Handler, ...]] = {
    EventType.DEPLOYMENT_STARTED: (
        only_approved_versions,
        only_known_versions,
        only_without_tests,
        only_newer_routing,
    ),
    EventType.DEPLOYMENT_ADVANCED: (only_approved_versions, only_newer_routing),
    EventType.DEPLOYMENT_CALIBRATED: (only_approved_versions, only_newer_routing),
    EventType.DEPLOYMENT_COMPLETED: (
        only_approved_versions,
        only_known_versions,
        only_without_tests,
        only_newer_routing,
    ),  # direct: at once
    EventType.AB_TEST_ROUTED: (only_fitting_tests,),
    EventType.AB_TEST_STOPPED: (only_sound_winners,),
    EventType.MODEL_REGISTERED: (only_living_runs,),
    EventType.MODEL_DELETED: (only_unused_versions, only_free_of_holds, withdraw_deleted),
    EventType.REGISTERED_MODEL_DELETED: (only_free_of_holds,),
    EventType.RUN_REMOVED: (only_free_of_holds, only_unneeded_runs),
    EventType.LOGGED_MODEL_REMOVED: (only_free_of_holds, only_unneeded_runs),
    EventType.RUN_FILES_REMOVED: (only_files_free_of_holds,),
    EventType.HOLD_PLACED: (keep_artifact,),
    EventType.HOLD_LIFTED: (release_artifact,),
    EventType.REGISTERED_MODEL_UPDATED: (only_unused_names, follow_renaming),
    EventType.APPROVAL_GRANTED: (only_other_people, only_named_roles, only_who_did_not_run_it),
    EventType.APPROVAL_REJECTED: (only_other_people, only_named_roles, only_who_did_not_run_it),
    EventType.POLICY_AGREED: (only_other_people, only_named_roles),
    EventType.POLICY_APPROVED: (only_other_people, only_named_roles),
    EventType.BREAK_GLASS_REVIEWED: (only_other_people, only_who_did_not_run_it),
}

ROUTING = (
    EventType.DEPLOYMENT_STARTED,
    EventType.DEPLOYMENT_ADVANCED,
    EventType.DEPLOYMENT_CALIBRATED,
    EventType.DEPLOYMENT_COMPLETED,
    EventType.DEPLOYMENT_RELEASED,
    EventType.DEPLOYMENT_ROLLED_BACK,
    EventType.DEPLOYMENT_ABORTED,
)

GIVING = (EventType.DEPLOYMENT_STARTED, EventType.DEPLOYMENT_ADVANCED, EventType.DEPLOYMENT_COMPLETED)

TRAINED = (EventType.TRAINING_STARTED, EventType.TRAINING_COMPLETED, EventType.TRAINING_FAILED)

TRACKED = (EventType.EXPERIMENT_CREATED, EventType.RUN_STARTED, EventType.RUN_ENDED)

ENROLLED = (EventType.AB_TEST_CREATED, EventType.AB_TEST_STARTED)

RELEASED = (EventType.TRAFFIC_CHANGED, EventType.DEPLOYMENT_COMPLETED, EventType.MODEL_DEPLOYED)

LEARNT = (EventType.AB_RESULTS_CORRECTED, EventType.OUTCOME_CORRECTED)

AFTER = (
    Wire(
        name="settle",
        hears=(EventType.GUARD_TRIPPED,),
        causes=(EventType.DEPLOYMENT_ROLLED_BACK, EventType.AB_TEST_STOPPED),
        handle=settle,
    ),
    Wire(name="provide", hears=GIVING, causes=(), handle=provide),
    Wire(name="route", hears=ROUTING, causes=(EventType.TRAFFIC_CHANGED,), handle=route),
    Wire(name="carry", hears=(EventType.AB_TEST_ROUTED,), causes=(EventType.TRAFFIC_CHANGED,), handle=carry),
    Wire(
        name="interrupt",
        hears=(EventType.DEPLOYMENT_ROLLED_BACK,),
        causes=(EventType.AB_TEST_STOPPED,),
        handle=interrupt,
    ),
    Wire(name="release", hears=(EventType.AB_TEST_STOPPED,), causes=RELEASED, handle=release),
    Wire(name="enrol", hears=(EventType.ENDPOINT_CREATED,), causes=ENROLLED, handle=enrol),
    Wire(name="learn", hears=(EventType.OUTCOMES_RECORDED,), causes=LEARNT, handle=learn),
    Wire(name="track", hears=TRAINED, causes=TRACKED, handle=track),
    Wire(name="crown", hears=(EventType.DEPLOYMENT_COMPLETED,), causes=(EventType.ALIAS_SET,), handle=crown),
    Wire(name="uncrown", hears=(EventType.DEPLOYMENT_ROLLED_BACK,), causes=(EventType.ALIAS_SET,), handle=uncrown),
)


class Dispatcher:
    """Hands committed events to the AFTER handlers."""

    def __init__(self, store: Store, areas: Areas) -> None:
        self._store = store
        self._areas = areas
        self._lock = threading.Lock()
        self._thread = 0  # the thread that is handing on
        self._lasting = Lasting("An event could not be handled and will be tried again", log)
        self.heard = False  # whether anything has happened through this yard

    def after(self, events: list[Event]) -> None:
        """Called when a transaction has committed: hand on if anybody hears of what happened."""
        self.heard = True
        heard = {kind for wire in AFTER for kind in wire.hears}
        if any(event.event_type in heard for event in events):
            self.catch_up()

    def area(self, name: str) -> Any:
        """An area as the yard has opened it."""
        return self._areas(name)

    def counts(self, endpoint: str) -> TrafficCounts | None:
        """What serving has counted for an endpoint up to now; None for one that it does not know."""
        try:
            found: TrafficCounts = self._areas("serving").counts(endpoint)
        except NotFound:
            return None
        return found

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
                f"SELECT events.*, {HEARD} AS heard FROM events WHERE position > :seen AND event_type IN ({kinds}) "
                "ORDER BY position LIMIT 500",
                seen=seen,
            )
        done = seen
        with self._lasting.round():  # whatever it is, the other handlers' events must not wait for this one
            for row in waiting:
                if row["heard"]:
                    self._hand_on(wire, event_from_row(row))
                done = row["position"]
        if done > seen:
            with self._store.work() as work:
                work.rows.run(ADVANCE, reader=reader, position=done)
        return done > seen

    def _hand_on(self, wire: Wire, event: Event) -> None:
        try:
            wire.handle(self._areas, event)
        except (OSError, YardError) as error:
            raise YardError(f"{wire.name}, {event.event_type.value} {event.event_id}: {error}") from error


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

    count = weakref.WeakMethod(dispatcher.counts)

    def counts(endpoint: str) -> TrafficCounts | None:
        method = count()
        return None if method is None else method(endpoint)

    held = weakref.WeakMethod(dispatcher.area)

    def area(name: str) -> Any:
        method = held()
        return plugins.load("area", name)(store) if method is None else method(name)

    store.wires.area = area
    store.wires.after, store.wires.counts, store.wires.generation = after, counts, routing_generation
    return dispatcher
