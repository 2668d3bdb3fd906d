"""Kolmogorov-Smirnov: have the numbers of a column moved? Reported beside the deciding test."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import ColumnProfile
from modelyard.stats.two_sample import kolmogorov_smirnov


def ks(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """The largest distance of two cumulative shares, 0 to 1, with its p-value; missing values are left out."""
    if reference.shape.kind != "number":
        return Measurement(name="ks", value=None, note="only for numbers")
    value, p_value = kolmogorov_smirnov(reference.counts, current.counts)
    return Measurement(name="ks", value=value, p_value=p_value, n=current.rows, method="two-sample Kolmogorov-Smirnov")
