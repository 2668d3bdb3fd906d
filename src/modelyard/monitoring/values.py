"""What monitoring answers with: frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.core.events import EventSeverity
from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement

EXCHANGEABLE = "Holds for rows that come in no particular order; thin or block a stream whose neighbours are alike."


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAlert:
    """One column that has changed: the deciding test, its p-value, that p-value adjusted for all columns, and how much.

    `magnitude` is the Jensen-Shannon distance, 0 (equal) to 1 (disjoint). `measurements` holds every statistic.
    """

    feature_name: str
    test: str
    statistic: float
    p_value: float
    adjusted_p_value: float
    magnitude: float
    severity: EventSeverity
    message: str
    at: Instant
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """One look at one window: every column's statistics, and the alerts among them."""

    model: str
    at: Instant
    rows: int
    reference_rows: int
    sensitivity: float
    alerts: tuple[DriftAlert, ...]
    columns: Mapping[str, tuple[Measurement, ...]]
    method: str = "Benjamini-Hochberg over the columns of one window"


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where a monitor's life-long test stands after a window.

    `e_value` reaches `threshold` with a chance of at most 1 / `threshold` over the whole life of a stream that has not
    changed. `columns` are those that alarm, each with the window in which its change seems to have begun.
    """

    model: str
    window: int
    rows: int
    e_value: float
    threshold: float
    alarmed: bool
    columns: Mapping[str, int]
    e_values: Mapping[str, float]
    note: str = EXCHANGEABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPerformance:
    """What a model did in a window of whole minutes. What cannot be said (no labels, one class) is None.

    `error_rate` is the share of requests that failed; latencies are in milliseconds, within 1 %. Precision, recall and
    F1 are the positive (last) class's for two classes, else means over the classes. `measurements` adds intervals.
    """

    model: str
    window_minutes: float
    prediction_count: int
    labelled_count: int
    accuracy: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None
    rmse: float | None
    error_rate: float | None
    latency_p50: float | None
    latency_p95: float | None
    latency_p99: float | None
    measurements: Mapping[str, Measurement] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSummary:
    """What a monitor compares with."""

    model: str
    rows: int
    columns: tuple[str, ...]
    sensitivity: float
    labelled: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedPrediction:
    """One answered request as a monitor keeps it."""

    request_id: str
    at: Instant
    prediction: Any = None
    probability: float | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    outcome: Any = None
    latency_ms: float | None = None
    failed: bool = False
