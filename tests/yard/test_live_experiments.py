"""An A/B test on an endpoint: it takes the traffic when it runs there, and gives it back when it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modelyard import Yard
from modelyard.ab_testing import ABTestManager
from modelyard.ab_testing.experiments import ABTest
from modelyard.core.assignment import position, unit_hash
from modelyard.core.errors import Conflict, Forbidden, NotFound

Register = Callable[..., None]
ANA = "ana@example.com"


@pytest.fixture
def live(yard: Yard, registered: Register) -> Yard:
    """v1.0.0 answers, v2.0.0 and v3.0.0 may."""
    for version in ("v1.0.0", "v2.0.0", "v3.0.0"):
        registered(yard, version)
    yard.deploy("fraud", "v1.0.0", strategy="direct", created_by=ANA)
    return yard


def planned(yard: Yard, treatment: str = "v2.0.0", control: str = "v1.0.0", **options: object) -> ABTest:
    return yard.ab_tests.create_test(
        "New", control_variant=f"fraud:{control}", treatment_variant=f"fraud:{treatment}", created_by=ANA, **options
    )


def arms(yard: Yard) -> dict[str, float]:
    """What the serving processes are told: version -> share, of those that get any."""
    told = yard.serving.places.read_traffic("fraud").traffic
    assert told == yard.serving.traffic("fraud")
    return {arm.version: arm.weight for arm in told.arms if arm.weight}


def test_a_test_that_runs_on_an_endpoint_splits_its_traffic_as_it_assigns(live: Yard) -> None:
    test = planned(live, traffic_split=0.3)
    assert live.ab_tests.run_test(test.test_id, "fraud", user=ANA).status.value == "running"
    assert arms(live) == {"v1.0.0": 0.7, "v2.0.0": 0.3}
    assert ("fraud", "v2.0.0") in live.serving.places.read_models()
    traffic = live.serving.traffic("fraud")
    for unit in map(str, range(200)):
        place, end = position(unit_hash(traffic.salt, unit)), traffic.arms[0].weight
        routed = traffic.arms[0] if place < end else traffic.arms[1]
        assert routed.name == live.ab_tests.get_variant(test.test_id, unit)
    again = live.ab_tests.run_test(test.test_id, "fraud", user=ANA)
    assert (again.started_at, live.serving.traffic("fraud")) == (
        live.ab_tests.get_test(test.test_id).started_at,
        traffic,
    )


def test_a_stopped_test_leaves_the_endpoint_to_the_control_and_rollouts_go_on_there(live: Yard) -> None:
    test = planned(live, "v3.0.0")
    live.ab_tests.run_test(test.test_id, "fraud")
    live.ab_tests.stop_test(test.test_id, reason="v3 is wrong", user=ANA)
    assert arms(live) == {"v1.0.0": 1.0}
    rollout = live.roll_out("fraud", "v2.0.0", steps=[0.1, 1.0], created_by=ANA)
    assert arms(live) == {"v1.0.0": 0.9, "v2.0.0": 0.1}
    assert live.deployments.rollback(rollout.deployment_id).status.value == "rolled_back"
    assert arms(live) == {"v1.0.0": 1.0}


def test_the_winner_that_a_person_names_answers_by_a_deployment_that_can_be_taken_back(live: Yard) -> None:
    test = planned(live)
    live.ab_tests.run_test(test.test_id, "fraud")
    live.ab_tests.conclude_test(test.test_id, winner="treatment", conclusion="better", user=ANA)
    assert arms(live) == {"v2.0.0": 1.0}
    newest = live.deployments.list_deployments(endpoint="fraud")[-1]
    assert (newest.model_version, newest.baseline, newest.created_by) == ("v2.0.0", "fraud:v1.0.0", ANA)
    assert live.registry.get_by_alias("fraud", "champion").version == "v2.0.0"
    live.deployments.rollback(newest.deployment_id)
    assert arms(live) == {"v1.0.0": 1.0}


def test_a_winner_that_may_no_longer_answer_leaves_the_endpoint_to_the_control(live: Yard) -> None:
    test = planned(live)
    live.ab_tests.run_test(test.test_id, "fraud")
    live.registry.demote("fraud", "v2.0.0", "development", user=ANA)
    live.ab_tests.conclude_test(test.test_id, winner="treatment", user=ANA)
    assert arms(live) == {"v1.0.0": 1.0}


def test_an_emergency_rollback_takes_the_endpoint_from_a_test_and_ends_it(live: Yard) -> None:
    live.deploy("fraud", "v2.0.0", strategy="direct", created_by=ANA)
    deployed = live.deployments.list_deployments(endpoint="fraud")[-1]
    test = planned(live, "v3.0.0", control="v2.0.0")
    live.ab_tests.run_test(test.test_id, "fraud")
    live.deployments.rollback(deployed.deployment_id, reason="both are bad", user=ANA)
    assert arms(live) == {"v1.0.0": 1.0}
    ended = live.ab_tests.get_test(test.test_id)
    assert (ended.status.value, deployed.deployment_id in ended.conclusion) == ("stopped", True)


def test_hearing_again_that_a_test_runs_or_has_ended_changes_nothing(live: Yard) -> None:
    test = planned(live)
    live.ab_tests.run_test(test.test_id, "fraud")
    live.ab_tests.conclude_test(test.test_id, winner="treatment", user=ANA)
    before = live.serving.traffic("fraud")
    with live.store.work() as work:
        work.rows.run(
            "DELETE FROM event_cursors WHERE reader IN ('wiring.carry', 'wiring.release', 'wiring.interrupt')"
        )
    live.dispatch()
    assert live.serving.traffic("fraud") == before


def test_what_would_take_each_others_traffic_is_refused(live: Yard) -> None:
    test = planned(live)
    live.ab_tests.run_test(test.test_id, "fraud")
    with pytest.raises(Conflict, match=f"stop-test {test.test_id}"):
        live.roll_out("fraud", "v3.0.0", steps=[0.1, 1.0])
    with pytest.raises(Conflict, match=f"stop-test {test.test_id}"):
        live.roll_out("fraud", "v3.0.0", strategy="direct")
    other = planned(live, "v3.0.0")
    with pytest.raises(Conflict, match=f"stop-test {test.test_id}"):
        live.ab_tests.run_test(other.test_id, "fraud")
    assert live.ab_tests.get_test(other.test_id).status.value == "draft"
    live.ab_tests.stop_test(test.test_id)
    rollout = live.roll_out("fraud", "v2.0.0", steps=[0.1, 1.0])
    with pytest.raises(Conflict, match=rollout.deployment_id):
        live.ab_tests.run_test(other.test_id, "fraud")


def test_a_test_that_does_not_fit_the_endpoint_is_refused_and_stays_a_draft(live: Yard, registered: Register) -> None:
    registered(live, "v4.0.0", approved=False)
    ramp = planned(live, strategy="ramp", ramp_seconds=60.0)
    for test, endpoint, error, told in (
        (planned(live), "froud", NotFound, "no endpoint 'froud'"),
        (planned(live, "v3.0.0", control="v2.0.0"), "fraud", Conflict, "answered by fraud:v1.0.0"),
        (planned(live, "v4.0.0"), "fraud", Forbidden, "request-promotion fraud v4.0.0"),
        (planned(live, "v9.0.0"), "fraud", NotFound, "register-model fraud v9.0.0"),
        (planned(live, inference="thompson"), "fraud", Conflict, "get_variant"),
        (ramp, "fraud", Conflict, "get_variant"),
    ):
        with pytest.raises(error, match=told):
            live.ab_tests.run_test(test.test_id, endpoint)
        assert live.ab_tests.get_test(test.test_id).status.value == "draft"
    live.ab_tests.hold_out("2026", 0.05)
    test = planned(live)
    with pytest.raises(Conflict, match="get_variant"):
        live.ab_tests.run_test(test.test_id, "fraud")
    assert live.ab_tests.get_test(test.test_id).status.value == "draft"
    assert arms(live) == {"v1.0.0": 1.0}


def test_a_manager_of_its_own_records_where_a_test_runs_and_has_it_run_nowhere_else(tmp_path: object) -> None:
    manager = ABTestManager(f"{tmp_path}/alone")
    test = manager.create_test("New", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0")
    assert manager.run_test(test.test_id, "m").status.value == "running"
    with pytest.raises(Conflict, match="is for m"):
        manager.run_test(test.test_id, "other")
    assert manager.get_test(test.test_id).endpoint == "m"
