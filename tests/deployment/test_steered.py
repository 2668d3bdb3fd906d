"""What a person's hand and a process's trouble do to a rollout: nothing that was counted is lost, and nothing waits for ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from modelyard.core import plugins
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.traffic import ArmCounts, TrafficCounts
from modelyard.core.work import event_from_row
from modelyard.deployment import Deployment, DeploymentManager, DeploymentStatus, PerformanceMetrics
from modelyard.deployment.rollouts import Step
from modelyard.stats.rollback import strongest, up_to_now

Counts = Callable[..., TrafficCounts]
TROUBLE = "no module named missing"


def started(manager: DeploymentManager, **changes: object) -> Deployment:
    terms = {"baseline": "v1.0.0", "margin": 0.02, "minimum_units": 200, **changes}
    return manager.start("fraud", "v2.0.0", **terms)


def known(manager: DeploymentManager, rollout: Deployment) -> Deployment:
    return manager.get_deployment(rollout.deployment_id)


def carried(rollout: Deployment) -> tuple[float, ...]:
    assert rollout.traffic is not None
    assert rollout.traffic.guard is not None
    return rollout.traffic.guard.carried["errors"]


def kinds(manager: DeploymentManager) -> list[EventType]:
    with manager.store.reading() as rows:
        return [event_from_row(row).event_type for row in rows.all("SELECT * FROM events ORDER BY position")]


def test_a_person_who_lets_a_step_pass_takes_its_evidence_along(manager: DeploymentManager, counts: Counts) -> None:
    rollout = started(manager)
    first = counts(rollout, (3800, 2), (200, 2))
    assert manager.advance(rollout.deployment_id, first).verdict is Verdict.HOLD
    assert manager.advance(rollout.deployment_id, counts(rollout, (3990, 2), (210, 2))).verdict is Verdict.HOLD
    second = manager.promote(rollout.deployment_id, user="lead@company.com")
    expected = up_to_now({}, {"errors": ((2,), (2,))}, 0.05, ())
    assert carried(second) == pytest.approx(expected["errors"])
    assert strongest(expected)[0] > strongest(up_to_now({}, {"errors": ((0,), (0,))}, 0.05, ()))[0]
    entry = manager.history(rollout.deployment_id)[-1]
    assert {one.name for one in entry.measurements} >= {"rollback_log_e_value"}
    assert entry.measurements[0].n == 210


def test_the_evidence_is_taken_from_what_serving_counts_now_where_it_counts(
    manager: DeploymentManager, counts: Counts
) -> None:
    rollout = started(manager)
    manager.advance(rollout.deployment_id, counts(rollout, (3800, 0), (200, 0)))
    now = counts(rollout, (4750, 2), (250, 3))
    manager.store.wires.counts = {"fraud": now}.get
    second = manager.promote(rollout.deployment_id)
    assert carried(second) == pytest.approx(up_to_now({}, {"errors": ((3,), (2,))}, 0.05, ())["errors"])
    assert manager.history(rollout.deployment_id)[-1].measurements[0].n == 250


def test_nobody_promotes_what_the_evidence_takes_back(manager: DeploymentManager, counts: Counts) -> None:
    rollout = started(manager)
    manager.store.wires.counts = {"fraud": counts(rollout, (9500, 9), (500, 30))}.get
    with pytest.raises(Conflict, match=r"cannot be promoted: worse than the baseline.*deployment rollback dep_"):
        manager.promote(rollout.deployment_id, reason="it will be fine")
    assert known(manager, rollout).step == 0


def test_what_a_person_ends_is_told_with_what_was_seen_last(manager: DeploymentManager, counts: Counts) -> None:
    for end in (manager.abort, manager.rollback):
        rollout = started(manager)
        manager.advance(rollout.deployment_id, counts(rollout, (3800, 2), (200, 1)))
        end(rollout.deployment_id, reason="customers complain", user="lead@company.com")
        entry = manager.history(rollout.deployment_id)[-1]
        assert (entry.actor, entry.reasons) == ("lead@company.com", ("customers complain",))
        assert entry.measurements[0].n == 200


@pytest.mark.parametrize("strategy", ["canary", "blue_green", "shadow"])
def test_a_version_that_cannot_be_loaded_goes_back_after_its_time(
    manager: DeploymentManager, counts: Counts, clock: FixedClock, strategy: str
) -> None:
    rollout = started(manager, strategy=strategy, ready_seconds=300)
    seen = counts(rollout, (1000, 0), (0, 0))

    def look(trouble: str = TROUBLE) -> str:
        return manager.advance(rollout.deployment_id, seen, trouble=trouble).reasons[0]

    assert look() == f"not carried out: {TROUBLE}"
    clock.advance(299)
    assert look().startswith("not carried out: ")
    assert not look(trouble="").startswith("not carried out")  # it could be loaded at last: its time begins anew
    assert look().startswith("not carried out: ")
    manager.pause(rollout.deployment_id)
    clock.advance(3600)
    look()
    manager.resume(rollout.deployment_id)
    assert look().startswith("not carried out: ")
    clock.advance(300)
    assert look() == f"not carried out for 300 s, and ready_seconds is 300: {TROUBLE}"
    ended = known(manager, rollout)
    assert (ended.status, TROUBLE in ended.reason) == (DeploymentStatus.ROLLED_BACK, True)


def test_a_step_that_one_process_does_not_carry_out_is_not_left(manager: DeploymentManager, counts: Counts) -> None:
    rollout = started(manager)
    good = counts(rollout, (19_000, 0), (1_000, 0))
    held = manager.advance(rollout.deployment_id, good, trouble=TROUBLE)
    assert (held.verdict, held.reasons[0]) == (Verdict.HOLD, f"not carried out: {TROUBLE}")
    bad = counts(rollout, (9500, 9), (500, 30))
    assert manager.advance(rollout.deployment_id, bad, trouble=TROUBLE).reasons[0].startswith("worse than the baseline")


@pytest.mark.parametrize("strategy", ["direct", "canary", "blue_green", "rolling"])
def test_the_version_before_stays_in_memory_for_a_while_and_going_back_meanwhile_is_one_routing(
    manager: DeploymentManager, clock: FixedClock, strategy: str
) -> None:
    def completed(**terms: object) -> Deployment:
        rollout = started(manager, strategy=strategy, **terms)
        while rollout.status.active:
            rollout = manager.promote(rollout.deployment_id)
        return rollout

    def arms(rollout: Deployment) -> list[tuple[str, str, float]]:
        traffic = known(manager, rollout).traffic
        assert traffic is not None
        return [(arm.name, arm.version, arm.weight) for arm in traffic.arms]

    after = completed(keep_seconds=600)
    assert arms(after) == [("baseline", "v2.0.0", 1.0), ("previous", "v1.0.0", 0.0)]
    clock.advance(599)
    assert manager.release_due() == []
    clock.advance(1)
    (released,) = manager.release_due()
    assert (released.status, released.reason) == (DeploymentStatus.COMPLETED, after.reason)
    assert released.generation > after.generation
    assert arms(after) == [("baseline", "v2.0.0", 1.0)]
    assert manager.release_due() == []
    assert kinds(manager)[-1] is EventType.DEPLOYMENT_RELEASED
    assert manager.rollback(after.deployment_id).traffic.arms[0].version == "v1.0.0"  # type: ignore[union-attr]
    assert arms(completed(keep_seconds=0)) == [("baseline", "v2.0.0", 1.0)]


def test_what_was_taken_back_or_followed_by_another_rollout_is_not_released(
    manager: DeploymentManager, clock: FixedClock
) -> None:
    first = started(manager, strategy="direct")
    manager.rollback(first.deployment_id)
    second = started(manager, strategy="direct")
    clock.advance(7200)
    manager.start("fraud", "v3.0.0")
    assert manager.release_due() == []
    assert manager.release(second.deployment_id) == known(manager, second)
    with pytest.raises(Conflict, match="rolled back"):
        manager.release(first.deployment_id)
    assert known(manager, second).status is DeploymentStatus.COMPLETED


def test_a_person_who_needs_the_memory_releases_the_version_before_at_once(manager: DeploymentManager) -> None:
    rollout = started(manager, strategy="direct")
    released = manager.release(rollout.deployment_id, user="lead@company.com")
    assert released.traffic is not None
    assert [arm.version for arm in released.traffic.arms] == ["v2.0.0"]
    assert manager.release(rollout.deployment_id) == released
    entry = manager.history(rollout.deployment_id)[-1]
    assert (entry.what, entry.actor) == ("released", "lead@company.com")


def test_each_step_says_what_it_means_in_every_process(manager: DeploymentManager, counts: Counts) -> None:
    rollout = started(manager, strategy="rolling")
    manager.advance(rollout.deployment_id, counts(rollout, (3_000, 0), (1_000, 0)))
    told = [entry.reasons[-1] for entry in manager.history(rollout.deployment_id)]
    assert told == [f"in every process v2.0.0 answers {share} of the requests" for share in ("0.25", "0.5")]


def test_a_lease_from_a_clock_that_runs_ahead_runs_out_all_the_same(manager: DeploymentManager, counts: Counts) -> None:
    """The other's clock is an hour ahead of ours, and it dies."""
    now = manager.store.clock.now()
    ahead = DeploymentManager(manager.store.folder, clock=FixedClock(now + timedelta(hours=1)))
    rollout = started(manager)
    few = counts(rollout, (95, 0), (5, 0))

    def refused() -> bool:
        return manager.advance(rollout.deployment_id, few, controller="b:2").reasons[0].startswith("another controller")

    clock = manager.store.clock
    for _ in range(3):  # while it is alive its lease is its own
        ahead.advance(rollout.deployment_id, few, controller="a:1")
        ahead.store.clock.advance(5)
        assert refused()
        clock.advance(5)
    assert refused()
    clock.advance(6)
    assert not refused()
    assert manager.look(rollout.deployment_id).controller == "b:2"


def test_a_live_rollout_takes_no_reported_metrics(manager: DeploymentManager) -> None:
    rollout = started(manager)
    with pytest.raises(Conflict, match="report_guardrail"):
        manager.update_metrics(rollout.deployment_id, PerformanceMetrics(error_rate=0.2))
    with pytest.raises(Conflict, match="report_guardrail"):
        manager.check_deployment_health(rollout.deployment_id, 1000)
    assert known(manager, rollout) == rollout


def endless(shares: list[float] | None) -> tuple[Step, ...]:
    """A strategy as another package might plan it."""
    return tuple(Step(share=share) for share in shares or ())


@pytest.mark.parametrize("shares", [[], [0.5], [0.5, 0.9]])
def test_a_strategy_without_an_end_is_refused(
    manager: DeploymentManager, monkeypatch: pytest.MonkeyPatch, shares: list[float]
) -> None:
    monkeypatch.setitem(plugins.names("strategy"), "endless", f"{__name__}:endless")
    with pytest.raises(Invalid, match="endless plans no end"):
        manager.start("fraud", "v2.0.0", baseline="v1.0.0", strategy="endless", steps=shares)


@pytest.mark.parametrize(
    ("canary", "told"),
    [
        ({"requests": 10, "errors": 20}, "20 errors of 10"),
        ({"requests": -1}, "-1 requests"),
        ({"requests": 1.5}, "1.5 requests"),
        ({"requests": float("nan")}, "nan requests"),
        ({"requests": 10, "errors": -1}, "-1 errors"),
        ({"requests": 10, "units": 5, "errors": 6}, "6 errors of 5"),
        ({"requests": 10, "slower": {"p95": 11}}, "11 slower than p95 of 10"),
        ({"requests": 10, "latency": {3: -1}}, "-1 latencies"),
        ({"requests": 10, "latency": {"x": 1}}, "'x' is no bucket"),
    ],
)
def test_counts_that_nothing_can_have_counted_are_refused(
    manager: DeploymentManager, canary: dict[str, object], told: str
) -> None:
    rollout = started(manager)
    arms = {"baseline": ArmCounts(requests=1000), "canary": ArmCounts(**canary)}  # type: ignore[arg-type]  # what is tried
    with pytest.raises(Invalid, match=told):
        manager.advance(rollout.deployment_id, TrafficCounts(endpoint="fraud", generation=1, arms=arms))
    misspelt = TrafficCounts(endpoint="fraud", generation=1, arms={"canari": ArmCounts()})
    with pytest.raises(Invalid, match=r"no arm 'canari'. Did you mean canary"):
        manager.advance(rollout.deployment_id, misspelt)
    assert known(manager, rollout).status is DeploymentStatus.RUNNING


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"steps": ["5%", 1.0]}, "share is '5%'; it must be a number"),
        ({"strategy": "shadow", "steps": ["all"]}, "share is 'all'; it must be a number"),
        ({"gates": ["first"]}, "gate is 'first'; it must be a number"),
        ({"margin": "0.1"}, "margin is '0.1'; it must be a number"),
        ({"minimum_units": 10.5}, "10.5; it must be a whole number"),
        ({"after_generation": -5}, "must be 0 or more"),
        ({"latency_ms": {"p50": 10, "p95": 5}}, "rise"),
        ({"ready_seconds": float("inf")}, "ready_seconds is inf"),
        ({"keep_seconds": -1}, "keep_seconds is -1"),
    ],
)
def test_terms_that_cannot_be_are_refused_by_name(
    manager: DeploymentManager, terms: dict[str, object], told: str
) -> None:
    with pytest.raises(Invalid, match=told):
        started(manager, **terms)


def test_what_has_completed_goes_back_where_no_process_can_load_it_in_its_time(
    manager: DeploymentManager, clock: FixedClock
) -> None:
    first = manager.start("fraud", "v1.0.0", strategy="direct")
    clock.advance(600)
    assert manager.give_up(first.deployment_id, TROUBLE) == first  # nothing to go back to
    rollout = manager.start("fraud", "v2.0.0", strategy="direct")
    assert manager.completed() == [rollout]
    clock.advance(599)
    assert manager.give_up(rollout.deployment_id, TROUBLE) == rollout
    clock.advance(1)
    ended = manager.give_up(rollout.deployment_id, TROUBLE)
    assert ended.status is DeploymentStatus.ROLLED_BACK
    assert ended.reason == f"not carried out for 600 s, and ready_seconds is 600: {TROUBLE}"
    assert manager.give_up(rollout.deployment_id, TROUBLE) == ended
    assert manager.completed() == []
