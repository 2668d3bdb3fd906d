"""Rollouts in the store: steps, persons, trips, kills, races."""

import multiprocessing
import os
import signal
import threading

import numpy as np
import pytest

from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.traffic import ArmCounts, GuardTrip, TrafficCounts
from modelyard.core.work import event_from_row
from modelyard.deployment import DeploymentManager, DeploymentStatus, DeploymentStrategy, PerformanceMetrics
from modelyard.deployment.files import read_rollout
from modelyard.deployment.shadows import same
from modelyard.stats.proportions import wilson


def started(manager, **changes):
    return manager.start("fraud", "v2.0.0", **{"baseline": "v1.0.0", "margin": 0.02, "minimum_units": 200, **changes})


def events(manager):
    with manager.store.reading() as rows:
        return [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]


def tripped(rollout, **changes):
    counts = TrafficCounts(
        endpoint="fraud",
        generation=rollout.generation,
        arms={"baseline": ArmCounts(requests=9500, errors=9), "canary": ArmCounts(requests=480, errors=9)},
    )
    told = {
        "endpoint": "fraud",
        "generation": rollout.generation,
        "rollout_id": rollout.deployment_id,
        "step": rollout.step,
        "metric": "errors",
        "e_value": 1500.0,
        "threshold": 1250.0,
        "counts": counts,
        "reason": "9 of 480 failed",
        "at": 1.0,
    }
    return GuardTrip(**{**told, **changes})


def test_a_healthy_canary_walks_all_steps_and_becomes_the_baseline(manager, counts):
    rollout = started(manager)
    generations, shares = [rollout.generation], [rollout.share]
    while rollout.status is DeploymentStatus.RUNNING:
        share = rollout.share
        seen = counts(rollout, (int(4000 * (1 - share)), 2), (int(4000 * share) + 200, 0))
        n = sum(arm.requests for arm in seen.arms.values())
        seen = counts(rollout, (int(n * 3 * (1 - share)), 2), (int(n * 3 * share), 0))
        assert manager.advance(rollout.deployment_id, seen).verdict is Verdict.PROMOTE
        rollout = manager.get_deployment(rollout.deployment_id)
        generations.append(rollout.generation)
        shares.append(rollout.share)
    assert shares == [0.05, 0.25, 0.5, 1.0]
    assert generations == sorted(set(generations))
    answering = [(arm.name, arm.version, arm.weight) for arm in rollout.traffic.arms]
    assert answering == [("baseline", "v2.0.0", 1.0), ("previous", "v1.0.0", 0.0)]
    assert [entry.what for entry in manager.history(rollout.deployment_id)] == [
        "started",
        "promoted",
        "promoted",
        "completed",
    ]
    kinds = [event.event_type for event in events(manager)]
    assert kinds[-2:] == [EventType.DEPLOYMENT_COMPLETED, EventType.MODEL_DEPLOYED]
    following = manager.start("fraud", "v3.0.0")
    assert following.baseline == "fraud:v2.0.0"
    assert following.generation > rollout.generation


def test_a_bad_canary_goes_back_with_its_numbers_in_history_and_event(manager, counts):
    rollout = started(manager)
    decision = manager.advance(rollout.deployment_id, counts(rollout, (9500, 9), (500, 10)))
    assert decision.verdict is Verdict.ROLL_BACK
    after = manager.get_deployment(rollout.deployment_id)
    assert after.status is DeploymentStatus.ROLLED_BACK
    assert [(arm.version, arm.weight) for arm in after.traffic.arms] == [("v1.0.0", 1.0)]
    assert "10 of 500 requests failed on the canary" in after.reason
    measured = {m.name: m for m in manager.history(rollout.deployment_id)[-1].measurements}
    assert measured["rollback_log_e_value"].n == 500
    assert measured["rollback_log_e_value"].value > measured["rollback_log_e_value"].details["threshold"]
    event = events(manager)[-1]
    assert (event.event_type, event.details["traffic"]["generation"]) == (
        EventType.DEPLOYMENT_ROLLED_BACK,
        after.generation,
    )


def test_a_trip_rolls_back_once_however_often_it_is_told(manager):
    rollout = started(manager)
    first = manager.record_trip(tripped(rollout))
    again = manager.record_trip(tripped(rollout))
    assert first == again
    assert first.status is DeploymentStatus.ROLLED_BACK
    assert sum(event.event_type is EventType.DEPLOYMENT_ROLLED_BACK for event in events(manager)) == 1
    told = manager.history(rollout.deployment_id)[-1].measurements[0]
    assert (told.value, told.n, told.details["arms"]["canary"]["errors"]) == (1500.0, 480, 9)
    assert manager.rollback(rollout.deployment_id) == first


def test_a_trip_works_while_paused_and_takes_back_even_what_has_just_completed(manager):
    rollout = started(manager)
    manager.pause(rollout.deployment_id)
    assert manager.record_trip(tripped(rollout)).status is DeploymentStatus.ROLLED_BACK
    second = manager.start("fraud", "v2.0.1", steps=[0.1, 1.0])
    manager.promote(second.deployment_id)
    assert manager.record_trip(tripped(second)).traffic.arms[0].version == "v1.0.0"


def test_a_trip_of_an_old_deployment_does_not_touch_a_newer_one(manager):
    old = started(manager, steps=[0.1, 1.0])
    manager.promote(old.deployment_id)
    new = manager.start("fraud", "v3.0.0")
    assert manager.record_trip(tripped(old)).status is DeploymentStatus.COMPLETED
    assert manager.get_deployment(new.deployment_id).status is DeploymentStatus.RUNNING
    with pytest.raises(Conflict, match="newer"):
        manager.rollback(old.deployment_id)


def test_a_gate_waits_for_a_person_and_is_still_guarded(manager, counts):
    rollout = started(manager, gates=[0])
    good = counts(rollout, (19_000, 0), (1_000, 0))
    assert manager.advance(rollout.deployment_id, good).reasons[0].startswith("gate")
    assert manager.get_deployment(rollout.deployment_id).status is DeploymentStatus.WAITING
    assert (
        manager.advance(rollout.deployment_id, counts(rollout, (19_000, 5), (1_000, 20))).verdict is Verdict.ROLL_BACK
    )
    second = started(manager, gates=[0])
    manager.advance(second.deployment_id, counts(second, (19_000, 0), (1_000, 0)))
    assert manager.promote(second.deployment_id, user="lead@company.com").share == 0.25
    assert manager.history(second.deployment_id)[-1].actor == "lead@company.com"


def test_holding_is_told_once_and_not_at_every_look(manager, counts):
    rollout = started(manager)
    for units in range(10, 100, 10):
        manager.advance(rollout.deployment_id, counts(rollout, (units * 19, 0), (units, 0)))
    held = [event for event in events(manager) if event.event_type is EventType.DEPLOYMENT_HELD]
    assert len(held) == 1


def test_the_baselines_latency_is_frozen_into_the_guard_and_the_evidence_is_carried_over(manager, counts):
    rollout = started(manager)
    manager.advance(rollout.deployment_id, counts(rollout, (400, 2), (20, 1), latency_ms=(10.0, 10.0)))
    frozen = manager.get_deployment(rollout.deployment_id)
    assert frozen.generation > rollout.generation
    assert (frozen.step, frozen.share) == (0, 0.05)
    assert frozen.traffic.guard.latency_ms["p95"] == pytest.approx(10.0, rel=0.01)
    assert frozen.traffic.guard.carried["errors"] != 0.0
    stale = manager.advance(rollout.deployment_id, counts(rollout, (19_000, 0), (1_000, 0)))
    assert stale.reasons[0].startswith("other counts")


def test_every_state_survives_the_death_of_its_controller(manager, counts, tmp_path):
    """A controller is killed with SIGKILL right after each look; the next process goes on exactly there."""

    def look(folder, deployment_id, good, pipe):
        controller = DeploymentManager(folder)
        rollout = controller.get_deployment(deployment_id)
        n = 20_000
        arms = {
            "baseline": ArmCounts(requests=int(n * (1 - rollout.share)), errors=1),
            "canary": ArmCounts(requests=int(n * rollout.share), errors=0 if good else 100),
        }
        controller.advance(deployment_id, TrafficCounts(endpoint="fraud", generation=rollout.generation, arms=arms))
        pipe.send(rollout.share)
        os.kill(os.getpid(), signal.SIGKILL)

    rollout, context = started(manager), multiprocessing.get_context("fork")
    shares = []
    for good in (True, True, False):
        ours, theirs = context.Pipe()
        child = context.Process(target=look, args=(tmp_path / "yard", rollout.deployment_id, good, theirs))
        child.start()
        shares.append(ours.recv())
        child.join()
        assert child.exitcode == -signal.SIGKILL
    assert shares == [0.05, 0.25, 0.5]
    after = DeploymentManager(tmp_path / "yard").get_deployment(rollout.deployment_id)
    assert after.status is DeploymentStatus.ROLLED_BACK


def test_of_controllers_that_race_one_acts(tmp_path, counts):
    first = DeploymentManager(tmp_path / "yard")
    rollout = started(first)
    seen = counts(rollout, (19_000, 0), (1_000, 0))
    gate, verdicts = threading.Barrier(4), []

    def control():
        mine = DeploymentManager(tmp_path / "yard")
        gate.wait()
        verdicts.append(mine.advance(rollout.deployment_id, seen).verdict)
        mine.close()

    threads = [threading.Thread(target=control) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdict.value for verdict in verdicts) == ["hold", "hold", "hold", "promote"]
    assert first.get_deployment(rollout.deployment_id).step == 1


def test_one_endpoint_has_one_rollout_at_a_time(manager):
    rollout = started(manager)
    with pytest.raises(Conflict, match=rollout.deployment_id):
        manager.start("fraud", "v3.0.0")
    manager.abort(rollout.deployment_id)
    assert manager.abort(rollout.deployment_id).status is DeploymentStatus.ABORTED
    with pytest.raises(Conflict, match="aborted"):
        manager.promote(rollout.deployment_id)
    with pytest.raises(Conflict, match="already answers"):
        manager.start("fraud", "v1.0.0")


def test_generations_go_on_from_the_one_that_the_endpoint_has(manager):
    assert started(manager, after_generation=41).generation == 42


@pytest.mark.parametrize(
    ("strategy", "shares"),
    [("direct", [1.0]), ("blue_green", [0.0, 1.0]), ("rolling", [0.25, 0.5, 0.75, 1.0]), ("shadow", [0.0, 0.0])],
)
def test_every_strategy_can_be_walked_by_a_person(manager, strategy, shares):
    rollout = started(manager, strategy=strategy)
    walked = [rollout.share]
    while rollout.status.active:
        rollout = manager.promote(rollout.deployment_id)
        walked.append(rollout.share)
    assert walked == shares
    answering = "v1.0.0" if strategy == "shadow" else "v2.0.0"
    assert rollout.traffic.arms[0].version == answering
    assert rollout.status is DeploymentStatus.COMPLETED


@pytest.mark.parametrize(
    "bad",
    [
        {"margin": 0.0},
        {"alpha": 2.0},
        {"minimum_units": 0},
        {"steps": [0.3]},
        {"gates": [3]},
        {"latency_ms": {"p96": 1.0}},
        {"latency_ms": {"p95": float("nan")}},
        {"version": ""},
        {"version": "a:b:"},
        {"baseline": ""},
        {"warmup": -1},
    ],
)
def test_an_impossible_plan_is_refused_and_leaves_nothing_behind(manager, bad):
    with pytest.raises(Invalid):
        manager.start("fraud", bad.pop("version", "v2.0.0"), **{"baseline": "v1.0.0", **bad})
    assert manager.list_deployments() == []


def test_a_misspelt_strategy_or_deployment_is_named(manager):
    with pytest.raises(ValueError, match="canry"):
        started(manager, strategy="canry")
    rollout = started(manager)
    with pytest.raises(NotFound, match=f"Did you mean {rollout.deployment_id}"):
        manager.get_deployment(rollout.deployment_id[:-1])


def test_a_rollout_file_is_read_strictly(manager, tmp_path):
    path = tmp_path / "rollout.yaml"
    path.write_text("endpoint: fraud\nversion: v2.0.0\nbaseline: v1.0.0\nstrategy: rolling\nmargin: 0.02\n")
    assert manager.apply(path).share == 0.25
    for text, told in (
        ("endpont: fraud\n", "Did you mean endpoint"),
        ("endpoint: fraud\n", "which version"),
        ("- 1\n", "holds no rollout"),
        ("a: [", "no YAML"),
    ):
        path.write_text(text)
        with pytest.raises(Invalid, match=told):
            read_rollout(path)
    with pytest.raises(OSError, match="cannot be read"):
        read_rollout(tmp_path / "none.yaml")


def test_reported_metrics_take_back_once_and_say_why_again(manager):
    made = manager.create_deployment(
        "fraud", "v2.0.0", DeploymentStrategy.CANARY, baseline_metrics=PerformanceMetrics(accuracy=0.9)
    )
    assert manager.check_deployment_health(made.deployment_id, 1000) == (
        False,
        ["no metrics reported yet: call update_metrics first"],
    )
    manager.update_metrics(made.deployment_id, PerformanceMetrics(error_rate=0.5))
    first = manager.check_deployment_health(made.deployment_id, 1000)
    assert first == manager.check_deployment_health(made.deployment_id, 1000)
    with pytest.raises(Conflict, match="rolled back"):
        manager.update_metrics(made.deployment_id, PerformanceMetrics(error_rate=0.0))


def test_shadow_comparisons_tell_agreement_and_both_latencies(manager):
    shadow = manager.shadow_deploy("fraud:v1.0.0", "fraud:v2.0.0")
    for i in range(20):
        manager.record_shadow_comparison(
            shadow.shadow_id,
            primary_result={"p": 0.5},
            shadow_result={"p": 0.5 if i else 0.6},
            primary_latency=0.01,
            shadow_latency=0.02,
        )
    found = manager.compare_shadow_deployment(shadow.shadow_id)
    assert found["agreement_rate"] == 0.95
    low, high = found["agreement_interval"]
    assert low < wilson(19, 20)[0] < 0.95 < high < 1  # wider than what holds for one look only
    assert found["primary_latency"]["p99"] == pytest.approx(0.01, rel=0.01)
    with pytest.raises(Invalid, match="shadow_latency"):
        manager.record_shadow_comparison(
            shadow.shadow_id, primary_result={}, shadow_result={}, primary_latency=0.0, shadow_latency=-1.0
        )
    with pytest.raises(NotFound, match="no shadow deployment"):
        manager.compare_shadow_deployment("shadow_x")


@pytest.mark.parametrize(
    ("one", "other", "agree"),
    [
        ({"p": float("nan")}, {"p": float("nan")}, True),
        ({"p": np.array([0.1, 0.2])}, {"p": [0.1, 0.2]}, True),
        ({"p": np.array([0.1, 0.2])}, {"p": np.array([0.1, 0.3])}, False),
        ({"p": np.float64(0.3)}, {"p": 0.1 + 0.2}, True),
        ({"label": "1"}, {"label": 1}, False),
        ({"p": None}, {"p": 0.0}, False),
        ({"p": {"a": [1, {"b": 0.5}]}}, {"p": {"a": (1, {"b": 0.5})}}, True),
    ],
)
def test_results_are_compared_by_their_parts(one, other, agree):
    assert same(one, other) == same(other, one) == agree


def test_blue_green_keeps_both_sides_loaded_for_testers_and_for_the_way_back(manager):
    rollout = started(manager, strategy="blue_green", tolerance=0.02)

    def arms(deployment):
        return [(arm.name, arm.version, arm.weight) for arm in deployment.traffic.arms]

    assert arms(rollout) == [("baseline", "v1.0.0", 1.0), ("preview", "v2.0.0", 0.0)]
    assert (rollout.traffic.shadow.version, rollout.traffic.shadow_tolerance) == ("v2.0.0", 0.02)
    switched = manager.promote(rollout.deployment_id)
    assert arms(switched) == [("baseline", "v2.0.0", 1.0), ("previous", "v1.0.0", 0.0)]
    following = manager.start("fraud", "v3.0.0")
    assert following.baseline == "fraud:v2.0.0"
    manager.abort(following.deployment_id)
    assert arms(manager.get_deployment(following.deployment_id)) == [("baseline", "v2.0.0", 1.0)]
    shadow = manager.start("fraud", "v4.0.0", strategy="shadow")
    assert arms(shadow) == [("baseline", "v2.0.0", 1.0)]  # it may be a version that nobody approved


def test_a_rollout_can_be_tried_again_at_once_however_it_ended(manager):
    ended = set()
    for end in (manager.abort, manager.rollback, manager.abort):
        rollout = started(manager)
        manager.pause(rollout.deployment_id)
        ended.add(end(rollout.deployment_id).generation)
        assert [arm.version for arm in manager.get_deployment(rollout.deployment_id).traffic.arms] == ["v1.0.0"]
    assert len(ended) == 3
    assert started(manager).generation > max(ended)
