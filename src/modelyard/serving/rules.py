"""The decisions of serving: which arm answers, when a guard trips, whether a shadow agrees. Pure."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.core.errors import Conflict, Invalid
from modelyard.core.ids import checked_name
from modelyard.core.traffic import BASELINE, CANARY, Guard, GuardTrip, Traffic, TrafficCounts
from modelyard.stats.eprocess import combined, rollback_evidence

QUANTILES = ("p50", "p95", "p99")
ERRORS, LATENCY = "errors", "latency"
MAX_ARMS = 8
WARM_MICROS = 1_000  # a prediction above this goes to a thread: a hop costs about 50 us, a blocked loop everyone's wait
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}\Z")

Pairs = Mapping[str, tuple[int, int]]  # metric -> bad events of the canary and of the baseline


def bounds(weights: Sequence[float]) -> tuple[float, ...]:
    """The upper ends of the arms' ranges in [0, 1); the last arm that has weight takes what rounding leaves.

    >>> bounds([0.75, 0.25, 0.0])
    (0.75, inf, inf)
    """
    ends, total = [], 0.0
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    for index, weight in enumerate(weights):
        total += weight
        ends.append(total if index < last else math.inf)
    return tuple(ends)


def arm_at(ends: Sequence[float], place: float) -> int:
    """The arm whose range holds a place in [0, 1).

    >>> arm_at((0.75, math.inf), 0.74), arm_at((0.75, math.inf), 0.75)
    (0, 1)
    """
    return bisect_right(ends, place)


def checked_traffic(traffic: Traffic, current: Traffic | None) -> Traffic:
    """The traffic itself if it can be carried out; Invalid or Conflict otherwise."""
    checked_name(traffic.endpoint, "endpoint")
    if current is not None and traffic.generation <= current.generation:
        raise Conflict(
            f"{traffic.endpoint} is at generation {current.generation}; generation {traffic.generation} does not "
            f"replace it. Publish with generation {current.generation + 1} or more."
        )
    if not 1 <= len(traffic.arms) <= MAX_ARMS:
        raise Invalid(f"{traffic.endpoint} has {len(traffic.arms)} arms. Give 1 to {MAX_ARMS}.")
    names = [arm.name for arm in traffic.arms]
    if len(set(names)) != len(names):
        raise Invalid(f"{traffic.endpoint} has two arms of one name: {', '.join(names)}. Name each arm once.")
    if any(not 0 <= arm.weight <= 1 for arm in traffic.arms):
        raise Invalid(f"A weight of {traffic.endpoint} lies outside 0 to 1. Give each arm its share of the requests.")
    total = math.fsum(arm.weight for arm in traffic.arms)
    if abs(total - 1) > 1e-6:
        raise Invalid(f"The weights of {traffic.endpoint} sum to {total:g}. Make them sum to 1.")
    if not 0 <= traffic.shadow_share <= 1:
        raise Invalid(f"shadow_share of {traffic.endpoint} is {traffic.shadow_share}. Choose a share from 0 to 1.")
    _check_guard(traffic, names)
    return traffic


def _check_guard(traffic: Traffic, names: list[str]) -> None:
    guard = traffic.guard
    if guard is None:
        return
    if not _FILE_NAME.match(guard.rollout_id):
        raise Invalid(f"{guard.rollout_id!r} is no rollout id. Use letters, digits and _.@+-.")
    if BASELINE not in names or CANARY not in names:
        raise Invalid(f"The guard of {traffic.endpoint} compares the arms baseline and canary. Name both in arms.")
    if not 0 < guard.alpha < 1:
        raise Invalid(f"The guard's alpha is {guard.alpha}. Choose a false-rollback rate between 0 and 1, say 0.001.")
    if not 0 <= guard.share <= 1:
        raise Invalid(f"The guard's share is {guard.share}. Give the canary's share of the requests, 0 to 1.")
    for name, value in guard.latency_ms.items():
        if name not in QUANTILES or not value > 0 or not guard.latency_margin >= 0:
            raise Invalid(f"The guard's latency {name}={value} is unknown. Give {', '.join(QUANTILES)} above 0 ms.")


def judged(guard: Guard, bad: Pairs) -> tuple[float, str]:
    """The log e-value that the canary is worse than the baseline, and the metric that weighs most.

    `bad` maps "errors" and the guard's quantiles to (canary, baseline) bad events. Latency's e-value is the mean over
    its quantiles; each metric is multiplied with what its earlier steps carried; the result is the mean of both. All
    are e-values whatever the dependence (Vovk & Wang 2021, arXiv 1912.06116).

    >>> judged(Guard(rollout_id="r", step=0, share=0.05), {"errors": (4, 0)})[1]
    'errors'
    """
    slower = [bad.get(name, (0, 0)) for name in guard.latency_ms]
    return combined(rollback_evidence(guard.share, bad.get(ERRORS, (0, 0)), slower, carried=guard.carried))


def trips(guard: Guard, log_e: float) -> bool:
    """Whether the evidence has reached 1/alpha (Ville's inequality)."""
    return log_e >= -math.log(guard.alpha)


def trip_of(traffic: Traffic, *, log_e: float, metric: str, counts: TrafficCounts, at: float) -> GuardTrip:
    """The decision to send everything back to the baseline, with its numbers and its reason in words."""
    guard = traffic.guard
    assert guard is not None  # only a guarded traffic trips
    e_value = math.exp(min(log_e, 700.0))  # exp overflows above 709
    canary, baseline = counts.arms[CANARY], counts.arms[BASELINE]
    what = (
        f"{canary.errors} of {canary.requests} requests failed on the canary, "
        f"{baseline.errors} of {baseline.requests} on the baseline"
    )
    if metric == LATENCY:
        slow = ", ".join(
            f"{canary.slower.get(name, 0)} against {baseline.slower.get(name, 0)} above {limit:.3g} ms ({name})"
            for name, limit in guard.latency_ms.items()
        )
        beyond = f" by more than {guard.latency_margin:.0%}" if guard.latency_margin else ""
        what = (
            f"answers slower than the baseline's quantiles{beyond}: {slow}; "
            f"requests {canary.requests} against {baseline.requests}"
        )
    reason = f"{what}. At a share of {guard.share:g} that is evidence of {e_value:.4g}, at least {1 / guard.alpha:g}."
    return GuardTrip(
        endpoint=traffic.endpoint,
        generation=traffic.generation,
        rollout_id=guard.rollout_id,
        step=guard.step,
        metric=metric,
        e_value=e_value,
        threshold=1 / guard.alpha,
        counts=counts,
        reason=reason,
        at=at,
    )


def agree(primary: Sequence[Any], shadow: Sequence[Any], *, labels: bool) -> bool:
    """Whether a shadow's answers match: the same labels, or numbers within 0.1 % of each other.

    >>> agree([1.0], [1.0005], labels=False), agree(["a"], ["b"], labels=True)
    (True, False)
    """
    if len(primary) != len(shadow):
        return False
    if labels:
        return list(primary) == list(shadow)
    return all(math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(primary, shadow, strict=True))
