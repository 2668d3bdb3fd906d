"""F1: the harmonic mean of precision and recall."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.performance.classes import over_classes
from modelyard.monitoring.tally import Tally


def f1(tally: Tally) -> Measurement:
    """2 hits / (predicted + true) of the positive (last) class for two classes, else the mean over the classes."""
    found = over_classes("f1", tally, lambda hit, said, truth: (2 * hit, said + truth))
    return Measurement(name="f1", value=found.value, n=found.n, note=found.note)
