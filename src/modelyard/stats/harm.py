"""How much worse may the canary be, at most? The bounds that promotion rests on; they hold at every look at once.

Each is where a test stops rejecting, and each test is an e-process whose bets are mixed beforehand (Ville's inequality).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from modelyard.core.errors import Invalid
from modelyard.stats.eprocess import log_sum_exp

# The canary's events are so many times as frequent as the bound says: weights about what a margin of 10 % leaves.
FEWER = ((0.9, 0.10), (0.8, 0.35), (0.65, 0.25), (0.5, 0.15), (0.3, 0.10), (0.1, 0.05))
# Slopes of the two arms' evidence; one suits a change of the rate's odds by about exp(slope).
CANARY = (
    (8.0, 0.16),
    (4.0, 0.05),
    (2.0, 0.12),
    (1.0, 0.17),
    (0.5, 0.17),
    (0.25, 0.13),
    (0.125, 0.10),
    (0.0625, 0.06),
    (0.03125, 0.04),
)
BASELINE = ((0.0, 0.40), (0.25, 0.07), (0.125, 0.12), (0.0625, 0.13), (0.03125, 0.12), (1 / 64, 0.10), (1 / 128, 0.06))
_GOLDEN = (math.sqrt(5) - 1) / 2


def ratio_bound(canary: int, baseline: int, share: float, alpha: float) -> float:
    """An upper bound of the ratio of rates of an event, canary to baseline, after so many of each; infinite at first.

    `share` is the canary's. While the ratio is r or more, whatever both rates do over time, an event falls on the canary
    with a probability of w r / (w r + 1 - w) at least: the test of stats.eprocess with the roles swapped.

    >>> ratio_bound(0, 0, 0.05, 0.05), ratio_bound(100, 2500, 0.05, 0.05) < 1 < ratio_bound(100, 2100, 0.05, 0.05)
    (inf, True)
    """

    def holds(log_ratio: float) -> bool:
        ratio = math.exp(log_ratio)
        whole = share * ratio + 1 - share
        logs = []
        for part, weight in FEWER:
            odds = math.log(whole / (share * ratio * part + 1 - share))
            logs.append(math.log(weight) + canary * (math.log(part) + odds) + baseline * odds)
        return log_sum_exp(logs) < -math.log(alpha)

    low, high = -20.0, 20.0
    return math.inf if holds(high) else math.exp(_last(holds, low, high))


def excess_bound(
    baseline_events: float, baseline_n: float, canary_events: float, canary_n: float, *, alpha: float
) -> float:
    """An upper bound of canary rate less baseline rate, for arms that each unit is in one of; 1 where nothing is known.

    >>> round(excess_bound(0, 19_000, 0, 1_000, alpha=0.05), 4), excess_bound(0, 0, 0, 0, alpha=0.05)
    (0.0041, 1.0)
    """
    counts = (baseline_events, baseline_n), (canary_events, canary_n)

    def holds(excess: float) -> bool:
        return log_evidence_below(excess, *counts) < -math.log(alpha)

    return 1.0 if holds(1.0) else _last(holds, -1.0, 1.0)


def log_evidence_below(excess: float, baseline: tuple[float, float], canary: tuple[float, float]) -> float:
    """The log e-value that the canary's rate is less than `excess` above the baseline's, from (events, n) of both.

    For each baseline rate p that may be, the product of the evidence that the canary's rate is below p + excess and that
    the baseline's is above p is an e-process if neither is so: sub-Bernoulli for the running means, as
    `stats.sequential.upper_rate`. It is the least over p; both logs are convex in p, so one search finds it.

    >>> log_evidence_below(0.005, (0, 19_000), (0, 1_000)) > math.log(20) > log_evidence_below(0.004, (0, 19_000), (0, 1_000))
    True
    """
    for events, n in (baseline, canary):
        if not 0 <= events <= n:
            raise Invalid(f"{events} events in {n} trials cannot be.")

    def against(p: float) -> float:
        q = p + excess
        new = [math.log(w) - s * canary[0] - canary[1] * math.log1p(q * math.expm1(-s)) for s, w in CANARY]
        old = [math.log(w) + s * baseline[0] - baseline[1] * math.log1p(p * math.expm1(s)) for s, w in BASELINE]
        return log_sum_exp(new) + log_sum_exp(old)

    return _least(against, max(0.0, -excess), min(1.0, 1 - excess))


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The first value between that does not hold any more, to 1e-9 of the distance; holds(high) is false."""
    for _ in range(30):
        half = (low + high) / 2
        low, high = (half, high) if holds(half) else (low, half)
    return high


def _least(of: Callable[[float], float], low: float, high: float) -> float:
    """The least value of a convex function, by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(40):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = of(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = of(right)
    return min(at_left, at_right)
