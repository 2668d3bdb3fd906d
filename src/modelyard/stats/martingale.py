"""Has the law of a stream changed since the reference? A test for the whole life of a monitor.

Each row's smoothed conformal p-value among the reference and all earlier rows is uniform and independent of the others
while rows are exchangeable (Vovk, Gammerman & Shafer 2005). A test martingale bets against that; it starts at 1, and the
chance that it EVER reaches 1/a is at most a (Ville 1939), for any number of rows and looks.

The bets are mixtures, so that a stream's wealth is a function of a few sums, and windows merge by adding:
half is a grid of normal laws N(shift, scale) for the normal scores of the p-values, half a Dirichlet mixture of
histograms on ten bins (Krichevsky & Trofimov 1981). A bet is started anew at each window k with weight 1/(k (k + 1)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, np.dtype[Any]]

BINS = 10
SUMS = 3 + BINS  # rows, sum of scores, sum of squared scores, and the histogram of p-values

_SHIFTS = np.array([-1.6, -0.8, -0.4, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
_SCALES = np.array([0.5, 0.7, 0.85, 0.93, 1.0, 1.08, 1.2, 1.5, 2.5])
_PRIOR = 0.5  # Krichevsky and Trofimov's


def conformal_sums(bag: Array, cells: Array, random: np.random.Generator) -> Array:
    """The sums (SUMS,) of the rows' p-values, taken in order; `bag` (counts over the cells) takes the rows in, in place.

    `cells` are the rows' cells in 0..len(bag)-1. A row's p-value is the share of the bag, itself included, in lower cells
    plus a uniform part of the share in its own.
    """
    total = np.zeros(SUMS)
    for start in range(0, len(cells), 4096):
        part = cells[start : start + 4096]
        p = _p_values(bag, part, random.random(len(part)))
        bag += np.bincount(part, minlength=len(bag))
        scores = special.ndtri(np.clip(p, 1e-12, 1 - 1e-12))
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
        total += np.concatenate([[len(p), scores.sum(), (scores**2).sum()], np.bincount(bins, minlength=BINS)])
    return total


def log_wealth(sums: Array) -> Array:
    """The log of a bet's wealth after rows with the given sums (..., SUMS); 0 after no rows.

    >>> float(log_wealth(np.zeros(SUMS)))
    0.0
    """
    rows, linear, square = sums[..., 0, None, None], sums[..., 1, None, None], sums[..., 2, None, None]
    shift, scale = _SHIFTS[:, None], _SCALES[None, :]
    centred = square - 2 * shift * linear + rows * shift**2
    grid = -rows * np.log(scale) - centred / (2 * scale**2) + square / 2
    normal = special.logsumexp(grid, axis=(-2, -1)) - np.log(shift.size * scale.size)
    counts = sums[..., 3:]
    histogram = (
        sums[..., 0] * np.log(BINS)
        + (special.gammaln(counts + _PRIOR) - special.gammaln(_PRIOR)).sum(axis=-1)
        + special.gammaln(BINS * _PRIOR)
        - special.gammaln(sums[..., 0] + BINS * _PRIOR)
    )
    wealth: Array = np.logaddexp(normal, histogram) - np.log(2)
    return wealth


def log_restart_weight(window: int) -> float:
    """The log of the weight of the bet that starts at a window (1, 2, ...); the weights sum to 1.

    >>> round(float(np.exp(log_restart_weight(1))), 2)
    0.5
    """
    return -float(np.log(window) + np.log(window + 1))


def _p_values(bag: Array, cells: Array, uniform: Array) -> Array:
    """Smoothed conformal p-values of rows in order, each among the bag and the rows before it."""
    seen = np.zeros((len(cells), len(bag)), dtype=np.int64)
    seen[np.arange(1, len(cells)), cells[:-1]] = 1
    seen = np.cumsum(seen, axis=0) + bag  # what the bag holds before each row
    at = np.arange(len(cells))
    upto = np.cumsum(seen, axis=1)
    own = seen[at, cells]
    lower = upto[at, cells] - own
    p: Array = (lower + uniform * (own + 1)) / (upto[:, -1] + 1)
    return p
