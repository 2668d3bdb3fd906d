"""Experiments judged by posteriors: chances, losses and credible intervals under a stated prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelyard.ab_testing.comparing import FEWEST, STEADY, estimate, rate_of
from modelyard.ab_testing.experiments import ABTest
from modelyard.ab_testing.metrics import Kind, Metric
from modelyard.ab_testing.tally import Tally
from modelyard.stats import posterior
from modelyard.stats.posterior import Posterior

UNIFORM = (1.0, 1.0)  # Beta's: every rate alike


def posteriors(test: ABTest, metric: Metric, tallies: Mapping[str, Tally]) -> dict[str, Posterior] | None:
    """What is believed of each variant, the better the larger; None while a mean has too few units for a normal error."""
    found: dict[str, Posterior] = {}
    for variant in test.variants:
        tally = tallies[variant.name]
        if metric.kind is Kind.RATE:
            rate = rate_of(tally, *(tallies[other.name] for other in test.variants if other is not variant))
            found[variant.name] = posterior.beta(rate.events, rate.n, test.prior or UNIFORM)
            continue
        known = estimate(metric, tally)
        if known is None or known.n < FEWEST or known.steady < STEADY:
            return None
        prior = None if test.prior is None else (metric.better * test.prior[0], test.prior[1])
        found[variant.name] = posterior.normal(metric.better * known.value, known.variance, prior)
    return found


def prior_told(test: ABTest, metric: Metric) -> str:
    """The prior in words."""
    if metric.kind is Kind.RATE:
        a, b = test.prior or UNIFORM
        return f"Beta({a:g}, {b:g}) for every variant's rate" + ("" if test.prior else ": every rate alike")
    if test.prior is None:
        return "flat for every variant's mean"
    return f"normal with mean {test.prior[0]:g} and standard deviation {test.prior[1]:g} for every variant's mean"


def believed(test: ABTest, tallies: Mapping[str, Tally], level: float) -> dict[str, Any]:
    """Every variant's chance of being the best, what choosing it is expected to lose, and each treatment's difference.

    A variant is chosen when its expected loss is at most `tolerated_loss` of the control's value and its chance of
    beating the control (for the control: every treatment) is the confidence level.
    """
    (goal,) = test.goals
    told: dict[str, Any] = {"metric": goal.name, "prior": prior_told(test, goal), "choice": None, "variants": {}}
    laws = posteriors(test, goal, tallies)
    if laws is None:
        return told
    names = list(laws)
    chances = dict(zip(names, posterior.chances_of_best(list(laws.values())), strict=True))
    losses = dict(zip(names, posterior.expected_losses(list(laws.values())), strict=True))
    control = laws[test.control.name]
    for name, law in laws.items():
        told["variants"][name] = {
            "mean": goal.better * law.mean,
            "chance_of_being_best": chances[name],
            "expected_loss": losses[name],
            **({} if law is control else _against(control, law, goal, level)),
        }
    best = min(losses, key=lambda name: losses[name])
    beats = chances[best] if best == test.control.name else told["variants"][best]["chance_to_beat_control"]
    if losses[best] <= test.tolerated_loss * abs(control.mean) and beats >= level:
        told["choice"] = best
    return told


def _against(control: Posterior, law: Posterior, goal: Metric, level: float) -> dict[str, Any]:
    low, high = posterior.difference_interval(control, law, level)
    lift = posterior.lift_interval(control, law, level)
    return {
        "chance_to_beat_control": posterior.chance_above(control, law),
        "difference_interval": [low, high] if goal.better > 0 else [-high, -low],
        "relative_interval": None if lift is None else [100 * end for end in lift],
    }
