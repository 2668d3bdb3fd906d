"""Predictions and outcomes: what a model said, and what later turned out to be true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.core.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One answered request."""

    request_id: str
    model: str
    version: str
    at: Instant
    features: Mapping[str, Any] = field(default_factory=dict)
    prediction: Any = None
    probabilities: tuple[float, ...] | None = None
    latency_ms: float = 0.0
    arm: str = "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The truth about an earlier request, joined to it by request id."""

    request_id: str
    value: Any
    at: Instant
