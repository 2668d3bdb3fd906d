"""Monitoring: drift with controlled false alarms, performance with and without labels, explanations."""

from modelyard.monitoring.monitor import MLMonitor
from modelyard.monitoring.service import Monitors
from modelyard.monitoring.values import (
    DriftAlert,
    DriftReport,
    LoggedPrediction,
    ModelPerformance,
    ReferenceSummary,
    Watched,
)

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
