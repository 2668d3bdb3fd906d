"""Looks at a rollout: what was seen and decided last, and the lease of the controller that looks.

That two controllers never both act does not rest on the lease: a decision is carried out in the transaction that reads
the rollout, and counts of another generation decide nothing, so a controller that was stopped for an hour and goes on
finds a newer generation. The lease spares the others the looking, makes one of several machines' counts decide, and says
who controls.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.core.canonical import dumps, plain
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.instants import from_micros, micros
from modelyard.core.measures import Measurement
from modelyard.core.ports import Row
from modelyard.core.traffic import DISTANCES, ArmCounts, ShadowCounts, Traffic, TrafficCounts
from modelyard.core.work import Work
from modelyard.deployment import rules, store
from modelyard.deployment.rollouts import Look, Rollout
from modelyard.stats.proportions import wilson
from modelyard.stats.sketch import quantile

LEASE_S = 10  # a controller that was not heard of for so long is followed by another
APART = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
KEEP_S = 1.0  # a look that says nothing new is written this often


def held_by_another(work: Work, deployment_id: str, controller: str) -> str:
    """Who else holds the lease now; "" where this controller may look."""
    row = store.look_row(work.rows, deployment_id)
    if row is None or not controller or row["controller"] in ("", controller):
        return ""
    return str(row["controller"]) if row["lease_until"] > micros(work.now) else ""


def keep(work: Work, rollout: Rollout, seen: TrafficCounts, decision: Decision, controller: str) -> None:
    """Write the look down, and take or renew the lease for who looked, unless the same was written just now."""
    row, now = store.look_row(work.rows, rollout.deployment_id), micros(work.now)
    last = json.loads(row["seen"]) if row else {}
    same = decision.verdict is Verdict.HOLD and _kind(last.get("reasons")) == _kind(decision.reasons)
    fresh = row is not None and 0 <= now - row["at"] < KEEP_S * 1e6
    if same and fresh and row is not None and (not controller or row["controller"] == controller):
        return
    holder, until = (controller, now + LEASE_S * 1_000_000) if controller else _standing(row)
    seen_now = dumps(described(rollout, seen, decision))
    store.put_look(work.rows, rollout.deployment_id, controller=holder, until=until, at=now, seen=seen_now)


def described(rollout: Rollout, seen: TrafficCounts, decision: Decision) -> dict[str, Any]:
    """A look as plain values."""
    traffic = rules.traffic_of(rollout)
    weights = {arm.name: arm for arm in traffic.arms} if traffic else {}
    return {
        "generation": seen.generation,
        "verdict": decision.verdict.value,
        "reasons": list(decision.reasons),
        "measurements": plain(decision.measurements),
        "arms": {
            name: {"version": arm.version, "weight": arm.weight, **_counted(seen.arms.get(name, ArmCounts()))}
            for name, arm in weights.items()
        },
        "shadow": _shadow(traffic, seen.shadow),
    }


def look_from(deployment_id: str, row: Row | None) -> Look:
    """The look that a row holds."""
    if row is None:
        return Look(deployment_id=deployment_id, reasons=("nobody has looked yet",))
    seen = json.loads(row["seen"])
    return Look(
        deployment_id=deployment_id,
        at=from_micros(row["at"]),
        controller=row["controller"],
        lease_until=from_micros(row["lease_until"]) if row["controller"] else None,
        generation=seen["generation"],
        verdict=seen["verdict"],
        reasons=tuple(seen["reasons"]),
        measurements=tuple(Measurement(**data) for data in seen["measurements"]),
        arms=seen["arms"],
        shadow=seen["shadow"],
    )


def latencies(histogram: Mapping[int, int]) -> dict[str, float | None]:
    """The quantiles of a histogram in milliseconds, within 1 %."""
    found = {name: quantile(histogram, q) for name, q in rules.QUANTILES.items()}
    return {f"{name}_ms": None if value is None else value / 1000 for name, value in found.items()}


def _counted(arm: ArmCounts) -> dict[str, Any]:
    rate = arm.errors / arm.requests if arm.requests else None
    return {"requests": arm.requests, "errors": arm.errors, "error_rate": rate, **latencies(arm.latency)}


def _shadow(traffic: Traffic | None, counts: ShadowCounts | None) -> dict[str, Any] | None:
    if traffic is None or traffic.shadow is None:
        return None
    found = counts or ShadowCounts()
    rate = found.agreed / found.compared if found.compared else None
    told = {"compared": found.compared, "agreed": found.agreed, "errors": found.errors, "dropped": found.dropped}
    low, high = wilson(found.agreed, found.compared)
    return {
        "version": traffic.shadow.version,
        **told,
        "agreement": rate,
        "agreement_interval": [low, high],
        "distance": {name: distance_at(found.distances, q) for name, q in APART.items()},
        **latencies(found.latency),
    }


def distance_at(counted: Sequence[int], part: float) -> float | None:
    """How near that part of a shadow's answers at least is to the primary's: an upper end of DISTANCES.

    >>> distance_at([90, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0], 0.95)
    0.01
    """
    total, seen = sum(counted), 0
    for end, count in zip((*DISTANCES, math.inf), counted, strict=False):
        seen += count
        if total and seen >= part * total:
            return end if end < math.inf else None
    return None


def _standing(row: Row | None) -> tuple[str, int]:
    return (row["controller"], row["lease_until"]) if row else ("", 0)


def _kind(reasons: Any) -> str:
    return str(reasons[0]).partition(":")[0] if reasons else ""
