"""Is the canary worse than the live baseline? A test that stays valid however often it is looked at.

Each bad event falls on the canary with probability w, its share of the traffic, if both versions are equally bad,
whatever the common rate does over time. For a rate ratio r the probability is q(r) = w r / (w r + 1 - w). The mean over
ratios of the likelihood ratios is a mean of test martingales, so P(it ever reaches 1/alpha) <= alpha (Ville's
inequality). Sources: Robbins 1970; Lindon & Malek 2022 (arXiv 2011.03567).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

RATIOS = (1.5, 2.0, 3.0, 5.0, 10.0, 20.0)


def log_e_value(
    canary: int, baseline: int, share: float, *, ratios: tuple[float, ...] = RATIOS, tolerated: float = 1.0
) -> float:
    """The log of the e-value after `canary` and `baseline` bad events at a canary share of the traffic.

    `share` is in (0, 1); `tolerated` is the rate ratio that still counts as equal. At share 0 or 1 there is no
    comparison, and the log e-value is 0.

    >>> round(log_e_value(4, 0, 0.05), 2) > math.log(1000)
    True
    >>> log_e_value(0, 0, 0.05)
    0.0
    """
    if not 0 < share < 1 or canary + baseline == 0:
        return 0.0
    null = _canary_probability(share, tolerated)
    logs = []
    for ratio in ratios:
        q = _canary_probability(share, ratio * tolerated)
        logs.append(canary * math.log(q / null) + baseline * math.log((1 - q) / (1 - null)))
    return log_mean_exp(logs)


def log_mean_exp(logs: list[float]) -> float:
    """log(mean(exp(x))) without overflow.

    >>> log_mean_exp([0.0, 0.0])
    0.0
    """
    top = max(logs)
    return top + math.log(sum(math.exp(x - top) for x in logs) / len(logs))


def combined(logs: Mapping[str, float]) -> tuple[float, str]:
    """The log of the mean of several e-values, which is an e-value whatever their dependence, and the largest one's name.

    >>> combined({"errors": 0.0, "latency": 0.0})
    (0.0, 'errors')
    """
    return log_mean_exp(list(logs.values())), max(logs, key=lambda name: logs[name])


def _canary_probability(share: float, ratio: float) -> float:
    return share * ratio / (share * ratio + 1 - share)
