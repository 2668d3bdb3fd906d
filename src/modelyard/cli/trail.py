"""The audit trail for people: when, what, who, of what, and why."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from modelyard.core.canonical import plain

WHY = ("reason", "justification", "comment", "conclusion", "statement", "message")  # what people and areas call it
INDENT = " " * 6


def trail(events: Any) -> str:
    """A line an event, and below it why, as wide as the terminal.

    >>> told = {"event_type": "alias_set", "severity": "info", "actor": "ana", "occurred_at": "2026-11-22T15:00:00.1Z"}
    >>> of = {"resource_type": "model", "resource_id": "fraud:v1.0.0", "details": {"reason": "Better."}, "position": 7}
    >>> print(trail([{**told, **of}]))
       7  2026-11-22 15:00:00  alias_set  ana  model fraud:v1.0.0
      Better.
    """
    wide = shutil.get_terminal_size().columns
    return "\n".join(line for event in plain(events) for line in _lines(event, wide))


def _lines(event: Mapping[str, Any], wide: int) -> Iterator[str]:
    loud = "" if event["severity"] == "info" else f" ({event['severity']})"
    at, of = event["occurred_at"][:19].replace("T", " "), f"{event['resource_type']} {event['resource_id']}"
    yield f"{event['position']:>4}  {at}  {event['event_type']}{loud}  {event['actor']}  {of}"
    for text in _why(event["details"]):
        yield from textwrap.wrap(text, max(40, wide), initial_indent=INDENT, subsequent_indent=INDENT)


def _why(details: Mapping[str, Any]) -> Iterator[str]:
    """What an event's details say of its reason: words where there are any, else what an endpoint does now."""
    trip = details.get("trip")
    told = [*_texts(details.get("reasons")), *_texts(trip and trip.get("reason"))]
    told += [text for name in WHY for text in _texts(details.get(name))]
    if not told and isinstance(details.get("traffic"), Mapping):
        arms = details["traffic"].get("arms", ())
        told = [", ".join(f"{arm['version']} {100 * arm['weight']:.3g}%" for arm in arms if arm["weight"])]
    yield from dict.fromkeys(told)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value else []
    return [str(one) for one in value] if isinstance(value, list | tuple) else []
