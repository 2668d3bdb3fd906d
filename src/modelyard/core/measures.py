"""Measurement: a number with its uncertainty and the method that made it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modelyard.core.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measured quantity.

    `value` is None when it is undefined (say, a true-positive rate without positives); `note` then says why.
    `low` and `high` bound the interval that `method` describes; `n` counts the units it rests on.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    window: tuple[Instant, Instant] | None = None
    method: str = ""
    unit: str = ""
    p_value: float | None = None
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)
