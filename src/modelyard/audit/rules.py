"""What the log decides without touching anything: a leaf's bytes, a report's figures, what may be logged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from json.encoder import encode_basestring
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid
from modelyard.core.events import Event
from modelyard.core.instants import Instant, as_utc, micros

LEAF_VERSION = 1
LONGEST_TEXT = 512  # characters of an actor, a kind or an identifier: fits every index of both databases
LONGEST_DETAILS = 65_536  # bytes: an event says what happened; bytes belong into an artifact
_TEXTS = ("actor", "details", "event_id", "event_type", "resource_id", "resource_type", "severity")


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """What happened in a period, with the checkpoint that binds every event in it.

    `summary` holds most_active_user, and counts by_type, by_severity, by_user and by_resource_type.
    """

    start_date: Instant
    end_date: Instant
    generated_at: Instant
    total_events: int
    security_violations: tuple[Event, ...]
    summary: Mapping[str, Any]
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What a full check of the log found.

    `first_bad` is the lowest leaf index that is not what was signed, None where all is well; `problems` says it in
    words, at most a hundred; `waiting` counts events that no leaf holds yet; `against` is the size of the outside
    checkpoint that was checked too, None without one. Without one, a log cut back to an earlier checkpoint, or
    rewritten by someone who holds the signing key, looks whole.
    """

    ok: bool
    size: int
    root: str
    checkpoints: int
    first_bad: int | None
    problems: tuple[str, ...]
    waiting: int
    against: int | None


def leaf_bytes(index: int, integrated_at: int, event: Mapping[str, Any]) -> bytes:
    """The canonical JSON (RFC 8785) of a leaf: its index, the time it was integrated, and the whole event row.

    `details` is canonical JSON already and stands in the leaf as it is stored, so another spelling of the same value is
    another leaf. Damaged for a row that no modelyard wrote.

    >>> row = dict.fromkeys(_TEXTS, "x") | {"details": "{}", "position": 7, "occurred_at": 0}
    >>> leaf_bytes(0, 5, row).decode()[:44]
    '{"actor":"x","details":{},"event_id":"x","ev'
    """
    position, occurred_at = event["position"], event["occurred_at"]
    if type(position) is not int or type(occurred_at) is not int or type(integrated_at) is not int:
        raise Damaged(f"The event of leaf {index} holds a number that no modelyard wrote.")
    texts = [event[name] for name in _TEXTS]
    if not all(type(text) is str for text in texts):
        raise Damaged(f"The event of leaf {index} holds a text that no modelyard wrote.")
    actor, _, event_id, event_type, resource_id, resource_type, severity = map(encode_basestring, texts)
    return (
        f'{{"actor":{actor},"details":{texts[1]},"event_id":{event_id},"event_type":{event_type},"index":{index},'
        f'"integrated_at":{integrated_at},"occurred_at":{occurred_at},"position":{position},"resource_id":{resource_id},'
        f'"resource_type":{resource_type},"severity":{severity},"v":{LEAF_VERSION}}}'
    ).encode("utf-8", "surrogatepass")


def checked_text(value: str, what: str) -> str:
    """The text itself if it can stand in an event: not empty, not over-long, printable in every database.

    >>> checked_text("", "user")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: user is empty. Pass who or what it was.
    """
    if not isinstance(value, str):
        raise Invalid(f"{what} is {type(value).__name__}, not text.")
    if not value.strip():
        raise Invalid(f"{what} is empty. Pass who or what it was.")
    if len(value) > LONGEST_TEXT:
        raise Invalid(f"{what} has {len(value)} characters; at most {LONGEST_TEXT} are kept. Shorten it.")
    if "\x00" in value or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise Invalid(f"{what} holds a NUL or half a surrogate pair, which no database stores. Remove it.")
    return value


def checked_details(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The details themselves if they can stand in an event.

    >>> checked_details({"ip_address": "192.0.2.1"})
    {'ip_address': '192.0.2.1'}
    """
    if not isinstance(details, Mapping):
        raise Invalid(f"details are {type(details).__name__}, not a mapping of names to values.")
    try:
        written = dumps(details)
    except UnicodeDecodeError as error:
        raise Invalid("details hold half a surrogate pair, which no database stores. Remove it.") from error
    if len(written.encode()) > LONGEST_DETAILS:
        raise Invalid(
            f"details have {len(written)} characters; at most {LONGEST_DETAILS} bytes are kept. Store a file."
        )
    return details


def period(start: datetime | None, end: datetime | None) -> dict[str, int]:
    """The conditions of a period: from start on, before end. A naive time is local time.

    >>> period(None, None)
    {}
    """
    found = {}
    if start is not None:
        found["start"] = micros(as_utc(start))
    if end is not None:
        found["end"] = micros(as_utc(end))
    if "start" in found and found["start"] > found.get("end", found["start"]):
        raise Invalid(f"start_date {start} lies after end_date {end}. Swap them.")
    return found


def csv_cell(value: Any) -> Any:
    """A value as a spreadsheet may open it: text that would start a formula gets a leading apostrophe (CWE-1236).

    >>> csv_cell("=1+1"), csv_cell("alice"), csv_cell(-1)
    ("'=1+1", 'alice', -1)
    """
    return "'" + value if isinstance(value, str) and value[:1] in "=+-@\t\r" and value else value
