"""Group-sequential bounds: looks at any times before a planned largest sample, at nearly the power of one look.

Error spending: Lan, DeMets 1983, with the O'Brien-Fleming-like function. The bounds follow by the recursive integration of
Armitage, McPherson, Rowe 1969 of the score process, a Brownian motion in information.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf, two_sided

POINTS = 241  # of the grid between the bounds: the bounds of a hundred looks are those of 401 points to five digits
_LADDER = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001, 1e-4, 1e-6)
WIDEST = 37.0  # standard errors; two_sided(37) is the last normal tail that is not zero


def obrien_fleming_spending(fraction: float, alpha: float = 0.05) -> float:
    """How much of a two-sided alpha may be spent by a fraction of the planned information.

    Each side spends 2 (1 - Phi(z / sqrt(t))) of its alpha / 2, with z the upper alpha / 4 quantile.

    >>> round(obrien_fleming_spending(0.5), 6), round(obrien_fleming_spending(1.0), 6)
    (0.003051, 0.05)
    """
    return 2 * two_sided(normal_isf(alpha / 4) / math.sqrt(min(fraction, 1.0))) if fraction > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Walk:
    """The score of tests that have passed no bound up to a look: where they are, and what was spent."""

    grid: np.ndarray
    weights: np.ndarray
    spent: float
    before: float
    bound: float


def bounds(fractions: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The |z| to exceed at each look, for rising information fractions; by the first one at or above 1 alpha is spent.

    A last look that comes late (at 1.2, say) is told by its true fraction: how it goes with earlier looks hangs on that.

    All in terms of survival functions: with 1 - cdf the first of many looks would underflow to a bound that is lost.

    >>> [round(bound, 3) for bound in bounds([0.2, 0.4, 0.6, 0.8, 1.0])]  # Lan-DeMets, five equal looks
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    times = [float(fraction) for fraction in fractions]
    if any(b <= a for a, b in zip([0.0, *times], times, strict=False)):
        raise Invalid(f"Looks must be at rising information fractions above 0, not at {list(fractions)}.")
    return [_walked(tuple(times[: look + 1]), alpha).bound / math.sqrt(time) for look, time in enumerate(times)]


def sequential_p(fractions: Sequence[float], z: float) -> float:
    """The p value of the last look that pays for all looks: the least alpha at which its bound would be passed.

    P(it is ever at or below a, at any of the looks) <= a for every a, for the bounds hold at each (the repeated p value of
    Jennison, Turnbull 2000, chapter 9; its least value over the looks is the sequential p value of Liu, Anderson 2008,
    JASA 103). Between the levels of a ladder the bound is nearly straight in the normal quantile of alpha. 1 from 0.5 on;
    1e-6 is the least that is told.

    >>> round(sequential_p([0.5, 1.0], 1.969), 3), sequential_p([0.5], 1.0), round(sequential_p([1.0], 1.96), 3)
    (0.05, 1.0, 0.05)
    """
    far, last = abs(z), tuple(float(fraction) for fraction in fractions)
    before = (_ladder_bound(last, _LADDER[0]), normal_isf(_LADDER[0] / 4))
    if far < before[0]:
        return 1.0
    for alpha in _LADDER[1:]:
        after = (_ladder_bound(last, alpha), normal_isf(alpha / 4))
        if far < after[0]:
            part = (far - before[0]) / (after[0] - before[0])
            return 2 * two_sided(before[1] + part * (after[1] - before[1]))
        before = after
    return _LADDER[-1]


def _ladder_bound(times: tuple[float, ...], alpha: float) -> float:
    return _walked(times, alpha).bound / math.sqrt(times[-1])


@lru_cache(maxsize=1024)  # a test's next look goes on from its last
def _walked(times: tuple[float, ...], alpha: float) -> _Walk:
    if not times:
        return _Walk(np.zeros(0), np.zeros(0), 0.0, 0.0, 0.0)
    last, time = _walked(times[:-1], alpha), times[-1]
    target, widest = obrien_fleming_spending(time, alpha), WIDEST * math.sqrt(time)
    allowed, step, first = max(target - last.spent, 0.0), math.sqrt(time - last.before), len(times) == 1
    if first:
        bound = min(normal_isf(allowed / 2) * math.sqrt(time) if allowed > 0 else widest, widest)
    else:
        bound = _bound(last.grid, last.weights, step, allowed, widest)
    grid, weights = _propagated(last.grid, last.weights, bound, step, first=first)
    return _Walk(grid, weights, max(target, last.spent), time, bound)


def chance_of_crossing(fractions: Sequence[float], limits: Sequence[float], drift: float) -> float:
    """The probability that a test crosses any of its |z| limits when its z score at the end has the mean `drift`.

    >>> looks = [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> round(chance_of_crossing(looks, bounds(looks), 0.0), 4)
    0.05
    """
    grid = weights = np.zeros(0)
    inside, before = 1.0, 0.0
    for look, (time, limit) in enumerate(zip(fractions, limits, strict=True)):
        step, bound = math.sqrt(time - before), min(limit, WIDEST) * math.sqrt(time)
        moved = drift * (time - before)
        if look == 0:
            grid, weights = np.zeros(1), np.ones(1)
        grid, weights = _propagated(grid + moved, weights, bound, step, first=False)
        inside, before = float(weights.sum()), time
    return 1 - inside


def inflation(looks: int, *, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many times the units of one look a test of `looks` even ones needs for the same power.

    >>> round(inflation(5), 3)
    1.025
    """
    times = [(look + 1) / looks for look in range(looks)]
    limits, fixed = bounds(times, alpha), normal_isf(alpha / 2) + normal_isf(1 - power)
    low, high = 1.0, 2.0
    for _ in range(25):
        half = (low + high) / 2
        enough = chance_of_crossing(times, limits, fixed * math.sqrt(half)) >= power
        low, high = (low, half) if enough else (half, high)
    return high


def _bound(grid: np.ndarray, weights: np.ndarray, step: float, allowed: float, widest: float) -> float:
    """The score to exceed so that just `allowed` of the probability leaves at this look; found by bisection."""
    low, high = 0.0, widest
    for _ in range(50):
        half = (low + high) / 2
        leaving = float(weights @ (_tail((half - grid) / step) + _tail((half + grid) / step)))
        low, high = (half, high) if leaving > allowed else (low, half)
    return high


def _propagated(
    grid: np.ndarray, weights: np.ndarray, bound: float, step: float, *, first: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Grid points of the score still inside the bounds, and their probability weights (Simpson's rule)."""
    reach = min(bound, 9 * step + (float(np.abs(grid).max()) if len(grid) else 0.0))  # beyond nine sd there is nothing
    points = np.linspace(-reach, reach, _count(reach, step))
    simpson = np.ones(len(points))
    simpson[1:-1:2], simpson[2:-1:2] = 4, 2
    simpson *= (points[1] - points[0]) / 3
    if first:
        density = np.exp(-0.5 * (points / step) ** 2)
    else:
        density = np.exp(-0.5 * ((points[:, None] - grid[None, :]) / step) ** 2) @ weights
    return points, simpson * density / (step * math.sqrt(2 * math.pi))


def _count(reach: float, step: float) -> int:
    """Enough points that the narrow kernel of a short step is still resolved, three to its standard deviation."""
    return max(POINTS, 2 * math.ceil(3 * reach / step) + 1)


def _tail(z: np.ndarray) -> np.ndarray:
    from scipy.special import ndtr

    tail: np.ndarray = ndtr(-z)
    return tail
