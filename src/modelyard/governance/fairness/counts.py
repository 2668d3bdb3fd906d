"""The sufficient statistic of every group fairness measure: how often each (group, label, prediction) occurred."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid

MAX_GROUPS = 100  # an attribute with more values is a measurement, not a grouping
MISSING = "(missing)"


@dataclass(frozen=True, slots=True, eq=False)
class CountTable:
    """Counts of shape (groups, 2 labels, 2 predictions). Tables of separate records add up exactly."""

    groups: tuple[str, ...]
    cells: np.ndarray

    def merge(self, other: CountTable) -> CountTable:
        """The table of both sets of records."""
        groups = tuple(sorted({*self.groups, *other.groups}, key=_order))
        cells = np.zeros((len(groups), 2, 2), dtype=np.int64)
        for table in (self, other):
            cells[[groups.index(name) for name in table.groups]] += table.cells
        return CountTable(groups, cells)

    def only(self, keep: np.ndarray) -> CountTable:
        """The groups where `keep` is true."""
        return CountTable(tuple(np.asarray(self.groups, dtype=object)[keep]), self.cells[keep])


def count_table(y_true: Any, y_pred: Any, groups: Any) -> CountTable:
    """Count n records in one pass. Labels and predictions are 0 or 1, shape (n,); groups are any values, shape (n,).

    >>> count_table([1, 0, 1], [1, 1, 0], ["a", "a", "b"]).cells.tolist()
    [[[0, 1], [0, 1]], [[0, 0], [1, 0]]]
    """
    truth, answer = binary(y_true, "y_true"), binary(y_pred, "y_pred")
    names, codes = _encoded(groups)
    if not len(truth) == len(answer) == len(codes):
        raise Invalid(
            f"y_true has {len(truth)} values, y_pred {len(answer)} and the attribute {len(codes)}. "
            "Pass one of each per record."
        )
    if not len(truth):
        raise Invalid("There are no records to compare. Pass at least one.")
    cells = np.bincount((codes * 2 + truth) * 2 + answer, minlength=4 * len(names))
    return CountTable(names, cells.reshape(len(names), 2, 2).astype(np.int64))


def binary(values: Any, what: str) -> np.ndarray:
    """The values as integers 0 and 1; Invalid for anything else."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise Invalid(f"{what} has shape {array.shape}. Pass one value per record.")
    try:
        numbers = array.astype(float)
    except (TypeError, ValueError) as error:
        raise Invalid(f"{what} holds values that are not 0 or 1. Turn labels into 0 and 1 first.") from error
    known = (numbers == 0) | (numbers == 1)
    if not known.all():
        odd = numbers[~known][0]
        raise Invalid(f"{what} holds {odd:g}, which is neither 0 nor 1. Turn labels into 0 and 1 first.")
    return numbers.astype(np.int64)


def _encoded(groups: Any) -> tuple[tuple[str, ...], np.ndarray]:
    """Group names in order, and each record's index into them."""
    array = np.asarray(groups)
    if array.ndim != 1:
        raise Invalid(f"The attribute has shape {array.shape}. Pass one value per record.")
    if array.dtype == object:  # mixed types and missing values do not sort
        labels = [_name(value) for value in array.tolist()]
        found = sorted(set(labels), key=_order)
        place = {name: index for index, name in enumerate(found)}
        names, codes = tuple(found), np.fromiter((place[label] for label in labels), dtype=np.int64, count=len(labels))
    else:
        values, codes = _distinct(array)
        names = tuple(_name(value) for value in values.tolist())
    if len(names) > MAX_GROUPS:
        raise Invalid(
            f"The attribute has {len(names)} different values; at most {MAX_GROUPS} groups can be compared. "
            "Put the values into ranges first."
        )
    return names, codes


def _distinct(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """np.unique with the inverse; whole numbers close together, as codes are, need no sorting."""
    whole = array.dtype.kind in "iu" and array.dtype != np.uint64
    if whole and array.size and int(array.max()) - int(array.min()) < 10 * MAX_GROUPS:
        offsets = array.astype(np.int64) - int(array.min())
        found = np.flatnonzero(np.bincount(offsets))
        place = np.zeros(int(found[-1]) + 1, dtype=np.int64)
        place[found] = np.arange(len(found))
        return found + int(array.min()), place[offsets]
    return np.unique(array, return_inverse=True)


def _name(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, float):
        return MISSING if math.isnan(value) else str(int(value)) if value.is_integer() else str(value)
    return str(value)


def _order(name: str) -> tuple[int, float, str]:
    """Whole numbers by size, then text by letter."""
    return (0, float(name), "") if name.lstrip("-").isdecimal() else (1, 0.0, name)
