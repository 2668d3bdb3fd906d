"""Two proportions: is there a difference, how large is it, and by what factor.

The decision is the pooled score test (Fisher's mid-p under ten events), the difference has Newcombe's interval and the
ratio a log-ratio interval: the three agree with each other where the delta method on a skewed ratio does not.
Counts may be effective ones (not whole) after a design-effect correction.
"""

from __future__ import annotations

import math

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf, two_sided

FEW_EVENTS = 10  # below this many events the normal approximation gives way to the exact conditional test

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
    """Fisher's exact two-sided p: the tables no more likely than the seen one. Takes as long as there are events.

    >>> round(fisher_p(8, 10, 1, 6), 4)
    0.035
    """
    return min(1.0, sum(_as_likely(control_events, control_n, treatment_events, treatment_n)))


def mid_p(control_events: int, control_n: int, treatment_events: int, treatment_n: int) -> float:
    """Fisher's p less half the probability of the seen table (Lancaster 1961): less conservative for few events.

    >>> mid_p(1, 100, 5, 100) < fisher_p(1, 100, 5, 100)
    True
    """
    likely = _as_likely(control_events, control_n, treatment_events, treatment_n)
    return max(0.0, min(1.0, sum(likely) - 0.5 * likely[0]))


def equality_p(control_events: float, control_n: float, treatment_events: float, treatment_n: float) -> float:
    """The p value to decide on: mid-p under ten events (or ten non-events), the pooled score test from there on.

    >>> equality_p(0, 1000, 3, 1000) == mid_p(0, 1000, 3, 1000)
    True
    """
    counts = (control_events, control_n, treatment_events, treatment_n)
    events, total = control_events + treatment_events, control_n + treatment_n
    if all(float(x).is_integer() for x in counts):
        whole = [int(x) for x in counts]
        if events < FEW_EVENTS:
            return mid_p(*whole)
        if total - events < FEW_EVENTS:
            return mid_p(whole[1] - whole[0], whole[1], whole[3] - whole[2], whole[3])
    return score_test(*counts)[1]


def lift_interval(
    control_events: float,
    control_n: float,
    treatment_events: float,
    treatment_n: float,
    *,
    level: float = 0.95,
    z: float | None = None,
) -> Interval | None:
    """The interval of treatment rate over control rate, less 1, from the normal law of the log ratio (Katz et al. 1978).

    A zero count takes half an event in both arms (Walter 1975). None where an arm has no units. `z` replaces the level's.

    >>> [round(x, 2) for x in lift_interval(12, 100_000, 31, 100_000)]
    [0.33, 4.03]
    """
    if not control_n or not treatment_n:
        return None
    add = 0.0 if control_events and treatment_events else 0.5
    c, cn, t, tn = control_events + add, control_n + add, treatment_events + add, treatment_n + add
    log_ratio = math.log(t / tn) - math.log(c / cn)
    error = math.sqrt(max(0.0, 1 / c - 1 / cn + 1 / t - 1 / tn))
    z = normal_isf((1 - level) / 2) if z is None else z
    return _expm1(log_ratio - z * error), _expm1(log_ratio + z * error)


def _expm1(x: float) -> float:
    return math.expm1(min(x, 700.0))


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
    others = (k for k in range(max(0, events - control_n), min(events, treatment_n) + 1) if k != treatment_events)
    return [math.exp(seen), *(math.exp(p) for p in map(log_probability, others) if p <= limit)]


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
