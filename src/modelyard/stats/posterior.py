"""Posteriors of arms: which is best, what a wrong choice costs, and where a difference lies. Deterministic, no sampling.

A law is known by its quantiles at the middles of N equally likely slices, which is all that the integrals below take:
the mean over one arm's slices of the other arms' distribution functions. Their error is below 1e-4 for the laws used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from modelyard.core.errors import Invalid

Array = np.ndarray[Any, np.dtype[Any]]
SLICES = 2048
_MIDDLES = (np.arange(SLICES) + 0.5) / SLICES


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """What is believed of one arm: its mean, its distribution function and its quantiles at the slices' middles."""

    mean: float
    below: Callable[[Array], Array]
    slices: Array
    ends: tuple[float, float]  # beyond them lies less than 1e-9


def beta(events: float, n: float, prior: tuple[float, float] = (1.0, 1.0)) -> Posterior:
    """The posterior of a rate after `events` in `n`, from a Beta prior (1, 1: every rate alike).

    >>> round(beta(10, 100).mean, 4)
    0.1078
    """
    a, b = prior[0] + events, prior[1] + n - events
    if not (prior[0] > 0 and prior[1] > 0 and 0 <= events <= n):
        raise Invalid(
            f"{events} events in {n} with the prior Beta{prior} cannot be. Both of the prior's numbers are above 0."
        )
    return Posterior(
        mean=a / (a + b),
        below=lambda x: np.asarray(special.betainc(a, b, np.clip(x, 0.0, 1.0))),
        slices=np.asarray(special.betaincinv(a, b, _MIDDLES)),
        ends=(float(special.betaincinv(a, b, 1e-9)), float(special.betaincinv(a, b, 1 - 1e-9))),
    )


def normal(value: float, variance: float, prior: tuple[float, float] | None = None) -> Posterior:
    """The posterior of a mean estimated with a normal error; from a normal prior (mean, standard deviation), or a flat one.

    >>> normal(3.0, 1.0, prior=(1.0, 1.0)).mean
    2.0
    """
    if variance < 0 or (prior is not None and prior[1] <= 0):
        raise Invalid(f"A variance of {variance} with the prior {prior} cannot be.")
    if prior is not None and variance > 0:
        precision = 1 / variance + 1 / prior[1] ** 2
        value, variance = (value / variance + prior[0] / prior[1] ** 2) / precision, 1 / precision
    sd = max(math.sqrt(variance), 1e-12 * max(1.0, abs(value)))
    return Posterior(
        mean=value,
        below=lambda x: np.asarray(special.ndtr((x - value) / sd)),
        slices=value + sd * np.asarray(special.ndtri(_MIDDLES)),
        ends=(value - 6 * sd, value + 6 * sd),
    )


def chances_of_best(arms: Sequence[Posterior]) -> list[float]:
    """For each arm, the probability that its value is the largest; they add up to 1.

    >>> chances_of_best([beta(10, 100), beta(10, 100)])
    [0.5, 0.5]
    """
    found = [
        float(np.mean(np.prod([other.below(arm.slices) for j, other in enumerate(arms) if j != i], axis=0)))
        for i, arm in enumerate(arms)
    ]
    total = sum(found)
    return [one / total for one in found]


def expected_losses(arms: Sequence[Posterior]) -> list[float]:
    """For each arm, how much value choosing it loses on average to the one that is best in truth.

    E[max] is the integral of 1 - the product of the distribution functions (by Simpson's rule between the laws' ends).

    >>> [round(loss, 4) for loss in expected_losses([normal(0.0, 1.0), normal(0.0, 1.0)])]  # 1 / sqrt(pi)
    [0.5642, 0.5642]
    """
    low, high = min(arm.ends[0] for arm in arms), max(arm.ends[1] for arm in arms)
    points = np.linspace(low, high, 2 * SLICES + 1)
    weights = np.ones(len(points))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    weights *= (points[1] - points[0]) / 3
    best = low + float(weights @ (1 - np.prod([arm.below(points) for arm in arms], axis=0)))
    return [max(0.0, best - arm.mean) for arm in arms]


def chance_above(control: Posterior, treatment: Posterior) -> float:
    """The probability that the treatment's value is the larger.

    >>> chance_above(beta(10, 100), beta(20, 100)) > 0.97
    True
    """
    return float(np.mean(1 - treatment.below(control.slices)))


def difference_interval(control: Posterior, treatment: Posterior, level: float) -> tuple[float, float]:
    """The central credible interval of treatment less control.

    >>> [round(x, 3) for x in difference_interval(normal(0.0, 0.5), normal(1.0, 0.5), 0.95)]
    [-0.96, 2.96]
    """
    widest = treatment.ends[1] - control.ends[0], treatment.ends[0] - control.ends[1]
    return _central(lambda d: float(np.mean(treatment.below(control.slices + d))), widest[1], widest[0], level)


def lift_interval(control: Posterior, treatment: Posterior, level: float) -> tuple[float, float] | None:
    """The central credible interval of treatment over control, less 1; None where the control may be zero.

    Laws of negative values (where less is better) have the ratio of the values themselves.

    >>> low, high = lift_interval(beta(1000, 10_000), beta(1100, 10_000), 0.95)
    >>> low < 0.1 < high
    True
    """
    if control.ends[0] <= 0 <= control.ends[1]:
        return None
    ends = [above / below - 1 for above in treatment.ends for below in control.ends]

    def below(lift: float) -> float:
        part = float(np.mean(treatment.below(control.slices * (1 + lift))))
        return part if control.ends[0] > 0 else 1 - part  # a larger lift of a negative control is a lower value

    return _central(below, min(ends), max(ends), level)


def _central(below: Callable[[float], float], low: float, high: float, level: float) -> tuple[float, float]:
    return tuple(_where(below, low, high, tail) for tail in ((1 - level) / 2, (1 + level) / 2))  # type: ignore[return-value]  # two of them


def _where(below: Callable[[float], float], low: float, high: float, share: float) -> float:
    """Where a rising function reaches a share, to 1e-9 of the range."""
    for _ in range(34):
        half = (low + high) / 2
        low, high = (half, high) if below(half) < share else (low, half)
    return (low + high) / 2
