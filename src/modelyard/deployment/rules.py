"""The decisions of deployment: promote, hold or roll back, and what traffic a rollout asks for. Pure.

A step's new version is rolled back on an e-value against the live baseline, which stays valid however often it is looked
at; it is promoted when an always-valid upper bound of its harm is inside the stated margin. Between the two it is held,
and the reason says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import (
    BASELINE,
    CANARY,
    PREVIOUS,
    Arm,
    ArmCounts,
    Guard,
    ShadowCounts,
    Traffic,
    TrafficCounts,
    against,
    known_part,
)
from modelyard.deployment import guardrails, limits, margins
from modelyard.deployment.rollouts import (
    DeploymentStatus,
    PerformanceMetrics,
    Progress,
    RollbackConfig,
    Rollout,
)
from modelyard.stats import rollback
from modelyard.stats.rollback import ANSWERS, ERRORS, LATENCY, frozen, log_evidence, strongest, up_to_now
from modelyard.stats.rounds import weight_of
from modelyard.stats.sequential import lower_rate, rate_difference
from modelyard.stats.srm import log_ratio_evidence

SHADOW, PREVIEW = "shadow", "preview"
QUANTILES = rollback.QUANTILES
SPLIT_ALPHA = 0.001  # of the sample-ratio check
GUARD_PART = 0.90  # of alpha: the tests of the serving processes; `limits` and `guardrails` have theirs
SHADOW_PART = 0.02


def advance(rollout: Rollout, seen: TrafficCounts, now: Instant, trouble: str = "") -> Decision:
    """Promote to the next step, hold with the named reason, or roll back, from one generation's merged counts.

    `trouble` is why a serving process does not carry the step out, if one does not.
    """
    idle = _not_to_be_judged(rollout, seen)
    if idle:
        return Decision(verdict=Verdict.HOLD, reasons=(idle,))
    decision = _judged(rollout, seen, now)
    return _stuck(rollout, decision, trouble, now) if trouble else decision


def watched(progress: Progress, status: DeploymentStatus, trouble: str, now: Instant) -> Progress:
    """The progress with since when a process is stuck, None while none is. A person who paused has all the time."""
    if not trouble or status is DeploymentStatus.PAUSED:
        return replace(progress, stuck_since=None)
    return progress if progress.stuck_since is not None else replace(progress, stuck_since=now.timestamp())


def _stuck(rollout: Rollout, decision: Decision, trouble: str, now: Instant) -> Decision:
    """Nothing is promoted while a process cannot load the version, and where that lasts too long it goes back."""
    since, limit = rollout.progress.stuck_since, rollout.terms.ready_seconds
    seconds = 0.0 if since is None else now.timestamp() - since
    if decision.verdict is Verdict.ROLL_BACK:
        return decision
    if since is not None and seconds >= limit:
        return replace(decision, verdict=Verdict.ROLL_BACK, reasons=(too_late(rollout, seconds, trouble),))
    return replace(decision, verdict=Verdict.HOLD, reasons=(f"not carried out: {trouble}", *decision.reasons))


def too_late(rollout: Rollout, seconds: float, trouble: str) -> str:
    """Why a version that cannot be loaded goes back now."""
    return f"not carried out for {seconds:.0f} s, and ready_seconds is {rollout.terms.ready_seconds:g}: {trouble}"


def _judged(rollout: Rollout, seen: TrafficCounts, now: Instant) -> Decision:
    if rollout.now_at.share == 0:
        return _judged_shadow(rollout, seen, now)
    worse = _rollback(rollout, seen)
    if worse.verdict is Verdict.ROLL_BACK:
        return worse
    beyond = limits.judged(rollout, *_counted(rollout, seen))
    if beyond is not None:
        return replace(beyond, measurements=(*worse.measurements, *beyond.measurements))
    harm = guardrails.judged(rollout)
    measured = (*worse.measurements, *harm.measurements)
    if rollout.status is DeploymentStatus.PAUSED:
        return worse
    for hold in (
        guardrails.missing(rollout, now.timestamp()),
        _split_hold(rollout, seen),
        _units_hold(rollout, _counted(rollout, seen)[0].requests, now),
    ):
        if hold:
            return Decision(verdict=Verdict.HOLD, reasons=(hold,), measurements=measured)
    return _judged_harm(rollout, seen, measured)


def canary(seen: TrafficCounts) -> ArmCounts:
    """What the new version's arm has counted."""
    return seen.arms.get(CANARY, ArmCounts())


def baseline(seen: TrafficCounts) -> ArmCounts:
    """What the baseline's arm has counted."""
    return seen.arms.get(BASELINE, ArmCounts())


def tests_now(rollout: Rollout, seen: TrafficCounts) -> dict[str, tuple[float, ...]]:
    """The rollback tests up to now, those of earlier steps included: the serving guard's own where it has counted.

    Counts that somebody else brings are judged by what they tell: errors, and answers above the frozen quantiles.
    """
    share, new, old = rollout.now_at.share, canary(seen), baseline(seen)
    if new.tests or not 0 < share < 1:
        return dict(new.tests or rollout.progress.carried)
    counts: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {ERRORS: ((new.errors,), (old.errors,))}
    names = tuple(name for name in QUANTILES if name in rollout.progress.latency_ms and name in new.slower)
    if names:
        counts[ANSWERS] = _levels(new, names), _levels(old, names)
    return up_to_now(rollout.progress.carried, counts, share, names)


def _levels(arm: ArmCounts, names: tuple[str, ...]) -> tuple[int, ...]:
    """How many answers lie between the quantiles, best first; last are the slowest and the failed."""
    above = [arm.requests, *(min(arm.requests, arm.slower.get(name, 0) + arm.errors) for name in names), 0]
    return tuple(max(0, more - fewer) for more, fewer in pairwise(above))


def left_step(rollout: Rollout, seen: TrafficCounts) -> Progress:
    """The progress with which the next generation starts: evidence carried on, latency quantiles frozen anew."""
    progress = rollout.progress
    return replace(
        progress,
        latency_ms=frozen_latency(seen) or progress.latency_ms,
        carried=tests_now(rollout, seen),
        canary_requests=progress.canary_requests + canary(seen).requests,
        frozen_at=None,
        refrozen=0,
        held=(),
        stuck_since=None,
    )


def frozen_latency(seen: TrafficCounts) -> dict[str, float]:
    """The baseline's p50, p95 and p99 in milliseconds; empty before it has answered enough."""
    return frozen(baseline(seen).latency)


def calibrated(rollout: Rollout, seen: TrafficCounts, now: Instant) -> tuple[Progress, str] | None:
    """What the step goes on with, and why, where its baseline's latencies are to be frozen or have moved; else None.

    Rollback evidence is carried on: whatever thresholds were chosen before an answer, a fair bet on it is one. What
    promotes begins anew, with a part of what the step may spend (`margins.part`).
    """
    if rollout.status is not DeploymentStatus.RUNNING or seen.generation != rollout.generation:
        return None
    if not 0 < rollout.now_at.share < 1:
        return None
    left, again, at = left_step(rollout, seen), rollout.progress.refrozen, now.timestamp()
    if not rollout.progress.latency_ms:
        values = ", ".join(f"{name} {value:.4g} ms" for name, value in left.latency_ms.items())
        return (replace(left, frozen_at=at, refrozen=again), f"baseline latency frozen: {values}") if values else None
    told = margins.moved(rollout, _counted(rollout, seen)[1], at)
    return (replace(left, latency_ms={}, frozen_at=at, refrozen=again + 1), told) if told else None


def traffic_of(rollout: Rollout) -> Traffic | None:
    """The traffic that the endpoint should carry out now, None where no version is left to answer."""
    new, old = rollout.candidate, rollout.baseline
    if rollout.status is DeploymentStatus.COMPLETED and rollout.steps[-1].share == 1:
        return _all_on(rollout, new, spare=_spare(PREVIOUS, old) if old is not None and keeps(rollout) else ())
    if old is None:
        return None
    if not rollout.status.active or rollout.status is DeploymentStatus.COMPLETED:
        return _all_on(rollout, old)
    step = rollout.now_at
    if step.share == 0:
        shadow = Arm(name=SHADOW, model=new.name, version=new.version, weight=0.0)
        return replace(
            _all_on(rollout, old, spare=_spare(PREVIEW, new) if _at_one_stroke(rollout) else ()),
            shadow=shadow if step.shadow_share else None,
            shadow_share=step.shadow_share,
            shadow_tolerance=rollout.terms.tolerance,
        )
    return Traffic(
        endpoint=rollout.endpoint,
        generation=rollout.generation,
        arms=(
            Arm(name=BASELINE, model=old.name, version=old.version, weight=1 - step.share),
            Arm(name=CANARY, model=new.name, version=new.version, weight=step.share),
        ),
        guards=(_guard(rollout),),
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
    """Roll back where a test's evidence passes 1/alpha, else hold as paused; with the measurements either way."""
    tests, (new, old) = tests_now(rollout, seen), _counted(rollout, seen)
    part = known_part(seen.servers) * GUARD_PART
    need, (log_e, metric) = -math.log(part * rollout.terms.alpha), strongest(tests)
    measured = (_evidence_measure(rollout, tests, need, (new, old)),)
    if log_e < need:
        return Decision(verdict=Verdict.HOLD, reasons=("paused: the guard goes on watching",), measurements=measured)
    strength = f"evidence {math.exp(min(log_e, 700)):.4g} passes {math.exp(need):.4g}"
    counts = against(_guard(rollout), seen, slow=metric == LATENCY)
    reason = f"worse than the baseline: {counts}; at a share of {rollout.now_at.share:g}, {strength}"
    return Decision(verdict=Verdict.ROLL_BACK, reasons=(reason,), measurements=measured)


def _evidence_measure(
    rollout: Rollout, tests: Mapping[str, tuple[float, ...]], need: float, arms: tuple[ArmCounts, ArmCounts]
) -> Measurement:
    """What a look at the rollback tests rests on: evidence, parts of alpha, threshold, share and counts."""
    counts = [{"units": arm.requests, "errors": arm.errors, "slower": dict(arm.slower)} for arm in arms]
    return Measurement(
        name="rollback_log_e_value",
        value=strongest(tests)[0] if tests else 0.0,
        n=rollout.progress.canary_requests + arms[0].requests,
        method="largest of the e-processes with e-detectors, each times its part of alpha",
        details={
            "threshold": need,
            "metric": strongest(tests)[1],
            "tests": log_evidence(tests),
            "share": rollout.now_at.share,
            CANARY: counts[0],
            BASELINE: counts[1],
        },
    )


def _split_hold(rollout: Rollout, seen: TrafficCounts) -> str:
    share, (new, old) = rollout.now_at.share, (arm.requests for arm in _counted(rollout, seen))
    if not 0 < share < 1:
        return ""
    log_e = log_ratio_evidence((old, new), (1 - share, share))
    if log_e < -math.log(SPLIT_ALPHA):
        return ""
    got = new / (old + new)
    return (
        f"sample ratio mismatch: the canary got {got:.2%} of the units instead of {share:.2%}; its share is not random"
    )


def _units_hold(rollout: Rollout, units: int, now: Instant) -> str:
    terms = rollout.terms
    seconds = max(0.0, (now - rollout.step_started_at).total_seconds())  # a clock may be set back
    if seconds < terms.minimum_seconds:
        return f"not enough time: {seconds:.0f} of {terms.minimum_seconds:g} seconds in this step"
    if units < terms.minimum_units:
        return f"not enough evidence: {units} of {terms.minimum_units} units"
    return ""


def _judged_harm(rollout: Rollout, seen: TrafficCounts, measured: tuple[Measurement, ...]) -> Decision:
    """Promote where the bounds of harm in errors and in latency lie inside their margins."""
    new, old = _counted(rollout, seen)
    errors = margins.errors(new, old, margins.part(rollout) * margins.ALPHA)
    latency, latency_reason = margins.latency(rollout, new, old)
    found = (*measured, errors, *([latency] if latency else []))
    margin = rollout.terms.margin
    assert errors.high is not None  # it is always bounded
    if errors.high > margin:
        reason = (
            f"errors not yet inside the margin: at most {errors.high:+.4f} against {margin:g}, {new.requests} units"
        )
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    if latency_reason:
        return Decision(verdict=Verdict.HOLD, reasons=(latency_reason,), measurements=found)
    return _promotion(rollout, f"errors at most {errors.high:+.4f} from the baseline, inside {margin:g}", found)


def _counted(rollout: Rollout, seen: TrafficCounts) -> tuple[ArmCounts, ArmCounts]:
    """Canary and baseline with, as requests, what their errors are counted of: units where serving has counted them."""
    new, old = canary(seen), baseline(seen)
    if new.units is not None and old.units is not None:
        return replace(new, requests=new.units), replace(old, requests=old.units)
    return replace(new, requests=max(new.requests - rollout.terms.warmup, new.errors)), old


def _promotion(rollout: Rollout, why: str, found: tuple[Measurement, ...]) -> Decision:
    if rollout.now_at.gate:
        return Decision(verdict=Verdict.HOLD, reasons=(f"gate: {why}; a person has to promote it",), measurements=found)
    return Decision(verdict=Verdict.PROMOTE, reasons=(why,), measurements=found)


def _judged_shadow(rollout: Rollout, seen: TrafficCounts, now: Instant) -> Decision:
    """A shadow step: its answers are compared with the primary's, its errors with the primary's error rate.

    Errors roll it back as soon as they are shown, also where it has compared too little to promote: one that ends its
    process at every copy may never have compared any.
    """
    counts, terms = seen.shadow or ShadowCounts(), rollout.terms
    if rollout.status is DeploymentStatus.PAUSED:
        return Decision(verdict=Verdict.HOLD, reasons=("paused: the shadow goes on being compared",))
    compared, tried = counts.compared, counts.compared + counts.errors
    new = ArmCounts(requests=tried, errors=counts.errors)
    errors, agreement = margins.errors_of_copies(new, baseline(seen)), _agreement(counts)
    found = (errors, agreement)
    old, alpha = baseline(seen), SHADOW_PART * terms.alpha * weight_of(rollout.step + 1)
    worse = rate_difference(old.errors, old.requests, new.errors, new.requests, alpha=alpha)[0]
    if worse > terms.margin:
        reason = f"worse than the baseline: the shadow failed {counts.errors} of {tried} times, at least {worse:+.4f} more often"
        return Decision(verdict=Verdict.ROLL_BACK, reasons=(reason,), measurements=found)
    hold = _units_hold(rollout, compared, now)
    if hold or not compared:
        missed = f", {counts.dropped} copies dropped" if counts.dropped else ""
        return Decision(verdict=Verdict.HOLD, reasons=((hold or "not enough evidence: nothing compared yet") + missed,))
    assert errors.high is not None  # it is always bounded
    assert agreement.low is not None
    if errors.high > terms.margin:
        reason = f"errors not yet inside the margin: at most {errors.high:+.4f} against {terms.margin:g}, {tried} units"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    if agreement.low < terms.minimum_agreement:
        told = f"at least {agreement.low:.4f} against {terms.minimum_agreement:g}, {compared} compared"
        reason = f"agreement not yet shown: {told}"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=found)
    return _promotion(rollout, f"the shadow agrees in at least {agreement.low:.2%} of {compared} answers", found)


def _agreement(counts: ShadowCounts) -> Measurement:
    """The share of a shadow's answers that agree, and at least how large it is."""
    n = counts.compared
    return Measurement(
        name="agreement",
        value=counts.agreed / n if n else 0.0,
        low=lower_rate(counts.agreed, n, margins.ALPHA),
        n=n,
        method="sub-Bernoulli",
    )


def _guard(rollout: Rollout) -> Guard:
    progress, terms = rollout.progress, rollout.terms
    return Guard(
        rollout_id=rollout.deployment_id,
        step=rollout.step,
        share=rollout.now_at.share,
        alpha=float(f"{GUARD_PART * terms.alpha:.12g}"),  # 0.0009 and not 0.0009000000000000001
        warmup=terms.warmup,
        latency_ms=dict(progress.latency_ms),
        latency_margin=terms.latency_margin,
        latency_floor_ms=terms.latency_floor_ms,
        latency_limit_ms=limits.latency_ms(rollout),
        carried=dict(progress.carried),
    )


def _all_on(rollout: Rollout, version: ModelRef, *, spare: tuple[Arm, ...] = ()) -> Traffic:
    return Traffic(
        endpoint=rollout.endpoint,
        generation=rollout.generation,
        arms=(Arm(name=BASELINE, model=version.name, version=version.version, weight=1.0), *spare),
        salt=rollout.deployment_id,
    )


def _spare(name: str, version: ModelRef) -> tuple[Arm, ...]:
    """An arm that answers testers' pinned requests only, and is in memory."""
    return (Arm(name=name, model=version.name, version=version.version, weight=0.0),)


def keeps(rollout: Rollout) -> bool:
    """Whether the baseline of a completed rollout stays in memory, so that going back needs no loading."""
    taken_over = rollout.status is DeploymentStatus.COMPLETED and rollout.steps[-1].share == 1
    return (
        taken_over and rollout.baseline is not None and rollout.terms.keep_seconds > 0 and not rollout.progress.released
    )


def _at_one_stroke(rollout: Rollout) -> bool:
    """Whether everything moves at once, as in blue-green: then the new side can be tried before the switch."""
    shares = [step.share for step in rollout.steps]
    return len(shares) > 1 and shares[-1] == 1 and shares[-2] == 0
