"""The analysis of an experiment from its tallies: pure, and as quick for ten million results as for ten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.ab_testing import allocating, sentences
from modelyard.ab_testing.allocating import ByRound
from modelyard.ab_testing.comparing import (
    SPLIT_ALPHA,
    Compared,
    adjust,
    compared,
    estimate,
    every_metric,
    finite,
    guarded,
    mismatched,
    one_look,
    rate_of,
    stepped,
    told,
)
from modelyard.ab_testing.design import Look, Ruler, between_looks, checked_level, ruler
from modelyard.ab_testing.experiments import ABTest, Inference, TrafficSplitStrategy
from modelyard.ab_testing.metrics import LATENCY, SUCCESS, Metric, Role
from modelyard.ab_testing.tally import Tally
from modelyard.stats.proportions import wilson
from modelyard.stats.sketch import quantile
from modelyard.stats.srm import log_ratio_evidence

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


def analyze(
    test: ABTest,
    tallies: Mapping[str, Tally],
    looks: Sequence[Look] = (),
    *,
    confidence_level: float = 0.95,
    rounds: ByRound = (),
) -> tuple[dict[str, Any], Look | None]:
    """The whole analysis as plain values, and the look it spent, if it did. `rounds` are those of Thompson sampling."""
    held = ruler(test, _units(test, tallies), looks, checked_level(confidence_level), fraction=_reached(test, rounds))
    result, decided, found = _judged(test, tallies, rounds, confidence_level, held)
    return result, _look(held, decided, found) if held.counts else None


def glance(
    test: ABTest, tallies: Mapping[str, Tally], looks: Sequence[Look] = (), *, level: float = 0.95, rounds: ByRound = ()
) -> tuple[dict[str, Any], bool]:
    """The same by the bounds of the last look that was spent, for nothing is spent; and whether an analysis would spend one."""
    units, reached = _units(test, tallies), _reached(test, rounds)
    due = ruler(test, units, looks, checked_level(level), fraction=reached).counts
    held = between_looks(test, units, looks, level, fraction=reached)
    return _judged(test, tallies, rounds, level, held)[0], due


def _reached(test: ABTest, rounds: ByRound) -> float | None:
    return allocating.information(test, rounds) if test.adaptive and rounds else None


def _judged(
    test: ABTest, tallies: Mapping[str, Tally], rounds: ByRound, confidence_level: float, held: Ruler
) -> tuple[dict[str, Any], frozenset[str], dict[str, dict[str, Compared]]]:
    """The analysis by these bounds, with what is decided and the comparisons behind it."""
    metrics = every_metric(test.metrics, tallies.values())
    found = _findings(test, tallies, rounds, metrics, held)
    goals = {
        hypothesis(test, name, one.metric): one
        for name, ones in found.items()
        for one in ones.values()
        if one.metric.role is Role.GOAL
    }
    decided = stepped(goals, held)
    comparisons = {name: _comparison(test, name, ones, decided, held) for name, ones in found.items()}
    _adjust_all(comparisons)
    result = {
        **_frame(test, tallies, metrics, confidence_level, held),
        "comparisons": comparisons,
        **comparisons[test.treatments[0].name],
        "sample_ratio": sample_ratio(test, tallies, rounds),
        "covariate_mismatch": [
            f"{metric} of {name}"
            for name, ones in found.items()
            for metric, one in ones.items()
            if mismatched(one, held)
        ],
        "statistically_significant": any(one["statistically_significant"] for one in comparisons.values()),
        "winner": _winner(test, comparisons, found),
        "taken_back": test.taken_back or None,
    }
    if test.adaptive:
        result["rounds"] = [{"round": one.number, "shares": dict(one.shares)} for one, _ in rounds]
    if test.inference is Inference.BAYESIAN:
        _believe(test, tallies, result, confidence_level)
    result["conclusion"] = sentences.conclusion(test, tallies, result, held, found)
    return finite(result), decided, found


def _look(held: Ruler, decided: frozenset[str], found: Mapping[str, Mapping[str, Compared]]) -> Look:
    """What this look has shown, for those that come after it."""
    every = [(f"{name}:{metric}", name, one) for name, ones in found.items() for metric, one in ones.items()]
    p_values = {key: one.sequential_p(held, name) for key, name, one in every}
    return Look(
        fraction=held.fraction,
        alpha=held.alpha,
        significant=tuple(sorted(decided)),
        p_values={key: p for key, p in p_values.items() if p is not None and p < 1},
        guardrails={key: guarded(one, held, name) for key, name, one in every if one.metric.role is Role.GUARDRAIL},
    )


def _units(test: ABTest, tallies: Mapping[str, Tally]) -> float:
    """The units so far; of a ramp, as many of the full shares as would tell the arms apart as well."""
    if test.strategy is not TrafficSplitStrategy.RAMP:
        return sum(tallies[variant.name].units for variant in test.variants)
    control = tallies[test.control.name].units
    return min(
        _pairs(control, tallies[one.name].units) / _pairs(test.control.share, one.share) for one in test.treatments
    )


def _pairs(control: float, treatment: float) -> float:
    return control * treatment / (control + treatment) if control and treatment else 0.0


def hypothesis(test: ABTest, treatment: str, metric: Metric) -> str:
    """What a decision is kept under: the treatment, with the metric where it is not the success rate alone."""
    alone = len(test.goals) == 1 and metric.name == SUCCESS
    return treatment if alone else f"{treatment}:{metric.name}"


def sample_ratio(test: ABTest, tallies: Mapping[str, Tally], rounds: ByRound = ()) -> dict[str, Any]:
    """Whether units arrived in the planned shares: an e-value that may be read at any time, and the shares seen.

    In Thompson sampling every round has its own shares, and their e-values multiply.
    """
    counts = [tallies[variant.name].units for variant in test.variants]
    total = sum(counts)
    seen = {variant.name: n / total if total else None for variant, n in zip(test.variants, counts, strict=True)}
    found: dict[str, Any] = {"planned": dict(test.shares), "seen": seen, "checked": False, "mismatch": False}
    if test.strategy is TrafficSplitStrategy.RAMP or any(share <= 0 for share in test.shares.values()):
        return found
    if test.adaptive:
        if not rounds:
            return found
        found["planned"] = _expected_shares(test, rounds)
        log_e = math.fsum(_round_evidence(test, tallies, shares) for shares, tallies in _by_shares(rounds))
    else:
        log_e = log_ratio_evidence(counts, list(test.shares.values()))
    return {**found, "checked": True, "log_e_value": log_e, "mismatch": log_e >= -math.log(SPLIT_ALPHA)}


def quantiles(tally: Tally) -> dict[str, float | None]:
    """p50, p95 and p99 of the latency in seconds, within 1 %; None without latencies."""
    found = {name: quantile(tally.histogram, q) for name, q in QUANTILES.items()}
    return {name: None if value is None else value / 1e6 for name, value in found.items()}


def _by_shares(rounds: ByRound) -> list[tuple[Mapping[str, float], Mapping[str, Tally]]]:
    return [(one.shares, tallies) for one, tallies in rounds]


def _round_evidence(test: ABTest, tallies: Mapping[str, Tally], shares: Mapping[str, float]) -> float:
    names = [variant.name for variant in test.variants]
    return log_ratio_evidence([tallies[name].units for name in names], [shares[name] for name in names])


def _expected_shares(test: ABTest, rounds: ByRound) -> dict[str, float]:
    """The shares that the rounds' plans add up to over the units that came."""
    came = [sum(tally.units for tally in tallies.values()) for _, tallies in rounds]
    total = sum(came) or 1
    return {
        variant.name: sum(n * one.shares[variant.name] for n, (one, _) in zip(came, rounds, strict=True)) / total
        for variant in test.variants
    }


def _findings(
    test: ABTest, tallies: Mapping[str, Tally], rounds: ByRound, metrics: Sequence[Metric], held: Ruler
) -> dict[str, dict[str, Compared]]:
    """Treatment -> metric -> comparison."""

    def one(metric: Metric, treatment: str) -> Compared:
        if test.adaptive:
            return allocating.compared_by_rounds(test, metric, treatment, rounds, held)
        return compared(metric, tallies[test.control.name], tallies[treatment], held)

    return {variant.name: {metric.name: one(metric, variant.name) for metric in metrics} for variant in test.treatments}


def _comparison(
    test: ABTest, name: str, found: Mapping[str, Compared], decided: frozenset[str], held: Ruler
) -> dict[str, Any]:
    """One treatment as plain values: the decision on its goals, the success rate's figures, and every other metric."""
    goals = [one for one in found.values() if one.metric.role is Role.GOAL]
    sure = [one for one in goals if hypothesis(test, name, one.metric) in decided]
    success = told(found[SUCCESS], held, name)
    others = {metric: told(one, held, name) for metric, one in found.items() if metric not in (SUCCESS, LATENCY)}
    latency = told(found[LATENCY], held, name) if LATENCY in found and found[LATENCY].difference is not None else None
    if latency is not None and found[LATENCY].metric.role is not Role.SECONDARY:
        others[LATENCY] = latency
    return {
        "statistically_significant": bool(sure),
        "better": bool(sure) and all(one.gain > 0 for one in sure),
        "mixed": any(one.gain > 0 for one in sure) and any(one.gain < 0 for one in sure),
        "goals": {one.metric.name: "sure" if one in sure else "open" for one in goals},
        "guardrails": {
            metric: guarded(one, held, name) for metric, one in found.items() if one.metric.role is Role.GUARDRAIL
        },
        "z": success["z"],
        "p_value": success["p_value"],
        "sequential_p_value": success["sequential_p_value"],
        "improvement": {
            "absolute_improvement": success["difference"],
            "absolute_interval": success["interval"],
            "relative_improvement": success["relative"],
            "relative_interval": success["relative_interval"],
        },
        "success": success,
        "latency": latency,
        "metrics": others,
    }


def _every(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is told of each metric, once."""
    aside = [] if comparison["latency"] is None or LATENCY in comparison["metrics"] else [comparison["latency"]]
    return [comparison["success"], *aside, *comparison["metrics"].values()]


def _adjust_all(comparisons: Mapping[str, Mapping[str, Any]]) -> None:
    """Adjusted p values over all treatments: the goals are one family, the secondary metrics another."""
    for role in (Role.GOAL, Role.SECONDARY):
        family = [
            metric
            for one in comparisons.values()
            for metric in _every(one)
            if metric["role"] == role.value and metric["difference"] is not None
        ]
        adjust(family)


def _frame(
    test: ABTest, tallies: Mapping[str, Tally], metrics: Sequence[Metric], level: float, held: Ruler
) -> dict[str, Any]:
    """What stands around the comparisons: the design and every arm by itself."""
    arms = {variant.name: _arm(tallies[variant.name], variant.model, metrics, level) for variant in test.variants}
    return {
        "test_id": test.test_id,
        "status": test.status.value,
        "inference": test.inference.value,
        "confidence_level": level,
        "design": held.design,
        "method": held.note,
        "critical_z": held.z,
        "information": held.fraction,
        "control": arms[test.control.name],
        "treatment": arms[test.treatments[0].name],
        "variants": arms,
    }


def _arm(tally: Tally, model: str, metrics: Sequence[Metric], level: float) -> dict[str, Any]:
    rate = rate_of(tally)
    values = {metric.name: estimate(metric, tally) for metric in metrics if metric.summed}
    latency = values.pop(LATENCY, None)
    wide = one_look(level)
    return {
        "model": model,
        "requests": rate.requests,
        "units": rate.units,
        "successes": tally.successes,
        "corrected": tally.corrected,
        "success_rate": rate.rate if rate.requests else None,
        "success_interval": list(wilson(rate.events, rate.n, level)) if rate.requests else None,
        "design_effect": rate.design_effect,
        "latency": {"mean": None if latency is None else latency.value, **quantiles(tally)},
        "metrics": {
            name: {
                "units": one.n,
                "value": one.value,
                "interval": [one.value - wide * math.sqrt(one.variance), one.value + wide * math.sqrt(one.variance)],
            }
            for name, one in values.items()
            if one is not None
        },
    }


def _winner(
    test: ABTest, comparisons: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Compared]]
) -> str | None:
    """The surely better treatment that improves the first goal most, if its guardrails hold; the control if every
    treatment is surely worse, breaks a guardrail or was taken back by the guard; else None, also where goals went both ways."""
    first = test.goals[0].name
    sure = [
        name
        for name, one in comparisons.items()
        if one["better"] and all(state == "held" for state in one["guardrails"].values()) and name != test.taken_back
    ]
    if sure:
        return max(sure, key=lambda name: found[name][first].gain)
    lost = [
        name
        for name, one in comparisons.items()
        if "broken" in one["guardrails"].values()
        or name == test.taken_back
        or (one["statistically_significant"] and not one["mixed"] and not one["better"])
    ]
    return test.control.name if len(lost) == len(comparisons) else None


def _believe(test: ABTest, tallies: Mapping[str, Tally], result: dict[str, Any], level: float) -> None:
    """Bayesian judgement in place of the frequentist one, whose figures stay beside it."""
    from modelyard.ab_testing.believing import believed  # needs scipy

    found = believed(test, tallies, level)
    choice = found["choice"]
    guards = result["comparisons"].get(choice, {"guardrails": {}})["guardrails"].values()
    result["bayesian"] = found
    sound = choice != test.taken_back and all(state == "held" for state in guards)
    result["winner"] = choice if sound else None
