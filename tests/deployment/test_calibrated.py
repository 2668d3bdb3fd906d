"""A baseline that moves while a step runs: it is frozen anew, what was shown against the canary stays, promotion begins anew."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from tests.deployment.test_rules import ROLLOUT, START

from modelyard.core.decisions import Verdict
from modelyard.core.events import EventType
from modelyard.core.traffic import ArmCounts, TrafficCounts
from modelyard.deployment import margins, rules
from modelyard.deployment.rollouts import Progress, Terms
from modelyard.stats.rollback import log_evidence
from modelyard.stats.sketch import bucket

KIND = EventType.DEPLOYMENT_CALIBRATED.value
FROZEN = {"p50": 10.0, "p95": 20.0, "p99": 40.0}


def spread(scale, n):
    """A histogram of n answers whose p50, p95 and p99 are `scale` times the frozen ones."""
    return {bucket(1000 * scale * ms): round(n * part) for ms, part in ((5, 0.5), (15, 0.45), (30, 0.04), (60, 0.01))}


def seen(rollout, share_above, *, canary=None, scale=1.0, n=40_000):
    """Counts of both arms: the part of their answers above each frozen quantile."""
    new = n // 19
    parts = {"baseline": share_above, "canary": share_above if canary is None else canary}
    arms = {
        name: ArmCounts(
            requests=many,
            units=many,
            slower={q: int(many * part) for q, part in parts[name].items()},
            latency=spread(scale, many),
        )
        for name, many in (("baseline", n), ("canary", new))
    }
    return TrafficCounts(endpoint="fraud", generation=rollout.generation, arms=arms)


NORMAL = {"p50": 0.5, "p95": 0.05, "p99": 0.01}
FAST, SLOW = {"p50": 0.02, "p95": 0.0005, "p99": 0.0}, {"p50": 0.99, "p95": 0.8, "p99": 0.3}


def test_a_baseline_that_became_much_faster_is_frozen_anew_and_the_step_then_ends(manager, clock):
    rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", steps=[0.05, 1.0], latency_ms=FROZEN)
    told = seen(rollout, FAST, scale=0.2)
    assert manager.advance(rollout.deployment_id, told).verdict is Verdict.HOLD  # 20 slow answers say little
    assert manager.get_deployment(rollout.deployment_id).generation == rollout.generation
    clock.advance(margins.MOVED_S)
    manager.advance(rollout.deployment_id, told)
    between = manager.get_deployment(rollout.deployment_id)
    assert between.reason.startswith("baseline latency has moved: 0.05% of its answers take longer than 20 ms")
    assert between.generation == rollout.generation + 1
    assert between.traffic.guard.latency_ms == {}
    manager.advance(rollout.deployment_id, seen(between, {}, scale=0.2, n=4000))
    after = manager.get_deployment(rollout.deployment_id)
    assert after.traffic.guard.latency_ms == pytest.approx({"p50": 1.0, "p95": 3.0, "p99": 6.0}, rel=0.02)
    assert after.traffic.guard.carried["answers"] == between.traffic.guard.carried["answers"]
    better = {name: part * 0.7 for name, part in NORMAL.items()}
    assert (
        manager.advance(rollout.deployment_id, seen(after, NORMAL, canary=better, n=200_000)).verdict is Verdict.PROMOTE
    )


def test_calibrations_are_told_in_their_own_words(manager, clock):
    rollout = manager.start("fraud", "v2.0.0", baseline="v1.0.0", steps=[0.05, 1.0])
    manager.advance(rollout.deployment_id, seen(rollout, {}))
    with manager.store.reading() as rows:
        told = [
            json.loads(row["details"]) for row in rows.all("SELECT * FROM events WHERE event_type = :kind", kind=KIND)
        ]
    assert [one["reasons"] for one in told] == [["baseline latency frozen: p50 4.965 ms, p95 14.92 ms, p99 30.04 ms"]]
    assert [entry.what for entry in manager.history(rollout.deployment_id)] == ["started", "calibrated"]


@pytest.mark.parametrize(("above", "canary", "scale"), [(NORMAL, SLOW, 1.0), (NORMAL, FAST, 1.0), (SLOW, SLOW, 1.0)])
def test_neither_the_canary_nor_answers_that_all_take_the_same_time_move_a_baseline(above, canary, scale):
    """Of the last, most are above a p95 that the histogram still confirms."""
    rollout = replace(ROLLOUT, progress=Progress(latency_ms={"p50": 5.0, "p95": 14.9, "p99": 30.0}))
    later = START + timedelta(days=1)
    assert rules.calibrated(rollout, seen(rollout, above, canary=canary, scale=scale), later) is None


def test_an_hour_of_peak_load_moves_it_too_but_not_within_ten_minutes_of_the_last_time():
    progress = Progress(latency_ms=FROZEN, frozen_at=START.timestamp() + 3600, refrozen=1)
    rollout = replace(ROLLOUT, progress=progress)
    peak = seen(rollout, SLOW, scale=4.0)
    assert rules.calibrated(rollout, peak, START + timedelta(seconds=4199)) is None
    after, why = rules.calibrated(rollout, peak, START + timedelta(seconds=4200))
    assert after.refrozen == 2
    assert log_evidence(after.carried) == log_evidence(rules.tests_now(rollout, peak))
    assert "80.00%" in why


def test_however_often_a_step_begins_anew_it_spends_no_more_than_it_may():
    parts = (margins.part(replace(ROLLOUT, progress=Progress(refrozen=again))) for again in count())
    assert 0.99 < sum(part for part, _ in zip(parts, range(2000), strict=False)) < 1


def test_leaving_a_step_begins_the_next_one_with_the_whole_of_its_own():
    rollout = replace(ROLLOUT, progress=Progress(latency_ms=FROZEN, refrozen=3, frozen_at=1.0), terms=Terms())
    left = rules.left_step(rollout, seen(rollout, NORMAL))
    assert (left.refrozen, left.frozen_at) == (0, None)
    assert datetime.fromtimestamp(0, UTC) < START
