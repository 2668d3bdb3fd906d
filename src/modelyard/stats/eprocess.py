"""Is the canary worse than the live baseline? A test that stays valid however often it is looked at.

Each bad event falls on the canary with probability w, its share of the traffic, if both versions are equally bad,
whatever the common rate does over time. For a rate ratio r the probability is q(r) = w r / (w r + 1 - w). The mean over
ratios of the likelihood ratios is a mean of test martingales, so P(it ever reaches 1/alpha) <= alpha (Ville's
inequality). Sources: Robbins 1970; Lindon & Malek 2022 (arXiv 2011.03567).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


def rollback_evidence(
    share: float,
    errors: tuple[int, int],
    slower: Iterable[tuple[int, int]] = (),
    *,
    carried: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """The log e-values of one guarded step by metric, each multiplied with what its earlier steps carried.

    `errors` are (canary, baseline) counts; `slower` the same above each frozen baseline quantile, averaged into one
    e-value called latency. `combined` of the answer is what is held against log(1/alpha), and the answer of a step that
    has ended is the `carried` of the next, whose share may differ: a product of e-values of disjoint steps is one.

    >>> sorted(rollback_evidence(0.05, (4, 0), [(3, 2), (1, 1)]))
    ['errors', 'latency']
    """
    before = carried or {}
    logs = {"errors": before.get("errors", 0.0) + log_e_value(*errors, share)}
    steps = [log_e_value(*pair, share) for pair in slower]
    if steps or "latency" in before:
        logs["latency"] = before.get("latency", 0.0) + (log_mean_exp(steps) if steps else 0.0)
    return logs


@dataclass(frozen=True, slots=True)
class LateFault:
    """An e-detector beside the e-process, for a fault that starts after a long clean time (Shiryaev-Roberts form).

    A plain e-process must first win back what a clean history took from it. Here every look starts one more e-process
    at 1, and `logs` holds the log of their sum for each rate ratio. The mean over ratios exceeds c within n looks with
    probability at most n / c (Doob: it less n is a martingale), so its run length to a false alarm is c looks or more
    (Shin, Ramdas, Rinaldo 2023, arXiv 2203.03532).

    >>> clean = LateFault()
    >>> for _ in range(500): clean = clean.after(0, 1, 0.05)
    >>> broken = clean.after(8, 1, 0.05)
    >>> broken.log_value > math.log(1e4) > clean.log_value
    True
    """

    logs: tuple[float, ...] = (-math.inf,) * len(RATIOS)

    def after(self, canary: int, baseline: int, share: float) -> LateFault:
        """The detector after one more look that brought these bad events."""
        if not 0 < share < 1:
            return self
        steps = (log_e_value(canary, baseline, share, ratios=(ratio,)) for ratio in RATIOS)
        return LateFault(tuple(_log_add(0.0, log) + step for log, step in zip(self.logs, steps, strict=True)))

    @property
    def log_value(self) -> float:
        """The log of the detector, to hold against the log of the wanted run length in looks."""
        return log_mean_exp(list(self.logs)) if max(self.logs) > -math.inf else -math.inf


def _log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    top = max(a, b)
    return top + math.log1p(math.exp(min(a, b) - top))
