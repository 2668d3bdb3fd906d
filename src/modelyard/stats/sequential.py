"""Intervals that may be looked at at any time: confidence sequences for means and for rare rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from modelyard.core.errors import Invalid
from modelyard.stats.eprocess import log_mean_exp

# Slopes of the mixture below. One suits samples near 2 log(1/alpha) / (slope**2 p (1 - p)); each costs log(13) of evidence.
SLOPES = tuple(2.0**power for power in range(3, -10, -1))


def sequence_z(information: float, alpha: float = 0.05) -> float:
    """How many standard errors wide a two-sided asymptotic confidence sequence is, at every sample size at once.

    `information` is the sample so far as a part of the horizon that the sequence is tuned to (narrowest there); it may
    pass 1. The normal-mixture boundary of Robbins 1970, for standard errors estimated from the data: Waudby-Smith et
    al. 2021 (arXiv 2103.06476), eq. 14, with rho chosen as their eq. 20.

    >>> round(sequence_z(1.0), 2), sequence_z(0.01) > sequence_z(0.5)
    (3.04, True)
    """
    if information <= 0:
        return math.inf
    eta = _mixing(alpha)
    return math.sqrt((1 + eta / information) * math.log((1 + information / eta) / alpha**2))


def sequence_p(z: float, information: float, alpha: float = 0.05) -> float:
    """The always-valid p value of a z score: one over the mixture's e-value, so it may be read at any time.

    >>> abs(sequence_p(sequence_z(0.5), 0.5) - 0.05) < 1e-9
    True
    """
    if information <= 0:
        return 1.0
    eta = _mixing(alpha)
    log_e = 0.5 * (z * z * information / (information + eta) - math.log1p(information / eta))
    return min(1.0, math.exp(-log_e)) if log_e > 0 else 1.0


def _mixing(alpha: float) -> float:
    """1 / rho^2 in units of the horizon's information."""
    spent = -2 * math.log(alpha)
    return 1 / (spent + math.log1p(spent))


def upper_rate(events: float, n: float, alpha: float) -> float:
    """An upper bound of the mean rate of n trials, valid at every n at once with probability 1 - alpha.

    The rate may change from trial to trial: the bound is for its running mean. For each slope s > 0,
    exp(-s events - n log(1 - p + p e^-s)) at the true running mean p is below a test martingale, since the logarithm is
    concave in p (Howard, Ramdas, McAuliffe, Sekhon 2020, sub-Bernoulli case); so is their mean, and Ville's inequality
    bounds it by 1/alpha. Not asymptotic: zero events are as good as any.

    >>> round(upper_rate(0, 1000, 0.05), 4), upper_rate(0, 0, 0.05)
    (0.0045, 1.0)
    """
    if not 0 <= events <= n:
        raise Invalid(f"{events} events in {n} trials cannot be.")
    return _bisected(lambda p: _log_evidence(events, n, p) < -math.log(alpha), events / n) if n else 1.0


def lower_rate(events: float, n: float, alpha: float) -> float:
    """A lower bound of the mean rate, with the same guarantee as `upper_rate`.

    >>> lower_rate(0, 1000, 0.05), round(lower_rate(100, 1000, 0.05), 3)
    (0.0, 0.072)
    """
    return 1 - upper_rate(n - events, n, alpha)


def rate_difference(
    baseline_events: float, baseline_n: float, canary_events: float, canary_n: float, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Bounds of canary rate less baseline rate; each side errs, ever, with probability at most alpha.

    >>> low, high = rate_difference(10, 10_000, 1, 1_000)
    >>> low < 0 < high < 0.01
    True
    """
    baseline, canary = _rate_limits(baseline_events, baseline_n, canary_events, canary_n, alpha)
    return canary[0] - baseline[1], canary[1] - baseline[0]


def rate_ratio(
    baseline_events: float, baseline_n: float, canary_events: float, canary_n: float, *, alpha: float = 0.05
) -> tuple[float, float]:
    """Bounds of canary rate over baseline rate, on the same grounds as `rate_difference`; the upper one may be infinite.

    >>> low, high = rate_ratio(1000, 10_000, 1100, 10_000)
    >>> round(low, 2), round(high, 2)
    (0.9, 1.35)
    """
    baseline, canary = _rate_limits(baseline_events, baseline_n, canary_events, canary_n, alpha)
    return canary[0] / baseline[1], canary[1] / baseline[0] if baseline[0] > 0 else math.inf


def rates_p(baseline_events: float, baseline_n: float, canary_events: float, canary_n: float) -> float:
    """The always-valid p value that two rates are equal: the least of some levels at which 0 is outside their bounds.

    >>> rates_p(2, 1000, 3, 1000), rates_p(0, 1000, 60, 1000) <= 0.001
    (1.0, True)
    """
    found = 1.0
    for level in (0.1, 0.05, 0.02, 0.01, 0.001, 1e-4):
        low, high = rate_difference(baseline_events, baseline_n, canary_events, canary_n, alpha=level / 2)
        if low <= 0 <= high:
            break
        found = level
    return found


@lru_cache(maxsize=64)  # a comparison asks for the same ones as a difference and as a ratio
def _rate_limits(
    baseline_events: float, baseline_n: float, canary_events: float, canary_n: float, alpha: float
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Bounds of both rates. Four fifths of alpha go to the canary, which has the smaller sample in every step that matters."""
    canary, baseline = 0.8 * alpha, 0.2 * alpha
    return (
        (lower_rate(baseline_events, baseline_n, baseline), upper_rate(baseline_events, baseline_n, baseline)),
        (lower_rate(canary_events, canary_n, canary), upper_rate(canary_events, canary_n, canary)),
    )


def _log_evidence(events: float, n: float, p: float) -> float:
    """The log of the mixture against the running mean being p or more."""
    if p >= 1:
        return math.inf if events < n else 0.0
    return log_mean_exp([-slope * events - n * math.log1p(p * math.expm1(-slope)) for slope in SLOPES])


def _bisected(inside: Callable[[float], bool], start: float) -> float:
    """The largest p at or above `start` that is inside, to 1e-9 of its distance from `start`."""
    low, high = start, 1.0
    if inside(high):
        return 1.0
    for _ in range(45):
        half = (low + high) / 2
        low, high = (half, high) if inside(half) else (low, half)
    return high
