"""Anderson-Darling: have the numbers of a column moved? The deciding test for numbers."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import ColumnProfile
from modelyard.stats import two_sample


def anderson_darling(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """The two-sample statistic on the reference's quantile bins, with its p-value; missing values are left out."""
    if reference.shape.kind != "number":
        return Measurement(name="anderson_darling", value=None, note="only for numbers")
    value, p_value = two_sample.anderson_darling(reference.counts, current.counts)
    return Measurement(
        name="anderson_darling", value=value, p_value=p_value, n=current.rows, method="two-sample Anderson-Darling"
    )
