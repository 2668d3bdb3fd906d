"""What the log decides without touching anything: a report's figures, what may be logged, what a period is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.events import Event
from modelyard.core.instants import Instant, as_utc, micros

MARK = "$sealed"  # in the details of an event about a person, before what stands for what was said
LONGEST_TEXT = 512  # characters of an actor, a kind or an identifier: fits every index of both databases
LONGEST_DETAILS = 65_536  # bytes: an event says what happened; bytes belong into an artifact


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
    if "\x00" in value or not (value.isascii() or _storable(value)):
        raise Invalid(f"{what} holds a NUL or half a surrogate pair, which no database stores. Remove it.")
    return value


def checked_details(details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The details themselves if they can stand in an event.

    >>> checked_details({"ip_address": "192.0.2.1"})
    {'ip_address': '192.0.2.1'}
    """
    details_text(details)
    return details


def details_text(details: Mapping[str, Any]) -> str:
    """The canonical JSON of what somebody tells of: it says `reported: true` of itself.

    >>> details_text({"n": 1})
    '{"n":1,"reported":true}'
    """
    if not isinstance(details, Mapping):
        raise Invalid(f"details are {type(details).__name__}, not a mapping of names to values.")
    if MARK in details:
        raise Invalid(f"details must not hold {MARK!r}: that is how the log marks what it sealed. Rename it.")
    try:
        written = dumps({**details, "reported": True})
    except UnicodeDecodeError as error:
        raise Invalid("details hold half a surrogate pair, which no database stores. Remove it.") from error
    if len(written) * 4 > LONGEST_DETAILS and len(written.encode()) > LONGEST_DETAILS:
        raise Invalid(
            f"details have {len(written)} characters; at most {LONGEST_DETAILS} bytes are kept. Store a file."
        )
    return written


def parsed(details: str) -> dict[str, Any]:
    """The details of a stored event; {} where it holds none that can be read.

    >>> parsed("nonsense")
    {}
    """
    try:
        found = json.loads(details)
    except (ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def _storable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
