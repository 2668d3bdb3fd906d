"""Wasserstein distance: how far the average value has to travel, in the column's own unit. A magnitude."""

from __future__ import annotations

import numpy as np

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import Array, ColumnProfile
from modelyard.stats import two_sample


def wasserstein(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """The 1-Wasserstein distance with every value at the mean of its bin."""
    if reference.shape.kind != "number" or not current.counts.any():
        return Measurement(name="wasserstein", value=None, note="only for numbers, and where some are present")
    value = two_sample.wasserstein(_points(reference), _points(current))
    return Measurement(name="wasserstein", value=value, n=current.rows, method="1-Wasserstein on bin means")


def _points(column: ColumnProfile) -> tuple[Array, Array]:
    filled = np.flatnonzero(column.counts)
    return column.sums[filled] / column.counts[filled], column.counts[filled]
