"""Numbers that JSON has not, found in a body that was refused for them.

Python's own `json` writes NaN and Infinity, which no strict reader takes, and a reader says only at which byte. Here the
feature or the input is named.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import Any

LARGEST = 1 << 18  # bytes of a body that is read a second time


def fault(body: bytes | memoryview) -> str | None:
    """What is wrong with a body whose only fault is such a number; None for another."""
    if len(body) > LARGEST:
        return None
    try:
        found = json.loads(bytes(body))
    except (ValueError, RecursionError):
        return None
    place = _place(found) if isinstance(found, dict) else None
    if place is None:
        return None
    return f"{place}, which is no number in JSON. Send a finite number, or null where it is missing."


def _place(found: dict[str, Any]) -> str | None:
    rows, inputs = found.get("features"), found.get("inputs")
    for place, row in enumerate(rows if isinstance(rows, list) else [rows]):
        for name, value in row.items() if isinstance(row, dict) else ():
            if isinstance(value, float) and not isfinite(value):
                return f"Row {place}: the feature {name!r} is {value}"
    for one in inputs if isinstance(inputs, list) else ():
        value = _infinite(one.get("data")) if isinstance(one, dict) else None
        if value is not None:
            return f"The input {one.get('name')!r} has the value {value}"
    return None


def _infinite(data: Any) -> float | None:
    """The first such number of a tensor's data, which may be nested."""
    waiting = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, float) and not isfinite(value):
            return value
    return None
