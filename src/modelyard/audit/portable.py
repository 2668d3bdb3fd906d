"""The log's events as lines of the portable layout, and a log of other origin taken in from such lines.

A line of an event that a leaf holds is exactly the leaf's bytes (RFC 6962, 2.1): SHA-256 over a zero byte and the line is
its hash in the tree, so that whoever has the lines, a checkpoint and the public key can check the whole log. An event that
waits for its leaf has null for `index` and `integrated_at`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.audit import store
from modelyard.audit.leaves import COLUMNS, LEAF_VERSION, leaf_bytes
from modelyard.audit.merkle import EMPTY_ROOT, append, fold, leaf_hash
from modelyard.audit.notes import Checkpoint, PublicKey, checkpoint
from modelyard.core.canonical import canonical, dumps
from modelyard.core.documents import Document
from modelyard.core.errors import Conflict, Damaged, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import from_micros
from modelyard.core.ports import Connection, Row
from modelyard.core.work import EVENT_COLUMNS, insert_events

PAGE = 2_000
EVENTS = """
SELECT e.position, e.event_id, e.event_type, e.severity, e.actor, e.resource_type, e.resource_id, e.occurred_at, e.details,
       l.leaf_index, l.integrated_at
FROM events e LEFT JOIN audit_leaves l ON l.position = e.position
WHERE e.position > :after ORDER BY e.position LIMIT :limit
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event as a line tells it: its row, where it stood in the log it came from, and its leaf's hash there."""

    row: Mapping[str, Any]
    index: int | None
    hash: bytes | None


def lines(rows: Connection) -> Iterator[tuple[str, bytes]]:
    """(day as YYYY/MM/DD in UTC, line without its end) of every event, in the log's order."""
    after = 0
    while page := rows.all(EVENTS, after=after, limit=PAGE):
        for row in page:
            yield from_micros(row["occurred_at"]).strftime("%Y/%m/%d"), _line(row)
        after = page[-1]["position"]


def reports(rows: Connection) -> Iterator[tuple[str, Document]]:
    """(event id, what was reported) of every report that was made."""
    kinds = (EventType.REPORT_GENERATED, EventType.COMPLIANCE_ASSESSED, EventType.BIAS_ASSESSED)
    wanted = ", ".join(f"'{kind.value}'" for kind in kinds)
    after = 0
    while page := rows.all(
        f"SELECT * FROM events WHERE event_type IN ({wanted}) AND position > :after ORDER BY position LIMIT :limit",
        after=after,
        limit=PAGE,
    ):
        for row in page:
            told = {name: row[name] for name in ("event_id", "event_type", "actor", "resource_type", "resource_id")}
            at = from_micros(row["occurred_at"])
            yield row["event_id"], {**told, "occurred_at": at, "details": json.loads(row["details"])}
        after = page[-1]["position"]


def newest_note(rows: Connection) -> tuple[int, str] | None:
    """(size, text) of the newest checkpoint; None for a log that has none."""
    row = store.last_checkpoint(rows)
    return None if row is None else (row["size"], row["note"])


def told(line: bytes) -> Told:
    """The event that a line tells; Damaged unless a log could have written exactly it."""
    try:
        found = json.loads(line)
        row = {name: found[name] for name in COLUMNS} | {"details": dumps(found["details"])}
        index, integrated_at = found["index"], found["integrated_at"]
        EventType(row["event_type"]), EventSeverity(row["severity"])
        from_micros(row["occurred_at"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Damaged(f"A line of the log tells no event that is known here ({error}). Upgrade modelyard.") from error
    again = _bytes(index, integrated_at, row)
    if again != line:
        raise Damaged(f"The line of the event {row['event_id']!r:.80} is not as a log writes it.")
    return Told(row=row, index=index, hash=None if index is None else leaf_hash(line))


def check_log(leaves: Sequence[tuple[int, bytes]], note: str, key: str) -> Checkpoint:
    """What the note says, once it is sure that it signs exactly these (index, leaf hash), given in order."""
    try:
        signed = checkpoint(note, PublicKey.parse(key))
    except YardError as error:
        raise Damaged(f"The log's checkpoint cannot be trusted: {error}") from error
    frontier: list[bytes] = []
    for number, (index, value) in enumerate(leaves):
        if index != number:
            raise Damaged(f"The log lacks its leaf {number}, or has it twice.")
        append(frontier, number, value)
    if signed.size != len(leaves) or signed.root != (fold(frontier) if frontier else EMPTY_ROOT):
        raise Damaged(f"The {len(leaves)} events of the log are not what its checkpoint of {signed.size} signed.")
    return signed


def unknown(rows: Connection, some: Sequence[Told]) -> list[Told]:
    """Those events that are not here yet; Conflict for one that is here and differs."""
    names = {f"e{number}": one.row["event_id"] for number, one in enumerate(some)}
    places = ", ".join(f":{name}" for name in names)
    here = {row["event_id"]: row for row in rows.all(f"SELECT * FROM events WHERE event_id IN ({places})", **names)}
    fresh = []
    for one in some:
        known = here.get(one.row["event_id"])
        if known is None:
            fresh.append(one)
        elif any(known[name] != one.row[name] for name in EVENT_COLUMNS):
            raise Conflict(
                f"The event {one.row['event_id']} is here already and says something else. Verify both logs."
            )
    return fresh


def take_in(rows: Connection, some: Iterable[Told]) -> None:
    """Write events behind all that are here, for nobody to hear of: leaves of this log, which signs them like its own."""
    insert_events(rows, [one.row for one in some])


def _line(row: Row) -> bytes:
    found = _bytes(row["leaf_index"], row["integrated_at"], row)
    if dumps(json.loads(row["details"])) != row["details"]:
        raise Damaged(f"The event {row['event_id']} was changed by other means than modelyard: modelyard audit verify")
    return found


def _bytes(index: int | None, integrated_at: int | None, row: Mapping[str, Any]) -> bytes:
    if index is not None and integrated_at is not None:
        return leaf_bytes(index, integrated_at, tuple(row[name] for name in COLUMNS))
    waiting = {name: row[name] for name in COLUMNS} | {"details": json.loads(row["details"])}
    return canonical({**waiting, "index": None, "integrated_at": None, "v": LEAF_VERSION})
