"""Post-stratification: a mean over units compared within groups that were known before the test, and put together.

Each group counts by its share of all units, in both arms alike, so a group that fell to one arm more often by chance moves no
answer, and what lies between groups is no noise (Miratrix, Sekhon & Yu 2013, JRSS B 75(2)). A covariate is taken out
within groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelyard.ab_testing.metrics import Metric
from modelyard.ab_testing.tally import STRATUM, Tally
from modelyard.stats import ratios
from modelyard.stats.cross import Cross
from modelyard.stats.ratios import Estimate

FEWEST = 10  # units of a group in each arm; smaller groups are put together


def estimates(metric: Metric, control: Tally, treatment: Tally) -> tuple[Estimate, Estimate] | None:
    """Both arms' means as if each had the groups of both; None where a single group is left to speak of."""
    groups = _groups(metric, control, treatment)
    if len(groups) < 2:
        return None
    units = sum(one.n + other.n for one, other in groups)
    found: tuple[list[Estimate], list[Estimate]] = ([], [])
    for one, other in groups:
        pair = ratios.mean(one.spread()), ratios.mean(other.spread())
        assert pair[0] is not None
        assert pair[1] is not None
        for arm, adjusted in zip(found, ratios.adjusted(pair[0], pair[1])[:2], strict=True):
            arm.append(adjusted)
    weights = [(one.n + other.n) / units for one, other in groups]
    return _whole(found[0], weights, control.units), _whole(found[1], weights, treatment.units)


def _whole(groups: Sequence[Estimate], weights: Sequence[float], units: int) -> Estimate:
    value = math.fsum(weight * one.value for weight, one in zip(weights, groups, strict=True))
    variance = math.fsum(weight**2 * one.variance for weight, one in zip(weights, groups, strict=True))
    return Estimate(n=units, value=value, variance=variance)


def _groups(metric: Metric, control: Tally, treatment: Tally) -> list[tuple[Cross, Cross]]:
    """Both arms' sums by group, none with too few units; those that are too small are one group, with the next if need be."""
    start = f"{metric.name}{STRATUM}"
    names = {name for tally in (control, treatment) for name in tally.metrics if name.startswith(start)}
    empty = Cross(metric.size)
    pairs = [tuple(tally.metrics.get(name, empty) for tally in (control, treatment)) for name in sorted(names)]
    groups: list[tuple[Cross, Cross]] = []
    rest = (Cross(metric.size), Cross(metric.size))
    for pair in sorted(pairs, key=lambda pair: min(one.n for one in pair)):
        if min(one.n for one in pair) >= FEWEST and (min(one.n for one in rest) >= FEWEST or not rest[0].n + rest[1].n):
            groups.append((pair[0], pair[1]))
            continue
        for one, other in zip(rest, pair, strict=True):
            one.merge(other)
    if not rest[0].n + rest[1].n:
        return groups
    return [*groups, rest] if min(one.n for one in rest) >= FEWEST else []
