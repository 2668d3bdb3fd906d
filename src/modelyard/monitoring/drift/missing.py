"""Missing rate: does a number column lack more, or fewer, values than it did? A test."""

from __future__ import annotations

import numpy as np

from modelyard.core.measures import Measurement
from modelyard.monitoring.profile import ColumnProfile
from modelyard.stats.two_sample import homogeneity


def missing(reference: ColumnProfile, current: ColumnProfile) -> Measurement:
    """The change of the share of missing (or infinite) values, with the p-value of the 2 x 2 table."""
    change = current.missing / current.rows - reference.missing / reference.rows
    if reference.shape.kind != "number" or reference.missing + current.missing == 0:
        return Measurement(name="missing", value=change, n=current.rows, note="nothing is missing, or it is a level")
    tables = (np.array([c.rows - c.missing, c.missing]) for c in (reference, current))
    _, p_value = homogeneity(*tables)
    return Measurement(
        name="missing", value=change, p_value=p_value, n=current.rows, method="homogeneity of missing rates"
    )
