"""What every runtime does alike: numbers as float32, and the likeliest class with ties settled."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

TIE = 1e-6  # float32 and float64 forms of one model differ by less; within it the earlier class is taken


def likeliest(probabilities: Array) -> Array:
    """The position of each row's likeliest class (n,), the earlier of classes that are alike to 1e-6.

    A forest's votes often tie exactly, and rounding would otherwise let two forms of one model answer differently.

    >>> likeliest(np.array([[0.5, 0.5000001], [0.2, 0.8]])).tolist()
    [0, 1]
    """
    if probabilities.shape[1] == 2:
        found: Array = (probabilities[:, 1] - probabilities[:, 0] > TIE).astype(np.intp)
        return found
    return np.asarray((probabilities >= probabilities.max(axis=1, keepdims=True) - TIE).argmax(axis=1))


def as_float32(values: Array) -> Array:
    """The nearest float32 numbers, as float64: what an exported graph sees, so that every form sees the same."""
    with np.errstate(over="ignore"):  # beyond 3.4e38 is infinite to a float32 model
        return values.astype(np.float32).astype(np.float64)
