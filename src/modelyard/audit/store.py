"""The SQL of the log itself: one function a statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from modelyard.audit.leaves import COLUMNS, Body, EventRow
from modelyard.audit.merkle import HASH_BYTES, Subtree, number
from modelyard.core.ports import Connection, Row

IN_BLOCK = 62  # hashes in one row of audit_blocks: two rows fill a page of SQLite, and none outgrows PostgreSQL's limit of 2 kB
_EVENT = ", ".join(COLUMNS)
_BODY = ", ".join(COLUMNS[1:])
_TAKEN = "(SELECT coalesce(max(position + count - 1), 0) FROM audit_leaves)"
# The newest run has the highest index; only a changed log has two answers.
_LAST = "coalesce((SELECT position + count - 1 FROM audit_leaves ORDER BY leaf_index DESC LIMIT 1), 0)"
CONDITIONS = {
    "event_type": "event_type = :event_type",
    "severity": "severity = :severity",
    "unusual": "severity <> 'info'",  # what the index of severities is about
    "actor": "actor = :actor",
    "resource_type": "resource_type = :resource_type",
    "resource_id": "resource_id = :resource_id",
    "start": "occurred_at >= :start",
    "end": "occurred_at < :end",
    "low": "position >= :low",
    "high": "position <= :high",
    "key_id": "position IN (SELECT position FROM audit_payloads WHERE key_id = :key_id)",
}


def waiting(rows: Connection, limit: int) -> list[EventRow]:
    """Events that no leaf holds yet, in order."""
    return rows.tuples(
        f"SELECT {_EVENT} FROM events WHERE position > {_LAST} ORDER BY position LIMIT :limit", limit=limit
    )


def count_waiting(rows: Connection) -> int:
    """How many events no leaf holds yet."""
    row = rows.one(f"SELECT count(*) AS n FROM events WHERE position > {_LAST}")
    return int(row["n"]) if row else 0


def behind(rows: Connection) -> bool:
    """True if some event waits for its leaf."""
    row = rows.one(f"SELECT coalesce((SELECT max(position) FROM events), 0) > {_LAST} AS behind")
    return bool(row and row["behind"])


def last_run(rows: Connection) -> Row | None:
    """The newest run of leaves."""
    return rows.one("SELECT * FROM audit_leaves ORDER BY leaf_index DESC LIMIT 1")


def add_runs(rows: Connection, runs: Sequence[Mapping[str, Any]]) -> None:
    """Store which events the next leaves are."""
    rows.many(
        """
        INSERT INTO audit_leaves (leaf_index, position, count, integrated_at, earliest, latest)
        VALUES (:leaf_index, :position, :count, :integrated_at, :earliest, :latest)
        """,
        runs,
    )


def runs(rows: Connection, after: int, limit: int) -> list[tuple[Any, ...]]:
    """(leaf_index, position, count, integrated_at, earliest, latest) of runs from an index on."""
    return rows.tuples(
        """
        SELECT leaf_index, position, count, integrated_at, earliest, latest FROM audit_leaves
        WHERE leaf_index > :after ORDER BY leaf_index LIMIT :limit
        """,
        after=after,
        limit=limit,
    )


def run_of(rows: Connection, position: int) -> Row | None:
    """The run of leaves that would hold an event's position: the last one that begins at it or before."""
    return rows.one(
        "SELECT * FROM audit_leaves WHERE position <= :position ORDER BY position DESC LIMIT 1", position=position
    )


def span(rows: Connection, start: int | None, end: int | None) -> tuple[int, int | None]:
    """(lowest, highest) position of integrated events that may have happened from start on and before end; the highest
    is None where events that no leaf holds yet may follow."""
    row = rows.one(
        f"""
        SELECT (SELECT coalesce(min(position), {_LAST} + 1) FROM audit_leaves WHERE latest >= :start) AS low,
               (SELECT coalesce(max(position + count - 1), 0) FROM audit_leaves WHERE earliest < :end) AS high,
               {_LAST} AS last, coalesce((SELECT max(position) FROM events), 0) AS newest
        """,
        start=-(2**62) if start is None else start,
        end=2**62 if end is None else end,
    )
    assert row is not None  # without FROM there is always one row
    return row["low"] if start is not None else 0, None if row["newest"] > row["last"] or end is None else row["high"]


def write_blocks(rows: Connection, start: int, data: bytes) -> None:
    """Store hashes that follow each other in the order of `number`, the first of them numbered `start`.

    `data` begins with what stands in the first block already.
    """
    size = IN_BLOCK * HASH_BYTES
    first = start // IN_BLOCK
    rows.many(
        """
        INSERT INTO audit_blocks (block, hashes) VALUES (:block, :hashes)
        ON CONFLICT (block) DO UPDATE SET hashes = excluded.hashes
        """,
        ({"block": first + at // size, "hashes": data[at : at + size]} for at in range(0, len(data), size)),
    )


def blocks(rows: Connection, start: int, stop: int) -> list[tuple[int, bytes]]:
    """Blocks of hashes from one number up to, not including, another."""
    return rows.tuples(
        "SELECT block, hashes FROM audit_blocks WHERE block >= :start AND block < :stop ORDER BY block",
        start=start,
        stop=stop,
    )


def blocks_of(rows: Connection, numbers: Sequence[int]) -> dict[int, bytes]:
    """Some blocks of hashes by number."""
    sql, names = _blocks_of(len(numbers))
    return dict(rows.tuples(sql, **dict(zip(names, numbers, strict=True)))) if numbers else {}


@cache
def _blocks_of(count: int) -> tuple[str, list[str]]:
    names = [f"n{i}" for i in range(count)]
    return f"SELECT block, hashes FROM audit_blocks WHERE block IN ({', '.join(f':{name}' for name in names)})", names


def last_block(rows: Connection) -> tuple[int, bytes] | None:
    """The block with the highest number."""
    found = rows.tuples("SELECT block, hashes FROM audit_blocks ORDER BY block DESC LIMIT 1")
    return (found[0][0], found[0][1]) if found else None


def hashes(rows: Connection, subtrees: Sequence[Subtree]) -> list[bytes]:
    """The hashes of complete subtrees, in the order asked for; KeyError where one is missing."""
    places = [divmod(number(level, index), IN_BLOCK) for level, index in subtrees]
    found = blocks_of(rows, list({block for block, _ in places}))
    values = [found[block][place * HASH_BYTES : (place + 1) * HASH_BYTES] for block, place in places]
    if not {bytes}.issuperset(map(type, values)) or not {HASH_BYTES}.issuperset(map(len, values)):
        raise KeyError("a block of hashes is no bytes, or ends too early")
    return values


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


def events_between(rows: Connection, first: int, last: int) -> list[EventRow]:
    """The events at the positions from first up to and including last, in order."""
    return rows.tuples(
        f"SELECT {_EVENT} FROM events WHERE position >= :first AND position <= :last ORDER BY position",
        first=first,
        last=last,
    )


def bodies_between(rows: Connection, first: int, last: int) -> list[Body]:
    """The events at the positions from first up to and including last, in order, without their positions."""
    return rows.tuples(
        f"SELECT {_BODY} FROM events WHERE position >= :first AND position <= :last ORDER BY position",
        first=first,
        last=last,
    )


_LEAF_OF = f"""
    SELECT {", ".join(f"e.{name}" for name in COLUMNS)}, r.leaf_index, r.position, r.count, r.integrated_at,
           (SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1)
    FROM events e LEFT JOIN audit_leaves r
    ON r.position = (SELECT max(position) FROM audit_leaves WHERE position <= e.position)
    WHERE e.event_id = :event_id
"""


def leaf_of(rows: Connection, event_id: str) -> tuple[EventRow, tuple[Any, ...], str | None] | None:
    """(event, (leaf_index, position, count, integrated_at) of the run that would hold it, the newest checkpoint's note)."""
    found = rows.tuples(_LEAF_OF, event_id=event_id)
    return (found[0][:9], found[0][9:13], found[0][13]) if found else None


def events_of(rows: Connection, event_type: str) -> list[Row]:
    """Every event of one type, oldest first: for types that are rare."""
    return rows.all("SELECT * FROM events WHERE event_type = :type ORDER BY position", type=event_type)


def last_event(rows: Connection) -> int:
    """The highest position that is taken, 0 without any."""
    row = rows.one("SELECT coalesce(max(position), 0) AS last FROM events")
    return int(row["last"]) if row else 0


def intruders(rows: Connection, limit: int) -> list[Row]:
    """Events before the last integrated one that no leaf holds: written past the log."""
    return rows.all(
        f"""
        SELECT position, event_id, before_leaf FROM (
            SELECT e.position, e.event_id,
                   (SELECT min(l.leaf_index) FROM audit_leaves l WHERE l.position > e.position) AS before_leaf
            FROM events e
            WHERE e.position < (SELECT coalesce(min(position), 0) FROM audit_leaves)
            UNION ALL
            SELECT e.position, e.event_id, gap.leaf_index FROM (
                SELECT leaf_index, position AS high,
                       lag(position + count) OVER (ORDER BY position) AS low FROM audit_leaves
            ) gap JOIN events e ON e.position >= gap.low AND e.position < gap.high
            WHERE gap.low < gap.high
        ) found WHERE position < {_TAKEN} ORDER BY position LIMIT :limit
        """,
        limit=limit,
    )


def events(rows: Connection, conditions: Mapping[str, Any], *, after: int, limit: int) -> list[Row]:
    """Events that meet every condition (see `CONDITIONS`), oldest first."""
    return rows.all(
        f"SELECT * FROM events WHERE position > :after{_where(conditions, 'low')} ORDER BY position LIMIT :limit",
        **{**conditions, "after": max(after, conditions.get("low", 1) - 1), "limit": limit},
    )


def newest_events(rows: Connection, conditions: Mapping[str, Any], *, before: int, limit: int) -> list[Row]:
    """Events that meet every condition, newest first."""
    return rows.all(
        f"SELECT * FROM events WHERE position < :before{_where(conditions, 'high')} ORDER BY position DESC LIMIT :limit",
        **{**conditions, "before": min(before, conditions.get("high", before) + 1), "limit": limit},
    )


def counts(rows: Connection, conditions: Mapping[str, Any]) -> list[Row]:
    """How many events there are of each type, severity, actor and kind of resource."""
    return rows.all(
        f"""
        SELECT event_type AS type, severity, actor AS user, resource_type, count(*) AS n FROM events
        WHERE position >= :low{_where(conditions, "low")} GROUP BY event_type, severity, actor, resource_type
        """,
        **{"low": 1, **conditions},
    )


def _where(conditions: Mapping[str, Any], without: str) -> str:
    """The conditions but one, which the statement has already."""
    return "".join(f" AND {CONDITIONS[name]}" for name in conditions if name != without)
