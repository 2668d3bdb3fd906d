"""Forgets a person: the key and everything sealed under it go, and the log and its proofs stay whole."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.audit import rules, store, tables
from modelyard.audit.log import Log
from modelyard.audit.subjects import SubjectKeys
from modelyard.core import plugins
from modelyard.core.errors import Conflict, NotFound, Unavailable
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.forgetting import Person, forget
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource

_log = logging.getLogger("modelyard.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was erased: the name that stood for the person in the log, how many events were about them, and how many rows
    were removed where else.

    `scrubbed` is False where another reader kept the database's files from being overwritten at once; what was erased is
    unreadable all the same, since its key is gone.
    """

    key: str
    events: int
    event_id: str
    scrubbed: bool
    removed: Mapping[str, int] = field(default_factory=dict)


class Erasing(Log):
    """What is forgotten for good."""

    @operation("POST", "/audit/erasures", needs="audit.write")
    def erase_subject(self, subject: str, *, user: str, reason: str, also: list[str] | None = None) -> Erasure:
        """What was erased of a person wherever the yard keeps them, and how much there was in each place.

        By the name given, and those in `also` (a cookie, a customer number): everything that events say about them, which
        is sealed, with the key that could open a copy; what endpoints were asked and answered with that unit, and the
        outcomes; what monitors logged of these requests; the unit's rows in A/B tests; every entity of that name in the
        feature store. Names are compared as they are: an entity `17` of any type goes with a person `17`. Sums and counts
        stay. A call that was cut short may be repeated.

        The events themselves stay, with commitments that tell nothing without the key, so the log and every proof still
        verify. Conflict while a legal hold lies on the person or on a thing that such an event is about. Copies of the
        folder `keys/` hold keys: keep none for longer than an erasure may take.

        >>> from modelyard.audit import AuditLogger, EventType
        >>> logger = AuditLogger(folder)
        >>> told = {"diagnosis": "asthma"}
        >>> event = logger.log_event(EventType.DATA_ACCESSED, "file", "f7", user="ana", subject="patient-17", details=told)
        >>> logger.erase_subject("patient-17", user="dpo@example.org", reason="Art. 17").events
        1
        >>> "asthma" in str(logger.query_events()), logger.verify().ok
        (False, True)
        """
        names = [rules.checked_text(name, "subject") for name in (subject, *(also or ()))]
        why, actor = rules.checked_text(reason, "reason"), rules.checked_text(user, "user")
        keys = SubjectKeys(self.store.folder)
        key_ids = [key_id for name in names if (key_id := keys.id_of(name)) is not None]
        with self.store.reading() as rows:
            for key_id in key_ids:
                _refuse_held(rows, key_id)
        removed = forget(self._area, Person(names=tuple(names)), user=actor, reason=why)
        if not key_ids and not removed:
            raise NotFound(
                "Nothing is kept of that person, or they were erased already. Check how the name is written."
            )
        erasure = self._erased(key_ids, removed, actor, why)
        self.finish_erasures()
        return replace(erasure, scrubbed=self._scrubbed())

    def _erased(self, key_ids: Sequence[str], removed: Mapping[str, int], user: str, reason: str) -> Erasure:
        """Drop what is sealed under the keys, and tell of it, or of an erasure of somebody whom no event was about."""
        told = {"reason": reason, "removed": removed}
        total = 0
        with self.store.work(user) as work:
            for key_id in key_ids or [""]:
                details: dict[str, Any] = {**told, "events": 0}
                if key_id:
                    _refuse_held(work.rows, key_id)
                    count = tables.drop_payloads_of(work.rows, key_id)
                    details, total = {**told, "key": key_id, "events": count}, total + count
                about = Resource("subject", key_id or "unnamed")
                event = work.emit(EventType.SUBJECT_ERASED, about, details, severity=EventSeverity.WARNING)
        key = key_ids[0] if key_ids else ""
        return Erasure(key=key, events=total, event_id=event.event_id, scrubbed=False, removed=removed)

    def _area(self, name: str) -> Any:
        found = self.store.wires.area
        return plugins.load("area", name)(self.store) if found is None else found(name)

    def finish_erasures(self) -> int:
        """Destroy what the log says is erased and a crash left behind; returns how many keys there were."""
        with self.store.work("audit") as work:
            erased = [
                str(told["key"])
                for told in (rules.parsed(row["details"]) for row in _erasures(work.rows))
                if "key" in told and not told.get("reported")
            ]
            for key_id in erased:
                tables.drop_payloads_of(work.rows, key_id)
        return SubjectKeys(self.store.folder).forget(erased)

    def _scrubbed(self) -> bool:
        try:
            self.store.database.scrub()
        except Unavailable as error:
            _log.warning("What was erased may still stand, unreadable, in the database's files: %s", error)
            return False
        return True


def _erasures(rows: Connection) -> list[dict[str, str]]:
    return [dict(row) for row in store.events_of(rows, EventType.SUBJECT_ERASED.value)]


def _refuse_held(rows: Connection, key_id: str) -> None:
    """Conflict while a hold lies on the person or on what one of their events is about."""
    held = tables.held_of(rows, key_id)
    what = None if held is None else f"{held['resource_type']} {held['resource_id']}"
    if what is None and tables.is_held(rows, "subject", key_id):
        what = f"subject {key_id}"
    if what is not None:
        raise Conflict(f"The person cannot be erased: a legal hold lies on {what}. See: modelyard audit list-holds")
