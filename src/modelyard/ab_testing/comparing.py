"""One metric of one treatment against the control: how far apart, how sure, and what follows for goals and guardrails."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.ab_testing import strata
from modelyard.ab_testing.design import Ruler
from modelyard.ab_testing.metrics import LATENCY, Kind, Metric, Role, average
from modelyard.ab_testing.tally import PAIRS, STRATUM, WEIGHTS, Tally
from modelyard.stats import ratios
from modelyard.stats.cross import Cross
from modelyard.stats.distributions import normal_isf, t_sf
from modelyard.stats.proportions import FEW_EVENTS, equality_p, lift_interval, newcombe, scarce, score_test
from modelyard.stats.ratios import Estimate, Interval
from modelyard.stats.sequential import rate_difference, rate_ratio, rates_p, sequence_p
from modelyard.stats.sketch import below, between, bucket, merged, quantile

ANY = (-math.inf, math.inf)
FEWEST = 10  # units an arm: below, the spread of values that repeat (0 and 1, say) is anybody's guess
STEADY = 3.0  # standard errors that a ratio's denominator must lie off zero for the delta method to mean anything
SPLIT_ALPHA = 0.001  # of the checks that units were assigned soundly


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """A success rate with its effective counts: divided by the design effect where units made several requests."""

    requests: int
    units: int
    rate: float
    n: float
    events: float
    design_effect: float


def rate_of(tally: Tally, *others: Tally) -> Rate:
    """The success rate over requests, with the ratio's variance over units (delta method; Rao, Scott 1992).

    Of units that all succeeded their own spread says nothing: together with `others` the design effect is at least that
    of all of them, and where all succeeded or all failed, that of units whose requests are all alike.

    >>> tally = Tally(); tally.count(1, 9); tally.count(0, 1)
    >>> rate_of(tally).rate, rate_of(tally).n
    (0.9, 10.0)
    """
    n, s, effect = tally.requests, tally.successes, 1.0
    if tally.units != n:
        effect = _effect((tally, *others))
        if 0 < s < n:
            effect = max(effect, _effect((tally,)))
    rate = s / n if n else 0.0
    return Rate(requests=n, units=tally.units, rate=rate, n=n / effect, events=s / effect, design_effect=effect)


def _effect(tallies: Sequence[Tally]) -> float:
    """How many times the variance of independent requests that of units is, under one rate for all of them."""
    n, units = sum(one.requests for one in tallies), sum(one.units for one in tallies)
    rate = sum(one.successes for one in tallies) / n if n else 0.0
    binomial = rate * (1 - rate)
    if units < 2 or not binomial:
        return sum(one.nn for one in tallies) / n if n else 1.0
    squares = sum(one.ss - 2 * rate * one.ns + rate * rate * one.nn for one in tallies)  # of s - rate n, over units
    return max(1.0, squares / n * units / (units - 1) / binomial)


def estimate(metric: Metric, tally: Tally) -> Estimate | None:
    """A metric's value in an arm with its error's variance; None for too little, and for quantiles."""
    if metric.kind is Kind.RATE:
        found = rate_of(tally)
        if not found.requests:
            return None
        return Estimate(n=tally.units, value=found.rate, variance=found.rate * (1 - found.rate) / found.n)
    if not metric.summed:
        return None
    sums = tally.metrics.get(metric.name, Cross(metric.size))
    if metric.kind is Kind.MEAN:
        return ratios.mean(sums.spread(tally.units))
    return ratios.ratio(sums.spread(sums.n if metric.kind is Kind.AVERAGE else tally.units))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Treatment against control; intervals are as wide as the design needs them, lifts are parts of 1."""

    metric: Metric
    control: float | None
    treatment: float | None
    difference: float | None = None
    interval: Interval = ANY
    lift: float | None = None
    lift_interval: Interval | None = None
    p_value: float = 1.0
    z: float = 0.0
    method: str
    few: tuple[float, float, float, float] | None = None  # counts too small for a normal law
    enough: bool = True  # whether there are units enough to decide on
    reduced: float | None = None  # the part of the variance that a covariate took
    adjusted: tuple[float, float] | None = None  # control and treatment less what the covariate explains
    imbalance: float | None = None  # z score of the covariate, known before the test

    def beyond(self, held: Ruler, alpha: float) -> bool:
        """Whether the difference stands out at a look, with an alpha of its own."""
        if not held.open or not self.enough:
            return False
        if self.few is not None and held.design == "confidence_sequence":
            low, high = rate_difference(*self.few, alpha=alpha / 2)
            return low > 0 or high < 0
        return abs(self.score) >= (held.z if alpha == held.each else held.limit(alpha))

    @property
    def score(self) -> float:
        """How far out the difference lies in standard errors; for few events, by the exact p value."""
        if self.few is None or self.p_value <= 0:
            return self.z
        return math.copysign(normal_isf(self.p_value / 2), self.z) if self.p_value < 1 else 0.0

    def sequential_p(self, held: Ruler, treatment: str) -> float | None:
        """The p value that holds however often it is read."""
        if self.difference is None:
            return None
        if self.few is not None and held.design == "confidence_sequence":
            return rates_p(*self.few)
        return held.sequential_p(f"{treatment}:{self.metric.name}", self.score if self.enough else 0.0)

    @property
    def gain(self) -> float:
        """The difference, positive where it is for the better."""
        return (self.difference or 0.0) * self.metric.better


def compared(metric: Metric, control: Tally, treatment: Tally, held: Ruler) -> Compared:
    """One metric of two arms."""
    if metric.kind is Kind.RATE:
        return _rates(metric, control, treatment, held)
    if metric.kind is Kind.QUANTILE:
        return _quantiles(metric, control, treatment, held)
    grouped = strata.estimates(metric, control, treatment) if metric.strata else None
    return _estimates(metric, (estimate(metric, control), estimate(metric, treatment)), grouped, held)


def _rates(metric: Metric, control: Tally, treatment: Tally, held: Ruler) -> Compared:
    """Pooled score test (exact for few events), Newcombe's interval and Koopman's of the ratio."""
    c, t = rate_of(control, treatment), rate_of(treatment, control)
    counts = (c.events, c.n, t.events, t.n)
    rare = min(c.events, c.n - c.events, t.events, t.n - t.events) < FEW_EVENTS
    both = bool(c.requests and t.requests)
    few = counts if rare and both else None
    interval, lifted = _rate_intervals(counts, held, exact=few is not None)
    clustered = c.requests + t.requests > c.units + t.units
    z, p_value = score_test(*counts)[0], equality_p(*counts)
    if clustered:  # the units' spread is estimated, so the score is Student's
        p_value = min(1.0, 2 * t_sf(abs(z), max(1, c.units + t.units - 2)))
        z = math.copysign(normal_isf(p_value / 2), z) if 0 < p_value < 1 else z
    return Compared(
        metric=metric,
        control=c.rate if c.requests else None,
        treatment=t.rate if t.requests else None,
        difference=t.rate - c.rate if both else None,
        interval=interval,
        lift=t.rate / c.rate - 1 if c.rate and both else None,
        lift_interval=lifted,
        p_value=p_value,
        z=z,
        method="pooled score test",
        few=few,
        enough=not clustered or min(c.units, t.units) >= FEWEST,
    )


def _rate_intervals(
    counts: tuple[float, float, float, float], held: Ruler, *, exact: bool
) -> tuple[Interval, Interval | None]:
    """Of the difference and of the lift: those that the decision rests on."""
    if not math.isfinite(held.z) or not (counts[1] and counts[3]):
        return (-1.0, 1.0), None
    if scarce(*counts) or (exact and held.design == "confidence_sequence"):  # no normal law, nor anything near it
        low, high = rate_ratio(*counts, alpha=held.each / 2)
        return rate_difference(*counts, alpha=held.each / 2), (low - 1, high - 1)
    return newcombe(*counts, z=held.z), lift_interval(*counts, z=held.z)


def _estimates(
    metric: Metric,
    plainly: tuple[Estimate | None, Estimate | None],
    grouped: tuple[Estimate, Estimate] | None,
    held: Ruler,
) -> Compared:
    """Means or ratios over units, with the delta method, Welch's degrees of freedom and Fieller's lift interval."""
    (control, treatment), known_before = plainly, bool(metric.covariate or grouped)
    method = (
        "Welch over units"
        + (", within strata" if grouped else "")
        + (", covariate taken out" if metric.covariate else "")
    )
    if control is None or treatment is None:
        known = [None if one is None else one.value for one in (control, treatment)]
        return Compared(metric=metric, control=known[0], treatment=known[1], method=method, enough=False)
    plain, imbalance = (control.value, treatment.value), ratios.imbalance(control, treatment)
    before = control.variance + treatment.variance
    control, treatment = grouped or ratios.adjusted(control, treatment)[:2]
    reduced = 1 - (control.variance + treatment.variance) / before if before else 0.0
    alone = ratios.difference(control, treatment)  # what a single look would say
    if held.repeated:
        control, treatment = ratios.cautious(control, treatment)
    found = ratios.difference(control, treatment)
    width = ratios.wide(held.z, found.df)
    enough = min(control.n, treatment.n) >= FEWEST and min(control.steady, treatment.steady) >= STEADY
    alike = not found.error and not found.value  # every unit of both arms the same: that bounds nothing
    half = width * found.error if found.error else math.inf if alike or not enough else 0.0
    return Compared(
        metric=metric,
        control=plain[0],
        treatment=plain[1],
        difference=found.value,
        interval=(found.value - half, found.value + half),
        lift=(treatment.value - control.value) / abs(control.value) if control.value else None,
        lift_interval=None if alike else ratios.lift(control, treatment, width),
        p_value=alone.p_value,
        z=found.z,
        method=method,
        enough=enough,
        reduced=reduced if known_before else None,
        adjusted=(control.value, treatment.value) if known_before else None,
        imbalance=imbalance if metric.covariate else None,
    )


def _quantiles(metric: Metric, control: Tally, treatment: Tally, held: Ruler) -> Compared:
    """The test counts values above the pooled quantile in each arm (Mood's); the intervals put the quantiles' together.

    Where units bring several values, each arm counts as many as would tell as much if they were independent. The ends of
    intervals are those of buckets, so intervals hold the truth somewhat more often than they say.
    """
    arms = [tally.histograms.get(metric.numerator, {}) for tally in (control, treatment)]
    scale = [between(counts, metric.quantile) for counts in arms]
    method = "counts above the pooled quantile"
    if scale[0] is None or scale[1] is None:
        known = [None if one is None else one / 1e6 for one in scale]
        return Compared(metric=metric, control=known[0], treatment=known[1], method=method, enough=False)
    c, t = scale[0] / 1e6, scale[1] / 1e6
    n = [
        sum(counts.values()) / effect for counts, effect in zip(arms, _effects(metric, control, treatment), strict=True)
    ]
    z, p_value, few = _above(arms, n, metric.quantile)
    c_low, c_high = _order_limits(arms[0], n[0], metric.quantile, held.z)
    t_low, t_high = _order_limits(arms[1], n[1], metric.quantile, held.z)
    ratio = math.log(t / c)
    low = ratio - math.hypot(_log_ratio(t, t_low), _log_ratio(c_high, c))
    high = ratio + math.hypot(_log_ratio(t_high, t), _log_ratio(c, c_low))
    return Compared(
        metric=metric,
        enough=min(*n, control.units, treatment.units) >= FEWEST,
        control=c,
        treatment=t,
        difference=t - c,
        interval=(c * math.expm1(low), c * math.expm1(high)),
        lift=math.expm1(ratio),
        lift_interval=(math.expm1(low), math.expm1(high)) if math.isfinite(held.z) else None,
        p_value=p_value,
        z=z,
        method=method,
        few=few,
    )


def _effects(metric: Metric, control: Tally, treatment: Tally) -> list[float]:
    """The design effects at each arm's own quantile, each at least that of both arms at theirs together."""
    arms, name = (control, treatment), metric.numerator
    both = merged(*(tally.histograms[name] for tally in arms))
    floor = clustering(arms, name, bucket(quantile(both, metric.quantile) or 0.0))
    own = [bucket(quantile(tally.histograms[name], metric.quantile) or 0.0) for tally in arms]
    return [max(floor, clustering((tally,), name, index)) for tally, index in zip(arms, own, strict=True)]


def clustering(tallies: Sequence[Tally], name: str, index: int) -> float:
    """How many times the variance of independent values that of a share of values, up to a bucket, is over units.

    The delta method for the ratio of values below to values, both summed over units; 1 where each unit brings one.
    """
    counts, pairs, weights = ([one.histograms.get(name + part, {}) for one in tallies] for part in ("", PAIRS, WEIGHTS))
    if not any(weights):
        return 1.0
    values, low = sum(sum(one.values()) for one in counts), sum(below(one, index) for one in counts)
    part = low / values if values else 0.0
    if not 0 < part < 1:
        return 1.0 + sum(sum(one.values()) for one in weights) / values if values else 1.0
    squares = low + sum(below(one, index) for one in pairs)
    products = low + sum(below(one, index) for one in weights)
    sizes = values + sum(sum(one.values()) for one in weights)
    return max(1.0, (squares - 2 * part * products + part * part * sizes) / values / (part * (1 - part)))


def _above(
    arms: Sequence[Mapping[int, int]], n: Sequence[float], q: float
) -> tuple[float, float, tuple[float, float, float, float] | None]:
    """(z, p, counts if they are few) of the score test that equal parts lie above the pooled quantile's bucket."""
    pooled: dict[int, int] = {}
    for counts in arms:
        for index, count in counts.items():
            pooled[index] = pooled.get(index, 0) + count
    edge = bucket(quantile(pooled, q) or 0.0)
    parts = [sum(count for index, count in counts.items() if index > edge) / sum(counts.values()) for counts in arms]
    if all(size == sum(counts.values()) for size, counts in zip(n, arms, strict=True)):
        parts = [round(part * size) / size for part, size in zip(parts, n, strict=True)]  # whole counts
    events = [part * size for part, size in zip(parts, n, strict=True)]
    four = (min(events[0], n[0]), n[0], min(events[1], n[1]), n[1])
    rare = min(*events, n[0] - events[0], n[1] - events[1]) < FEW_EVENTS
    return score_test(*four)[0], equality_p(*four), four if rare else None


def _order_limits(counts: Mapping[int, int], n: float, q: float, z: float) -> Interval:
    """A quantile's interval by order statistics: the ranks that z standard errors around q take in, in seconds.

    Where that is more than all values, there is no end: the largest of a hundred values is no bound of their p99.
    """
    half = z * math.sqrt(q * (1 - q) / n)
    low = quantile(counts, q - half) if half < q else None
    high = quantile(counts, q + half) if half < 1 - q else None
    return (  # a bucket's middle is within 1 % of what it holds
        0.0 if low is None else low * 0.99 / 1e6,
        math.inf if high is None else high * 1.01 / 1e6,
    )


def _log_ratio(larger: float, smaller: float) -> float:
    return math.log(larger / smaller) if smaller > 0 else math.inf


def every_metric(plan: Iterable[Metric], arms: Iterable[Tally]) -> tuple[Metric, ...]:
    """The planned metrics and the average of every other number that some arm has brought, the latency's first."""
    planned = tuple(plan)
    names = {name for tally in arms for name in tally.metrics if STRATUM not in name} - {one.name for one in planned}
    return (*planned, *(average(name) for name in sorted(names, key=lambda name: (name != LATENCY, name))))


def guarded(found: Compared, held: Ruler, treatment: str) -> str:
    """Whether a guardrail is `held` (shown within its margin), `broken` (shown beyond it), or still `open`.

    A test of non-inferiority at each look, with the design's bounds. What a look of a plan has shown stays shown, until
    another shows the opposite; between looks that count nothing new is shown.
    """
    before = held.guardrails.get(f"{treatment}:{found.metric.name}", "open")
    if not held.open or not found.enough or found.lift_interval is None:
        return before
    worst, best = found.lift_interval if found.metric.better > 0 else (-found.lift_interval[1], -found.lift_interval[0])
    if worst > -found.metric.margin:
        return "held"
    return "broken" if best < -found.metric.margin else before


def mismatched(found: Compared, held: Ruler) -> bool:
    """Whether units differed before the test by more than chance explains, by the covariate; at any look."""
    if not found.imbalance or not found.enough:
        return False
    return sequence_p(found.imbalance, held.fraction, SPLIT_ALPHA) <= SPLIT_ALPHA


def stepped(found: Mapping[str, Compared], held: Ruler) -> frozenset[str]:
    """The hypotheses that are decided, by name: Holm's steps over all goals and treatments, bounds at each step.

    What an earlier look decided stays decided and gives its part of alpha to the rest (Maurer & Bretz 2013, Statistics in
    Biopharmaceutical Research 5(4)).
    """
    done = set(held.decided) & set(found)
    for name in sorted(set(found) - done, key=lambda name: (found[name].p_value, -abs(found[name].z), name)):
        if not found[name].beyond(held, held.alpha / (len(found) - len(done))):
            break
        done.add(name)
    return frozenset(done)


def told(found: Compared, held: Ruler, treatment: str) -> dict[str, Any]:
    """A comparison as plain values; relative figures in percent, infinite for an end that an interval does not have."""
    lifted = found.lift_interval
    result: dict[str, Any] = {
        "kind": found.metric.kind.value,
        "role": found.metric.role.value,
        "control": found.control,
        "treatment": found.treatment,
        "difference": found.difference,
        "interval": list(found.interval),
        "relative": None if found.lift is None else 100 * found.lift,
        "relative_interval": None if lifted is None else [100 * end for end in lifted],
        "z": found.z,
        "p_value": found.p_value,
        "sequential_p_value": found.sequential_p(held, treatment),
        "enough_units": found.enough,
        "method": found.method,
    }
    if found.reduced is not None and found.adjusted is not None:
        control, treated = found.adjusted
        result.update(variance_reduction=found.reduced, adjusted_control=control, adjusted_treatment=treated)
        result["covariate_z"] = found.imbalance
    if found.metric.role is Role.GUARDRAIL:
        result.update(margin=100 * found.metric.margin, guardrail=guarded(found, held, treatment))
    return result


def adjust(found: Sequence[dict[str, Any]]) -> None:
    """Adjusted p values over a family, written beside the plain ones: Holm's, and Benjamini and Hochberg's.

    Of the p values that hold however often they are read, so these do too: 1 where no look has counted yet.
    """
    if not found:
        return
    import numpy as np  # loaded only where there are metrics to adjust

    from modelyard.stats.multiple import benjamini_hochberg, holm

    p_values = np.array([1.0 if one["sequential_p_value"] is None else one["sequential_p_value"] for one in found])
    for one, by_holm, by_bh in zip(found, holm(p_values), benjamini_hochberg(p_values), strict=True):
        one.update(p_value_holm=float(by_holm), p_value_benjamini_hochberg=float(by_bh))


def one_look(level: float) -> float:
    """The standard errors of an interval that is looked at once."""
    return normal_isf((1 - level) / 2)


def finite(told: Any) -> Any:
    """The same with None for every number that JSON has not: ends that there are not, and what left the range of floats."""
    if isinstance(told, dict):
        return {name: finite(one) for name, one in told.items()}
    if isinstance(told, list):
        return [finite(one) for one in told]
    return None if isinstance(told, float) and not math.isfinite(told) else told
