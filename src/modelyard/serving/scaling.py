"""How many workers an endpoint's load asks for: a pure rule with hysteresis and a look-back, so that it cannot thrash."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOOK_BACK_S = 30.0  # fewer workers only if the whole look-back asked for fewer
BUSIEST = 0.9  # a worker busy all the time hides how much more is asked of it, so no target may lie nearer to 1
DEAD_BAND = 0.1  # within 10 % of the target nothing changes


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The bounds of the number of workers and the two loads that it keeps."""

    min_replicas: int
    max_replicas: int
    target_cpu: float
    target_latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was seen at one moment: workers, their mean CPU use (1 = one core each), and the p95 latency if any."""

    at: float
    replicas: int
    cpu: float
    latency_ms: float | None = None


def wanted(load: Load, targets: Targets) -> int:
    """The number of workers that one look at the load asks for, unbounded by the past.

    In proportion to the CPU used, as Kubernetes' HPA does; one more when latency is above its target while the
    workers are at least half as busy as they may be (an idle worker's slow model is not cured by more workers).

    >>> wanted(Load(at=0, replicas=2, cpu=1.0), Targets(min_replicas=2, max_replicas=8, target_cpu=0.5,
    ...     target_latency_ms=50))
    4
    """
    ratio = load.cpu / min(targets.target_cpu, BUSIEST)
    count = load.replicas if abs(ratio - 1) <= DEAD_BAND else math.ceil(load.replicas * ratio - 1e-9)
    slow = load.latency_ms is not None and load.latency_ms > targets.target_latency_ms * (1 + DEAD_BAND)
    if slow and ratio >= 0.5:
        count = max(count, load.replicas + 1)
    return min(max(count, targets.min_replicas), targets.max_replicas)


def replicas(seen: Sequence[Load], targets: Targets) -> int:
    """How many workers there should be now, given the loads seen, oldest first.

    Up at once, at most doubling; down only to the largest number that any look of the last `LOOK_BACK_S` asked for,
    and only once the looks cover that time.
    """
    if not seen:
        return targets.min_replicas
    now = seen[-1]
    current = min(max(now.replicas, targets.min_replicas), targets.max_replicas)
    asked = wanted(now, targets)
    if asked > current:
        return min(asked, max(2 * now.replicas, targets.min_replicas))
    recent = [load for load in seen if load.at >= now.at - LOOK_BACK_S]
    covered = any(load.at <= now.at - LOOK_BACK_S for load in seen)
    if not covered:
        return current
    return min(current, max(wanted(load, targets) for load in recent))
