"""Accuracy: the share of labelled predictions that were right."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally
from modelyard.stats.two_sample import wilson


def accuracy(tally: Tally) -> Measurement:
    """The share with Wilson's 95 % interval; None without labelled classes."""
    rows = tally.pairs.total()
    if not rows:
        return Measurement(name="accuracy", value=None, note="no labelled predictions of classes")
    right = sum(n for (truth, said), n in tally.pairs.items() if truth == said)
    low, high = wilson(right, rows)
    return Measurement(name="accuracy", value=right / rows, low=low, high=high, n=rows, method="Wilson 95 %")
