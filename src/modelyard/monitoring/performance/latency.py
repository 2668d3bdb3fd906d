"""Latency quantiles in milliseconds, within 1 % (the log buckets of stats.sketch)."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally
from modelyard.stats.sketch import quantile


def latency_p50(tally: Tally) -> Measurement:
    """The median latency."""
    return _at(tally, 50)


def latency_p95(tally: Tally) -> Measurement:
    """The latency that 95 % of the requests stay under."""
    return _at(tally, 95)


def latency_p99(tally: Tally) -> Measurement:
    """The latency that 99 % of the requests stay under."""
    return _at(tally, 99)


def _at(tally: Tally, percent: int) -> Measurement:
    found = quantile(tally.latency, percent / 100)
    value = None if found is None else found / 1000
    return Measurement(name=f"latency_p{percent}", value=value, n=tally.latency.total(), unit="ms")
