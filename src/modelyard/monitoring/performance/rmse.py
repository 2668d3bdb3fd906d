"""Root mean squared error of numeric predictions."""

from __future__ import annotations

import math

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally


def rmse(tally: Tally) -> Measurement:
    """The root of the mean squared error, with the delta method's 95 % interval; None without labelled numbers."""
    rows, _, squares, fourths = tally.errors
    if not rows:
        return Measurement(name="rmse", value=None, note="no labelled numeric predictions")
    mean = squares / rows
    half = 1.96 * math.sqrt(max(fourths / rows - mean**2, 0.0) / rows)
    low, high = math.sqrt(max(mean - half, 0.0)), math.sqrt(mean + half)
    return Measurement(name="rmse", value=math.sqrt(mean), low=low, high=high, n=int(rows), method="delta 95 %")
