"""How far a shadow's answer lies from the primary's, by the type of the output. Pure.

For a classifier with probabilities it is the total variation distance between them, class by class whatever their order;
for one without it is the share of rows with another class; for a regression the relative difference. Of several rows it is
the largest (the share, for classes), of several outputs of a row too. All lie between 0 and 1, but for numbers of different
sign and for what is no number where the other is one, which is infinitely far.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard.core.ports import Output
from modelyard.core.traffic import DISTANCES

NUMBERS_AGREE = 1e-3  # of each other, where no tolerance is given
NOTHING = 1e-9  # numbers as small as this are 0

Classes = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether the answers agree, and how far apart they are."""

    agrees: bool
    distance: float

    @property
    def place(self) -> int:
        """The distance's place among DISTANCES; one more than the last for what is farther."""
        return bisect_left(DISTANCES, self.distance)


def compared(
    primary: Output,
    shadow: Output,
    *,
    regression: bool,
    tolerance: float | None,
    classes: tuple[Classes, Classes] = ((), ()),
) -> Comparison:
    """Classes agree when they are the same in every row, and with a tolerance if the probabilities are that near too;
    numbers when they are within the tolerance, 0.1 % without one. `classes` are the primary's and the shadow's, in the
    order of their probabilities; those that one of them does not know have a probability of 0 there.

    >>> one = Output(predictions=np.array([1]), probabilities=np.array([[0.4, 0.6]]))
    >>> two = Output(predictions=np.array([1]), probabilities=np.array([[0.3, 0.7]]))
    >>> found = compared(one, two, regression=False, tolerance=0.05)
    >>> found.agrees, round(found.distance, 9)
    (False, 0.1)
    """
    one, other = _by_row(primary.predictions), _by_row(shadow.predictions)
    if one.shape != other.shape:
        return Comparison(False, 1.0)
    if regression:
        distance = _apart(one, other)
        return Comparison(distance <= (NUMBERS_AGREE if tolerance is None else tolerance), distance)
    unlike = _unlike(one, other).any(axis=1)
    distance = float(np.mean(unlike)) if unlike.size else 0.0
    same, nearness = not unlike.any(), _between(primary.probabilities, shadow.probabilities, *classes)
    if nearness is None:
        return Comparison(same, distance)
    return Comparison(same and (tolerance is None or nearness <= tolerance), nearness)


def _by_row(values: np.ndarray) -> np.ndarray:
    """An answer of n rows with its outputs side by side: shape (n, outputs)."""
    found = np.asarray(values)
    return found.reshape(len(found), -1) if found.size else np.empty((len(found), 0))


def _unlike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where two arrays of classes differ. What is not-a-number in both does not; text and a number do."""
    found = np.broadcast_to(np.asarray(one != other, dtype=bool), one.shape)
    missing = (one != one) & (other != other)  # noqa: PLR0124 - only not-a-number differs from itself
    both: np.ndarray = found & ~np.asarray(missing, dtype=bool)
    return both


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest relative difference; what is missing in both, or infinite alike, is no difference."""
    try:
        a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    except (TypeError, ValueError):  # text or nothing in the place of a number
        return np.inf if _unlike(one, other).any() else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        unlike = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= NOTHING))
        if not unlike.any():
            return 0.0
        found = np.abs(a - b)[unlike] / np.maximum(np.abs(a), np.abs(b))[unlike]
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))


def _between(one: np.ndarray | None, other: np.ndarray | None, mine: Classes, theirs: Classes) -> float | None:
    """The largest total variation distance of a row's probabilities; None where they cannot be compared."""
    if one is None or other is None or not len(one) or len(one) != len(other):
        return None
    a, b = _of_classes(one), _of_classes(other)
    if list(mine) != list(theirs) and (a.shape[1], b.shape[1]) == (len(mine), len(theirs)):
        a, b = _in_order(a, mine, b, theirs)
    if a.shape != b.shape:
        return None
    found = np.where(np.isnan(a) & np.isnan(b), 0.0, np.abs(a - b)).sum(axis=1) / 2
    return float(np.max(np.where(np.isfinite(found), found, np.inf)))


def _of_classes(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities as (n, classes); a single one is that of the second of two."""
    found = _by_row(probabilities).astype(np.float64)
    return np.hstack([1 - found, found]) if found.shape[1] == 1 else found


def _in_order(a: np.ndarray, mine: Classes, b: np.ndarray, theirs: Classes) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities with their columns in the order of all classes that either knows."""
    names = list(dict.fromkeys(map(_key, (*mine, *theirs))))
    both = np.zeros((2, len(a), len(names)))
    for found, columns, classes in zip(both, (a, b), (mine, theirs), strict=True):
        found[:, [names.index(_key(one)) for one in classes]] = columns
    return both[0], both[1]


def _key(label: Any) -> Any:
    """A class as it is looked up: a list, as JSON has tuples, by its text."""
    return str(list(label)) if isinstance(label, (list, tuple)) else label
