"""How far a shadow's answer lies from the primary's, by the type of the output. Pure.

For a classifier with probabilities it is the total variation distance between them, for one without the share of rows with
another class, for a regression the relative difference; of several rows the largest (the share, for classes). All lie
between 0 and 1, but for numbers of different sign.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from modelyard.core.ports import Output
from modelyard.core.traffic import DISTANCES

NUMBERS_AGREE = 1e-3  # of each other, where no tolerance is given
NOTHING = 1e-9  # numbers as small as this are 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the answers agree, and how far apart they are."""

    agrees: bool
    distance: float

    @property
    def place(self) -> int:
        """The distance's place among DISTANCES; one more than the last for what is farther."""
        return bisect_left(DISTANCES, self.distance)


def compared(primary: Output, shadow: Output, *, regression: bool, tolerance: float | None) -> Comparison:
    """Classes agree when they are the same in every row, and with a tolerance if the probabilities are that near too;
    numbers when they are within the tolerance, 0.1 % without one.

    >>> one = Output(predictions=np.array([1]), probabilities=np.array([[0.4, 0.6]]))
    >>> two = Output(predictions=np.array([1]), probabilities=np.array([[0.3, 0.7]]))
    >>> found = compared(one, two, regression=False, tolerance=0.05)
    >>> found.agrees, round(found.distance, 9)
    (False, 0.1)
    """
    if np.shape(primary.predictions) != np.shape(shadow.predictions):
        return Comparison(False, 1.0)
    if regression:
        distance = _apart(primary.predictions, shadow.predictions)
        return Comparison(distance <= (NUMBERS_AGREE if tolerance is None else tolerance), distance)
    other = np.asarray(primary.predictions != shadow.predictions)
    distance = float(np.mean(other)) if other.size else 0.0
    same, nearness = not other.any(), _between(primary.probabilities, shadow.probabilities)
    if nearness is None:
        return Comparison(same, distance)
    return Comparison(same and (tolerance is None or nearness <= tolerance), nearness)


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest relative difference; what is missing in both, or infinite alike, is no difference."""
    a, b = np.asarray(one, dtype=np.float64).ravel(), np.asarray(other, dtype=np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        unlike = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= NOTHING))
        if not unlike.any():
            return 0.0
        found = np.abs(a - b)[unlike] / np.maximum(np.abs(a), np.abs(b))[unlike]
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))


def _between(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """The largest total variation distance of a row's probabilities; None where they cannot be compared."""
    if one is None or other is None or one.shape != other.shape or one.ndim != 2 or not len(one):
        return None
    found = np.abs(one - other).sum(axis=1) / 2
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))
