"""Whether two forms of one model answer alike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from modelyard.core.models import Parity

Array = np.ndarray[Any, np.dtype[Any]]

EXACT, NEAR = 1e-6, 1e-5


def parity(native: Array, exported: Array, *, sample: int) -> Parity:
    """Whether the exported form answers as the native one does.

    Rows (n, ...) hold probabilities or predictions: first `sample` ordinary rows, then boundary rows. Differences are
    relative beyond 1, and 1e-6 is exact; up to 1e-5 passes as what float32 arithmetic does to float64 answers.

    >>> parity(np.array([0.25, 0.5]), np.array([0.25, 0.5000001]), sample=2).passed
    True
    """
    gap = np.abs(np.asarray(exported, dtype=np.float64) - native) / np.maximum(1.0, np.abs(native))
    largest = float(np.nanmax(gap)) if np.isfinite(gap).any() else math.inf
    if not np.isfinite(gap).all():
        largest = math.inf
    if largest <= EXACT:
        return Parity(rows=len(native), max_difference=largest, tolerance=EXACT, passed=True)
    if largest <= NEAR:
        reason = "One form computes in float32, the other in float64."
        return Parity(rows=len(native), max_difference=largest, tolerance=NEAR, passed=True, reason=reason)
    off = gap.reshape(len(gap), -1).max(axis=1) > NEAR
    reason = (
        f"{int(off[:sample].sum())} of {sample} ordinary rows and {int(off[sample:].sum())} of {len(gap) - sample} boundary "
        f"rows differ by more than {NEAR}. The native model answers instead."
    )
    shown = largest if math.isfinite(largest) else 1e308
    return Parity(rows=len(native), max_difference=shown, tolerance=NEAR, passed=False, reason=reason)
