"""What a version has to show before it is promoted: that it is not worse than the baseline by more than its margins. Pure."""

from __future__ import annotations

import math

from modelyard.core.measures import Measurement
from modelyard.core.traffic import ArmCounts, tolerated_ms
from modelyard.deployment.rollouts import Rollout
from modelyard.stats.harm import excess_bound, ratio_bound
from modelyard.stats.rollback import FREEZE_AT
from modelyard.stats.rollback import frozen as quantiles
from modelyard.stats.rounds import weight_of
from modelyard.stats.sequential import rate_difference

ALPHA = 0.05  # each bound of harm errs so often in a step; a version promoted wrongly is under the next step's guard
FIRST = 0.95  # of that for the counts until latency is frozen anew; all that begin anew after it share the rest
LEVELS = 0.01, 0.20  # so many of its answers may the baseline have above its frozen p95, else that is none any more
MOVED_AFTER, MOVED_S, MOVED_BY = 1000, 600.0, 1.05  # answers, seconds since it was frozen, and times what was frozen


def part(rollout: Rollout) -> float:
    """Of what a step may spend, the part for what has been counted since its latency was frozen last: parts add up to 1.

    Counts above other thresholds are another test, so it begins anew, and each that does may err.
    """
    again = rollout.progress.refrozen
    return (1 - FIRST) * weight_of(again) if again else FIRST


def moved(rollout: Rollout, old: ArmCounts, now: float) -> str:
    """How far the baseline has moved from its frozen p95, where that is too far; by the baseline alone, else the canary
    could choose what it is held against."""
    frozen, above = rollout.progress.latency_ms.get("p95"), old.slower.get("p95", 0)
    since = now - (rollout.progress.frozen_at or rollout.step_started_at.timestamp())
    if frozen is None or "p95" not in old.slower or old.requests < MOVED_AFTER or since < MOVED_S:
        return ""
    is_now = quantiles(old.latency).get("p95", frozen)  # where most answers take the same time, levels jump
    if LEVELS[0] <= above / old.requests <= LEVELS[1] or 1 / MOVED_BY < is_now / frozen < MOVED_BY:
        return ""
    told = f"{above / old.requests:.2%} of its answers take longer than {frozen:.4g} ms, its frozen p95"
    return f"baseline latency has moved: {told}; it is frozen anew from its next {FREEZE_AT} answers"


def errors(new: ArmCounts, old: ArmCounts, alpha: float = ALPHA) -> Measurement:
    """How far the canary's error rate lies from the baseline's, at most and at least."""
    low, _ = rate_difference(old.errors, old.requests, new.errors, new.requests, alpha=alpha)
    high = excess_bound(old.errors, old.requests, new.errors, new.requests, alpha=alpha)
    method = f"sub-Bernoulli e-processes of both arms together, {100 * (1 - alpha):.4g} % each side"
    return _difference(new, old, low, high, method)


def errors_of_copies(new: ArmCounts, old: ArmCounts) -> Measurement:
    """The same where both have answered the same requests, so that their failures depend on each other."""
    low, high = rate_difference(old.errors, old.requests, new.errors, new.requests, alpha=ALPHA)
    return _difference(new, old, low, high, "sub-Bernoulli confidence sequences, 95 % each side")


def _difference(new: ArmCounts, old: ArmCounts, low: float, high: float, method: str) -> Measurement:
    both = old.requests and new.requests
    return Measurement(
        name="error_rate_difference",
        value=new.errors / new.requests - old.errors / old.requests if both else None,
        low=low,
        high=high,
        n=new.requests,
        method=method,
    )


def latency(rollout: Rollout, new: ArmCounts, old: ArmCounts) -> tuple[Measurement | None, str]:
    """Is the canary's p95 within its margin? The measurement, and why it is not yet known to be.

    With t the frozen p95 and T what is tolerated of it: where the baseline's quantile at some level is t now, that of the
    canary is T at most if P(canary > T) <= P(baseline > t). A shared slowdown moves both sides.
    Measured is the ratio of the two less 1, from the slow answers alone.
    """
    frozen, terms = rollout.progress.latency_ms.get("p95"), rollout.terms
    if frozen is None:
        measured = sum(old.latency.values())
        told = f"baseline latency not frozen yet: {min(measured, FREEZE_AT)} of {FREEZE_AT} answers"
        return None, told if measured else ""
    if "p95" not in new.slower or "p95" not in old.slower or not new.requests or not old.requests:
        return None, "latency not measured: the arms have no counts above the frozen p95 for this step"
    above, base = new.slower["p95"], old.slower["p95"]
    limit = tolerated_ms(frozen, terms.latency_margin, terms.latency_floor_ms)
    high = ratio_bound(above, base, rollout.now_at.share, part(rollout) * ALPHA) - 1
    found = Measurement(
        name="latency_p95_excess",
        value=above / new.requests / (base / old.requests) - 1 if base else None,
        high=high if math.isfinite(high) else None,
        n=new.requests,
        method=f"share of canary answers above {limit:.4g} ms over share of baseline answers above {frozen:.4g} ms, "
        "less 1; binomial e-process",
        details={"canary_above": above, "baseline_above": base},
    )
    if high > 0:
        return found, f"latency not yet inside the margin: p95 may lie above {limit:.4g} ms, {new.requests} units"
    return found, ""
