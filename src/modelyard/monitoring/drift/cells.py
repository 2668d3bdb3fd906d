"""Coarse cells for magnitudes, whose bias grows with the number of cells."""

from __future__ import annotations

import numpy as np

from modelyard.monitoring.profile import Array, ColumnProfile

TENTHS = 10
COMMON = 19


def coarse(reference: ColumnProfile, current: ColumnProfile) -> tuple[Array, Array]:
    """Both columns' counts on tenths of the reference, or on its 19 commonest levels and the rest; missing comes last."""
    if reference.shape.kind == "number":
        before = np.cumsum(reference.counts) - reference.counts
        group = np.minimum(before * TENTHS // max(int(reference.counts.sum()), 1), TENTHS - 1)
    else:
        group = np.minimum(np.arange(reference.shape.cells), COMMON)
    group = np.append(group, group.max() + 1)
    tables = (np.bincount(group, column.table) for column in (reference, current))
    first, second = tables
    keep = (first + second) > 0
    return first[keep], second[keep]
