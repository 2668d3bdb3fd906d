"""Replays a load against the scaling rule: how many workers there would have been, how slow, and at what cost.

The model is a fluid queue: work arrives in cores, ready workers do at most one core's work each, what is left waits, and
what would wait longer than two seconds is refused, as a worker refuses beyond its limit. Waiting below saturation is
Sakasegawa's approximation for M/M/n (1977: rho^sqrt(2(n+1)) / (n (1 - rho)) service times; its p95 taken as three times
the mean, as for the exponential distribution).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelyard.serving.scaling import Load, Targets, replicas

TICK_S = 1.0
LOOK_S = 2.0  # as the supervisor looks
START_S = 3.0  # from a worker's start to its first answer
LONGEST_WAIT_S = 2.0

Rule = Callable[[Sequence[Load], Targets], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One second of a replay: work that arrived (cores), workers, those of them that were ready, p95 latency."""

    at: float
    work: float
    replicas: int
    ready: int
    latency_ms: float
    refused: float  # core-seconds of work that could wait no longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A replay in numbers. The oracle knows each second's work and has just enough workers for the CPU target."""

    changes: int  # how often the number of workers changed
    turns: int  # how often it changed direction: up after down, or down after up
    peak: int
    overload_s: float  # seconds in which the p95 was above its target
    refused: float  # share of the work
    replica_s: float
    oracle_s: float
    oracle_changes: int

    @property
    def cost(self) -> float:
        """Replica-seconds as a multiple of the oracle's."""
        return self.replica_s / self.oracle_s


def simulate(
    work: Sequence[float],
    targets: Targets,
    *,
    rule: Rule = replicas,
    service_ms: float = 10.0,
    look_s: float = LOOK_S,
    start_s: float = START_S,
    memory_s: float = 320.0,
) -> list[Moment]:
    """What the rule makes of a load: one moment for each second of `work`, given in cores.

    >>> moments = simulate([0.5] * 30 + [3.0] * 60 + [0.5] * 90,
    ...     Targets(min_replicas=2, max_replicas=9, target_cpu=0.6, target_latency_ms=100))
    >>> moments[0].replicas, max(moment.replicas for moment in moments), moments[-1].replicas
    (2, 6, 2)
    """
    ready_at = [-math.inf] * targets.min_replicas
    seen: list[Load] = []
    moments: list[Moment] = []
    waiting = busy = worst = 0.0
    next_look = look_s
    for second, arriving in enumerate(work):
        at = second * TICK_S
        if at >= next_look:
            next_look += look_s
            cpu = busy / (len(ready_at) * look_s)
            seen = [one for one in seen if one.at >= at - memory_s]
            seen.append(Load(at=at, replicas=len(ready_at), cpu=cpu, latency_ms=worst or None))
            count = replicas_within(rule(seen, targets), targets)
            ready_at = ready_at[:count] + [at + start_s] * (count - len(ready_at))
            busy = worst = 0.0
        ready = sum(one <= at for one in ready_at)
        asked = waiting + arriving * TICK_S
        done = min(asked, ready * TICK_S)
        waiting = min(asked - done, ready * LONGEST_WAIT_S)
        latency = _latency_ms(done / (ready * TICK_S), ready, waiting, service_ms)
        busy, worst = busy + done, max(worst, latency if arriving else 0.0)
        refused = asked - done - waiting
        moments.append(
            Moment(at=at, work=arriving, replicas=len(ready_at), ready=ready, latency_ms=latency, refused=refused)
        )
    return moments


def replicas_within(count: int, targets: Targets) -> int:
    """The count, kept within the bounds."""
    return min(max(count, targets.min_replicas), targets.max_replicas)


def _latency_ms(rho: float, ready: int, waiting: float, service_ms: float) -> float:
    queueing: float = rho ** math.sqrt(2 * (ready + 1)) / (ready * (1 - min(rho, 0.99)))
    return service_ms * (1 + 3 * queueing) + 1000 * waiting / ready


def oracle(work: Sequence[float], targets: Targets) -> list[int]:
    """The workers that each second needs to keep the CPU target, known beforehand and there at once."""
    return [replicas_within(math.ceil(one / targets.target_cpu - 1e-9), targets) for one in work]


def summary(moments: Sequence[Moment], targets: Targets) -> Summary:
    """The replay's figures."""
    counts = [moment.replicas for moment in moments]
    steps = [after - before for before, after in itertools.pairwise(counts) if after != before]
    ideal = oracle([moment.work for moment in moments], targets)
    total = sum(moment.work for moment in moments) * TICK_S
    return Summary(
        changes=len(steps),
        turns=sum((a > 0) != (b > 0) for a, b in itertools.pairwise(steps)),
        peak=max(counts),
        overload_s=sum(TICK_S for moment in moments if moment.latency_ms > targets.target_latency_ms),
        refused=sum(moment.refused for moment in moments) / total if total else 0.0,
        replica_s=sum(counts) * TICK_S,
        oracle_s=sum(ideal) * TICK_S,
        oracle_changes=sum(a != b for a, b in itertools.pairwise(ideal)),
    )


def _noisy(values: list[float], spread: float, seed: int) -> list[float]:
    """The values times noise that lasts a few seconds (an autoregression with half its weight on the second before)."""
    draw, drift = random.Random(seed), 0.0  # noqa: S311 - a simulation, no secret
    found = []
    for value in values:
        drift = 0.5 * drift + draw.gauss(0, spread * math.sqrt(1 - 0.25))
        found.append(max(value * (1 + drift), 0.0))
    return found


def _shapes() -> dict[str, list[float]]:
    hour = range(3600)
    return {
        "diurnal": _noisy([1 + 4.5 * (1 - math.cos(2 * math.pi * s / 3600)) for s in hour], 0.05, 1),
        "step": [1.0] * 300 + [8.0] * 600 + [1.0] * 300,
        "spike": _noisy([10.0 if s % 300 < 20 else 1.0 for s in range(1800)], 0.05, 2),
        "sawtooth": [1 + 7 * (s % 240) / 240 for s in range(2400)],
        "swing": [4.0 if s % 20 < 10 else 0.2 for s in range(1200)],
        "flash crowd": _noisy(
            [1.0] * 120 + [1 + 29 * min(s / 10, 1) * math.exp(-s / 300) for s in range(1680)], 0.05, 3
        ),
        "noisy flat": _noisy([4.0] * 3600, 0.15, 4),
    }


SHAPES = _shapes()  # cores of work, second by second; a worker does one
