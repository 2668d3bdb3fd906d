"""Recall: of the true positives, the share that was found."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.performance.classes import over_classes
from modelyard.monitoring.tally import Tally


def recall(tally: Tally) -> Measurement:
    """The positive (last) class's recall for two classes, else the mean over the classes that occurred."""
    return over_classes("recall", tally, lambda hit, _, truth: (hit, truth))
