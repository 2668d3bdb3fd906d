"""Do two samples come from one law, and how far apart are they? Everything is computed from counts, so samples merge.

Counts are non-negative integers over the same cells: ordered bins for numbers, levels for categories.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

Array = np.ndarray[Any, np.dtype[Any]]

_FEW = 5.0  # Cochran's rule: chi-square needs about five expected in a cell
_MANY_LEVELS = 20
_DRAWS = 2000
_ATOM = 0.05
_GROUPS = 64
_Z95 = 1.959963984540054


def kolmogorov_smirnov(first: Array, second: Array) -> tuple[float, float]:
    """The largest distance between two cumulative shares over the bins, and its p-value; (0, 1) if either is empty.

    On bins the distance is at most the one between the samples, so the test holds its level. The p-value is
    Kolmogorov's limit with Stephens' correction for finite samples (Stephens 1970, JRSS B 32(1)).

    >>> kolmogorov_smirnov(np.array([5, 5, 0]), np.array([5, 0, 5]))[0]
    0.5
    """
    n, m = int(first.sum()), int(second.sum())
    if not n or not m:
        return 0.0, 1.0
    distance = float(np.abs(np.cumsum(first) / n - np.cumsum(second) / m).max())
    root = math.sqrt(n * m / (n + m))
    return distance, float(special.kolmogorov((root + 0.12 + 0.11 / root) * distance))


def anderson_darling(first: Array, second: Array) -> tuple[float, float]:
    """The two-sample Anderson-Darling statistic of binned samples and its p-value; (0, 1) if either is empty.

    Rows in one bin count as tied (Scholz & Stephens 1987, doi 10.1080/01621459.1987.10478517, eq. 7). It sees a shift
    about as well as a rank-sum test, where Kolmogorov-Smirnov needs half as many rows again, and the tails better. Where
    one value holds over 5 % of the rows, the limit law does not hold, and a small p-value comes from seeded permutations.

    >>> anderson_darling(np.array([50, 50]), np.array([50, 50]))
    (0.0, 1.0)
    """
    n, m = int(first.sum()), int(second.sum())
    if not n or not m:
        return 0.0, 1.0
    filled = first + second > 0
    first, total = first[filled], (first + second)[filled]
    statistic = float(_anderson_darling(first, total, n))
    p_value = _anderson_darling_tail(statistic)
    if total.max() > _ATOM * (n + m) and p_value < 0.25:
        p_value = _permuted_anderson_darling(first, total, n)
    return statistic, p_value


def homogeneity(first: Array, second: Array, *, seed: int = 0) -> tuple[float, float]:
    """Pearson's chi-square of a two-row table and its p-value; (0, 1) where there is nothing to compare.

    Both rows are samples: the reference is never taken as exact. Cells too small for the chi-square law are put together
    by their total, which a permutation leaves alone, so the test stays valid; above twenty cells a small p-value is
    replaced by one from seeded permutations (draws of the table with its margins fixed).

    >>> homogeneity(np.array([30, 70]), np.array([30, 70]))
    (0.0, 1.0)
    """
    n, m = int(first.sum()), int(second.sum())
    if not n or not m:
        return 0.0, 1.0
    first, second = _pooled(first, second)
    total = first + second
    if len(total) < 2:
        return 0.0, 1.0
    if len(total) == 2 and total.min() * min(n, m) / (n + m) < _FEW:
        return float(_chi_square(second, total, m)), fisher(
            (int(first[0]), int(first[1])), (int(second[0]), int(second[1]))
        )
    statistic = float(_chi_square(second, total, m))
    p_value = float(special.chdtrc(len(total) - 1, statistic))
    if len(total) > _MANY_LEVELS and 1e-10 < p_value < 0.25:
        p_value = _permuted(statistic, total, m, seed)
    return statistic, p_value


def fisher(first: tuple[int, int], second: tuple[int, int]) -> float:
    """The exact two-sided p-value of a 2 x 2 table: the chance of one that is no more likely (Fisher 1935).

    >>> round(fisher((8, 2), (1, 5)), 4)
    0.035
    """
    hits, n, m = first[0] + second[0], sum(first), sum(second)
    seen = np.arange(max(0, hits - m), min(hits, n) + 1)
    log = _log_choose(n, seen) + _log_choose(m, hits - seen) - _log_choose(n + m, np.array(hits))
    chances = np.exp(log)
    here = chances[first[0] - seen[0]]
    return min(1.0, float(chances[chances <= here * (1 + 1e-7)].sum()))


def population_stability(first: Array, second: Array) -> float:
    """The population stability index: sum of (q - p) ln(q / p) over the cells, with half a row added to each cell.

    It has no threshold that fits all: about (cells - 1) (1/n + 1/m) is expected where nothing changed.
    """
    p, q = _shares(first + 0.5), _shares(second + 0.5)
    return float(((q - p) * np.log(q / p)).sum())


def jensen_shannon(first: Array, second: Array) -> float:
    """The Jensen-Shannon distance in base 2, from 0 (equal) to 1 (disjoint). Source: Lin 1991, doi 10.1109/18.61115.

    >>> jensen_shannon(np.array([1, 0]), np.array([0, 1]))
    1.0
    """
    if not first.sum() or not second.sum():
        return 0.0
    p, q = _shares(first), _shares(second)
    middle = (p + q) / 2
    divergence = (special.rel_entr(p, middle).sum() + special.rel_entr(q, middle).sum()) / (2 * math.log(2))
    return math.sqrt(max(float(divergence), 0.0))


def wasserstein(first: tuple[Array, Array], second: tuple[Array, Array]) -> float:
    """The 1-Wasserstein distance between two weighted samples, each (values, weights), in the unit of the values.

    >>> wasserstein((np.array([0.0]), np.array([1])), (np.array([2.0]), np.array([5])))
    2.0
    """
    values = np.concatenate([first[0], second[0]])
    order = np.argsort(values, kind="stable")
    weights = np.concatenate([_shares(first[1]), -_shares(second[1])])
    gaps = np.diff(values[order])
    return float(np.abs(np.cumsum(weights[order])[:-1]) @ gaps)


def rate_difference(first: tuple[int, int], second: tuple[int, int]) -> tuple[float, float, float, float]:
    """Second rate minus first, its 95 % interval and the score test's p-value. Each argument is (hits, rows).

    Interval: Newcombe's hybrid of two Wilson intervals (1998, method 10); test: pooled z, exact where hits are few.

    >>> [round(x, 3) for x in rate_difference((80, 100), (60, 100))]
    [-0.2, -0.319, -0.073, 0.002]
    """
    (a, n), (b, m) = first, second
    p, q = a / n, b / m
    (low_p, high_p), (low_q, high_q) = wilson(a, n), wilson(b, m)
    low = q - p - math.hypot(q - low_q, high_p - p)
    high = q - p + math.hypot(high_q - q, p - low_p)
    pooled = (a + b) / (n + m)
    if min(pooled, 1 - pooled) * min(n, m) < _FEW:
        return q - p, low, high, fisher((a, n - a), (b, m - b))
    z = (q - p) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return q - p, low, high, float(2 * special.ndtr(-abs(z)))


def mean_difference(
    first: tuple[float, float, int], second: tuple[float, float, int]
) -> tuple[float, float, float, float]:
    """Second mean minus first, its 95 % interval and Welch's p-value. Each argument is (sum, sum of squares, rows).

    >>> [round(x, 3) for x in mean_difference((0.0, 100.0, 100), (100.0, 200.0, 100))]
    [1.0, 0.72, 1.28, 0.0]
    """
    (mean_a, error_a, n), (mean_b, error_b, m) = (_mean_and_error(*s) for s in (first, second))
    difference, error = mean_b - mean_a, error_a + error_b
    if error <= 0:
        return difference, difference, difference, 1.0 if difference == 0 else 0.0
    freedom = error**2 / (error_a**2 / max(n - 1, 1) + error_b**2 / max(m - 1, 1))  # Welch 1947
    half = float(special.stdtrit(freedom, 0.975)) * math.sqrt(error)
    p_value = float(2 * special.stdtr(freedom, -abs(difference) / math.sqrt(error)))
    return difference, difference - half, difference + half, p_value


def wilson(hits: float, rows: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate (1927, doi 10.1080/01621459.1927.10502953).

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not rows:
        return 0.0, 1.0
    share, z2 = hits / rows, _Z95**2
    centre = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z95 / (1 + z2 / rows) * math.sqrt(max(share * (1 - share), 0.0) / rows + z2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _anderson_darling(first: Array, total: Array, n: int) -> Any:
    """The statistic of tables whose first row (..., cells) is given, with the margins fixed."""
    rows = int(total.sum())
    pooled = np.cumsum(total) - total / 2
    own = np.cumsum(first, axis=-1) - first / 2
    spread = pooled * (rows - pooled) - rows * total / 4
    weight = np.divide(total, spread, out=np.zeros(len(total)), where=spread > 0)
    # the two samples' terms differ only by 1/n and 1/m
    return ((rows * own - n * pooled) ** 2 @ weight) * ((rows - 1) / rows / n / (rows - n))


def _permuted_anderson_darling(first: Array, total: Array, n: int) -> float:
    """The permutation p-value on about 64 cells; beyond the draws' reach by the exponential tail that they show."""
    rows = int(total.sum())
    group = np.unique((np.cumsum(total) - total) * _GROUPS // rows, return_inverse=True)[1]
    heavy = total > rows / _GROUPS  # a value that fills a cell has it alone
    group = np.unique(2 * group + np.cumsum(heavy) + np.cumsum(np.r_[False, heavy[:-1]]), return_inverse=True)[1]
    first, total = np.bincount(group, first).astype(np.int64), np.bincount(group, total).astype(np.int64)
    statistic = float(_anderson_darling(first, total, n))
    draws = np.random.default_rng(0).multivariate_hypergeometric(total, n, size=_DRAWS, method="marginals")
    drawn = _anderson_darling(draws, total, n)
    beyond = int((drawn >= statistic * (1 - 1e-12)).sum())
    if beyond >= 10:
        return (1 + beyond) / (1 + _DRAWS)
    high = float(np.quantile(drawn, 0.95))  # a sum of weighted chi-squares has an exponential tail
    excess = float(drawn[drawn > high].mean()) - high
    return 0.05 * math.exp(-(statistic - high) / excess)


def _anderson_darling_tail(z: float) -> float:
    """The chance that the limit, the sum of chi-squares over j (j + 1), exceeds z.

    Marsaglia & Marsaglia 2004 (doi 10.18637/jss.v009.i02) up to 6; above, Zolotarev's tail sqrt(3) P(chi-square(1) > 2 z).
    """
    if z <= 0:
        return 1.0
    if z > 6:
        return math.sqrt(3) * float(special.erfc(math.sqrt(z)))
    if z < 2:
        series = 2.00012 + (0.247105 - (0.0649821 - (0.0347962 - (0.011672 - 0.00168691 * z) * z) * z) * z) * z
        return 1 - math.exp(-1.2337141 / z) / math.sqrt(z) * series
    power = 1.0776 - (2.30695 - (0.43424 - (0.082433 - (0.008056 - 0.0003146 * z) * z) * z) * z) * z
    return -math.expm1(-math.exp(power))


def _mean_and_error(total: float, squares: float, rows: int) -> tuple[float, float, int]:
    mean = total / rows
    variance = max(squares - rows * mean**2, 0.0) / max(rows - 1, 1)
    return mean, variance / rows, rows


def _shares(counts: Array) -> Array:
    shares: Array = counts / counts.sum()
    return shares


def _log_choose(n: int, k: Array) -> Array:
    found: Array = special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1)
    return found


def _pooled(first: Array, second: Array) -> tuple[Array, Array]:
    """The table with its small cells, by total, put together into one; empty cells are dropped."""
    seen = first + second > 0
    first, second = first[seen], second[seen]
    total = first + second
    small = total < _FEW * total.sum() / min(first.sum(), second.sum())
    if small.sum() < 2 or len(total) <= 2:
        return first, second
    return np.append(first[~small], first[small].sum()), np.append(second[~small], second[small].sum())


def _chi_square(second: Array, total: Array, m: int) -> Any:
    """Chi-square of tables whose second row is given, with the margins fixed: equal to Pearson's over both rows."""
    share = m / total.sum()
    return (((second - total * share) ** 2) / (total * share * (1 - share))).sum(axis=-1)


def _permuted(statistic: float, total: Array, m: int, seed: int) -> float:
    """The permutation p-value, by draws; beyond their reach by a gamma law with the draws' mean and variance."""
    draws = np.random.default_rng(seed).multivariate_hypergeometric(total, m, size=_DRAWS, method="marginals")
    drawn = _chi_square(draws, total, m)
    beyond = int((drawn >= statistic * (1 - 1e-12)).sum())
    if beyond >= 10:
        return (1 + beyond) / (1 + _DRAWS)
    mean, variance = float(drawn.mean()), float(drawn.var())
    return float(special.gammaincc(mean**2 / variance, statistic * mean / variance))
