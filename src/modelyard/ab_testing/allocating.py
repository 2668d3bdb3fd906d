"""Thompson sampling in rounds: the next round's shares, and a comparison that stays valid although they changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from modelyard.ab_testing.comparing import Compared, estimate
from modelyard.ab_testing.design import Ruler
from modelyard.ab_testing.experiments import ABTest, Round
from modelyard.ab_testing.metrics import Kind, Metric
from modelyard.ab_testing.tally import Tally
from modelyard.stats import ratios
from modelyard.stats.adaptive import Round as Stretch
from modelyard.stats.adaptive import Together, shares, together
from modelyard.stats.proportions import score_test

LEAST = 0.2  # of an even share: what the worst variant keeps, so that every round can be compared

ByRound = Sequence[tuple[Round, Mapping[str, Tally]]]


def next_shares(test: ABTest, tallies: Mapping[str, Tally]) -> dict[str, float]:
    """Each variant's chance of being the best, by its posterior, with a floor; even while nothing is known."""
    from modelyard.ab_testing.believing import posteriors  # needs scipy
    from modelyard.stats.posterior import chances_of_best

    laws = posteriors(test, test.goals[0], tallies)
    count = len(test.variants)
    if laws is None:
        return {variant.name: 1 / count for variant in test.variants}
    found = shares(chances_of_best(list(laws.values())), LEAST / count)
    total = math.fsum(found)
    return {name: share / total for name, share in zip(laws, found, strict=True)}


def merged(test: ABTest, rounds: ByRound) -> dict[str, Tally]:
    """What each variant has shown over all rounds."""
    whole = {variant.name: Tally() for variant in test.variants}
    for _, tallies in rounds:
        for name, tally in tallies.items():
            whole[name].merge(tally)
    return whole


def put_together(test: ABTest, metric: Metric, treatment: str, rounds: ByRound) -> Together:
    """A treatment against the control over the rounds."""
    stretches = (_stretch(test, metric, treatment, one, tallies) for one, tallies in rounds)
    return together([stretch for stretch in stretches if stretch is not None])


def information(test: ABTest, rounds: ByRound) -> float:
    """The part of the horizon's information that the least known treatment has reached."""
    goal = test.goals[0]
    whole = test.horizon / (2 * len(test.variants))  # n p (1 - p) of an even pair at the horizon
    return min(put_together(test, goal, variant.name, rounds).information for variant in test.treatments) / whole


def compared_by_rounds(test: ABTest, metric: Metric, treatment: str, rounds: ByRound, held: Ruler) -> Compared:
    """The comparison of a metric by rounds, whose p value is that of any look: one look's does not hold under moving shares.

    Relative figures and quantiles are not given: no sound way is known here.
    """
    found = put_together(test, metric, treatment, rounds)
    whole = merged(test, rounds)
    arms = [estimate(metric, whole[name]) for name in (test.control.name, treatment)]
    values = [None if one is None else one.value for one in arms]
    method = "rounds of fixed shares put together"
    if found.difference is None or found.error is None:
        return Compared(metric=metric, control=values[0], treatment=values[1], method=method)
    half, always = held.z * found.error, held.sequential_p(f"{treatment}:{metric.name}", found.z)
    return Compared(
        metric=metric,
        control=values[0],
        treatment=values[1],
        difference=found.difference,
        interval=(found.difference - half, found.difference + half),
        p_value=1.0 if always is None else always,
        z=found.z,
        method=method,
    )


def _stretch(test: ABTest, metric: Metric, treatment: str, one: Round, tallies: Mapping[str, Tally]) -> Stretch | None:
    """One round as a difference with its error; None where an arm has too little to tell."""
    control_tally, treatment_tally = tallies[test.control.name], tallies[treatment]
    arms = estimate(metric, control_tally), estimate(metric, treatment_tally)
    control, treated = arms
    if control is None or treated is None or metric.kind is Kind.QUANTILE:
        return None
    control, treated, _ = ratios.adjusted(control, treated)
    told = ratios.difference(*ratios.cautious(control, treated))
    difference, error = told.value, told.error
    if metric.kind is Kind.RATE:
        error = _score_error(difference, control_tally, treatment_tally)
    elif told.z and math.isfinite(told.z):
        error = abs(difference / told.z)  # as wide as Student's law is: rounds are small, and there are many
    share = one.shares[treatment] / (one.shares[treatment] + one.shares[test.control.name])
    units = control_tally.units + treatment_tally.units
    return Stretch(difference=difference, error=error, units=units, share=share)


def _score_error(difference: float, control: Tally, treatment: Tally) -> float:
    """The pooled standard error of two rates: steady also where an arm has few events."""
    from modelyard.ab_testing.comparing import rate_of

    c, t = rate_of(control), rate_of(treatment)
    if difference:
        return abs(difference / score_test(c.events, c.n, t.events, t.n)[0])
    pooled = (c.events + t.events) / (c.n + t.n)
    return math.sqrt(pooled * (1 - pooled) * (1 / c.n + 1 / t.n))
