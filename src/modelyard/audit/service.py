"""AuditLogger: writes events, answers questions about them, and proves that none was changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from modelyard.audit import export, rules, store
from modelyard.audit.keys import KeyFolder, public_key_at
from modelyard.audit.merkle import inclusion_proof
from modelyard.audit.notes import ProvedEvent, PublicKey, check_proof, checkpoint, proof_text
from modelyard.audit.sequencer import BATCH, LEASE_SECONDS, Sequencer, integrate, signed_head
from modelyard.audit.verification import Walk
from modelyard.core.area import Area
from modelyard.core.errors import Damaged, Invalid, NotFound, Unavailable
from modelyard.core.events import Event, EventSeverity, EventType
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.ports import Connection, Row
from modelyard.core.refs import Resource
from modelyard.core.work import event_from_row

PAGE = 5_000
_LAST = 2**62  # above every position


class AuditLogger(Area):
    """The log of everything that happened in a store: every area's events, in one order, bound by signed checkpoints.

    Each change writes its event in its own transaction. The sequencer takes committed events into an RFC 6962 Merkle
    tree and signs its root; every reading method here does so first. Someone who can write the database and read
    `keys/` can rewrite everything: keep checkpoints (`checkpoint()`) where they cannot write, and verify against them.
    """

    @cached_property
    def keys(self) -> KeyFolder:
        """Where the signing key lies."""
        return KeyFolder(self.store.folder)

    @cached_property
    def _sequencers(self) -> list[Sequencer]:
        return []

    # writing

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
    ) -> Event:
        """The event as it was written.

        Its details say `reported: true`: someone told of it, as against a change that modelyard made itself.

        >>> from modelyard.audit import AuditLogger, EventType
        >>> logger = AuditLogger(folder)
        >>> logger.log_event(EventType.DATA_ACCESSED, "dataset", "payments", user="alice").actor
        'alice'
        """
        if not isinstance(event_type, EventType) or not isinstance(severity, EventSeverity):
            raise Invalid(
                "event_type must be an EventType and severity an EventSeverity. Import them from modelyard.audit."
            )
        resource = Resource(
            rules.checked_text(resource_type, "resource_type"), rules.checked_text(resource_id, "resource_id")
        )
        told = {**rules.checked_details(details or {}), "reported": True}
        with self.store.work(rules.checked_text(user, "user")) as work:
            return work.emit(event_type, resource, told, severity=severity)

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

    # reading

    @operation("GET", "/audit/events", needs="audit.read")
    def query_events(
        self,
        event_type: EventType | None = None,
        severity: EventSeverity | None = None,
        by: str | None = None,
        *,
        resource_type: str | None = None,
        resource_id: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
        after: int = 0,
        limit: int = 1_000,
        order: Literal["oldest", "newest"] = "oldest",
    ) -> list[Event]:
        """The events that meet every given condition, at most `limit` of them.

        `by` is who did it; the period runs from start_date on to before end_date; naive times are local times. Page on
        with `after`, the position of the last event seen (with order "newest", events before that position follow).

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
            **rules.period(start_date, end_date),
        }
        conditions = {name: value for name, value in wanted.items() if value is not None}
        self.catch_up()
        with self.store.reading() as rows:
            if order == "newest":
                found = store.newest_events(rows, conditions, before=after or _LAST, limit=limit)
            else:
                found = store.events(rows, conditions, after=after, limit=limit)
        return [_event(row) for row in found]

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
        conditions = rules.period(start, end)
        self.catch_up()
        with self.store.reading() as rows:
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
        """The written file: every event of the period, with the newest checkpoint (JSON and YAML).

        It appears whole or not at all. In CSV, text that a spreadsheet would run as a formula gets a leading
        apostrophe. That an export was made, with the SHA-256 of its bytes, is an event of its own.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.export_audit_trail(folder / "trail.csv", format="csv").events
        1
        """
        form, path, conditions = export.checked_format(format), Path(output_path), rules.period(start_date, end_date)
        self.catch_up()
        with export.draft(path) as part:
            with self.store.reading() as rows:
                note = store.last_checkpoint(rows)
                head = {
                    "start_date": None if start_date is None else start_date.astimezone().isoformat(),
                    "end_date": None if end_date is None else end_date.astimezone().isoformat(),
                    "exported_at": self.store.clock.now().isoformat(),
                    "checkpoint": note["note"] if note else "",
                }
                file = export.write(part, path, form, head, _events(rows, conditions))
            with self.store.work(user) as work:  # first the event: no export without one
                told = {"format": form, "events": file.events, "sha256": file.sha256, "conditions": conditions}
                work.emit(EventType.TRAIL_EXPORTED, Resource("audit_trail", path.name or str(path)), told)
            part.replace(path)
        return file

    # proving

    @operation("GET", "/audit/checkpoint", needs="audit.read")
    def checkpoint(self) -> str:
        """The newest signed checkpoint (C2SP tlog-checkpoint): the log's name, size and root, and the signature.

        Keep copies where the database's owner cannot write; `verify` holds the log against one.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.checkpoint().splitlines()[1]
        '1'
        """
        self.catch_up()
        with self.store.reading() as rows:
            head = signed_head(rows, self.keys.public()) if store.last_checkpoint(rows) else None
        if head is None:
            raise NotFound("The audit log has no checkpoint, because nothing has happened yet.")
        return head[0]

    @operation("GET", "/audit/proofs/{event_id}", needs="audit.read")
    def prove(self, event_id: str) -> str:
        """One text file (C2SP tlog-proof) that shows an event to be in the log to whoever has the public key.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> event = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.prove(event.event_id).splitlines()[0]
        'c2sp.org/tlog-proof@v1'
        """
        self.catch_up()
        with self.store.reading() as rows:
            leaf = store.leaf_of(rows, event_id)
            if leaf is None:
                raise self._unproved(rows, event_id)
            head = signed_head(rows, self.keys.public())
            if head is None or head[1].size <= leaf["leaf_index"]:
                raise Damaged("No checkpoint signs this event. See what was changed: modelyard audit verify")
            index = leaf["leaf_index"]
            path = inclusion_proof(index, head[1].size, lambda subtrees: _hashes(rows, subtrees))
        text = proof_text(rules.leaf_bytes(index, leaf["integrated_at"], leaf), index, path, head[0])
        check_proof(text, str(self.keys.public()))  # a proof that does not hold must not leave the house
        return text

    @operation("POST", "/audit/proofs/check", needs="audit.read")
    def check(self, proof_path: str | Path, public_key_path: str | Path) -> ProvedEvent:
        """What a proof file shows, by the public key alone: this log's database is not asked.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> event = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> _ = (folder / "event.tlog-proof").write_text(logger.prove(event.event_id))
        >>> logger.check(folder / "event.tlog-proof", logger.keys.public_file).record["resource_id"]
        'fraud:v1.0.0'
        """
        return check_proof(_text_of(proof_path, "proof"), str(public_key_at(public_key_path)))

    @operation("POST", "/audit/verify", needs="audit.read")
    def verify(
        self, checkpoint_path: str | Path | None = None, public_key_path: str | Path | None = None
    ) -> rules.Verification:
        """What a full check found: every event against its leaf, every hash, every checkpoint.

        With a checkpoint kept elsewhere (and the public key kept with it) it also finds a log that was cut or rewritten
        as a whole; without them it cannot, since whoever holds the database and the key can sign anew.

        >>> from modelyard.audit import AuditLogger
        >>> logger = AuditLogger(folder)
        >>> _ = logger.log_model_deployment("fraud", "v1.0.0", "bob")
        >>> logger.verify().ok
        True
        """
        note = None if checkpoint_path is None else _text_of(checkpoint_path, "checkpoint")
        with suppress(Damaged):  # the walk says what is damaged, and where
            self.catch_up()
        key = self._key(public_key_path)
        if note is not None and key is None:
            raise Unavailable("A checkpoint is checked with the log's public key. Pass public_key_path.")
        outside = None if note is None or key is None else checkpoint(note, key)
        walk = Walk(key, outside)
        try:
            with self.store.reading() as rows:
                return walk.result(rows)
        except Damaged as error:
            return walk.unreadable(error)

    # keeping up

    def integrate(self) -> int:
        """Take every waiting event into the tree and sign it; returns how many there were."""
        total = 0
        while self._is_behind():
            with self.store.work("audit") as work:
                total += integrate(work.rows, self.keys, micros(work.now))
        return total

    def start_sequencer(self, interval: float = 0.5) -> Sequencer:
        """A running background thread that integrates every `interval` seconds, so a checkpoint is at most 1 s late.

        Of several processes on one store, the one that holds the lease does the work. Call `stop()` to end it.
        """
        sequencer = Sequencer(self, interval)
        sequencer.start()
        self._sequencers.append(sequencer)
        return sequencer

    def close(self) -> None:
        """Stop the sequencers started here and give connections back. Not closing loses nothing."""
        while self._sequencers:
            self._sequencers.pop().stop()
        super().close()

    def integrate_as(self, holder: str) -> int:
        """Integrate if the holder has the lease or can take it; returns how many events it took in."""
        total, more = 0, self._is_behind()
        while more:
            with self.store.work("audit") as work:
                now = micros(work.now)
                if not store.take_lease(work.rows, holder, now, now + int(LEASE_SECONDS * 1e6)):
                    return total
                taken = integrate(work.rows, self.keys, now)
            total, more = total + taken, taken == BATCH
        return total

    def release(self, holder: str) -> None:
        """Give the sequencer's lease back, so that another process need not wait for its end."""
        with self.store.work("audit") as work:
            store.drop_lease(work.rows, holder)

    def _is_behind(self) -> bool:
        with self.store.reading() as rows:
            return store.behind(rows)

    def catch_up(self) -> None:
        """Integrate, unless this folder has no key for a log that another one signs."""
        if not self._is_behind():
            return
        if self.keys.signing() is None:
            with self.store.reading() as rows:
                if store.last_checkpoint(rows) is not None:
                    return
        self.integrate()

    def _key(self, path: str | Path | None) -> PublicKey | None:
        """The key to verify with; None for a log that has never signed."""
        if path is not None:
            return public_key_at(path)
        with self.store.reading() as rows:
            if store.last_checkpoint(rows) is None and not self.keys.folder.exists():
                return None
        return self.keys.public()

    def _unproved(self, rows: Connection, event_id: str) -> Exception:
        if rows.one("SELECT 1 AS found FROM events WHERE event_id = :event_id", event_id=event_id) is None:
            return NotFound(f"There is no event {event_id!r}. Find events with: modelyard audit query-events")
        return Unavailable(f"Event {event_id} waits for the host that signs this log. Try again in a second.")


def _events(rows: Connection, conditions: Mapping[str, Any]) -> Iterator[Event]:
    """Every event that meets the conditions, oldest first, a page at a time."""
    after = 0
    while page := store.events(rows, conditions, after=after, limit=PAGE):
        yield from map(_event, page)
        after = page[-1]["position"]


def _event(row: Row) -> Event:
    try:
        return event_from_row(row)
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"The event at position {row['position']} was changed by other means than modelyard: {error}. "
            "See what was changed: modelyard audit verify"
        ) from error


def _summary(rows: Connection, conditions: Mapping[str, Any]) -> dict[str, Any]:
    columns = {"type": "event_type", "severity": "severity", "user": "actor", "resource_type": "resource_type"}
    summary: dict[str, Any] = {
        f"by_{name}": {row["value"]: row["n"] for row in store.counts(rows, column, conditions)}
        for name, column in columns.items()
    }
    summary["most_active_user"] = next(iter(summary["by_user"]), None)
    return summary


def _hashes(rows: Connection, subtrees: Any) -> list[bytes]:
    try:
        return store.hashes(rows, subtrees)
    except KeyError as error:
        raise Damaged("The audit log's tree lacks a hash. See what was changed: modelyard audit verify") from error


def _text_of(path: str | Path, what: str) -> str:
    try:
        return Path(path).read_text()
    except FileNotFoundError as error:
        raise NotFound(f"There is no {what} file {path}.") from error
    except UnicodeDecodeError as error:
        raise Damaged(f"{path} is no {what}: it is not text.") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
