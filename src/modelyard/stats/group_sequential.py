"""Group-sequential bounds: looks at any times before a planned largest sample, at nearly the power of one look.

Error spending: Lan, DeMets 1983, with the O'Brien-Fleming-like function. The bounds follow by the recursive integration of
Armitage, McPherson, Rowe 1969 of the score process, a Brownian motion in information.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf, two_sided

POINTS = 401  # of the grid between the bounds: the published tables are met to four digits
WIDEST = 37.0  # standard errors; two_sided(37) is the last normal tail that is not zero


def obrien_fleming_spending(fraction: float, alpha: float = 0.05) -> float:
    """How much of a two-sided alpha may be spent by a fraction of the planned information.

    Each side spends 2 (1 - Phi(z / sqrt(t))) of its alpha / 2, with z the upper alpha / 4 quantile.

    >>> round(obrien_fleming_spending(0.5), 6), round(obrien_fleming_spending(1.0), 6)
    (0.003051, 0.05)
    """
    return 2 * two_sided(normal_isf(alpha / 4) / math.sqrt(min(fraction, 1.0))) if fraction > 0 else 0.0


def bounds(fractions: Sequence[float], alpha: float = 0.05) -> list[float]:
    """The |z| to exceed at each look, for rising information fractions; a fraction above 1 counts as 1.

    All in terms of survival functions: with 1 - cdf the first of many looks would underflow to a bound that is lost.

    >>> [round(bound, 3) for bound in bounds([0.2, 0.4, 0.6, 0.8, 1.0])]  # Lan-DeMets, five equal looks
    [4.877, 3.357, 2.68, 2.29, 2.031]
    """
    times = [min(float(fraction), 1.0) for fraction in fractions]
    if any(b <= a for a, b in zip([0.0, *times], times, strict=False)):
        raise Invalid(f"Looks must be at rising information fractions above 0, not at {list(fractions)}.")
    found: list[float] = []
    grid = weights = np.zeros(0)
    spent = before = 0.0
    for look, time in enumerate(times):
        target = obrien_fleming_spending(time, alpha)
        allowed, step = max(target - spent, 0.0), math.sqrt(time - before)
        if look == 0:
            bound = normal_isf(allowed / 2) * math.sqrt(time) if allowed > 0 else WIDEST * math.sqrt(time)
            bound = min(bound, WIDEST * math.sqrt(time))
        else:
            bound = _bound(grid, weights, step, allowed, WIDEST * math.sqrt(time))
        found.append(bound / math.sqrt(time))
        grid, weights = _propagated(grid, weights, bound, step, first=look == 0)
        spent, before = max(target, spent), time
    return found


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
