"""Is the canary worse than the live baseline? E-processes, which stay valid however often they are looked at.

A request (or unit) falls on the canary with probability w, its share of the traffic. Outcomes lie in categories from best
to worst; a bet states, for each category, how much more often the canary's outcomes fall there than the baseline's: its
ratios r, which never fall from better to worse. Then the canary's probability among outcomes of a category is
q(r) = w r / (w r + 1 - w), and the bet's wealth is the product of q/w over the canary's outcomes and (1 - q)/(1 - w) over
the baseline's. While the canary's outcome is stochastically no worse, whatever both do over time, the wealth is a
supermartingale: one request multiplies it in expectation by 1 + sum of q(r_j) (canary_j - baseline_j) over categories j,
and q never falls. So P(it ever reaches 1/alpha) <= alpha (Ville's inequality), also for a mean over bets.

Sources: Robbins 1970; Lindon & Malek 2022 (arXiv 2011.03567), whose binomial test is the case of one category.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bet:
    """What is bet on: the ratio canary to baseline of each category, best first, and the bet's weight among others."""

    weight: float
    ratios: tuple[float, ...]


# The rate of failures rises to 1.25 to 32 times: most weight where a rollback is urgent and takes few requests anyway.
RATES = tuple(
    Bet(weight, (ratio,))
    for ratio, weight in ((1.25, 0.05), (1.5, 0.05), (2, 0.12), (4, 0.23), (8, 0.32), (16, 0.18), (32, 0.05))
)


def log_wealth(bets: Sequence[Bet], canary: Sequence[int], baseline: Sequence[int], share: float) -> tuple[float, ...]:
    """The log wealth of each bet after so many outcomes of canary and baseline in each category.

    `share` is the canary's; at 0 or 1 there is no comparison, and the wealth stays 1.

    >>> [round(log, 2) for log in log_wealth(RATES, (1,), (0,), 0.05)]
    [0.21, 0.38, 0.64, 1.25, 1.78, 2.21, 2.53]
    """
    return grown(factors(bets, share), canary, baseline)


def factors(bets: Sequence[Bet], share: float) -> tuple[tuple[tuple[float, float], ...], ...]:
    """By bet and category, by how much the log wealth grows with an outcome of the canary, and of the baseline."""
    if not 0 < share < 1:
        return tuple(((0.0, 0.0),) * len(bet.ratios) for bet in bets)
    odds = [[(ratio, -math.log(share * ratio + 1 - share)) for ratio in bet.ratios] for bet in bets]
    return tuple(tuple((math.log(ratio) + log, log) for ratio, log in each) for each in odds)


def grown(
    factors: Sequence[Sequence[tuple[float, float]]], canary: Sequence[int], baseline: Sequence[int]
) -> tuple[float, ...]:
    """By how much each bet's log wealth grows with these outcomes."""
    return tuple(
        sum(k * up + m * down for (up, down), k, m in zip(each, canary, baseline, strict=True)) for each in factors
    )


def log_mean(bets: Sequence[Bet], logs: Sequence[float]) -> float:
    """The log of the weighted mean of the bets' wealth."""
    return log_sum_exp([math.log(bet.weight) + log for bet, log in zip(bets, logs, strict=True)])


def log_e_value(canary: int, baseline: int, share: float) -> float:
    """The log e-value that failures are more frequent on the canary, after so many failures of canary and baseline.

    >>> log_e_value(4, 0, 0.05) > math.log(1000)
    True
    >>> abs(log_e_value(0, 0, 0.05)) < 1e-12
    True
    """
    return log_mean(RATES, log_wealth(RATES, (canary,), (baseline,), share))


def log_sum_exp(logs: Sequence[float]) -> float:
    """log(sum(exp(x))) without overflow.

    >>> round(log_sum_exp([1000.0, 1000.0]), 3)
    1000.693
    """
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs))


def log_mean_exp(logs: Sequence[float]) -> float:
    """log(mean(exp(x))) without overflow.

    >>> log_mean_exp([0.0, 0.0])
    0.0
    """
    return log_sum_exp(logs) - math.log(len(logs))
