"""The log's events as lines of the portable layout, and a log of other origin taken in from such lines.

A line of an event that a leaf holds is exactly the leaf's bytes (RFC 6962, 2.1): SHA-256 over a zero byte and the line is
its hash in the tree, so that whoever has the lines, a checkpoint and the public key can check the whole log. An event that
waits for its leaf has null for `index` and `integrated_at`. Of an expired event the line says what is left of it, and its
leaf's hash stands beside it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.audit import store, tables
from modelyard.audit.keyring import Keyring
from modelyard.audit.leaves import COLUMNS, LEAF_VERSION, EventRow, leaf_bytes
from modelyard.audit.merkle import EMPTY_ROOT, append, fold, leaf_hash
from modelyard.audit.notes import Checkpoint
from modelyard.audit.subjects import SubjectKeys
from modelyard.core.canonical import canonical, dumps
from modelyard.core.documents import Document
from modelyard.core.errors import Conflict, Damaged, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import from_micros
from modelyard.core.ports import Connection
from modelyard.core.work import EVENT_COLUMNS, Work, insert_events

PAGE = 2_000
# Events by which a log steers itself: its keys, its rules, what expires, what is held. No other log is steered by them.
STEERING = frozenset({EventType.KEY_ROTATED, EventType.EVENTS_EXPIRED, EventType.HOLD_PLACED, EventType.HOLD_LIFTED})
OWN_KINDS = frozenset({"audit_trail", "audit_witness"})  # what a changed configuration of the log is about


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One event: its UTC day as YYYY/MM/DD, its line, and what stands beside it where it has expired or is sealed."""

    day: str
    data: bytes
    index: int | None
    hash: bytes
    expired: Document | None = None
    sealed: Document | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One event as a line tells it: its row, where it stood in the log it came from, and its leaf's hash there."""

    row: Mapping[str, Any]
    index: int | None
    hash: bytes

    @property
    def steers(self) -> bool:
        """Whether the log that it comes from is steered by it."""
        kind = EventType(self.row["event_type"])
        if json.loads(self.row["details"]).get("reported"):  # what people tell of steers nothing
            return False
        return kind in STEERING or (kind is EventType.CONFIGURATION_CHANGED and self.row["resource_type"] in OWN_KINDS)


def lines(rows: Connection) -> Iterator[Line]:
    """Every event in the log's order."""
    after, last = -1, 0
    while runs := store.runs(rows, after, PAGE):
        for index, position, count, integrated_at, *_ in runs:
            last = position + count - 1
            for first in range(position, last + 1, PAGE):
                yield from _page(rows, first, min(first + PAGE - 1, last), (index - position, integrated_at))
            after = index
    while events := rows.tuples(f"{_EVENTS} WHERE position > :after ORDER BY position LIMIT {PAGE}", after=last):
        yield from _page(rows, last + 1, events[-1][0], None)
        last = events[-1][0]


def _page(rows: Connection, first: int, last: int, leaf: tuple[int, int] | None) -> Iterator[Line]:
    """The events between two positions; `leaf` is what to add to a position for its index, and the time of integration."""
    gone, sealed = tables.expired(rows, first, last), {p[0]: p for p in tables.payloads(rows, first, last)}
    for event in store.events_between(rows, first, last):
        position, event_id, occurred_at, details = event[0], event[1], event[7], event[8]
        if dumps(json.loads(details)) != details:
            raise Damaged(f"The event {event_id} was changed by other means than modelyard: modelyard audit verify")
        index = None if leaf is None else leaf[0] + position
        data = _bytes(index, None if leaf is None else leaf[1], event)
        own, beside, body = leaf_hash(data), None, sealed.get(position)
        if position in gone and index is not None:
            own = store.hashes(rows, [(0, index)])[0]
            beside = {"event_id": event_id, "expired_by": gone[position], "leaf_hash": own.hex()}
        yield Line(
            day=from_micros(occurred_at).strftime("%Y/%m/%d"),
            data=data,
            index=index,
            hash=own,
            expired=beside,
            sealed=body and {"event_id": event_id, "key": body[1], "body": base64.b64encode(body[2]).decode()},
        )


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


def told(line: bytes, leaf_hashes: Mapping[str, str]) -> Told:
    """The event that a line tells; Damaged unless a log could have written exactly it.

    `leaf_hashes` are those of expired events by their id, whose lines no longer have them.
    """
    try:
        found = json.loads(line)
        row = {name: found[name] for name in COLUMNS} | {"details": dumps(found["details"])}
        index, integrated_at = found["index"], found["integrated_at"]
        EventType(row["event_type"]), EventSeverity(row["severity"])
        from_micros(row["occurred_at"])
        again = _bytes(index, integrated_at, tuple(row[name] for name in COLUMNS))
        own = bytes.fromhex(leaf_hashes[row["event_id"]]) if row["event_id"] in leaf_hashes else leaf_hash(line)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Damaged(f"A line of the log tells no event that is known here ({error}). Upgrade modelyard.") from error
    if again != line or not isinstance(found["details"], dict):
        raise Damaged(f"The line of the event {row['event_id']!r:.80} is not as a log writes it.")
    return Told(row=row, index=index, hash=own)


def check_log(leaves: Sequence[tuple[int, bytes]], note: str, keys: str) -> Checkpoint:
    """What the note says, once it is sure that it signs exactly these (index, leaf hash), given in order."""
    try:
        signed = Keyring.parse(keys).checkpoint(note)
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
    """Those events that belong here and are not here yet; Conflict for one that is here and differs."""
    some = [one for one in some if not one.steers]
    names = {f"e{number}": one.row["event_id"] for number, one in enumerate(some)}
    places = ", ".join(f":{name}" for name in names)
    found = rows.all(f"SELECT * FROM events WHERE event_id IN ({places})", **names) if names else []
    here = {row["event_id"]: row for row in found}
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


def take_in(work: Work, some: Sequence[Told], sealed: Mapping[str, Document]) -> None:
    """Write events behind all that are here, for nobody to hear of: leaves of this log, which signs them like its own.

    `sealed` are the sealed parts by event. Conflict if one tells that a person was erased whose key is here.
    """
    keys = SubjectKeys(work.store.folder)
    for one in some:
        if one.row["event_type"] == EventType.SUBJECT_ERASED.value:
            key = json.loads(one.row["details"]).get("key", "")
            if isinstance(key, str) and keys.has(key):
                raise Conflict(f"There a person was erased whose key {key} is still here. Erase them here first.")
    positions = insert_events(work.rows, [one.row for one in some])
    payloads = []
    for one, position in zip(some, positions, strict=True):
        part = sealed.get(one.row["event_id"])
        if part is not None:
            payloads.append({"position": position, "key_id": part["key"], "body": _body(part)})
    if payloads:
        tables.add_payloads(work.rows, payloads)


def _body(part: Document) -> bytes:
    try:
        return base64.b64decode(part["body"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise Damaged(f"The sealed part of the event {part['event_id']!r:.80} is not base64.") from error


def _bytes(index: int | None, integrated_at: int | None, event: EventRow) -> bytes:
    if index is not None and integrated_at is not None:
        return leaf_bytes(index, integrated_at, event)
    waiting = dict(zip(COLUMNS, event, strict=True))
    waiting["details"] = json.loads(waiting["details"])
    return canonical({**waiting, "index": None, "integrated_at": None, "v": LEAF_VERSION})


_EVENTS = f"SELECT {', '.join(COLUMNS)} FROM events"
