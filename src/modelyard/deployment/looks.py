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
from dataclasses import replace
from typing import Any

from modelyard.core.canonical import dumps, plain
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.instants import from_micros, micros
from modelyard.core.measures import Measurement
from modelyard.core.ports import Row
from modelyard.core.traffic import DISTANCES, ArmCounts, ShadowCounts, Traffic, TrafficCounts
from modelyard.core.work import Work
from modelyard.deployment import margins, rules, store
from modelyard.deployment.rollouts import Look, Progress, Rollout
from modelyard.stats.sequential import lower_rate, upper_rate
from modelyard.stats.sketch import quantile

LEASE_S = 10  # a controller that was not heard of for so long is followed by another
APART = {"p50": 0.50, "p95": 0.95, "p99": 0.99}

Renewed = dict[str, tuple[int, int]]  # deployment -> the end of another's lease, and when we first saw it say so


def held_by_another(work: Work, deployment_id: str, controller: str, renewed: Renewed) -> str:
    """Who else holds the lease now; "" where this controller may look.

    The other's clock may run ahead of ours, or ours have been set back: a lease that we have not seen renewed for as long
    as one lasts has run out, whatever it says.
    """
    row, now = store.look_row(work.rows, deployment_id), micros(work.now)
    if row is None or not controller or row["controller"] in ("", controller):
        return ""
    until, since = renewed.get(deployment_id, (None, now))
    if until != row["lease_until"]:
        since = now
        renewed[deployment_id] = row["lease_until"], now
    lasts = row["lease_until"] > now and 0 <= now - since < LEASE_S * 1_000_000
    return str(row["controller"]) if lasts else ""


def keep(work: Work, rollout: Rollout, seen: TrafficCounts, decision: Decision, controller: str) -> None:
    """Write the look down, with what leaving the step now would carry on, and take or renew the lease for who looked."""
    now = micros(work.now)
    holder, until = controller, now + LEASE_S * 1_000_000
    if not controller:
        holder, until = _standing(store.look_row(work.rows, rollout.deployment_id))
    told = {**described(rollout, seen, decision), "left": plain(rules.left_step(rollout, seen))}
    store.put_look(work.rows, rollout.deployment_id, controller=holder, until=until, at=now, seen=dumps(told))


def left(work: Work, rollout: Rollout, seen: TrafficCounts | None) -> tuple[Progress, Decision]:
    """What a person who moves the rollout on takes along, and how it stands: by the counts, or else by the last look."""
    if seen is not None and seen.generation == rollout.generation:
        return rules.left_step(rollout, seen), rules.advance(rollout, seen, work.now)
    row = store.look_row(work.rows, rollout.deployment_id)
    told = json.loads(row["seen"]) if row else {}
    if told.get("generation") != rollout.generation:
        return rollout.progress, Decision(verdict=Verdict.HOLD, reasons=("nobody has looked yet",))
    measured = tuple(Measurement(**data) for data in told["measurements"])
    standing = Decision(verdict=Verdict(told["verdict"]), reasons=tuple(told["reasons"]), measurements=measured)
    kept = store.progress_from(dumps(told["left"]))
    progress = replace(
        rollout.progress,
        latency_ms=kept.latency_ms,
        frozen_at=kept.frozen_at,
        refrozen=kept.refrozen,
        carried=kept.carried,
        canary_requests=kept.canary_requests,
        held=(),
        stuck_since=None,
    )
    return progress, standing


def described(rollout: Rollout, seen: TrafficCounts, decision: Decision) -> dict[str, Any]:
    """A look as plain values."""
    traffic = rules.traffic_of(rollout)
    weights = {arm.name: arm for arm in traffic.arms} if traffic else {}
    return {
        "generation": seen.generation,
        "servers": seen.servers,
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
        servers=seen["servers"],
        verdict=seen["verdict"],
        reasons=tuple(seen["reasons"]),
        measurements=tuple(Measurement(**data) for data in seen["measurements"]),
        arms=seen["arms"],
        shadow=seen["shadow"],
    )


def latencies(histogram: Mapping[int, int]) -> dict[str, float | None]:
    """The quantiles of a histogram in milliseconds, within 1 %."""
    found = {name: quantile(histogram, q) for name, q in rules.QUANTILES.items()}
    return {f"{name}_ms": None if value is None else float(f"{value / 1000:.4g}") for name, value in found.items()}


def _counted(arm: ArmCounts) -> dict[str, Any]:
    rate = arm.errors / arm.requests if arm.requests else None
    return {"requests": arm.requests, "errors": arm.errors, "error_rate": rate, **latencies(arm.latency)}


def _shadow(traffic: Traffic | None, counts: ShadowCounts | None) -> dict[str, Any] | None:
    if traffic is None or traffic.shadow is None:
        return None
    found = counts or ShadowCounts()
    rate = found.agreed / found.compared if found.compared else None
    told = {"compared": found.compared, "agreed": found.agreed, "errors": found.errors, "dropped": found.dropped}
    low, high = (bound(found.agreed, found.compared, margins.ALPHA) for bound in (lower_rate, upper_rate))
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
