"""Many tests at once: p-values adjusted so that one threshold holds for all of them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def benjamini_hochberg(p_values: Array) -> Array:
    """Adjusted p-values: rejecting those at or below q keeps the expected share of false rejections at or below q.

    Holds for independent and for positively dependent tests; where nothing has changed, the chance of any rejection is
    then at most q. Source: Benjamini & Hochberg 1995, doi 10.1111/j.2517-6161.1995.tb02031.x.

    >>> benjamini_hochberg(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.04, 0.04]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    np.minimum(adjusted, 1.0, out=adjusted)
    return adjusted


def holm(p_values: Array) -> Array:
    """Adjusted p-values: rejecting those at or below a keeps the chance of any false rejection at or below a, whatever
    the dependence. Source: Holm 1979, Scandinavian Journal of Statistics 6(2).

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(scaled)
    np.minimum(adjusted, 1.0, out=adjusted)
    return adjusted
