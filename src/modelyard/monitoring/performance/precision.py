"""Precision: of the predicted positives, the share that was right."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.performance.classes import over_classes
from modelyard.monitoring.tally import Tally


def precision(tally: Tally) -> Measurement:
    """The positive (last) class's precision for two classes, else the mean over the classes that were predicted."""
    return over_classes("precision", tally, lambda hit, said, _: (hit, said))
