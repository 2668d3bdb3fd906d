"""The SQL of what stands beside the log: sealed parts, what has expired, holds and witnesses. One function a statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from modelyard.audit.leaves import COLUMNS, EventRow
from modelyard.core.ports import Connection, Row

_EVENT = ", ".join(f"e.{name}" for name in COLUMNS)
# A hold on a model is one on each of its versions, name:version.
_HELD = """
EXISTS (SELECT 1 FROM audit_holds h WHERE h.resource_type = e.resource_type AND
        (h.resource_id = e.resource_id OR h.resource_id || ':' = substr(e.resource_id, 1, length(h.resource_id) + 1)))
OR EXISTS (SELECT 1 FROM audit_holds h JOIN audit_payloads p ON h.resource_type = 'subject' AND h.resource_id = p.key_id
           WHERE p.position = e.position)
"""


def is_held(rows: Connection, resource_type: str, resource_id: str) -> bool:
    """True if a legal hold lies on a thing, or on the model whose version it is (name:version)."""
    return (
        rows.one(
            """
            SELECT 1 AS held FROM audit_holds
            WHERE resource_type = :resource_type AND resource_id IN (:resource_id, :head)
            """,
            resource_type=resource_type,
            resource_id=resource_id,
            head=resource_id.partition(":")[0],
        )
        is not None
    )


def add_hold(rows: Connection, hold: Mapping[str, Any]) -> None:
    """Store a legal hold."""
    rows.run(
        """
        INSERT INTO audit_holds (hold_id, resource_type, resource_id, reason, placed_by, placed_at)
        VALUES (:hold_id, :resource_type, :resource_id, :reason, :placed_by, :placed_at)
        """,
        **hold,
    )


def drop_hold(rows: Connection, hold_id: str) -> int:
    """Remove a legal hold."""
    return rows.run("DELETE FROM audit_holds WHERE hold_id = :hold_id", hold_id=hold_id)


def hold(rows: Connection, hold_id: str) -> Row | None:
    """One legal hold."""
    return rows.one("SELECT * FROM audit_holds WHERE hold_id = :hold_id", hold_id=hold_id)


def holds(rows: Connection) -> list[Row]:
    """Every legal hold, oldest first."""
    return rows.all("SELECT * FROM audit_holds ORDER BY placed_at, hold_id")


def add_payloads(rows: Connection, payloads: Sequence[Mapping[str, Any]]) -> None:
    """Store sealed parts of events."""
    rows.many("INSERT INTO audit_payloads (position, key_id, body) VALUES (:position, :key_id, :body)", payloads)


def payloads(rows: Connection, first: int, last: int) -> list[tuple[int, str, bytes]]:
    """(position, key, sealed part) of events between two positions, both included."""
    return rows.tuples(
        """
        SELECT position, key_id, body FROM audit_payloads
        WHERE position >= :first AND position <= :last ORDER BY position
        """,
        first=first,
        last=last,
    )


def payload(rows: Connection, position: int) -> Row | None:
    """The sealed part of one event."""
    return rows.one("SELECT key_id, body FROM audit_payloads WHERE position = :position", position=position)


def any_payloads(rows: Connection) -> bool:
    """Whether any event has a sealed part."""
    return rows.one("SELECT 1 AS found FROM audit_payloads LIMIT 1") is not None


def drop_payloads_of(rows: Connection, key_id: str) -> int:
    """Remove every sealed part under one key; returns how many there were."""
    return rows.run("DELETE FROM audit_payloads WHERE key_id = :key_id", key_id=key_id)


def drop_payloads_at(rows: Connection, positions: Sequence[int]) -> None:
    """Remove the sealed parts of some events."""
    rows.many("DELETE FROM audit_payloads WHERE position = :position", [{"position": at} for at in positions])


def held_of(rows: Connection, key_id: str) -> Row | None:
    """An event with a sealed part under the key whose resource is held."""
    return rows.one(
        f"""
        SELECT e.resource_type, e.resource_id FROM audit_payloads p JOIN events e ON e.position = p.position
        WHERE p.key_id = :key_id AND ({_HELD}) LIMIT 1
        """,
        key_id=key_id,
    )


def any_expired(rows: Connection) -> bool:
    """Whether any event has expired."""
    return rows.one("SELECT 1 AS found FROM audit_expired LIMIT 1") is not None


def expired(rows: Connection, first: int, last: int) -> dict[int, str]:
    """Which events between two positions have expired, and the event that tells of it."""
    return dict(
        rows.tuples(
            """
            SELECT position, expired_by FROM audit_expired WHERE position >= :first AND position <= :last
            ORDER BY position
            """,
            first=first,
            last=last,
        )
    )


def expirable(rows: Connection, event_type: str, before: int, after: int, limit: int) -> list[EventRow]:
    """Events of a type from before a time that have not expired and are not held, from a position on."""
    return rows.tuples(
        f"""
        SELECT {_EVENT} FROM events e
        WHERE e.event_type = :event_type AND e.position > :after AND e.occurred_at < :before
          AND NOT EXISTS (SELECT 1 FROM audit_expired x WHERE x.position = e.position) AND NOT ({_HELD})
        ORDER BY e.position LIMIT :limit
        """,
        event_type=event_type,
        before=before,
        after=after,
        limit=limit,
    )


def strip(rows: Connection, positions: Sequence[int], actor: str, details: str) -> None:
    """Take away who did it and what was said from events."""
    rows.many(
        "UPDATE events SET actor = :actor, details = :details WHERE position = :position",
        [{"position": at, "actor": actor, "details": details} for at in positions],
    )


def mark_expired(rows: Connection, positions: Sequence[int], expired_by: str) -> None:
    """Store that events have expired."""
    rows.many(
        "INSERT INTO audit_expired (position, expired_by) VALUES (:position, :expired_by)",
        [{"position": at, "expired_by": expired_by} for at in positions],
    )


def count(rows: Connection, table: Literal["audit_expired", "audit_payloads"]) -> int:
    """How many rows a table has."""
    row = rows.one(f"SELECT count(*) AS n FROM {table}")
    return int(row["n"]) if row else 0


def add_witness(rows: Connection, target: str, within: int, added_by: str) -> int:
    """Store a second place for checkpoints; 0 if it is there already."""
    return rows.run(
        """
        INSERT INTO audit_witnesses (target, within, added_by, copied_size, copied_at, failures, tried_at)
        VALUES (:target, :within, :added_by, 0, 0, 0, 0) ON CONFLICT (target) DO NOTHING
        """,
        target=target,
        within=within,
        added_by=added_by,
    )


def drop_witness(rows: Connection, target: str) -> int:
    """Remove a second place."""
    return rows.run("DELETE FROM audit_witnesses WHERE target = :target", target=target)


def witnesses(rows: Connection) -> list[Row]:
    """Every second place."""
    return rows.all("SELECT * FROM audit_witnesses ORDER BY target")


def copied(rows: Connection, target: str, size: int, now: int) -> None:
    """A checkpoint was copied to a place."""
    rows.run(
        """
        UPDATE audit_witnesses SET copied_size = :size, copied_at = :now, tried_at = :now, failures = 0
        WHERE target = :target AND copied_size <= :size
        """,
        target=target,
        size=size,
        now=now,
    )


def not_copied(rows: Connection, target: str, now: int) -> None:
    """A checkpoint could not be copied to a place."""
    rows.run(
        "UPDATE audit_witnesses SET failures = failures + 1, tried_at = :now WHERE target = :target",
        target=target,
        now=now,
    )
