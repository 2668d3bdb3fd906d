"""The decisions of deployment: promote, hold or roll back, and what traffic a rollout asks for. Pure.

A step's new version is rolled back on an e-value against the live baseline, which stays valid however often it is looked
at; it is promoted when an always-valid upper bound of its harm is inside the stated margin. Between the two it is held,
and the reason says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import BASELINE, CANARY, Arm, ArmCounts, Guard, Traffic, TrafficCounts
from modelyard.deployment.rollouts import (
    DeploymentStatus,
    PerformanceMetrics,
    Progress,
    RollbackConfig,
    Rollout,
)
from modelyard.stats.eprocess import combined, rollback_evidence
from modelyard.stats.sequential import lower_rate, rate_difference, upper_rate
from modelyard.stats.sketch import middle, quantile
from modelyard.stats.srm import log_ratio_evidence

SHADOW = "shadow"
PROMOTION_ALPHA = 0.05  # each bound of harm is 95 %; a version promoted wrongly is still under the next step's guard
SPLIT_ALPHA = 0.001  # of the sample-ratio check
FREEZE_AT = 200  # baseline answers: p95 from fewer jumps about; p99 needs no more, its roughness costs power only
QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
GUARD_PART = (
    0.8  # of alpha goes to the e-process that the serving processes watch too, the rest to the late-fault detector
)
LATE_LOOKS = 1000  # looks that the detector's first threshold pays for; it grows fourfold as they double


def advance(rollout: Rollout, seen: TrafficCounts, now: Instant) -> Decision:
    """Promote to the next step, hold with the named reason, or roll back, from one generation's merged counts."""
    idle = _not_to_be_judged(rollout, seen)
    if idle:
        return Decision(verdict=Verdict.HOLD, reasons=(idle,))
    if rollout.now_at.share == 0:
        return _judged_shadow(rollout, seen, now)
    worse = _rollback(rollout, seen)
    if worse.verdict is Verdict.ROLL_BACK or rollout.status is DeploymentStatus.PAUSED:
        return worse
    measured = worse.measurements
    for hold in (_split_hold(rollout, seen), _units_hold(rollout, canary(seen).requests, now)):
        if hold:
            return Decision(verdict=Verdict.HOLD, reasons=(hold,), measurements=measured)
    return _judged_harm(rollout, seen, measured)


def canary(seen: TrafficCounts) -> ArmCounts:
    """What the new version's arm has counted."""
    return seen.arms.get(CANARY, ArmCounts())


def baseline(seen: TrafficCounts) -> ArmCounts:
    """What the baseline's arm has counted."""
    return seen.arms.get(BASELINE, ArmCounts())


def step_evidence(rollout: Rollout, seen: TrafficCounts) -> dict[str, float]:
    """The log e-values by metric up to now, those of earlier steps included: the same as the serving guard's."""
    new, old = canary(seen), baseline(seen)
    names = rollout.progress.latency_ms
    slower = [(new.slower.get(name, 0), old.slower.get(name, 0)) for name in names]
    return rollback_evidence(rollout.now_at.share, (new.errors, old.errors), slower, carried=rollout.progress.carried)


def looked(rollout: Rollout, seen: TrafficCounts) -> Progress:
    """The progress after this look: the late-fault detector fed with the errors since the last one."""
    progress, now = rollout.progress, (canary(seen).errors, baseline(seen).errors)
    more = (now[0] - progress.looked[0], now[1] - progress.looked[1])
    if not any(more) or min(more) < 0 or not 0 < rollout.now_at.share < 1:
        return progress
    late = progress.late.after(*more, rollout.now_at.share)
    return replace(progress, late=late, looks=progress.looks + 1, looked=now)


def left_step(rollout: Rollout, seen: TrafficCounts) -> Progress:
    """The progress with which the next generation starts: evidence carried on, latency quantiles frozen anew."""
    progress = rollout.progress
    return Progress(
        latency_ms=frozen_latency(seen) or progress.latency_ms,
        carried=step_evidence(rollout, seen) if 0 < rollout.now_at.share < 1 else progress.carried,
        canary_requests=progress.canary_requests + canary(seen).requests,
        late=progress.late,
        looks=progress.looks,
    )


def frozen_latency(seen: TrafficCounts) -> dict[str, float]:
    """The baseline's p50, p95 and p99 in milliseconds; empty before it has answered enough."""
    counts = baseline(seen).latency
    if sum(counts.values()) < FREEZE_AT:
        return {}
    found = {name: quantile(counts, q) for name, q in QUANTILES.items()}
    return {name: value / 1000 for name, value in found.items() if value is not None}


def must_freeze(rollout: Rollout, seen: TrafficCounts) -> bool:
    """Whether the step runs without frozen latency quantiles although the baseline has answered enough for them."""
    running = rollout.status is DeploymentStatus.RUNNING and seen.generation == rollout.generation
    return running and 0 < rollout.now_at.share < 1 and not rollout.progress.latency_ms and bool(frozen_latency(seen))


def traffic_of(rollout: Rollout) -> Traffic | None:
    """The traffic that the endpoint should carry out now, None where no version is left to answer."""
    new, old = rollout.candidate, rollout.baseline
    if rollout.status is DeploymentStatus.COMPLETED and rollout.steps[-1].share == 1:
        return _all_on(rollout, new)
    if old is None:
        return None
    if not rollout.status.active or rollout.status is DeploymentStatus.COMPLETED:
        return _all_on(rollout, old)
    step = rollout.now_at
    if step.share == 0:
        shadow = Arm(name=SHADOW, model=new.name, version=new.version, weight=0.0)
        return _all_on(rollout, old, shadow=shadow if step.shadow_share else None, shadow_share=step.shadow_share)
    return Traffic(
        endpoint=rollout.endpoint,
        generation=rollout.generation,
        arms=(
            Arm(name=BASELINE, model=old.name, version=old.version, weight=1 - step.share),
            Arm(name=CANARY, model=new.name, version=new.version, weight=step.share),
        ),
        guard=_guard(rollout),
        salt=rollout.deployment_id,  # one salt for all steps: a unit that has met the new version stays with it
    )


def health(
    metrics: PerformanceMetrics | None, base: PerformanceMetrics | None, limits: RollbackConfig, requests: int
) -> Decision:
    """Roll back when metrics reported by hand break a hard limit; hold below the minimum of requests; else allow."""
    if metrics is None:
        return Decision(verdict=Verdict.HOLD, reasons=("no metrics reported yet: call update_metrics first",))
    if requests < limits.min_requests_before_check:
        reason = f"not enough evidence: {requests} of {limits.min_requests_before_check} requests"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,))
    reasons = tuple(reason for reason in _broken(metrics, base, limits) if reason)
    return Decision(verdict=Verdict.ROLL_BACK if reasons else Verdict.ALLOW, reasons=reasons)


def _broken(metrics: PerformanceMetrics, base: PerformanceMetrics | None, limits: RollbackConfig) -> list[str]:
    found = []
    if metrics.error_rate is not None and metrics.error_rate > limits.error_rate_threshold:
        found.append(f"error rate {metrics.error_rate:.2%} is above the limit of {limits.error_rate_threshold:.2%}")
    for name in ("latency_p50", "latency_p95", "latency_p99"):
        value, before = getattr(metrics, name), getattr(base, name, None)
        if value is not None and before is not None and value > before * limits.latency_threshold_multiplier:
            limit = f"{limits.latency_threshold_multiplier:g} times the baseline's {before * 1000:g} ms"
            found.append(f"{name.replace('_', ' ')} {value * 1000:g} ms is above {limit}")
    accuracy, before, drop = metrics.accuracy, getattr(base, "accuracy", None), limits.accuracy_drop_threshold
    if accuracy is not None and before is not None and drop is not None and accuracy < before - drop:
        found.append(f"accuracy {accuracy:.4f} is more than {drop:g} below the baseline's {before:.4f}")
    return found


def late_threshold(looks: int, alpha: float) -> float:
    """The log that the late-fault detector must reach at this look, so that all its false alarms share a fifth of alpha.

    Within n looks the detector passes c with probability at most n / c. The first 1000 looks get half of the budget,
    each doubling half of what is left: c = 1000 * 4**i / (budget / 2) in the i-th doubling.
    """
    budget = (1 - GUARD_PART) * alpha
    doublings = max(0, math.ceil(math.log2(looks / LATE_LOOKS))) if looks > 0 else 0
    return math.log(2 * LATE_LOOKS / budget) + doublings * math.log(4)


def _not_to_be_judged(rollout: Rollout, seen: TrafficCounts) -> str:
    if not rollout.status.active:
        return f"{rollout.status.value.replace('_', ' ')}: nothing is left to decide"
    if seen.endpoint != rollout.endpoint or seen.generation != rollout.generation:
        told = f"{seen.endpoint} generation {seen.generation}"
        return (
            f"other counts: these are of {told}, the rollout is at {rollout.endpoint} generation {rollout.generation}"
        )
    return ""


def _rollback(rollout: Rollout, seen: TrafficCounts) -> Decision:
    """Roll back at 1/alpha of either test, else hold as paused; with the measurements either way."""
    terms, share = rollout.terms, rollout.now_at.share
    log_e, metric = combined(step_evidence(rollout, seen))
    after = looked(rollout, seen)
    need, late = -math.log(GUARD_PART * terms.alpha), after.late.log_value
    late_need = late_threshold(after.looks, terms.alpha)
    new, old = canary(seen), baseline(seen)
    n = rollout.progress.canary_requests + new.requests
    measured = (
        _log_measure("rollback_log_e_value", log_e, need, n, "mean of e-processes of errors and latency"),
        _log_measure("late_fault_log_value", max(late, -700.0), late_need, n, "Shiryaev-Roberts e-detector"),
    )
    counts = (
        f"{new.errors} of {new.requests} requests failed on the canary, {old.errors} of {old.requests} on the baseline"
    )
    if log_e >= need:
        strength = f"evidence {math.exp(min(log_e, 700)):.4g} passes {math.exp(need):.4g}, mostly from {metric}"
        return Decision(
            verdict=Verdict.ROLL_BACK,
            reasons=(f"worse than the baseline: {counts} at a share of {share:g}; {strength}",),
            measurements=measured,
        )
    if late >= late_need:
        reason = f"worse than the baseline of late: {counts}; the e-detector passes {math.exp(late_need):.4g}"
        return Decision(verdict=Verdict.ROLL_BACK, reasons=(reason,), measurements=measured)
    return Decision(verdict=Verdict.HOLD, reasons=("paused: the guard goes on watching",), measurements=measured)


def _split_hold(rollout: Rollout, seen: TrafficCounts) -> str:
    share, new, old = rollout.now_at.share, canary(seen).requests, baseline(seen).requests
    if not 0 < share < 1:
        return ""
    log_e = log_ratio_evidence((old, new), (1 - share, share))
    if log_e < -math.log(SPLIT_ALPHA):
        return ""
    got = new / (old + new)
    return f"sample ratio mismatch: the canary got {got:.2%} of the requests instead of {share:.2%}; its share is not random"


def _units_hold(rollout: Rollout, units: int, now: Instant) -> str:
    terms = rollout.terms
    seconds = (now - rollout.step_started_at).total_seconds()
    if seconds < terms.minimum_seconds:
        return f"not enough time: {seconds:.0f} of {terms.minimum_seconds:g} seconds in this step"
    needed = terms.minimum_units + terms.warmup
    if units < needed:
        return f"not enough evidence: {units} of {needed} units"
    return ""


def _judged_harm(rollout: Rollout, seen: TrafficCounts, measured: tuple[Measurement, ...]) -> Decision:
    """Promote where the bounds of harm in errors and in latency lie inside their margins."""
    errors = _error_measure(_warm(rollout, seen), baseline(seen))
    latency, latency_reason = _latency(rollout, seen)
    found = (*measured, errors, *([latency] if latency else []))
    margin = rollout.terms.margin
    assert errors.high is not None  # _error_measure always bounds
    if errors.high > margin:
        reason = f"errors not yet inside the margin: at most {errors.high:+.4f} against {margin:g}, {canary(seen).requests} units"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    if latency_reason:
        return Decision(verdict=Verdict.HOLD, reasons=(latency_reason,), measurements=found)
    return _promotion(rollout, f"errors at most {errors.high:+.4f} from the baseline, inside {margin:g}", found)


def _warm(rollout: Rollout, seen: TrafficCounts) -> ArmCounts:
    """The canary without its warm-up, in which requests are counted and bad events are not."""
    new = canary(seen)
    return replace(new, requests=max(new.requests - rollout.terms.warmup, new.errors))


def _promotion(rollout: Rollout, why: str, found: tuple[Measurement, ...]) -> Decision:
    if rollout.now_at.gate:
        return Decision(verdict=Verdict.HOLD, reasons=(f"gate: {why}; a person has to promote it",), measurements=found)
    return Decision(verdict=Verdict.PROMOTE, reasons=(why,), measurements=found)


def _error_measure(new: ArmCounts, old: ArmCounts) -> Measurement:
    low, high = rate_difference(old.errors, old.requests, new.errors, new.requests, alpha=PROMOTION_ALPHA)
    both = old.requests and new.requests
    return Measurement(
        name="error_rate_difference",
        value=new.errors / new.requests - old.errors / old.requests if both else None,
        low=low,
        high=high,
        n=new.requests,
        method="sub-Bernoulli confidence sequences, 95 % each side",
    )


def _latency(rollout: Rollout, seen: TrafficCounts) -> tuple[Measurement | None, str]:
    """Is the canary's p95 within its margin? The measurement, and why it is not yet known to be.

    With t the frozen p95: the baseline's quantile at the level where it now stands at t, times 1 + margin, is not
    exceeded by the canary's quantile at that level if P(canary > (1 + margin) t) <= P(baseline > t). A shared slowdown
    moves both sides.
    """
    frozen, margin = rollout.progress.latency_ms.get("p95"), rollout.terms.latency_margin
    new, old = canary(seen), baseline(seen)
    if frozen is None:
        measured = sum(old.latency.values())
        told = f"baseline latency not frozen yet: {min(measured, FREEZE_AT)} of {FREEZE_AT} answers"
        return None, told if measured else ""
    limit = frozen * (1 + margin)
    (above, n), (base, m) = _above(new.latency, limit), _above(old.latency, frozen)
    if not n or not m:
        return None, "latency not measured: the arms have no histogram for this step"
    high = upper_rate(above, n, 0.8 * PROMOTION_ALPHA) - lower_rate(base, m, 0.2 * PROMOTION_ALPHA)
    found = Measurement(
        name="latency_p95_excess",
        value=above / n - base / m,
        high=high,
        n=n,
        method=f"share of canary answers above {limit:.4g} ms less share of baseline answers above {frozen:.4g} ms",
    )
    if high > 0:
        return found, f"latency not yet inside the margin: p95 may lie above {limit:.4g} ms, {n} units"
    return found, ""


def _above(histogram: Mapping[int, int], limit_ms: float) -> tuple[int, int]:
    """(how many values lie above the limit, how many there are); buckets are of microseconds."""
    limit = limit_ms * 1000
    return sum(count for index, count in histogram.items() if middle(index) > limit), sum(histogram.values())


def _judged_shadow(rollout: Rollout, seen: TrafficCounts, now: Instant) -> Decision:
    """A shadow step: its answers are compared with the primary's, its errors with the primary's error rate."""
    counts, terms = seen.shadow, rollout.terms
    compared = counts.compared if counts else 0
    if rollout.status is DeploymentStatus.PAUSED:
        return Decision(verdict=Verdict.HOLD, reasons=("paused: the shadow goes on being compared",))
    hold = _units_hold(rollout, compared, now)
    if hold or counts is None:
        return Decision(verdict=Verdict.HOLD, reasons=(hold or "not enough evidence: no shadow counts",))
    tried = compared + counts.errors
    new = ArmCounts(requests=tried, errors=counts.errors)
    errors = _error_measure(new, baseline(seen))
    worse = rate_difference(
        baseline(seen).errors, baseline(seen).requests, new.errors, new.requests, alpha=GUARD_PART * terms.alpha
    )[0]
    least = lower_rate(counts.agreed, compared, PROMOTION_ALPHA)
    agreement = Measurement(
        name="agreement", value=counts.agreed / compared, low=least, n=compared, method="sub-Bernoulli"
    )
    found = (errors, agreement)
    assert errors.high is not None  # _error_measure always bounds
    if worse > terms.margin:
        reason = f"worse than the baseline: the shadow failed {counts.errors} of {tried} times, at least {worse:+.4f} more often"
        return Decision(verdict=Verdict.ROLL_BACK, reasons=(reason,), measurements=found)
    if errors.high > terms.margin:
        reason = f"errors not yet inside the margin: at most {errors.high:+.4f} against {terms.margin:g}, {tried} units"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    if least < terms.minimum_agreement:
        reason = (
            f"agreement not yet shown: at least {least:.4f} against {terms.minimum_agreement:g}, {compared} compared"
        )
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    return _promotion(rollout, f"the shadow agrees in at least {least:.2%} of {compared} answers", found)


def _guard(rollout: Rollout) -> Guard:
    progress, terms = rollout.progress, rollout.terms
    return Guard(
        rollout_id=rollout.deployment_id,
        step=rollout.step,
        share=rollout.now_at.share,
        alpha=GUARD_PART * terms.alpha,
        warmup=terms.warmup,
        latency_ms=dict(progress.latency_ms),
        latency_margin=terms.latency_margin,
        carried=dict(progress.carried),
    )


def _all_on(rollout: Rollout, version: ModelRef, *, shadow: Arm | None = None, shadow_share: float = 0.0) -> Traffic:
    return Traffic(
        endpoint=rollout.endpoint,
        generation=rollout.generation,
        arms=(Arm(name=BASELINE, model=version.name, version=version.version, weight=1.0),),
        shadow=shadow,
        shadow_share=shadow_share if shadow else 0.0,
        salt=rollout.deployment_id,
    )


def _log_measure(name: str, value: float, need: float, n: int, method: str) -> Measurement:
    return Measurement(name=name, value=value, n=n, method=method, details={"threshold": need})
