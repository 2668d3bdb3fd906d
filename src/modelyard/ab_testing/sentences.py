"""What an analysis means and what to do next, in one or two sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelyard.ab_testing.comparing import Compared, rate_of
from modelyard.ab_testing.design import Ruler
from modelyard.ab_testing.experiments import ABTest
from modelyard.ab_testing.metrics import Kind, Metric
from modelyard.ab_testing.tally import Tally
from modelyard.stats.power import detectable_lift, mean_sample_size

Findings = Mapping[str, Mapping[str, Compared]]  # treatment -> metric -> comparison


def conclusion(
    test: ABTest, tallies: Mapping[str, Tally], result: Mapping[str, Any], held: Ruler, found: Findings
) -> str:
    """The sentence of a test; what forbids an answer comes first."""
    empty = [variant.name for variant in test.variants if not tallies[variant.name].requests]
    if empty:
        return f"Not enough evidence: no results yet for {', '.join(empty)}. Go on recording."
    if result["sample_ratio"]["mismatch"]:
        return _mismatch(result["sample_ratio"])
    if "bayesian" in result:
        return _believed(test, result["bayesian"], result["winner"])
    if result["winner"] is not None:
        return _won(test, result["winner"], found)
    return _open(test, tallies, result, held, found)


def _mismatch(split: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{name} {split['seen'][name]:.1%} instead of {share:.1%}" for name, share in split["planned"].items()
    )
    return f"Do not trust the difference: units did not arrive in the planned shares ({told}). Find out why first."


def _won(test: ABTest, winner: str, found: Findings) -> str:
    goal = test.goals[0]
    if winner == test.control.name:
        value = written(goal, found[test.treatments[0].name][goal.name].control)
        return f"No treatment beats the control's {_called(goal)} of {value}, and the difference is sure. Keep {test.control.model}."
    model = next(variant.model for variant in test.variants if variant.name == winner)
    told = _change(winner, found[winner])
    return f"{told}, and the difference is sure. Conclude the test and promote {model}."


def _change(name: str, found: Mapping[str, Compared]) -> str:
    """The first sure improvement in words."""
    one = max(found.values(), key=lambda one: (one.metric.role.value == "goal") * one.gain * abs(one.z))
    by = f"{100 * one.lift:+.2f} %, " if one.lift is not None else ""
    values = f"({by}{written(one.metric, one.treatment)} against {written(one.metric, one.control)})"
    if one.metric.kind is Kind.RATE:
        return f"{name} succeeds more often {values}"
    return f"{name} has a better {_called(one.metric)} {values}"


def _open(test: ABTest, tallies: Mapping[str, Tally], result: Mapping[str, Any], held: Ruler, found: Findings) -> str:
    """Nobody has won: what stands against it, or that there is not enough evidence."""
    broken = [f"{name} on {metric}" for name, metric in _guards(result, "broken")]
    if broken:
        return f"{', '.join(broken)}: worse by more than the margin, and the difference is sure. Stop it and keep {test.control.model}."
    better = [name for name, one in result["comparisons"].items() if one["better"]]
    waiting = [f"{metric} of {name}" for name, metric in _guards(result, "open") if name in better]
    if waiting:
        told = _change(better[0], found[better[0]])
        return f"{told}, but it is not shown yet that {', '.join(waiting)} is within its margin. Go on recording."
    worse = [name for name, one in result["comparisons"].items() if one["statistically_significant"]]
    if worse:
        return f"{', '.join(worse)} {_worse(test)} than the control. Stop it and go on with the others."
    return _undecided(test, tallies, held)


def _worse(test: ABTest) -> str:
    goal = test.goals[0]
    return "succeeds less often" if goal.kind is Kind.RATE and len(test.goals) == 1 else "does worse"


def _guards(result: Mapping[str, Any], state: str) -> list[tuple[str, str]]:
    return [
        (name, metric)
        for name, one in result["comparisons"].items()
        for metric, guard in one["guardrails"].items()
        if guard == state
    ]


def _undecided(test: ABTest, tallies: Mapping[str, Tally], held: Ruler) -> str:
    units = sum(tallies[variant.name].units for variant in test.variants)
    largest = test.planned_units or max(test.horizon, units)
    lift = _findable(test, tallies[test.control.name], largest)
    can = f" {largest:,} units would find a lift of {lift:.1%} four times in five." if lift else ""
    if held.design != "confidence_sequence" and held.fraction >= 1:
        return f"No difference was shown with the planned {largest:,} units.{can} Keep {test.control.model} or plan a larger test."
    return f"Not enough evidence yet after {units:,} units: no difference is sure.{can} Go on recording."


def _findable(test: ABTest, control: Tally, units: int) -> float | None:
    """The relative change of the goal that one look at so many units would find with 80 % power."""
    share, goal = 1 - test.control.share, test.goals[0]
    if not 0 < share < 1:
        return None
    if goal.kind is Kind.RATE:
        rate = rate_of(control).rate
        return detectable_lift(rate, units=units, treatment_share=share) if 0 < rate < 1 else None
    from modelyard.ab_testing.comparing import estimate

    known = estimate(goal, control)
    if known is None or known.value <= 0 or not known.variance:
        return None
    deviation = (known.variance * known.n) ** 0.5
    one = mean_sample_size(1.0, mean=known.value, deviation=deviation, treatment_share=share)
    return float((one / units) ** 0.5)


def _believed(test: ABTest, told: Mapping[str, Any], winner: str | None) -> str:
    """Bayesian words: chances and losses, never significance."""
    if not told["variants"]:
        return "Not enough evidence: a variant has fewer than two units. Go on recording."
    best = min(told["variants"], key=lambda name: told["variants"][name]["expected_loss"])
    one = told["variants"][best]
    chance = f"{best} is the best with {one['chance_of_being_best']:.1%} probability"
    loss = f"choosing it is expected to lose {one['expected_loss']:.2g} of {told['metric']}"
    if winner is None:
        return f"Not enough evidence yet: {chance}, and {loss}. Go on recording."
    model = next(variant.model for variant in test.variants if variant.name == winner)
    step = f"Keep {model}" if winner == test.control.name else f"Conclude the test and promote {model}"
    return f"{chance}, and {loss}, which is tolerated. {step}."


def written(metric: Metric, value: float | None) -> str:
    """A metric's value as it is written."""
    if value is None:
        return "nothing"
    return f"{value:.2%}" if metric.kind is Kind.RATE else f"{value:.6g}"


def _called(metric: Metric) -> str:
    return "success rate" if metric.kind is Kind.RATE else metric.name
