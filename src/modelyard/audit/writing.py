"""Writes events that somebody tells of: alone, or together with those that others tell of at the same time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelyard.audit import rules, tables
from modelyard.audit.group import GroupCommit
from modelyard.audit.log import Log
from modelyard.audit.rules import MARK
from modelyard.audit.subjects import SubjectKeys
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.ids import ordered_id
from modelyard.core.instants import from_micros, micros
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.core.work import insert_events


@dataclass(slots=True)
class Told:
    """An event that waits to be written: its row but for the time, and what is sealed beside it."""

    row: dict[str, Any]
    payload: dict[str, Any] | None = None


class Writing(Log):
    """What others than modelyard's own areas tell the log."""

    @cached_property
    def subjects(self) -> SubjectKeys:
        """The keys of the persons that events are about."""
        return SubjectKeys(self.store.folder)

    @cached_property
    def _group(self) -> GroupCommit[Told, tuple[int, int]]:
        return GroupCommit(self._write)

    @operation("POST", "/audit/events", needs="audit.write")
    def log_event(
        self,
        event_type: EventType,
        resource_type: str,
        resource_id: str,
        *,
        user: str,
        severity: EventSeverity = EventSeverity.INFO,
        details: dict[str, Any] | None = None,
        subject: str | None = None,
    ) -> Event:
        """The event as it was written.

        Its details say `reported: true`: someone told of it, as against a change that modelyard made itself. `subject`
        is the person it is about: then the details, and `user` or `resource_id` where they are the same text, are sealed
        under that person's key, and `erase_subject` makes them unreadable for ever without harm to the log.

        >>> from modelyard.audit import AuditLogger, EventType
        >>> logger = AuditLogger(folder)
        >>> logger.log_event(EventType.DATA_ACCESSED, "dataset", "payments", user="alice").actor
        'alice'
        """
        if not isinstance(event_type, EventType) or not isinstance(severity, EventSeverity):
            raise Invalid(
                "event_type must be an EventType and severity an EventSeverity. Import them from modelyard.audit."
            )
        row = {
            "event_id": ordered_id("evt"),
            "event_type": event_type.value,
            "severity": severity.value,
            "actor": rules.checked_text(user, "user"),
            "resource_type": rules.checked_text(resource_type, "resource_type"),
            "resource_id": rules.checked_text(resource_id, "resource_id"),
            "details": rules.details_text(details or {}),
        }
        said = dict(row)
        told = Told(row) if subject is None else self._sealed(row, rules.checked_text(subject, "subject"))
        if self.store.wires.inside.get(event_type) or self.store.busy:
            return self._alone(event_type, told, severity)
        position, occurred_at = self._group.submit(told)
        event = Event(
            event_id=row["event_id"],
            event_type=event_type,
            severity=severity,
            actor=said["actor"],
            resource_type=said["resource_type"],
            resource_id=said["resource_id"],
            occurred_at=from_micros(occurred_at),
            details=json.loads(said["details"]),
            position=position,
        )
        if self.store.wires.after is not None:
            self.store.wires.after([event])
        return event

    @operation("POST", "/audit/deployments", needs="audit.write")
    def log_model_deployment(
        self, model_name: str, version: str, user: str, *, environment: str = "production", strategy: str = "direct"
    ) -> Event:
        """The event that says a person put a model version into an environment by other means than modelyard.

        >>> from modelyard.audit import AuditLogger
        >>> event = AuditLogger(folder).log_model_deployment("fraud", "v1.0.0", "bob", strategy="canary")
        >>> event.event_type.value, event.resource_id
        ('model_deployed', 'fraud:v1.0.0')
        """
        told = {"environment": environment, "strategy": strategy}
        return self.log_event(EventType.MODEL_DEPLOYED, "model", f"{model_name}:{version}", user=user, details=told)

    @operation("POST", "/audit/approvals", needs="audit.write")
    def log_approval_granted(self, model_name: str, version: str, approver: str, *, comment: str = "") -> Event:
        """The event that says a person approved a model version elsewhere. It approves nothing in the registry.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).log_approval_granted("fraud", "v1.0.0", "carol", comment="after A/B").actor
        'carol'
        """
        told = {"comment": comment}
        return self.log_event(
            EventType.APPROVAL_GRANTED, "model", f"{model_name}:{version}", user=approver, details=told
        )

    @operation("POST", "/audit/violations", needs="audit.write")
    def log_security_violation(
        self,
        user: str,
        resource_type: str,
        resource_id: str,
        action: str,
        *,
        details: dict[str, Any] | None = None,
        ip_address: str | None = None,
    ) -> Event:
        """The event that says someone tried what they may not; its severity is critical.

        >>> from modelyard.audit import AuditLogger
        >>> AuditLogger(folder).log_security_violation("eve", "model", "fraud:v1", "download").severity.value
        'critical'
        """
        told = {**rules.checked_details(details or {}), "action": rules.checked_text(action, "action")}
        if ip_address is not None:
            told["ip_address"] = ip_address
        return self.log_event(
            EventType.SECURITY_VIOLATION,
            resource_type,
            resource_id,
            user=user,
            severity=EventSeverity.CRITICAL,
            details=told,
        )

    def _sealed(self, row: dict[str, Any], subject: str) -> Told:
        """The event without what it says of the person."""
        key = self.subjects.of(subject)
        said: dict[str, Any] = {"details": json.loads(row["details"]), "subject": subject}
        for name in ("actor", "resource_id"):
            if row[name] == subject:
                said[name], row[name] = subject, key.key_id
        part, body = key.sealed(row["event_id"], said)
        row["details"] = dumps({MARK: part, "reported": True})
        return Told(row, {"key_id": key.key_id, "body": body})

    def _write(self, parts: Sequence[Told]) -> list[tuple[int, int]]:
        """Write what several callers told, in one transaction; the position and time of each."""
        with self.store.work("audit") as work:
            now = micros(work.now)
            positions = insert_events(work.rows, [{**part.row, "occurred_at": now} for part in parts])
            payloads = [
                {**part.payload, "position": position}
                for part, position in zip(parts, positions, strict=True)
                if part.payload is not None
            ]
            if payloads:
                tables.add_payloads(work.rows, payloads)
        return [(position, now) for position in positions]

    def _alone(self, event_type: EventType, told: Told, severity: EventSeverity) -> Event:
        """Write an event in a transaction of its own: handlers that may refuse it hear of it there."""
        row = told.row
        with self.store.work(row["actor"]) as work:
            event = work.emit(
                event_type,
                Resource(row["resource_type"], row["resource_id"]),
                json.loads(row["details"]),
                severity=severity,
            )
            if told.payload is not None:
                tables.add_payloads(work.rows, [{**told.payload, "position": event.position}])
        return event
