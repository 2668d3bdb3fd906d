"""Monitoring: drift with controlled false alarms, performance with and without labels, explanations."""

from typing import TYPE_CHECKING, Any

from modelyard.monitoring.service import Monitors
from modelyard.monitoring.values import (
    DriftAlert,
    DriftReport,
    LoggedPrediction,
    ModelPerformance,
    ReferenceSummary,
    Watched,
)

if TYPE_CHECKING:
    from modelyard.monitoring.monitor import MLMonitor

__all__ = [
    "DriftAlert",
    "DriftReport",
    "LoggedPrediction",
    "MLMonitor",
    "ModelPerformance",
    "Monitors",
    "ReferenceSummary",
    "Watched",
]


def __getattr__(name: str) -> Any:
    """MLMonitor on first use: it brings NumPy and SciPy."""
    if name != "MLMonitor":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modelyard.monitoring.monitor import MLMonitor

    return MLMonitor
