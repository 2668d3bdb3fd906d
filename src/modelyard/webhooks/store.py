"""The SQL of webhooks: one function a statement, values in and out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.events import Event
from modelyard.core.instants import from_micros, micros
from modelyard.core.ports import Connection, Row
from modelyard.core.work import HEARD, event_from_row
from modelyard.webhooks.hooks import Delivery, DeliveryStatus, Webhook, WebhookStatus
from modelyard.webhooks.mlflow import is_mlflow
from modelyard.webhooks.vault import origin

WINDOW = 20_000  # positions
_EVENT = ("event_id", "event_type", "severity", "actor", "resource_type", "resource_id", "occurred_at", "details")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A webhook as it is stored: with its secret as it is kept, and the position up to which it has seen events."""

    webhook: Webhook
    secret: str
    seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A delivery that is to be sent now, its webhook, and its event, None if that was removed since."""

    kept: Kept
    delivery: Delivery
    part: int
    event: Event | None


def insert(rows: Connection, kept: Kept) -> None:
    """Add a webhook."""
    rows.run(
        "INSERT INTO webhooks (webhook_id, name, url, events, mlflow, secret, description, status, created_by, "
        "created_at, updated_at, seen, failures, last_error) VALUES (:webhook_id, :name, :url, :events, :mlflow, :secret, "
        ":description, :status, :created_by, :created_at, :updated_at, :seen, :failures, :last_error)",
        created_by=kept.webhook.created_by,
        created_at=micros(kept.webhook.created_at),
        **_changing(kept),
    )


def write(rows: Connection, kept: Kept) -> None:
    """Write what can change in a webhook."""
    rows.run(
        "UPDATE webhooks SET name = :name, url = :url, events = :events, mlflow = :mlflow, secret = :secret, "
        "description = :description, status = :status, updated_at = :updated_at, seen = :seen, "
        "failures = :failures, last_error = :last_error WHERE webhook_id = :webhook_id",
        **_changing(kept),
    )


def count_failures(rows: Connection, webhook_id: str, failures: int, last_error: str) -> None:
    """Write how many attempts in a row have failed."""
    rows.run(
        "UPDATE webhooks SET failures = :failures, last_error = :last_error WHERE webhook_id = :webhook_id",
        webhook_id=webhook_id,
        failures=failures,
        last_error=last_error,
    )


def find(rows: Connection, webhook_id: str) -> Kept | None:
    """One webhook."""
    row = rows.one("SELECT * FROM webhooks WHERE webhook_id = :webhook_id", webhook_id=webhook_id)
    return None if row is None else _kept(row)


def page(rows: Connection, *, mlflow: int, before: tuple[int, str] | None, limit: int) -> list[Webhook]:
    """Webhooks, the newest first, from behind a (created_at, webhook_id); mlflow=1 leaves out those without an event of MLflow's."""
    at, webhook_id = before or (2**62, "")
    found = rows.all(
        "SELECT * FROM webhooks WHERE mlflow >= :mlflow AND (created_at < :at OR (created_at = :at AND webhook_id > :webhook_id)) "
        "ORDER BY created_at DESC, webhook_id LIMIT :limit",
        mlflow=mlflow,
        at=at,
        webhook_id=webhook_id,
        limit=limit,
    )
    return [_kept(row).webhook for row in found]


def active(rows: Connection) -> list[Kept]:
    """Every webhook that is sent to."""
    return [_kept(row) for row in rows.all("SELECT * FROM webhooks WHERE status = 'active' ORDER BY webhook_id")]


def remove(rows: Connection, webhook_id: str) -> int:
    """Remove a webhook with its deliveries; returns how many of them had not been delivered."""
    rows.run("DELETE FROM webhooks WHERE webhook_id = :webhook_id", webhook_id=webhook_id)
    rows.run(
        "DELETE FROM webhook_deliveries WHERE webhook_id = :webhook_id AND status = 'delivered'", webhook_id=webhook_id
    )
    return rows.run("DELETE FROM webhook_deliveries WHERE webhook_id = :webhook_id", webhook_id=webhook_id)


def last_position(rows: Connection) -> int:
    """The newest event's position, 0 before the first."""
    row = rows.one("SELECT max(position) AS last FROM events")
    return int((row or {}).get("last") or 0)


def events_between(rows: Connection, after: int, top: int, kinds: Iterable[str], limit: int) -> list[Event]:
    """The first events of some kinds behind one position and up to another, in order; [] if there are none. What an import
    brought is not among them.

    Looked for in a window at a time, so that neither many events of these kinds nor many others make it slow.
    """
    names = ", ".join(f"'{kind}'" for kind in sorted(kinds))  # values of EventType, no caller's text
    for start in range(after, top, WINDOW):
        found = rows.all(
            f"SELECT * FROM events WHERE position > :start AND position <= :stop AND event_type IN ({names}) AND {HEARD} "
            "ORDER BY position LIMIT :limit",
            start=start,
            stop=min(start + WINDOW, top),
            limit=limit,
        )
        if found:
            return [event_from_row(row) for row in found]
    return []


def set_seen(rows: Connection, position: int) -> None:
    """Every active webhook has seen the events up to a position."""
    rows.run(
        "UPDATE webhooks SET seen = :position WHERE status = 'active' AND seen < :position",
        position=position,
    )


def insert_deliveries(rows: Connection, deliveries: Iterable[tuple[Delivery, int]]) -> None:
    """Add deliveries with the part of the event that each tells."""
    rows.many(
        "INSERT INTO webhook_deliveries (delivery_id, webhook_id, position, event, part, status, attempts, created_at, "
        "next_attempt_at, ended_at, response_status, error) VALUES (:delivery_id, :webhook_id, :position, :event, :part, "
        "'pending', 0, :created_at, 0, NULL, NULL, '')",
        [
            {
                "delivery_id": delivery.delivery_id,
                "webhook_id": delivery.webhook_id,
                "position": delivery.position,
                "event": delivery.event,
                "part": part,
                "created_at": micros(delivery.created_at),
            }
            for delivery, part in deliveries
        ],
    )


def first_due(rows: Connection, now: int, latest: int) -> list[Waiting]:
    """The oldest pending delivery of each active webhook whose time has come.

    A time behind `latest` was set by a clock that has jumped back since.
    """
    told = ", ".join(f"e.{name} AS e_{name}" for name in _EVENT)
    found = rows.all(
        f"SELECT w.*, d.delivery_id, d.position, d.event, d.part, d.status AS delivery_status, d.attempts, d.next_attempt_at, "
        f"d.created_at AS delivery_created_at, d.ended_at, d.response_status, d.error, {told} FROM webhooks w "
        "JOIN webhook_deliveries d ON d.sequence = (SELECT min(x.sequence) FROM webhook_deliveries x "
        "WHERE x.webhook_id = w.webhook_id AND x.status = 'pending') LEFT JOIN events e ON e.position = d.position "
        "WHERE w.status = 'active' AND (d.next_attempt_at <= :now OR d.next_attempt_at > :latest) "
        "ORDER BY d.next_attempt_at, d.sequence",
        now=now,
        latest=latest,
    )
    return [_waiting(row) for row in found]


def find_delivery(rows: Connection, delivery_id: str) -> Delivery | None:
    """One delivery."""
    row = rows.one("SELECT * FROM webhook_deliveries WHERE delivery_id = :delivery_id", delivery_id=delivery_id)
    return None if row is None else _delivery(row)


def deliveries(
    rows: Connection, webhook_id: str, *, status: str, before: int | None, limit: int
) -> list[tuple[int, Delivery]]:
    """A webhook's deliveries with their numbers, the newest first, from behind a number; an empty status means any."""
    found = rows.all(
        "SELECT * FROM webhook_deliveries WHERE webhook_id = :webhook_id AND sequence < :before "
        "AND (:status = '' OR status = :status) ORDER BY sequence DESC LIMIT :limit",
        webhook_id=webhook_id,
        status=status,
        before=2**62 if before is None else before,
        limit=limit,
    )
    return [(row["sequence"], _delivery(row)) for row in found]


def record(rows: Connection, delivery: Delivery, attempts_before: int) -> int:
    """Write what an attempt has led to; 0 if another one was recorded meanwhile."""
    return rows.run(
        "UPDATE webhook_deliveries SET status = :status, attempts = :attempts, next_attempt_at = :next_attempt_at, "
        "ended_at = :ended_at, response_status = :response_status, error = :error "
        "WHERE delivery_id = :delivery_id AND status = 'pending' AND attempts = :attempts_before",
        attempts_before=attempts_before,
        delivery_id=delivery.delivery_id,
        status=delivery.status.value,
        attempts=delivery.attempts,
        next_attempt_at=0 if delivery.next_attempt_at is None else micros(delivery.next_attempt_at),
        ended_at=None if delivery.ended_at is None else micros(delivery.ended_at),
        response_status=delivery.response_status,
        error=delivery.error,
    )


def revive(rows: Connection, delivery_id: str) -> None:
    """Make a delivery pending again, with all its attempts before it."""
    rows.run(
        "UPDATE webhook_deliveries SET status = 'pending', attempts = 0, next_attempt_at = 0, ended_at = NULL "
        "WHERE delivery_id = :delivery_id",
        delivery_id=delivery_id,
    )


def forget(rows: Connection, before: int) -> int:
    """Remove deliveries that ended before a moment; returns how many."""
    return rows.run("DELETE FROM webhook_deliveries WHERE ended_at < :before", before=before)


def _changing(kept: Kept) -> dict[str, Any]:
    webhook = kept.webhook
    return {
        "webhook_id": webhook.webhook_id,
        "name": webhook.name,
        "url": webhook.url,
        "events": dumps(webhook.events),
        "mlflow": int(any(is_mlflow(event) for event in webhook.events)),
        "secret": kept.secret,
        "description": webhook.description,
        "status": webhook.status.value,
        "updated_at": micros(webhook.updated_at),
        "seen": kept.seen,
        "failures": webhook.failures,
        "last_error": webhook.last_error,
    }


def _kept(row: Row) -> Kept:
    webhook = Webhook(
        webhook_id=row["webhook_id"],
        name=row["name"],
        url=row["url"],
        events=tuple(json.loads(row["events"])),
        status=WebhookStatus(row["status"]),
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
        updated_at=from_micros(row["updated_at"]),
        description=row["description"],
        secret_from=origin(row["secret"]),
        failures=row["failures"],
        last_error=row["last_error"],
    )
    return Kept(webhook=webhook, secret=row["secret"], seen=row["seen"])


def _delivery(row: Row) -> Delivery:
    status = DeliveryStatus(row["status"])
    return Delivery(
        delivery_id=row["delivery_id"],
        webhook_id=row["webhook_id"],
        event=row["event"],
        position=row["position"],
        status=status,
        attempts=row["attempts"],
        created_at=from_micros(row["created_at"]),
        next_attempt_at=from_micros(max(row["next_attempt_at"], row["created_at"]))
        if status is DeliveryStatus.PENDING
        else None,
        ended_at=None if row["ended_at"] is None else from_micros(row["ended_at"]),
        response_status=row["response_status"],
        error=row["error"],
    )


def _waiting(row: Mapping[str, Any]) -> Waiting:
    delivery = {**row, "status": row["delivery_status"], "created_at": row["delivery_created_at"]}
    event = None
    if row["e_event_id"] is not None:
        event = event_from_row({name: row[f"e_{name}"] for name in _EVENT} | {"position": row["position"]})
    return Waiting(kept=_kept(row), delivery=_delivery(delivery), part=row["part"], event=event)
