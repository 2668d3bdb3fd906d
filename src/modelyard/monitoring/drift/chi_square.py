"""Chi-square of homogeneity: have the shares of a column's levels moved? A test; missing is a level."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import ColumnProfile, aligned
from modelyard.stats.two_sample import homogeneity


def chi_square(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """Pearson's statistic of the table (reference, current) x levels, with its p-value.

    Never goodness of fit: the reference is a sample too, and taking it as exact alarms on every second quiet window.
    """
    if reference.shape.kind != "level":
        return Measurement(name="chi_square", value=None, note="only for levels")
    value, p_value = homogeneity(*aligned(reference, current))
    return Measurement(
        name="chi_square", value=value, p_value=p_value, n=current.rows, method="chi-square of homogeneity"
    )
