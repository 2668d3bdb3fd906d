"""Tail areas and quantiles of the normal and Student's t distribution, in plain Python so that they cost no import."""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()
_TINY = 1e-300


def normal_sf(z: float) -> float:
    """P(Z > z) for a standard normal Z, exact in the far tail too.

    >>> normal_sf(0.0), normal_sf(10.0) > 0
    (0.5, True)
    """
    return 0.5 * math.erfc(z / math.sqrt(2))


def normal_isf(p: float) -> float:
    """The z with P(Z > z) = p, for p in (0, 1).

    >>> round(normal_isf(0.025), 6)
    1.959964
    """
    return -_NORMAL.inv_cdf(p)


def two_sided(z: float) -> float:
    """P(|Z| > |z|).

    >>> round(two_sided(1.959964), 4)
    0.05
    """
    return math.erfc(abs(z) / math.sqrt(2))


def t_sf(t: float, df: float) -> float:
    """P(T > t) for Student's t with df degrees of freedom.

    >>> round(t_sf(2.0, 10), 6)
    0.036694
    """
    if math.isinf(df):
        return normal_sf(t)
    tail = 0.5 * incomplete_beta(df / 2, 0.5, df / (df + t * t), rest=t * t / (df + t * t))
    return tail if t >= 0 else 1 - tail


def t_isf(p: float, df: float) -> float:
    """The t with P(T > t) = p, for p in (0, 0.5]; found by bisection to 1e-12 of its size.

    >>> round(t_isf(0.025, 10), 4)
    2.2281
    """
    low, high = 0.0, 2.0
    while t_sf(high, df) > p and high < 1e12:
        high *= 2
    while high - low > 1e-12 * max(1.0, high):
        half = (low + high) / 2
        low, high = (half, high) if t_sf(half, df) > p else (low, half)
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float, *, rest: float | None = None) -> float:
    """The regularized incomplete beta function I_x(a, b) (continued fraction: DLMF 8.17.22, by Lentz's method).

    `rest` is 1 - x where the caller knows it better than the subtraction does.

    >>> round(incomplete_beta(2, 3, 0.5), 6)
    0.6875
    """
    rest = 1 - x if rest is None else rest
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, rest, rest=x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest)
    return math.exp(log_front) / (a * _fraction(a, b, x))


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d1/(1 + d2/(1 + ...)) with the coefficients of DLMF 8.17.23."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, 20_000):
        m = step // 2
        if step % 2:
            coefficient = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            coefficient = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + coefficient * d)
        c = _away_from_zero(1 + coefficient / c)
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
