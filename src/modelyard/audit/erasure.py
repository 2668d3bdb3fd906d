"""Forgets a person: the key and everything sealed under it go, and the log and its proofs stay whole."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from modelyard.audit import rules, store, tables
from modelyard.audit.log import Log
from modelyard.audit.subjects import SubjectKeys
from modelyard.core.errors import Conflict, NotFound, Unavailable
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource

_log = logging.getLogger("modelyard.audit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was erased: the name that stood for the person in the log, and how many events were about them.

    `scrubbed` is False where another reader kept the database's files from being overwritten at once; what was erased is
    unreadable all the same, since its key is gone.
    """

    key: str
    events: int
    event_id: str
    scrubbed: bool


class Erasing(Log):
    """What is forgotten for good."""

    @operation("POST", "/audit/erasures", needs="audit.write")
    def erase_subject(self, subject: str, *, user: str, reason: str) -> Erasure:
        """What was erased of all that events say about a person: the sealed parts, and the key that could open a copy.

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
        rules.checked_text(subject, "subject")
        why = rules.checked_text(reason, "reason")
        keys = SubjectKeys(self.store.folder)
        key_id = keys.id_of(subject)
        if key_id is None:
            raise NotFound("No event is about that person, or they were erased already. Check how the name is written.")
        with self.store.work(rules.checked_text(user, "user")) as work:
            _refuse_held(work.rows, key_id)
            count = tables.drop_payloads_of(work.rows, key_id)
            event = work.emit(
                EventType.SUBJECT_ERASED,
                Resource("subject", key_id),
                {"key": key_id, "events": count, "reason": why},
                severity=EventSeverity.WARNING,
            )
        self.finish_erasures()
        return Erasure(key=key_id, events=count, event_id=event.event_id, scrubbed=self._scrubbed())

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
