"""Checks what may be gone from the log, and what stands beside it: expired events, sealed parts, erased persons, holds.

What an event row no longer says is told by a later event of the log, which the tree binds as any other:
- an expired event's remains are bound by the digest in the EVENTS_EXPIRED event that names them;
- a sealed part is bound by its digest in its own event, and may be gone once SUBJECT_ERASED names its key;
- holds and witnesses are what the events that placed and lifted them make.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard.audit import store, tables
from modelyard.audit.leaves import EventRow, leaf_bytes
from modelyard.audit.subjects import SEALED, SubjectKeys, sealed_part
from modelyard.core.errors import Damaged
from modelyard.core.events import EventType
from modelyard.core.ports import Connection

Problem = tuple[int | None, str]


class Remains:
    """The digest over what is left of the events that expired together, in the order of their leaves."""

    def __init__(self) -> None:
        self.first = -1
        self.count = 0
        self._digest = hashlib.sha256()

    def add(self, index: int, integrated_at: int, event: EventRow) -> None:
        """Take in the next event as it stands now."""
        self.first = index if self.count == 0 else self.first
        self.count += 1
        self._digest.update(leaf_bytes(index, integrated_at, event) + b"\n")

    def hexdigest(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


class Upkeep:
    """What the walk over the leaves sees of it on its way, and what is checked at its end."""

    def __init__(self, rows: Connection, folder: Path) -> None:
        self._rows = rows
        self._keys = SubjectKeys(folder)
        self._any_expired, self._any_payloads = tables.any_expired(rows), tables.any_payloads(rows)
        self._erased = {
            told["key"]: event_id for event_id, told in _told(rows, EventType.SUBJECT_ERASED) if "key" in told
        }
        self._remains: dict[str, Remains] = {}
        self._expired_seen = self._payloads_seen = 0
        self._problems: list[Problem] = []

    def expired(self, first: int, last: int) -> Mapping[int, str]:
        """Which of the events between two positions have expired, and by which event."""
        return tables.expired(self._rows, first, last) if self._any_expired else {}

    def asks(self, events: Sequence[Sequence[Any]], gone: Mapping[int, str]) -> bool:
        """Whether `see` must take in these events, of which the details come last."""
        return bool(gone) or self._any_payloads or _any_sealed(events)

    def see(
        self,
        places: tuple[int, int],
        events: Sequence[EventRow],
        leaves: Iterable[tuple[int, int, int]],
        gone: Mapping[int, str],
    ) -> None:
        """Take in the events from one position to another, in order; `leaves` are (index, position, integrated_at) of each."""
        bodies = {at: (key_id, body) for at, key_id, body in tables.payloads(self._rows, *places)}
        self._payloads_seen += len(bodies)
        for event, (index, position, integrated_at) in zip(events, leaves, strict=True):
            if position in gone:
                self._expired_seen += 1
                self._remaining(gone[position], index, integrated_at, event)
            words = self._sealed(event, bodies.get(position), position in gone)
            if words is not None:
                self._problems.append((index, words))

    def _remaining(self, expired_by: str, index: int, integrated_at: int, event: EventRow) -> None:
        try:
            self._remains.setdefault(expired_by, Remains()).add(index, integrated_at, event)
        except Damaged as error:
            self._problems.append((index, str(error)))

    def _sealed(self, event: EventRow, payload: tuple[Any, Any] | None, gone: bool) -> str | None:
        """What is wrong with an event's sealed part."""
        part = sealed_part(event[8])
        if part is None:
            return None if payload is None else f"event {event[1]} has a sealed part that it does not tell of"
        if payload is None:
            allowed = gone or part["key"] in self._erased
            return None if allowed else f"the sealed part of event {event[1]} is gone, and no event tells why"
        if part["key"] in self._erased:
            return f"the sealed part of event {event[1]} is still there, but its person was erased. Erase again."
        fits = payload[0] == part["key"] and type(payload[1]) is bytes
        if not fits or hashlib.sha256(payload[1]).hexdigest() != part["payload"]:
            return f"the sealed part of event {event[1]} is not what was logged"
        return None

    def problems(self) -> Iterator[Problem]:
        """What was found, once every leaf was seen."""
        yield from self._problems
        yield from self._batches()
        if self._any_expired and self._expired_seen != tables.count(self._rows, "audit_expired"):
            yield None, "events are marked as expired that are none of the log's"
        if self._any_payloads and self._payloads_seen != tables.count(self._rows, "audit_payloads"):
            last = store.last_event(self._rows)
            run = store.last_run(self._rows)
            waiting = tables.payloads(self._rows, run["position"] + run["count"] if run else 0, last)
            if self._payloads_seen + len(waiting) != tables.count(self._rows, "audit_payloads"):
                yield None, "there are sealed parts that belong to no event"
        yield from self._subject_keys()
        yield from self._placed(
            "hold",
            {row["hold_id"]: _hold(row) for row in tables.holds(self._rows)},
            _standing(self._rows, EventType.HOLD_PLACED, EventType.HOLD_LIFTED, "hold_id", _hold),
        )
        changed = EventType.CONFIGURATION_CHANGED
        yield from self._placed(
            "witness",
            {row["target"]: _witness(row) for row in tables.witnesses(self._rows)},
            _standing(self._rows, changed, changed, "target", _witness),
        )

    def _batches(self) -> Iterator[Problem]:
        told = dict(_told(self._rows, EventType.EVENTS_EXPIRED))
        for event_id, remains in self._remains.items():
            details = told.pop(event_id, None)
            if details is None:
                yield remains.first, "it is marked as expired, but no event of the log tells of that"
            elif (details.get("events"), details.get("remains")) != (remains.count, remains.hexdigest()):
                yield remains.first, f"it or another of the events that {event_id} let expire was changed since"
        for event_id, details in told.items():
            if details.get("events"):
                yield None, f"event {event_id} let {details['events']} events expire, but they are not marked so"

    def _subject_keys(self) -> Iterator[Problem]:
        for key_id, own in self._keys.ids():
            if own is not None and key_id != own:
                yield None, f"the key {key_id} of a person was changed: what it sealed cannot be read"
            elif key_id in self._erased:
                yield None, f"the key {key_id} of an erased person is still there. Erase again, or restore less."

    def _placed(self, what: str, stored: Mapping[str, Any], told: Mapping[str, Any]) -> Iterator[Problem]:
        for name in sorted(stored.keys() | told.keys()):
            if stored.get(name) != told.get(name):
                yield None, f"the {what} {name} is not what the log's events say: it was changed, added or removed"


def _any_sealed(events: Sequence[Sequence[Any]]) -> bool:
    return any([event[-1].startswith(SEALED) for event in events if type(event[-1]) is str])  # noqa: C419 - a list is faster


def _told(rows: Connection, event_type: EventType) -> Iterator[tuple[str, dict[str, Any]]]:
    """Event id and details of modelyard's own events of a rare type; what people report is no authority."""
    for row in store.events_of(rows, event_type.value):
        try:
            details = json.loads(row["details"])
        except ValueError:  # the leaf's check names it
            continue
        if isinstance(details, dict) and not details.get("reported"):
            yield row["event_id"], details | {"by": row["actor"], "at": row["occurred_at"]}


def _standing(rows: Connection, placed: EventType, lifted: EventType, name: str, shape: Any) -> dict[str, Any]:
    """What was placed and not lifted since, by the events that tell of it."""
    found: dict[str, Any] = {}
    for _, details in _told(rows, placed):
        if name in details and not details.get("removed"):
            found[details[name]] = shape(details)
        elif name in details:
            found.pop(details[name], None)
    if lifted is not placed:  # a hold is lifted once and for all
        for _, details in _told(rows, lifted):
            found.pop(details.get("hold_id", ""), None)
    return found


def _hold(row: Mapping[str, Any]) -> tuple[Any, ...]:
    by, at = row.get("placed_by", row.get("by")), row.get("placed_at", row.get("at"))
    return row["resource_type"], row["resource_id"], row["reason"], by, at


def _witness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["within"], row.get("added_by", row.get("by"))
