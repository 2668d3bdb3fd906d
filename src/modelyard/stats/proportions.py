"""Two proportions: is there a difference, how large is it, and by what factor.

The decision is the pooled score test (Fisher's mid-p under ten events), the difference has Newcombe's interval and the
ratio that of Koopman, which turns the same score test around: the three agree with each other where the delta method on a
skewed ratio does not.
Counts may be effective ones (not whole) after a design-effect correction.
"""

from __future__ import annotations

import math

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf, two_sided

FEW_EVENTS = 10  # below this many events the normal approximation gives way to the exact conditional test,
FEW_EXPECTED = 5  # and below this many that are expected in an arm (Cochran 1954): one event is no normal law

Interval = tuple[float, float]


def wilson(events: float, n: float, level: float = 0.95, *, z: float | None = None) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927). `z` replaces the level's, for sequential bounds.

    >>> [round(x, 4) for x in wilson(10, 100)]
    [0.0552, 0.1744]
    """
    _checked(events, n)
    if n == 0:
        return 0.0, 1.0
    z = normal_isf((1 - level) / 2) if z is None else z
    if math.isinf(z):
        return 0.0, 1.0
    rate, weight = events / n, z * z / n
    middle = (rate + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(rate * (1 - rate) / n + weight / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(
    control_events: float,
    control_n: float,
    treatment_events: float,
    treatment_n: float,
    *,
    level: float = 0.95,
    z: float | None = None,
) -> Interval:
    """The interval of treatment rate minus control rate (Newcombe 1998, method 10: Wilson limits combined).

    >>> [round(x, 4) for x in newcombe(48, 80, 56, 70)]  # Newcombe 1998, table II: 0.0524 to 0.3339
    [0.0524, 0.3339]
    """
    if not control_n or not treatment_n:
        return -1.0, 1.0
    c, t = control_events / control_n, treatment_events / treatment_n
    c_low, c_high = wilson(control_events, control_n, level, z=z)
    t_low, t_high = wilson(treatment_events, treatment_n, level, z=z)
    return t - c - math.hypot(t - t_low, c_high - c), t - c + math.hypot(t_high - t, c - c_low)


def score_test(
    control_events: float, control_n: float, treatment_events: float, treatment_n: float
) -> tuple[float, float]:
    """(z, two-sided p) of the pooled score test that both rates are equal; (0, 1) where nothing can differ.

    >>> round(score_test(1210, 95_000, 50, 5_000)[1], 4)
    0.0908
    """
    _checked(control_events, control_n)
    _checked(treatment_events, treatment_n)
    if not control_n or not treatment_n:
        return 0.0, 1.0
    pooled = (control_events + treatment_events) / (control_n + treatment_n)
    variance = pooled * (1 - pooled) * (1 / control_n + 1 / treatment_n)
    if variance <= 0:
        return 0.0, 1.0
    z = (treatment_events / treatment_n - control_events / control_n) / math.sqrt(variance)
    return z, two_sided(z)


def fisher_p(control_events: int, control_n: int, treatment_events: int, treatment_n: int) -> float:
    """Fisher's exact two-sided p: the tables no more likely than the seen one. Takes as long as its law is wide.

    >>> round(fisher_p(8, 10, 1, 6), 4)
    0.035
    """
    return min(1.0, sum(_as_likely(control_events, control_n, treatment_events, treatment_n)))


def mid_p(control_events: int, control_n: int, treatment_events: int, treatment_n: int) -> float:
    """Fisher's p less half the probability of the seen table (Lancaster 1961): less conservative for few events.

    >>> mid_p(1, 100, 5, 100) < fisher_p(1, 100, 5, 100)
    True
    """
    if not 0 < control_events + treatment_events < control_n + treatment_n:
        return 1.0  # there is no other table
    likely = _as_likely(control_events, control_n, treatment_events, treatment_n)
    return max(0.0, min(1.0, sum(likely) - 0.5 * likely[0]))


def equality_p(control_events: float, control_n: float, treatment_events: float, treatment_n: float) -> float:
    """The p value to decide on: exact for few events or non-events (under ten, or under five to be expected in an arm), the
    pooled score test from there on.

    The exact one is mid-p, and Fisher's own where not even one is to be expected in an arm: with a thousandth of the units
    there, mid-p calls the first event that comes a difference.

    >>> equality_p(0, 1000, 3, 1000) == mid_p(0, 1000, 3, 1000)
    True
    >>> equality_p(80, 99_900, 1, 100) == fisher_p(80, 99_900, 1, 100)
    True
    """
    counts = (control_events, control_n, treatment_events, treatment_n)
    events, total = control_events + treatment_events, control_n + treatment_n
    if all(float(x).is_integer() for x in counts) and total:
        c, n, t, m = (int(x) for x in counts)
        share = min(n, m) / total
        if events < FEW_EVENTS or events * share < FEW_EXPECTED:
            return mid_p(c, n, t, m) if events * share >= 1 else fisher_p(c, n, t, m)
        rest = total - events
        if rest < FEW_EVENTS or rest * share < FEW_EXPECTED:
            return mid_p(n - c, n, m - t, m) if rest * share >= 1 else fisher_p(n - c, n, m - t, m)
    return score_test(*counts)[1]


def scarce(control_events: float, control_n: float, treatment_events: float, treatment_n: float) -> bool:
    """Whether there are events (or non-events), but not one is to be expected in the smaller arm.

    >>> scarce(80, 99_900, 1, 100), scarce(80, 9_990, 10, 1_000)
    (True, False)
    """
    events, total = control_events + treatment_events, control_n + treatment_n
    share = min(control_n, treatment_n) / total if total else 0.0
    return 0 < events * share < 1 or 0 < (total - events) * share < 1


def lift_interval(
    control_events: float,
    control_n: float,
    treatment_events: float,
    treatment_n: float,
    *,
    level: float = 0.95,
    z: float | None = None,
) -> Interval | None:
    """The ratios of treatment rate to control rate, less 1, that a score test does not reject (Koopman 1984).

    It leaves 0 out just where the pooled score test rejects, holds its level at rates near 0 and near 1 and for lopsided
    splits, and never has no width: all successes in both arms leave room on both sides. Without events in an arm it has
    one end only: the upper one is infinite without events in the control. None where an arm has no units. `z` replaces
    the level's.

    >>> [round(x, 2) for x in lift_interval(12, 100_000, 31, 100_000)]
    [0.34, 3.97]
    """
    _checked(control_events, control_n)
    _checked(treatment_events, treatment_n)
    if not control_n or not treatment_n:
        return None
    z = normal_isf((1 - level) / 2) if z is None else z
    counts = (control_events, control_n, treatment_events, treatment_n)
    low = _ratio_where(counts, z) - 1 if treatment_events else -1.0
    return low, _ratio_where(counts, -z) - 1 if control_events else math.inf


def _ratio_where(counts: tuple[float, float, float, float], z: float) -> float:
    """The ratio at which the score test has this z; found by bisection, for the score falls as the ratio rises."""
    low, high = 0.5, 2.0
    while _ratio_score(counts, low) < z and low > 1e-12:
        low /= 16
    while _ratio_score(counts, high) > z and high < 1e12:
        high *= 16
    while high / low > 1 + 1e-10:
        half = math.sqrt(low * high)
        low, high = (half, high) if _ratio_score(counts, half) > z else (low, half)
    return high


def _ratio_score(counts: tuple[float, float, float, float], ratio: float) -> float:
    """The score that treatment rate = ratio * control rate: the rates in its error are the likeliest that obey it."""
    c, cn, t, tn = counts
    # The control rate solves a p^2 - b p + (c + t) = 0; this form of the smaller root loses no digits.
    a, b = ratio * (cn + tn), ratio * (tn + c) + t + cn
    control = min(1.0, 2 * (c + t) / (b + math.sqrt(max(0.0, b * b - 4 * a * (c + t)))))
    treated = min(1.0, ratio * control)
    variance = treated * (1 - treated) / tn + ratio * ratio * control * (1 - control) / cn
    apart = t / tn - ratio * c / cn
    if variance <= 0:
        return 0.0 if not apart else math.copysign(math.inf, apart)
    return apart / math.sqrt(variance)


def _checked(events: float, n: float) -> None:
    if not 0 <= events <= n:
        raise Invalid(f"{events} events in {n} units cannot be. Events must lie between 0 and the number of units.")


def _as_likely(control_events: int, control_n: int, treatment_events: int, treatment_n: int) -> list[float]:
    """The probabilities of the tables with the same margins that are no more likely than the seen one, it first."""
    _checked(control_events, control_n)
    _checked(treatment_events, treatment_n)
    events = control_events + treatment_events
    all_ways = _log_choose(control_n + treatment_n, events)

    def log_probability(treated: int) -> float:
        return _log_choose(treatment_n, treated) + _log_choose(control_n, events - treated) - all_ways

    seen = log_probability(treatment_events)
    limit = seen + 1e-7  # tables equally likely but for rounding count as equal
    middle = events * treatment_n / (control_n + treatment_n)
    reach = 40 + 40 * math.sqrt(middle)  # beyond it, and beyond the seen table, there is nothing to add
    first = max(0, events - control_n, math.floor(min(middle, treatment_events) - reach))
    last = min(events, treatment_n, math.ceil(max(middle, treatment_events) + reach))
    others = (k for k in range(first, last + 1) if k != treatment_events)
    return [math.exp(seen), *(math.exp(p) for p in map(log_probability, others) if p <= limit)]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
