"""Jensen-Shannon distance, on tenths of the reference or its commonest levels: 0 to 1, the magnitude of an alert."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.drift.cells import coarse
from modelyard.monitoring.profile import ColumnProfile
from modelyard.stats import two_sample


def jensen_shannon(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """The base-2 distance of the two histograms, missing values as a cell."""
    value = two_sample.jensen_shannon(*coarse(reference, current))
    return Measurement(name="jensen_shannon", value=value, n=current.rows, method="Jensen-Shannon distance, base 2")
