"""How many workers an endpoint's load asks for: a pure rule with hysteresis and a look-back, so that it cannot thrash.

In proportion to the CPU used, within 10 %, as Kubernetes' HPA does; up at once where the workers are saturated and
after two looks that agree elsewhere; down only to what the whole look-back asked for, as HPA's stabilization window;
and for five minutes not to a number that was seen to be too slow for as much work.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOOK_BACK_S = 30.0  # fewer workers only if the whole look-back asked for fewer
MEMORY_S = 300.0  # how long a number of workers that was too slow for some work is remembered
BUSIEST = 0.9  # a worker busy all the time hides how much more is asked of it, so no target may lie nearer to 1
DEAD_BAND = 0.1  # within 10 % of the target nothing changes
QUEUED = 2.0  # times the latency target: a queue has built up
BUSY_ENOUGH = 0.5  # of the target: below it a slow answer is the model's own time, which more workers do not cure


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The bounds of the number of workers and the two loads that it keeps."""

    min_replicas: int
    max_replicas: int
    target_cpu: float
    target_latency_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What was seen at one moment: workers, their mean CPU use (1 = one core each), and the p95 latency if any.

    A worker that is starting counts among the workers and its CPU does not: it answers nothing yet, and what it burns
    on its start asks for no further worker.
    """

    at: float
    replicas: int
    cpu: float
    latency_ms: float | None = None

    @property
    def work(self) -> float:
        """The cores that are busy answering."""
        return self.replicas * self.cpu


def wanted(load: Load, targets: Targets) -> int:
    """The number of workers that one look at the load asks for, unbounded by the past.

    In proportion to the CPU used; and while answers are slower than their target, to half of the CPU target, a worker
    at a time.

    >>> targets = Targets(min_replicas=2, max_replicas=8, target_cpu=0.5, target_latency_ms=50)
    >>> wanted(Load(at=0, replicas=2, cpu=1.0), targets)
    4
    >>> wanted(Load(at=0, replicas=3, cpu=0.4, latency_ms=80), targets)
    4
    """
    ratio = _ratio(load, targets)
    count = load.replicas if abs(ratio - 1) <= DEAD_BAND else math.ceil(load.replicas * ratio - 1e-9)
    if _slow(load, targets):
        count = max(count, min(load.replicas + 1, math.ceil(load.replicas * ratio / BUSY_ENOUGH - 1e-9)))
    return min(max(count, targets.min_replicas), targets.max_replicas)


def replicas(seen: Sequence[Load], targets: Targets) -> int:
    """How many workers there should be now, given the loads seen, oldest first."""
    if not seen:
        return targets.min_replicas
    now = seen[-1]
    current = min(max(now.replicas, targets.min_replicas), targets.max_replicas)
    if wanted(now, targets) > current:
        return min(max(current, _more(seen, targets)), targets.max_replicas)
    recent = [load for load in seen if load.at >= now.at - LOOK_BACK_S]
    covered = any(load.at <= now.at - LOOK_BACK_S for load in seen)
    if not covered:
        return current
    floor = max(*(wanted(load, targets) for load in recent), _too_few(seen, recent, targets) + 1)
    return max(min(current, floor), targets.min_replicas)


def _more(seen: Sequence[Load], targets: Targets) -> int:
    """How many workers a look that asks for more gets, at most twice those that there are.

    Saturated ones get at once what they ask for, and twice as many where a queue has built up too, since saturation
    hides how much more is asked of them. Otherwise the look before must agree: a burst of one look costs nothing.
    """
    now, most = seen[-1], 2 * seen[-1].replicas
    if now.cpu < BUSIEST:
        return 0 if len(seen) < 2 else min(wanted(now, targets), wanted(seen[-2], targets), most)
    queued = now.latency_ms is not None and now.latency_ms > QUEUED * targets.target_latency_ms
    return most if queued else min(wanted(now, targets), most)


def _too_few(seen: Sequence[Load], recent: Sequence[Load], targets: Targets) -> int:
    """The largest number of workers that was lately too slow for no more work than the look-back had; 0 if none was.

    Without it a load that is light for the CPU and slow in its answers would be scaled up and down for ever.
    """
    work = max(load.work for load in recent)
    return max(
        (
            load.replicas
            for load in seen
            if load.at >= seen[-1].at - MEMORY_S
            and load.work * (1 - DEAD_BAND) <= work
            and _slow(load, targets)
            and _ratio(load, targets) >= BUSY_ENOUGH
        ),
        default=0,
    )


def _ratio(load: Load, targets: Targets) -> float:
    return load.cpu / min(targets.target_cpu, BUSIEST)


def _slow(load: Load, targets: Targets) -> bool:
    return load.latency_ms is not None and load.latency_ms > targets.target_latency_ms * (1 + DEAD_BAND)
