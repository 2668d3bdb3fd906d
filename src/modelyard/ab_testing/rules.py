"""The analysis of an experiment from its tallies: pure, and as quick for ten million results as for ten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modelyard.ab_testing.experiments import ABTest, TrafficSplitStrategy
from modelyard.ab_testing.tally import Tally
from modelyard.core.errors import Invalid
from modelyard.stats.distributions import two_sided
from modelyard.stats.means import Moments, welch
from modelyard.stats.power import detectable_lift
from modelyard.stats.proportions import FEW_EVENTS, equality_p, lift_interval, newcombe, score_test, wilson
from modelyard.stats.sequential import rate_difference, sequence_p, sequence_z
from modelyard.stats.sketch import quantile
from modelyard.stats.srm import log_ratio_evidence

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
LOOK_APART = 0.01  # of the planned information: a look nearer than that to the last is not spent
SPLIT_ALPHA = 0.001

Design = Literal["fixed", "group_sequential", "confidence_sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One analysis that spent error probability: when in information, and which treatments crossed its bound."""

    fraction: float
    alpha: float
    significant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """How many standard errors it takes now: the design, whether this look counts, and what was decided before."""

    design: Design
    z: float
    fraction: float
    counts: bool
    decided: tuple[str, ...]
    alpha: float
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A success rate with its effective counts: divided by the design effect where units made several requests."""

    requests: int
    units: int
    rate: float
    n: float
    events: float
    design_effect: float


def rate_of(tally: Tally) -> Rate:
    """The success rate over requests, with the ratio's variance over units (delta method; Rao, Scott 1992).

    >>> tally = Tally(); tally.count(1, 9); tally.count(0, 1)
    >>> rate_of(tally).rate, rate_of(tally).n
    (0.9, 10)
    """
    n, s, units = tally.requests, tally.successes, tally.units
    rate = s / n if n else 0.0
    binomial = rate * (1 - rate)
    if units == n or units < 2 or not binomial:
        return Rate(requests=n, units=units, rate=rate, n=n, events=s, design_effect=1.0)
    squares = tally.ss - 2 * rate * tally.ns + rate * rate * tally.nn  # sum over units of (s - rate n)^2
    effect = max(1.0, squares / n * units / (units - 1) / binomial)
    return Rate(requests=n, units=units, rate=rate, n=n / effect, events=s / effect, design_effect=effect)


def ruler(test: ABTest, tallies: Mapping[str, Tally], looks: Sequence[Look], confidence_level: float) -> Ruler:
    """The bound that this look is held to.

    With a planned sample: group-sequential bounds (a single look at the planned sample is the fixed test). Without:
    a confidence sequence tuned to the test's horizon. Several treatments share alpha evenly.
    """
    if not 0 < confidence_level < 1:
        raise Invalid(f"confidence_level is {confidence_level}; it must lie between 0 and 1, for example 0.95.")
    alpha = (1 - confidence_level) / len(test.treatments)
    units = sum(tallies[variant.name].units for variant in test.variants)
    if test.planned_units is None:
        fraction = units / test.horizon
        note = f"always-valid confidence sequence tuned to {test.horizon:,} units; look whenever you like"
        z = sequence_z(fraction, alpha)
        design: Design = "confidence_sequence"
        return Ruler(design=design, z=z, fraction=fraction, counts=False, decided=(), alpha=alpha, note=note)
    return _planned(units / test.planned_units, looks, alpha, test.planned_units)


def _planned(fraction: float, looks: Sequence[Look], alpha: float, planned: int) -> Ruler:
    from modelyard.stats.group_sequential import bounds

    fraction = min(1.0, fraction)
    before = [look.fraction for look in looks]
    last = before[-1] if before else 0.0
    decided = tuple(sorted({name for look in looks for name in look.significant}))
    counts = fraction > last and (fraction - last >= LOOK_APART or fraction == 1.0)
    times = [*before, fraction] if counts else before
    z = bounds(times, alpha)[-1] if times else math.inf
    fixed = times == [1.0]
    note = (
        f"one look at the planned {planned:,} units" if fixed else f"look {len(times)} of a plan of {planned:,} units"
    )
    if not counts and times:
        note += (
            f"; the next look counts from {math.ceil((last + LOOK_APART) * planned):,} units"
            if last < 1
            else "; it is over"
        )
    design: Design = "fixed" if fixed else "group_sequential"
    return Ruler(design=design, z=z, fraction=fraction, counts=counts, decided=decided, alpha=alpha, note=note)


def analyze(
    test: ABTest, tallies: Mapping[str, Tally], looks: Sequence[Look] = (), *, confidence_level: float = 0.95
) -> tuple[dict[str, Any], Look | None]:
    """The whole analysis as plain values, and the look it spent, if it did."""
    held = ruler(test, tallies, looks, confidence_level)
    arms = {variant.name: _arm(tallies[variant.name], variant.model, confidence_level) for variant in test.variants}
    compared = {
        variant.name: _compared(tallies[test.control.name], tallies[variant.name], held, variant.name, confidence_level)
        for variant in test.treatments
    }
    first = compared[test.treatments[0].name]
    split = sample_ratio(test, tallies)
    significant = tuple(name for name, one in compared.items() if one["statistically_significant"])
    result = {
        "test_id": test.test_id,
        "status": test.status.value,
        "confidence_level": confidence_level,
        "design": held.design,
        "method": held.note,
        "critical_z": held.z if math.isfinite(held.z) else None,
        "information": held.fraction,
        "control": arms[test.control.name],
        "treatment": arms[test.treatments[0].name],
        "variants": arms,
        "comparisons": compared,
        **first,
        "sample_ratio": split,
        "statistically_significant": bool(significant),
        "winner": _winner(test, compared),
    }
    result["conclusion"] = _conclusion(test, tallies, result, held)
    look = Look(fraction=held.fraction, alpha=held.alpha, significant=significant) if held.counts else None
    return result, look


def sample_ratio(test: ABTest, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """Whether units arrived in the planned shares: an e-value that may be read at any time, and the shares seen."""
    counts = [tallies[variant.name].units for variant in test.variants]
    total = sum(counts)
    seen = {variant.name: n / total if total else None for variant, n in zip(test.variants, counts, strict=True)}
    found: dict[str, Any] = {"planned": dict(test.shares), "seen": seen, "checked": False, "mismatch": False}
    if test.strategy is TrafficSplitStrategy.RAMP or any(share <= 0 for share in test.shares.values()):
        return found
    log_e = log_ratio_evidence(counts, list(test.shares.values()))
    return {**found, "checked": True, "log_e_value": log_e, "mismatch": log_e >= -math.log(SPLIT_ALPHA)}


def _arm(tally: Tally, model: str, level: float) -> dict[str, Any]:
    rate = rate_of(tally)
    latency, found = tally.latency.moments(), quantiles(tally)
    return {
        "model": model,
        "requests": rate.requests,
        "units": rate.units,
        "successes": tally.successes,
        "success_rate": rate.rate if rate.requests else None,
        "success_interval": list(wilson(rate.events, rate.n, level)) if rate.requests else None,
        "design_effect": rate.design_effect,
        "latency": {"mean": latency.mean if latency.n else None, **found},
        "metrics": {name: _mean(sums.moments()) for name, sums in sorted(tally.metrics.items())},
    }


def quantiles(tally: Tally) -> dict[str, float | None]:
    """p50, p95 and p99 of the latency in seconds, within 1 %; None without latencies."""
    found = {name: quantile(tally.histogram, q) for name, q in QUANTILES.items()}
    return {name: None if value is None else value / 1e6 for name, value in found.items()}


def _mean(moments: Moments) -> dict[str, Any]:
    return {"n": moments.n, "mean": moments.mean, "standard_deviation": math.sqrt(moments.variance)}


def _compared(control: Tally, treatment: Tally, held: Ruler, name: str, level: float) -> dict[str, Any]:
    """One treatment against the control: the decision, the differences with their intervals, latency and metrics."""
    c, t = rate_of(control), rate_of(treatment)
    counts = (c.events, c.n, t.events, t.n)
    z = score_test(*counts)[0]
    low, high = newcombe(*counts, z=held.z)
    lift = lift_interval(*counts, z=held.z) if math.isfinite(held.z) else None
    relative = (t.rate / c.rate - 1) * 100 if c.rate else None
    return {
        "statistically_significant": name in held.decided or _crossed(counts, z, held),
        "z": z,
        "p_value": equality_p(*counts),
        "sequential_p_value": sequence_p(z, held.fraction, held.alpha)
        if held.design == "confidence_sequence"
        else None,
        "improvement": {
            "absolute_improvement": t.rate - c.rate if c.requests and t.requests else None,
            "absolute_interval": [low, high],
            "relative_improvement": relative,
            "relative_interval": None if lift is None else [100 * lift[0], 100 * lift[1]],
        },
        "latency": _means(control.latency.moments(), treatment.latency.moments(), level),
        "metrics": _metrics(control, treatment, level),
    }


def _crossed(counts: tuple[float, float, float, float], z: float, held: Ruler) -> bool:
    """Whether the difference is beyond the bound; with few events by a bound that needs no normal law."""
    c_events, c_n, t_events, t_n = counts
    if not c_n or not t_n or not math.isfinite(held.z):
        return False
    if held.design != "confidence_sequence" and not held.counts:
        return False
    rare = min(c_events, c_n - c_events, t_events, t_n - t_events) < FEW_EVENTS
    if not rare:
        return abs(z) >= held.z
    if held.design == "confidence_sequence":
        low, high = rate_difference(*counts, alpha=held.alpha / 2)
        return low > 0 or high < 0
    return equality_p(*counts) <= two_sided(held.z)


def _means(control: Moments, treatment: Moments, level: float) -> dict[str, Any] | None:
    """Welch's comparison, as if this were the only look; None for fewer than two values in an arm."""
    found = welch(control, treatment, level=level)
    if found is None:
        return None
    return {
        "control_mean": control.mean,
        "treatment_mean": treatment.mean,
        "difference": found.difference,
        "interval": [found.low, found.high],
        "p_value": found.p_value,
        "method": "Welch, fixed horizon",
    }


def _metrics(control: Tally, treatment: Tally, level: float) -> dict[str, Any]:
    """Each custom metric that both arms have, with p values adjusted over all of them."""
    both = sorted(control.metrics.keys() & treatment.metrics.keys())
    if not both:
        return {}
    import numpy as np  # loaded only where there are metrics to adjust

    from modelyard.stats.multiple import benjamini_hochberg, holm

    pairs = {name: _means(control.metrics[name].moments(), treatment.metrics[name].moments(), level) for name in both}
    found = {name: pair for name, pair in pairs.items() if pair is not None}
    p_values = np.array([pair["p_value"] for pair in found.values()])
    for pair, by_holm, by_bh in zip(found.values(), holm(p_values), benjamini_hochberg(p_values), strict=True):
        pair.update(p_value_holm=float(by_holm), p_value_benjamini_hochberg=float(by_bh))
    return found


def _winner(test: ABTest, compared: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The significant treatment that improves most; the control if every significant one is worse; else None."""
    sure = {
        name: one["improvement"]["absolute_improvement"]
        for name, one in compared.items()
        if one["statistically_significant"]
    }
    if not sure:
        return None
    best = max(sure, key=lambda name: sure[name])
    if sure[best] > 0:
        return best
    return test.control.name if len(sure) == len(compared) else None


def _conclusion(test: ABTest, tallies: Mapping[str, Tally], result: Mapping[str, Any], held: Ruler) -> str:
    """What it means and what to do next, in one or two sentences."""
    empty = [variant.name for variant in test.variants if not tallies[variant.name].requests]
    if empty:
        return f"Not enough evidence: no results yet for {', '.join(empty)}. Go on recording."
    if result["sample_ratio"]["mismatch"]:
        seen, planned = result["sample_ratio"]["seen"], result["sample_ratio"]["planned"]
        told = ", ".join(f"{name} {seen[name]:.1%} instead of {planned[name]:.1%}" for name in planned)
        return f"Do not trust the difference: units did not arrive in the planned shares ({told}). Find out why first."
    winner = result["winner"]
    if winner is not None:
        return _won(test, result, winner)
    if result["statistically_significant"]:
        worse = ", ".join(name for name, one in result["comparisons"].items() if one["statistically_significant"])
        return f"{worse} succeeds less often than the control. Stop it and go on with the others."
    return _undecided(test, tallies, held)


def _won(test: ABTest, result: Mapping[str, Any], winner: str) -> str:
    control = result["control"]["success_rate"]
    if winner == test.control.name:
        return f"No treatment beats the control's success rate of {control:.2%}, and the difference is sure. Keep {test.control.model}."
    arm, change = result["variants"][winner], result["comparisons"][winner]["improvement"]
    relative = change["relative_improvement"]
    by = f"{relative:+.2f} %, " if relative is not None else ""
    rates = f"{arm['success_rate']:.2%} against {control:.2%}"
    return f"{winner} succeeds more often ({by}{rates}), and the difference is sure. Conclude the test and promote {arm['model']}."


def _undecided(test: ABTest, tallies: Mapping[str, Tally], held: Ruler) -> str:
    units = sum(tallies[variant.name].units for variant in test.variants)
    largest = test.planned_units or max(test.horizon, units)
    rate = rate_of(tallies[test.control.name]).rate
    share = 1 - test.control.share
    lift = detectable_lift(rate, units=largest, treatment_share=share) if 0 < rate < 1 and 0 < share < 1 else None
    can = f" {largest:,} units would find a lift of {lift:.1%} four times in five." if lift else ""
    if held.design != "confidence_sequence" and held.fraction >= 1:
        return f"No difference was shown with the planned {largest:,} units.{can} Keep {test.control.model} or plan a larger test."
    return f"Not enough evidence yet after {units:,} units: no difference is sure.{can} Go on recording."
