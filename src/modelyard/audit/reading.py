"""Answers questions about events: queries, reports, exports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from modelyard.audit import export, rules, store, tables
from modelyard.audit.log import event_of
from modelyard.audit.rules import MARK
from modelyard.audit.subjects import sealed_part
from modelyard.audit.writing import Writing
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.files import draft
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource

PAGE = 5_000
_LAST = 2**62  # above every position


class Reading(Writing):
    """What the log says. Sealed parts stay sealed in files and reports: those outlive an erasure."""

    @operation("GET", "/audit/events", needs="audit.read")
    def query_events(
        self,
        event_type: EventType | None = None,
        severity: EventSeverity | None = None,
        by: str | None = None,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        subject: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        after: int = 0,
        limit: int = 1_000,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> list[Event]:
        """The events that meet every given condition, at most `limit` of them.

        `by` is who did it, `subject` the person it is about; the period runs from start_date on to before end_date;
        naive times are local times. Page on with `after`, the position of the last event seen (with order "newest",
        events before that position follow).

        >>> from modelyard.audit import AuditLogger, EventType
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> [event.resource_id for event in logger.query_events(EventType.MODEL_DEPLOYED, by="bob")]
        ['fraud:v1.0.0']
        """
        if limit < 1 or after < 0:
            raise Invalid(f"limit must be at least 1 and after at least 0, not {limit} and {after}.")
        wanted = {
            "event_type": None if event_type is None else EventType(event_type).value,
            "severity": None if severity is None else EventSeverity(severity).value,
            "actor": by,
            "resource_type": resource_type,
            "resource_id": resource_id,
            "key_id": None if subject is None else self._key_id(subject),
            **rules.period(start_date, end_date),
        }
        conditions = {name: value for name, value in wanted.items() if value is not None}
        self.catch_up()
        with self.store.reading() as rows:
            conditions = _located(rows, conditions)
            if order == "newest":
                found = store.newest_events(rows, conditions, before=after or _LAST, limit=limit)
            else:
                found = store.events(rows, conditions, after=after, limit=limit)
            return [self._readable(rows, event_of(row)) for row in found]

    @operation("POST", "/audit/reports", needs="audit.read")
    def generate_compliance_report(
        self, start_date: datetime | None = None, end_date: datetime | None = None, *, user: str = "system"
    ) -> rules.AuditReport:
        """What happened in a period: counts, every security violation, and the checkpoint that binds it all.

        Without dates it is the last 90 days. That a report was made is an event of its own.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_security_violation("eve", "model", "fraud:v1", "download")
        >>> report = logger.generate_compliance_report()
        >>> report.total_events, len(report.security_violations), report.summary["most_active_user"]
        (1, 1, 'eve')
        """
        now = self.store.clock.now()
        end = end_date or now + timedelta(microseconds=1)  # what happened just now belongs to it
        start = start_date or end - timedelta(days=90)
        self.catch_up()
        with self.store.reading() as rows:
            conditions = _located(rows, rules.period(start, end))
            summary = _summary(rows, conditions)
            violations = tuple(_events(rows, {**conditions, "event_type": EventType.SECURITY_VIOLATION.value}))
            note = store.last_checkpoint(rows)
        report = rules.AuditReport(
            start_date=start,
            end_date=end,
            generated_at=now,
            total_events=sum(summary["by_type"].values()),
            security_violations=violations,
            summary=summary,
            checkpoint=note["note"] if note else "",
        )
        with self.store.work(user) as work:
            told = {"start_date": start, "end_date": end, "total_events": report.total_events, "summary": summary}
            work.emit(EventType.REPORT_GENERATED, Resource("audit_trail", "report"), told)
        return report

    @operation("POST", "/audit/exports", needs="audit.read")
    def export_audit_trail(
        self,
        output_path: str | Path,
        format: export.Format = "json",
        *,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        user: str = "system",
    ) -> export.Export:
        """The written file: every event of the period, with the newest checkpoint (all but CSV).

        It appears whole or not at all. In CSV, text that a spreadsheet would run as a formula gets a leading
        apostrophe. What is sealed under a person's key stays sealed. That an export was made, with the SHA-256 of its
        bytes, is an event of its own.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.export_audit_trail(folder / "trail.csv", format="csv").events
        1
        """
        form, path, conditions = export.checked_format(format), Path(output_path), rules.period(start_date, end_date)
        self.catch_up()
        with draft(path) as part:
            with self.store.reading() as rows:
                note = store.last_checkpoint(rows)
                head = {
                    "start_date": None if start_date is None else start_date.astimezone().isoformat(),
                    "end_date": None if end_date is None else end_date.astimezone().isoformat(),
                    "exported_at": self.store.clock.now().isoformat(),
                    "checkpoint": note["note"] if note else "",
                }
                file = export.write(part, path, form, head, _events(rows, _located(rows, conditions)))
            with self.store.work(user) as work:  # first the event: no export without one
                told = {"format": form, "events": file.events, "sha256": file.sha256, "conditions": conditions}
                work.emit(EventType.TRAIL_EXPORTED, Resource("audit_trail", path.name or str(path)), told)
            part.replace(path)
        return file

    def _key_id(self, subject: str) -> str:
        return self.subjects.id_of(subject) or ""  # no event has an empty one

    def _readable(self, rows: Connection, event: Event) -> Event:
        """The event with what it says of a person, where that person's key is here."""
        if MARK not in event.details:
            return event
        part = sealed_part(dumps(event.details))
        payload = None if part is None or event.position is None else tables.payload(rows, event.position)
        key = None if payload is None else self.subjects.by_id(payload["key_id"])
        if part is None or payload is None or key is None:
            return event
        said = key.opened(event.event_id, part, payload["body"])
        known = {name: said[name] for name in ("actor", "resource_id", "details") if name in said}
        return replace(event, **known)


def _located(rows: Connection, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """The conditions, with those added that let the indexes answer them: a period becomes a range of positions."""
    found = dict(conditions)
    if found.get("severity", EventSeverity.INFO.value) != EventSeverity.INFO.value:
        found["unusual"] = True
    if "start" in found or "end" in found:
        low, high = store.span(rows, found.get("start"), found.get("end"))
        found["low"] = low
        if high is not None:
            found["high"] = high
    return found


def _events(rows: Connection, conditions: Mapping[str, Any]) -> Iterator[Event]:
    """Every event that meets the conditions, oldest first, a page at a time."""
    after = 0
    while page := store.events(rows, conditions, after=after, limit=PAGE):
        yield from map(event_of, page)
        after = page[-1]["position"]


def _summary(rows: Connection, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """How many events each type, severity, user and kind of resource has, most first."""
    found = store.counts(rows, conditions)
    summary: dict[str, Any] = {}
    for column in ("type", "severity", "user", "resource_type"):
        counter: Counter[str] = Counter()
        for row in found:
            counter[row[column]] += row["n"]
        summary[f"by_{column}"] = dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
    summary["most_active_user"] = next(iter(summary["by_user"]), None)
    return summary
