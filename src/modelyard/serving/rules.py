"""The decisions of serving: which arm answers, and when a guard trips. Pure."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence

from modelyard.core.errors import Conflict, Invalid
from modelyard.core.ids import checked_name
from modelyard.core.traffic import LATENCY_LIMIT, Guard, GuardTrip, Traffic, TrafficCounts, against
from modelyard.stats.rollback import LATENCY, log_evidence, strongest

QUANTILES = ("p50", "p95", "p99")
MAX_ARMS = 8
WARM_MICROS = 1_000  # a prediction above this goes to a thread: a hop costs about 50 us, a blocked loop everyone's wait
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}\Z")


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
    if len({(one.rollout_id, one.step, one.control, one.warmup) for one in traffic.guards}) > 1:
        raise Invalid(
            f"The guards of {traffic.endpoint} differ in rollout_id, step, control or warmup. Give all the same."
        )
    if len({one.arm for one in traffic.guards}) < len(traffic.guards):
        raise Invalid(f"Two guards of {traffic.endpoint} watch one arm. Give each watched arm one guard.")
    for guard in traffic.guards:
        _check_guard(guard, traffic.endpoint, names)
    return traffic


def _check_guard(guard: Guard, endpoint: str, names: list[str]) -> None:
    if not _FILE_NAME.match(guard.rollout_id):
        raise Invalid(f"{guard.rollout_id!r} is no rollout id. Use letters, digits and _.@+-.")
    if guard.arm == guard.control or not {guard.arm, guard.control} <= set(names):
        raise Invalid(f"The guard of {endpoint} compares the arms {guard.control} and {guard.arm}. Name both in arms.")
    if not 0 < guard.alpha < 1:
        raise Invalid(f"The guard's alpha is {guard.alpha}. Choose a false-rollback rate between 0 and 1, say 0.001.")
    if not 0 <= guard.share <= 1:
        raise Invalid(
            f"The guard's share is {guard.share}. Give the arm's part of what it and its control get, 0 to 1."
        )
    for name, value in guard.latency_ms.items():
        if name not in QUANTILES or not value > 0 or not min(guard.latency_margin, guard.latency_floor_ms) >= 0:
            raise Invalid(f"The guard's latency {name}={value} is unknown. Give {', '.join(QUANTILES)} above 0 ms.")
    if guard.latency_limit_ms is not None and not guard.latency_limit_ms > 0:
        raise Invalid(f"The guard's latency_limit_ms is {guard.latency_limit_ms}. Give milliseconds above 0, or none.")


def quantiles_of(guard: Guard) -> tuple[str, ...]:
    """The frozen quantiles that a guard has, lowest first."""
    return tuple(name for name in QUANTILES if name in guard.latency_ms)


def slower_of(guard: Guard) -> dict[str, int]:
    """What a guard has answers counted above, with its place: the frozen quantiles, and the hard limit after them."""
    found = {name: QUANTILES.index(name) for name in quantiles_of(guard)}
    return found if guard.latency_limit_ms is None else {**found, LATENCY_LIMIT: len(QUANTILES)}


def trips(guard: Guard, log_e: float) -> bool:
    """Whether the evidence has reached 1/alpha (Ville's inequality)."""
    return log_e >= -math.log(guard.alpha)


def trip_of(traffic: Traffic, *, counts: TrafficCounts, at: float) -> GuardTrip:
    """The decision to send everything back to the control, with its numbers and its reason in words.

    Of several watched arms it is about the one with the most evidence against it, for what its guard asks.
    """
    found = {guard.arm: counts.arms[guard.arm].tests for guard in traffic.guards}
    guard = max(traffic.guards, key=lambda one: strongest(found[one.arm])[0] + math.log(one.alpha))
    log_e, metric = strongest(found[guard.arm])
    e_value = math.exp(min(log_e, 700.0))  # exp overflows above 709
    told = against(guard, counts, slow=metric == LATENCY)
    return GuardTrip(
        endpoint=traffic.endpoint,
        generation=traffic.generation,
        rollout_id=guard.rollout_id,
        step=guard.step,
        metric=metric,
        e_value=e_value,
        threshold=1 / guard.alpha,
        counts=counts,
        reason=f"{told}. At a share of {guard.share:g} that is evidence of {e_value:.4g}, at least {1 / guard.alpha:g}.",
        at=at,
        arm=guard.arm,
        share=guard.share,
        evidence=log_evidence(found[guard.arm]),
    )
