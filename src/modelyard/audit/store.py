"""The SQL of the audit area: one function a statement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelyard.audit.merkle import Subtree, number
from modelyard.core.ports import Connection, Row

LEASE = "audit.sequencer"
CONDITIONS = {
    "event_type": "event_type = :event_type",
    "severity": "severity = :severity",
    "actor": "actor = :actor",
    "resource_type": "resource_type = :resource_type",
    "resource_id": "resource_id = :resource_id",
    "start": "occurred_at >= :start",
    "end": "occurred_at < :end",
}
_FETCHED = 64  # names in one statement: a proof of 2^60 leaves needs fewer
_NODES = f"SELECT number, hash FROM audit_nodes WHERE number IN ({', '.join(f':n{i}' for i in range(_FETCHED))})"


def waiting(rows: Connection, limit: int) -> list[Row]:
    """Events that no leaf holds yet, in order."""
    return rows.all(
        """
        SELECT position, event_id, event_type, severity, actor, resource_type, resource_id, occurred_at, details
        FROM events WHERE position > (SELECT coalesce(max(position), 0) FROM audit_leaves)
        ORDER BY position LIMIT :limit
        """,
        limit=limit,
    )


def behind(rows: Connection) -> bool:
    """True if some event waits for its leaf."""
    row = rows.one(
        """
        SELECT coalesce((SELECT max(position) FROM events), 0) > coalesce((SELECT max(position) FROM audit_leaves), 0)
        AS behind
        """
    )
    return bool(row and row["behind"])


def size(rows: Connection) -> int:
    """How many leaves the log has."""
    row = rows.one("SELECT coalesce(max(leaf_index) + 1, 0) AS size FROM audit_leaves")
    return int(row["size"]) if row else 0


def add_leaves(rows: Connection, leaves: Iterable[Mapping[str, Any]]) -> None:
    """Store which event stands at which index."""
    rows.many(
        "INSERT INTO audit_leaves (leaf_index, position, integrated_at) VALUES (:leaf_index, :position, :integrated_at)",
        leaves,
    )


def add_nodes(rows: Connection, nodes: Iterable[Mapping[str, Any]]) -> None:
    """Store hashes of complete subtrees by number."""
    rows.many("INSERT INTO audit_nodes (number, hash) VALUES (:number, :hash)", nodes)


def add_checkpoint(rows: Connection, at: int, note: str) -> None:
    """Store a signed checkpoint."""
    rows.run("INSERT INTO audit_checkpoints (size, note) VALUES (:size, :note)", size=at, note=note)


def last_checkpoint(rows: Connection) -> Row | None:
    """The newest checkpoint: size and note."""
    return rows.one("SELECT size, note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")


def checkpoints(rows: Connection, after: int, limit: int) -> list[Row]:
    """Checkpoints in order of size."""
    return rows.all(
        "SELECT size, note FROM audit_checkpoints WHERE size > :after ORDER BY size LIMIT :limit",
        after=after,
        limit=limit,
    )


def hashes(rows: Connection, subtrees: Sequence[Subtree]) -> list[bytes]:
    """The hashes of complete subtrees, in the order asked for; KeyError where one is missing."""
    found: dict[int, bytes] = {}
    numbers = [number(level, index) for level, index in subtrees]
    for start in range(0, len(numbers), _FETCHED):
        chunk = numbers[start : start + _FETCHED]
        names = {f"n{i}": chunk[i] if i < len(chunk) else -1 for i in range(_FETCHED)}
        found.update((row["number"], row["hash"]) for row in rows.all(_NODES, **names))
    return [found[n] for n in numbers]


def nodes(rows: Connection, start: int, stop: int) -> list[Row]:
    """Hashes numbered from start up to, not including, stop."""
    return rows.all(
        "SELECT number, hash FROM audit_nodes WHERE number >= :start AND number < :stop ORDER BY number",
        start=start,
        stop=stop,
    )


def last_node(rows: Connection) -> int:
    """The highest hash number, -1 without any."""
    row = rows.one("SELECT coalesce(max(number), -1) AS number FROM audit_nodes")
    return int(row["number"]) if row else -1


def leaves(rows: Connection, start: int, limit: int) -> list[Row]:
    """Leaves from an index on, each with its event (event columns are None where the event is gone)."""
    return rows.all(
        """
        SELECT l.leaf_index, l.position, l.integrated_at, e.event_id, e.event_type, e.severity, e.actor,
               e.resource_type, e.resource_id, e.occurred_at, e.details
        FROM audit_leaves l LEFT JOIN events e ON e.position = l.position
        WHERE l.leaf_index >= :start ORDER BY l.leaf_index LIMIT :limit
        """,
        start=start,
        limit=limit,
    )


def leaf_of(rows: Connection, event_id: str) -> Row | None:
    """The leaf of one event, with the event."""
    return rows.one(
        """
        SELECT l.leaf_index, l.position, l.integrated_at, e.event_id, e.event_type, e.severity, e.actor,
               e.resource_type, e.resource_id, e.occurred_at, e.details
        FROM events e JOIN audit_leaves l ON l.position = e.position WHERE e.event_id = :event_id
        """,
        event_id=event_id,
    )


def intruders(rows: Connection, limit: int) -> list[Row]:
    """Events before the last integrated one that no leaf holds: written past the log."""
    return rows.all(
        """
        SELECT e.position, e.event_id, (SELECT min(l.leaf_index) FROM audit_leaves l WHERE l.position > e.position) AS before_leaf
        FROM events e
        WHERE e.position < (SELECT coalesce(max(position), 0) FROM audit_leaves)
          AND NOT EXISTS (SELECT 1 FROM audit_leaves l WHERE l.position = e.position)
        ORDER BY e.position LIMIT :limit
        """,
        limit=limit,
    )


def lease(rows: Connection) -> Row | None:
    """Who sequences, and until when."""
    return rows.one("SELECT holder, expires_at FROM leases WHERE name = :name", name=LEASE)


def take_lease(rows: Connection, holder: str, now: int, until: int) -> bool:
    """True if the holder has the lease now: it was free, expired, or the holder's own."""
    return bool(
        rows.run(
            """
            INSERT INTO leases (name, holder, expires_at) VALUES (:name, :holder, :until)
            ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
            WHERE leases.holder = excluded.holder OR leases.expires_at <= :now
            """,
            name=LEASE,
            holder=holder,
            now=now,
            until=until,
        )
    )


def drop_lease(rows: Connection, holder: str) -> int:
    """Give the lease back."""
    return rows.run("DELETE FROM leases WHERE name = :name AND holder = :holder", name=LEASE, holder=holder)


def events(rows: Connection, conditions: Mapping[str, Any], *, after: int, limit: int) -> list[Row]:
    """Events that meet every condition (see `CONDITIONS`), oldest first."""
    where = "".join(f" AND {CONDITIONS[name]}" for name in conditions)
    return rows.all(
        f"SELECT * FROM events WHERE position > :after{where} ORDER BY position LIMIT :limit",
        after=after,
        limit=limit,
        **conditions,
    )


def newest_events(rows: Connection, conditions: Mapping[str, Any], *, before: int, limit: int) -> list[Row]:
    """Events that meet every condition, newest first."""
    where = "".join(f" AND {CONDITIONS[name]}" for name in conditions)
    return rows.all(
        f"SELECT * FROM events WHERE position < :before{where} ORDER BY position DESC LIMIT :limit",
        before=before,
        limit=limit,
        **conditions,
    )


def counts(rows: Connection, column: str, conditions: Mapping[str, Any]) -> list[Row]:
    """How many events each value of a column has, most first. The column is a constant of the caller."""
    where = "".join(f" AND {CONDITIONS[name]}" for name in conditions)
    return rows.all(
        f"SELECT {column} AS value, count(*) AS n FROM events WHERE position > 0{where} GROUP BY {column} ORDER BY n DESC, value",
        **conditions,
    )
