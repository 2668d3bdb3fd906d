"""What an analysis means and what to do next, in one or two sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.ab_testing import sizing
from modelyard.ab_testing.comparing import FEWEST, Compared, estimate, rate_of
from modelyard.ab_testing.design import LOOK_APART, Ruler
from modelyard.ab_testing.experiments import ABTest, TestStatus
from modelyard.ab_testing.metrics import LATENCY, Kind, Metric, Role
from modelyard.ab_testing.tally import Tally
from modelyard.stats.power import detectable_lift, mean_sample_size

WIDEST = 1.0  # of a relative interval that tells anything: from half to one and a half times, say
Findings = Mapping[str, Mapping[str, Compared]]  # treatment -> metric -> comparison


def conclusion(
    test: ABTest, tallies: Mapping[str, Tally], result: Mapping[str, Any], held: Ruler, found: Findings
) -> str:
    """The sentence of a test; what forbids an answer comes first."""
    if test.taken_back:
        return _taken_back(test)
    empty = [variant.name for variant in test.variants if not tallies[variant.name].requests]
    if empty:
        return f"Not enough evidence: no results yet for {_listed(empty)}. {_begin(test)}"
    if result["sample_ratio"]["mismatch"]:
        return _mismatch(result["sample_ratio"])
    if result["covariate_mismatch"]:
        return (
            f"Do not trust the difference: units differed before the test by the covariate of "
            f"{_listed(result['covariate_mismatch'])}. Find out why first: is it told of every unit in every variant?"
        )
    if "bayesian" in result:
        return _believed(test, result)
    if result["winner"] not in (None, test.control.name):
        winner, comparison = result["winner"], result["comparisons"][result["winner"]]
        held_ones = _guards(found[winner], comparison["guardrails"], "held")
        safe = f", and is no worse on {held_ones}" if held_ones else ""
        return f"{_better(result, found[winner], winner)}{safe}. {_promote(test, winner)}"
    return _without_winner(test, tallies, result, held, found)


def _taken_back(test: ABTest) -> str:
    """What the guard has seen outweighs the results: a request that failed often has none."""
    if test.status is TestStatus.CONCLUDED:
        return f"The guard took {test.taken_back} back. The test has been concluded with {test.winner or 'no winner'}."
    others = _listed(one.name for one in test.treatments if one.name != test.taken_back)
    rest = f" To go on with {others}, create a new test without {test.taken_back}." if others else ""
    return f"{test.conclusion} Keep {test.control.model}.{rest}"


def _mismatch(split: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{name} {split['seen'][name]:.1%} instead of {share:.1%}" for name, share in split["planned"].items()
    )
    return (
        f"Do not trust the difference: units did not arrive in the planned shares ({told}). Find out why first: are "
        "results lost in one variant, or units assigned elsewhere?"
    )


def _without_winner(
    test: ABTest, tallies: Mapping[str, Tally], result: Mapping[str, Any], held: Ruler, found: Findings
) -> str:
    """What is known of each treatment that has been decided on; else that there is not enough evidence."""
    told: list[str] = []
    lost: list[str] = []
    mixed: list[str] = []
    for name, one in result["comparisons"].items():
        broken, waiting = (_guards(found[name], one["guardrails"], state) for state in ("broken", "open"))
        if broken:
            better = f"{_changes(result, found[name], name, 1)}, but " if one["better"] else ""
            told.append(f"{name} {better}is worse on {broken}")
            lost.append(name)
        elif one["better"]:
            told.append(f"{_better(result, found[name], name)}, but is not shown yet to be no worse on {waiting}")
        elif one["statistically_significant"]:
            told.append(_worse(result, found[name], name))
            (mixed if one["mixed"] else lost).append(name)
    if not told:
        return _undecided(test, tallies, held, found)
    if mixed:
        return f"{'; '.join(told)}. Weigh one against the other, or keep {test.control.model}."
    return f"{'; '.join(told)}. {_after(test, lost)}"


def _after(test: ABTest, lost: list[str]) -> str:
    """What to do where some treatments are out."""
    if len(lost) == len(test.treatments):
        return f"{'Stop the test and keep' if test.status is TestStatus.RUNNING else 'Keep'} {test.control.model}."
    return f"Do not promote {_listed(lost)}. {_go_on(test)}" if lost else _go_on(test)


def _guards(found: Mapping[str, Compared], states: Mapping[str, str], state: str) -> str:
    """The guardrails in one state, each with its margin and where the change lies."""
    told = []
    for name in (name for name, seen in states.items() if seen == state):
        one = found[name]
        lift = f" (now {_by(one)[2:]})" if _by(one) else ""
        told.append(f"{name} by more than its margin of {100 * one.metric.margin:.4g}%{lift}")
    return _listed(told)


def _better(result: Mapping[str, Any], found: Mapping[str, Compared], name: str) -> str:
    return f"{name} {_changes(result, found, name, 1)}, {_beyond(result)}"


def _worse(result: Mapping[str, Any], found: Mapping[str, Compared], name: str) -> str:
    """Goals that are worse, beside those that are better, if there are such."""
    up = _changes(result, found, name, 1)
    return f"{name} {_changes(result, found, name, -1)}{f', though it {up}' if up else ''}, {_beyond(result)}"


def _beyond(result: Mapping[str, Any]) -> str:
    return f"more than chance explains at {100 * result['confidence_level']:.6g}% confidence"


def _changes(result: Mapping[str, Any], found: Mapping[str, Compared], name: str, sign: int) -> str:
    """The decided goals that went one way, in words."""
    decided = result["comparisons"][name]["goals"]
    changed = [one for goal, one in found.items() if decided.get(goal) == "sure" and one.gain * sign > 0]
    return " and ".join(_change(one) for one in changed)


def _change(one: Compared) -> str:
    control, treatment = one.adjusted or (one.control, one.treatment)
    values = f"({written(one.metric, treatment, control)} against {written(one.metric, control, treatment)}{_by(one)})"
    if one.metric.kind is Kind.RATE:
        return f"succeeds {'more' if one.gain > 0 else 'less'} often {values}"
    return f"has a {'better' if one.gain > 0 else 'worse'} {one.metric.name} {values}"


def _by(one: Compared) -> str:
    """By how much: relative to the control where that means something, else in the metric's own unit."""
    if one.lift is not None and one.lift_interval is not None:
        return f", {one.lift:+.2%}{_between(one)}"
    if one.difference is None or not math.isfinite(one.interval[1]):
        return ""
    scale, unit = (100, " points") if one.metric.kind is Kind.RATE else (1, "")
    by, low, high = (f"{scale * x:+.4g}{unit}" for x in (one.difference, *one.interval))
    return f", {by}, between {low} and {high}"


def _between(one: Compared) -> str:
    """The interval of a lift, where it has two ends."""
    if one.lift_interval is None or not math.isfinite(one.lift_interval[1]):
        return ""
    return f", between {one.lift_interval[0]:+.2%} and {one.lift_interval[1]:+.2%}"


def _undecided(test: ABTest, tallies: Mapping[str, Tally], held: Ruler, found: Findings) -> str:
    units = sum(tallies[variant.name].units for variant in test.variants)
    largest = max(test.planned_units or test.horizon, units)
    can, known = _power(test, tallies[test.control.name], largest, held), _known(test, held, found)
    if test.planned_units is not None and held.fraction >= 1:
        return (
            f"No difference was shown with the planned {test.planned_units:,} units{known}.{can} "
            f"Keep {test.control.model}, or plan a larger test."
        )
    unfit = sorted({name for ones in found.values() for name, one in ones.items() if _is_goal(one) and not one.enough})
    if unfit:
        known = f": {_listed(unfit)} is judged from {FEWEST} units in each variant on, a ratio once its denominator is not near zero"
    so_far = f"Not enough evidence yet after {units:,} unit{'' if units == 1 else 's'}{known}.{can}"
    if test.planned_units is not None and not held.counts and test.status is TestStatus.RUNNING:
        last = held.times[-1] if held.times else 0.0
        again = math.ceil((last + LOOK_APART) * test.planned_units)
        return f"{so_far} Nothing is decided at this look: the next one that counts comes at {again:,} units. {_go_on(test)}"
    return f"{so_far} {_go_on(test)}"


def _power(test: ABTest, control: Tally, units: int, held: Ruler) -> str:
    """What so many units can show."""
    lift = _findable(test, control, units, held)
    if lift:
        return f" {units:,} units would show a lift of {100 * lift:.2g}% in four of five tests."
    if test.goals[0].kind is Kind.RATE and 0.5 < rate_of(control).rate < 1:
        return f" {units:,} units could not even show a rise to 100% in four of five tests."
    return ""


def _is_goal(one: Compared) -> bool:
    return one.metric.role is Role.GOAL


def _known(test: ABTest, held: Ruler, found: Findings) -> str:
    """Where the change of the first goal lies, if that is known."""
    goal = test.goals[0]
    called = "success rate" if goal.kind is Kind.RATE else goal.name
    known = {name: ones[goal.name].lift_interval for name, ones in found.items() if math.isfinite(held.z)}
    told = [
        f"{name}'s {called} lies from {_side(between[0])} to {_side(between[1])} the control's"
        for name, between in known.items()
        if between is not None and between[1] - between[0] < WIDEST
    ]
    return f": {', '.join(told)}" if told else ""


def _side(change: float) -> str:
    return f"{abs(change):.2%} {'below' if change < 0 else 'above'}"


def _findable(test: ABTest, control: Tally, units: int, held: Ruler) -> float | None:
    """The relative change of the first goal that the least of the treatments would show with 80 % power."""
    goal, least = test.goals[0], min(variant.share for variant in test.treatments)
    pair = least + test.control.share
    share, paired = least / pair, units * pair
    if held.design == "confidence_sequence":
        paired /= sizing.at_any_time(held.each, 0.8, max(units / test.horizon, 1.0))
    if not 0 < share < 1 or paired < 1:
        return None
    if goal.kind is Kind.RATE:
        rate = rate_of(control).rate
        return (
            detectable_lift(rate, units=int(paired), alpha=held.each, treatment_share=share) if 0 < rate < 1 else None
        )
    known = estimate(goal, control)
    if known is None or not known.value or not known.variance:
        return None
    deviation = (known.variance * known.n) ** 0.5
    one = mean_sample_size(1.0, mean=abs(known.value), deviation=deviation, alpha=held.each, treatment_share=share)
    return float((one / paired) ** 0.5)


def _believed(test: ABTest, result: Mapping[str, Any]) -> str:
    """Bayesian words: chances and losses, never significance."""
    told = result["bayesian"]
    if not told["variants"]:
        return f"Not enough evidence: it takes {FEWEST} units in each variant. {_go_on(test)}"
    best = told["choice"] or min(told["variants"], key=lambda name: told["variants"][name]["expected_loss"])
    one = told["variants"][best]
    chance = f"{best} is the best with {_chance(one['chance_of_being_best'])} probability"
    loss = _loss(one["expected_loss"], told["variants"][test.control.name]["mean"], test.goals[0])
    if told["choice"] is None:
        return f"Not enough evidence yet: {chance}, and {loss}. {_go_on(test)}"
    guards = result["comparisons"].get(best, {"guardrails": {}})["guardrails"]
    for state, means in (
        ("broken", "is worse than its margin allows"),
        ("open", "is not shown yet to keep its margin"),
    ):
        names = [name for name, found in guards.items() if found == state]
        if names:
            step = f"Stop the test and keep {test.control.model}." if state == "broken" else _go_on(test)
            return f"{chance}, and {loss}, but {_listed(names)} {means}. {step}"
    return f"{chance}, and {loss}, which is tolerated. {_promote(test, best)}"


def _loss(loss: float, control: float, goal: Metric) -> str:
    """What choosing a variant is expected to lose, as a part of the control's value."""
    called = "success rate" if goal.kind is Kind.RATE else goal.name
    part = 100 * loss / abs(control) if control else math.inf
    much = "less than 0.001%" if part < 0.001 else f"{part:.2g}%" if part < 1e6 else f"{loss:.2g}, more than all"
    return f"choosing it is expected to lose {much} of the control's {called}"


def _chance(part: float) -> str:
    return "over 99.9%" if part > 0.999 else f"{part:.1%}"


def _promote(test: ABTest, winner: str) -> str:
    """What to do with a winner, the control included."""
    model = next(variant.model for variant in test.variants if variant.name == winner)
    if test.status is TestStatus.CONCLUDED:
        return f"The test has been concluded with {test.winner or 'no winner'}."
    if winner == test.control.name:
        return f"Keep {model}."
    return f"Conclude the test and promote {model}."


def _begin(test: ABTest) -> str:
    """What to do where there is no result yet."""
    if test.endpoint and test.status is TestStatus.RUNNING:
        return f"Tell what became of its requests: modelyard serving load-outcomes {test.endpoint} FILE"
    return _go_on(test)


def _go_on(test: ABTest) -> str:
    if test.status is TestStatus.DRAFT:
        return "Start the test."
    if test.status is TestStatus.RUNNING:
        return "Go on recording."
    return f"The test has ended: keep {test.control.model}, or create a new test."


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def written(metric: Metric, value: float | None, other: float | None = None) -> str:
    """A metric's value as it is written, with digits enough to tell it from the other."""
    if value is None:
        return "nothing"
    apart = abs(value - other) if other is not None else 0.0
    if metric.kind is Kind.RATE:
        digits = max(2, 1 - math.floor(math.log10(100 * apart))) if apart > 0 else 2
        return f"{value:.{min(digits, 8)}%}"
    digits = math.ceil(math.log10(abs(value) / apart)) + 2 if apart > 0 and value else 4
    unit = " s" if metric.numerator == LATENCY and metric.kind in (Kind.AVERAGE, Kind.QUANTILE) else ""
    return f"{value:.{min(max(digits, 4), 15)}g}{unit}"
