"""How many workers the scaling rule keeps under seven load shapes, how often it changes its mind, and what that costs.

    python benchmarks/scaling.py [--latency-ms 100] [--service-ms 10]

A replay in a fluid queue (`modelyard.serving.simulation`), the same for every rule: one second a step, a look each two
seconds, three seconds for a worker to start. Beside ours: a rule without memory (as many as the CPU target asks for, at
every look), Kubernetes' HPA as it ships (a look each 15 s, up by at most double or four, down to what five minutes asked
for) and Ray Serve's defaults (up after 30 s, down after 600 s; Ray counts ongoing requests, here told as CPU). The oracle
knows each second's load beforehand and has just enough workers there at once; costs are multiples of its replica-seconds.
Deterministic: nothing is measured, so nothing depends on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence

from modelyard.serving.scaling import Load, Targets, replicas
from modelyard.serving.simulation import SHAPES, Rule, Summary, simulate, summary


def memoryless(seen: Sequence[Load], targets: Targets) -> int:
    """As many as the last look's CPU asks for."""
    return math.ceil(seen[-1].work / targets.target_cpu - 1e-9)


def hpa(seen: Sequence[Load], targets: Targets) -> int:
    """Kubernetes' default behaviour: tolerance 0.1, a stabilisation window of 300 s, at most 100 % or four pods more."""

    def asked(load: Load) -> int:
        ratio = load.cpu / targets.target_cpu
        return load.replicas if abs(ratio - 1) <= 0.1 else math.ceil(load.replicas * ratio - 1e-9)

    now = seen[-1]
    if asked(now) > now.replicas:
        return min(asked(now), max(2 * now.replicas, now.replicas + 4))
    return min(now.replicas, max(asked(load) for load in seen if load.at >= now.at - 300))


def ray_serve(seen: Sequence[Load], targets: Targets) -> int:
    """Ray Serve's defaults: the mean of 30 s, up if it asked for more for 30 s, down if for fewer for 600 s."""
    now = seen[-1]

    def asked(at: float) -> float:
        recent = [load.work for load in seen if at - 30 <= load.at <= at]
        return math.ceil(sum(recent) / len(recent) / targets.target_cpu - 1e-9)

    def all_of(seconds: float) -> list[float]:
        return [asked(load.at) for load in seen if load.at >= now.at - seconds]

    if seen[0].at <= now.at - 30 and min(all_of(30)) > now.replicas:
        return int(asked(now.at))
    if seen[0].at <= now.at - 600 and max(all_of(600)) < now.replicas:
        return int(asked(now.at))
    return now.replicas


RULES: dict[str, tuple[Rule, float]] = {
    "modelyard": (replicas, 2.0),
    "no memory": (memoryless, 2.0),
    "HPA": (hpa, 15.0),
    "Ray Serve": (ray_serve, 10.0),
}


def row(shape: str, rule: str, told: Summary) -> str:
    return (
        f"| {shape} | {rule} | {told.changes} | {told.turns} | {told.peak} | {told.overload_s:.0f} | "
        f"{100 * told.refused:.1f} % | {told.replica_s:,.0f} | {told.cost:.2f} | {told.oracle_changes} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency-ms", type=float, default=100.0, help="target of the p95")
    parser.add_argument("--service-ms", type=float, default=10.0, help="time of one answer")
    parser.add_argument("--cpu", type=float, default=0.7, help="target of the CPU")
    given = parser.parse_args()
    targets = Targets(min_replicas=2, max_replicas=50, target_cpu=given.cpu, target_latency_ms=given.latency_ms)
    print(
        "| shape | rule | changes | turns | peak | s above the latency target | refused | replica-s | x oracle | its changes |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for shape, (name, (rule, look_s)) in itertools.product(SHAPES, RULES.items()):
        moments = simulate(
            SHAPES[shape], targets, rule=rule, look_s=look_s, service_ms=given.service_ms, memory_s=700.0
        )
        print(row(shape, name, summary(moments, targets)))


if __name__ == "__main__":
    main()
