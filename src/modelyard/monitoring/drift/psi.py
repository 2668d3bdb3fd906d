"""Population stability index, on tenths of the reference or its commonest levels. A magnitude, not a test."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.drift.cells import coarse
from modelyard.monitoring.profile import ColumnProfile
from modelyard.stats.two_sample import population_stability


def psi(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """sum of (q - p) ln(q / p); there is no standard for its cells, so compare it only with itself."""
    value = population_stability(*coarse(reference, current))
    return Measurement(name="psi", value=value, n=current.rows, method="PSI on tenths of the reference")
