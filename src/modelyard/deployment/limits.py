"""Hard limits of a live rollout: how bad the new version may ever be, whatever the baseline does. Pure.

A limit counts as broken where a bound that holds at every look at once says so. One that the baseline may break too is an
incident of both: nothing is promoted and somebody is told, but going back would not help.
"""

from __future__ import annotations

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.measures import Measurement
from modelyard.core.traffic import LATENCY_LIMIT, ArmCounts
from modelyard.deployment import margins
from modelyard.deployment.rollouts import Rollout
from modelyard.stats.rounds import weight_of
from modelyard.stats.sequential import lower_rate, upper_rate
from modelyard.stats.sketch import middle

PART = 0.04  # of alpha, half for each limit
SLOWEST = 0.05  # the part of answers above a p95


def judged(rollout: Rollout, new: ArmCounts, old: ArmCounts) -> Decision | None:
    """Roll back for a limit that the canary alone breaks, hold for one that both may break, None where none is broken."""
    broken = [one for one in (_errors(rollout, new, old), _latency(rollout, new, old)) if one]
    rollbacks = [one for one in broken if one.verdict is Verdict.ROLL_BACK]
    return next(iter(rollbacks or broken), None)


def _errors(rollout: Rollout, new: ArmCounts, old: ArmCounts) -> Decision | None:
    limit = rollout.terms.error_limit
    if limit is None:
        return None
    counts = (new.errors, new.requests), (old.errors, old.requests)
    return _decided(rollout, "error rate", limit, counts, f"{limit:.2%} of requests")


def latency_ms(rollout: Rollout) -> float | None:
    """The hard limit of the p95 in the step that begins, None without one."""
    frozen, times = rollout.progress.latency_ms.get("p95"), rollout.terms.latency_limit
    return None if frozen is None or times is None else frozen * times


def _latency(rollout: Rollout, new: ArmCounts, old: ArmCounts) -> Decision | None:
    limit = latency_ms(rollout)
    if limit is None:
        return None
    told = f"{limit:.4g} ms, {rollout.terms.latency_limit:g} times the baseline's p95 when the step began, for 5 % of answers"
    return _decided(rollout, "p95", SLOWEST, (_above(new, limit), _above(old, limit)), told)


def _decided(
    rollout: Rollout, what: str, limit: float, counts: tuple[tuple[int, int], tuple[int, int]], told: str
) -> Decision | None:
    """The bounds of both arms against a limit of a rate.

    Counts begin anew in each step, once more where its latency is frozen, and twice where that is done anew: so do the
    bounds, each time with a part.
    """
    alpha = PART * rollout.terms.alpha * weight_of(rollout.step + 1) * margins.part(rollout) / 2 / 2 / 2
    (bad, n), (base, m) = counts
    low, high = lower_rate(bad, n, alpha), upper_rate(base, m, alpha)
    if low <= limit:
        return None
    found = Measurement(
        name=f"limit_{what.replace(' ', '_')}",
        value=bad / n,
        low=low,
        n=n,
        method="sub-Bernoulli confidence sequences of both arms against the limit",
        details={"limit": limit, "baseline": [base, m], "baseline_high": high, "alpha": alpha},
    )
    reason = f"limit: {what} above {told}: {bad} of {n} on the canary, {base} of {m} on the baseline"
    if high > limit:
        reason += "; the baseline may break it too, so going back would not help"
        return Decision(verdict=Verdict.HOLD, reasons=(reason,), measurements=(found,))
    return Decision(verdict=Verdict.ROLL_BACK, reasons=(reason,), measurements=(found,))


def _above(arm: ArmCounts, limit_ms: float) -> tuple[int, int]:
    """(how many first answers of units lie above the limit, how many there are), where serving has counted them; else of
    all answers by their histogram, whose buckets are of microseconds."""
    if LATENCY_LIMIT in arm.slower:
        return arm.slower[LATENCY_LIMIT], arm.requests
    limit = limit_ms * 1000
    above = sum(count for index, count in arm.latency.items() if middle(index) > limit)
    return above, sum(arm.latency.values())
