"""Area under the ROC curve, from probabilities counted in thousandths."""

from __future__ import annotations

import math

import numpy as np

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import Array
from modelyard.monitoring.tally import GRID, Tally


def auc(tally: Tally) -> Measurement:
    """The chance that a positive outranks a negative, with Hanley and McNeil's 95 % interval (1982, Radiology 143)."""
    classes = sorted({truth for truth, _ in tally.scored})
    if len(classes) > 2:
        return Measurement(name="auc", value=None, note="only for two classes")
    negative, positive = np.zeros(GRID), np.zeros(GRID)
    last = "1" if set(classes) <= {"0", "1"} else classes[-1]
    for (truth, cell), n in tally.scored.items():
        (positive if truth == last else negative)[cell] += n
    n, m = positive.sum(), negative.sum()
    if not n or not m:
        return Measurement(name="auc", value=None, note="needs labelled probabilities of both classes")
    value = area(positive, negative)
    q1, q2 = value / (2 - value), 2 * value**2 / (1 + value)
    variance = (value * (1 - value) + (n - 1) * (q1 - value**2) + (m - 1) * (q2 - value**2)) / (n * m)
    half = 1.96 * math.sqrt(max(variance, 0.0))
    low, high = max(0.0, value - half), min(1.0, value + half)
    return Measurement(name="auc", value=value, low=low, high=high, n=int(n + m), method="Hanley-McNeil 95 %")


def area(positive: Array, negative: Array) -> float:
    """The area from weights over ordered cells; ties count half."""
    below = np.cumsum(negative) - negative / 2
    return float(positive @ below / (positive.sum() * negative.sum()))
