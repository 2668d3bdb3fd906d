"""Controllers that are killed anywhere, that race as real processes, that are stopped and go on, and their leases."""

import multiprocessing
import os
import signal
from datetime import UTC, datetime

import pytest

from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Forbidden
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.traffic import ArmCounts, TrafficCounts
from modelyard.core.work import Store, event_from_row
from modelyard.deployment import DeploymentManager, DeploymentStatus

FORK = multiprocessing.get_context("fork")
TERMS = {"baseline": "v1.0.0", "margin": 0.02, "minimum_units": 200}


def traffic(rollout, *, bad=False, n=20_000):
    """What serving would have counted for the rollout's present generation."""
    share = rollout.share
    left = int(n * (1 - share))  # 0 where another controller has let the last step pass meanwhile
    arms = {
        "baseline": ArmCounts(requests=left, errors=min(left, 1)),
        "canary": ArmCounts(requests=int(n * share), errors=int(n * share / 10) if bad else 0),
    }
    return TrafficCounts(endpoint=rollout.endpoint, generation=rollout.generation, arms=arms)


def look(manager, deployment_id, *, bad=False, controller=""):
    rollout = manager.get_deployment(deployment_id)
    return manager.advance(deployment_id, traffic(rollout, bad=bad), controller=controller)


def told(manager):
    with manager.store.reading() as rows:
        return [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]


def in_child(task, *arguments):
    """Run a task in a process of its own; how it ended."""
    child = FORK.Process(target=task, args=arguments)
    child.start()
    child.join(120)
    return child.exitcode


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def acts_and_dies(folder, act, when):
    """Carry something out and be killed within the transaction, or right after it has committed."""
    manager = DeploymentManager(folder)
    if when == "within":
        kinds = [kind for kind in EventType if kind.value.startswith(("deployment_", "model_deployed"))]
        manager.store.wires.inside = {kind: [die] for kind in kinds}
    else:
        manager.store.wires.after = die
    act(manager)


@pytest.mark.parametrize("when", ["within", "after"])
@pytest.mark.parametrize("last", ["promote", "roll back"])
def test_a_controller_killed_at_every_step_is_followed_where_it_was(tmp_path, when, last):
    folder, me = tmp_path / "yard", DeploymentManager(tmp_path / "yard")

    def start(manager):
        manager.start("fraud", "v2.0.0", **TERMS)

    assert in_child(acts_and_dies, folder, start, when) == -signal.SIGKILL
    assert len(me.list_deployments()) == (when == "after")
    rollout = me.list_deployments()[0] if when == "after" else me.start("fraud", "v2.0.0", **TERMS)
    for step in range(3):
        bad = last == "roll back" and step == 2

        def act(manager, bad=bad):
            look(manager, rollout.deployment_id, bad=bad)

        before = me.get_deployment(rollout.deployment_id)
        assert in_child(acts_and_dies, folder, act, when) == -signal.SIGKILL
        after = me.get_deployment(rollout.deployment_id)
        if when == "within":
            assert after == before
            look(me, rollout.deployment_id, bad=bad)
        assert me.get_deployment(rollout.deployment_id).generation == before.generation + 1
    ended = me.get_deployment(rollout.deployment_id)
    assert ended.status is (DeploymentStatus.COMPLETED if last == "promote" else DeploymentStatus.ROLLED_BACK)
    whats = [entry.what for entry in me.history(rollout.deployment_id)]
    assert whats == ["started", "promoted", "promoted", ended.status.value]
    changes = [event for event in told(me) if event.details.get("what") in whats]
    assert [event.details["what"] for event in changes] == whats
    assert all(event.details["measurements"] for event in changes[1:])


@pytest.mark.parametrize("when", ["within", "after"])
def test_a_person_whose_command_is_killed_has_done_it_or_has_not(tmp_path, when):
    folder, me = tmp_path / "yard", DeploymentManager(tmp_path / "yard")

    for name, strategy, reached in (
        ("promote", "canary", lambda now: now.step == 1),
        ("pause", "canary", lambda now: now.status is DeploymentStatus.PAUSED),
        ("abort", "canary", lambda now: now.status is DeploymentStatus.ABORTED),
        ("release", "direct", lambda now: len(now.traffic.arms) == 1),
        ("rollback", "direct", lambda now: now.status is DeploymentStatus.ROLLED_BACK),
    ):
        before = me.start(name, "v2.0.0", strategy=strategy, **TERMS)

        def act(manager, name=name, deployment_id=before.deployment_id):
            getattr(manager, name)(deployment_id)

        assert in_child(acts_and_dies, folder, act, when) == -signal.SIGKILL
        after = me.get_deployment(before.deployment_id)
        assert reached(after) == (when == "after")
        if when == "within":
            assert after == before
            act(me)
            assert reached(me.get_deployment(before.deployment_id))


def races(place, files, deployment_id, name, gate):
    manager = DeploymentManager(Store.at(place, files=files))
    gate.wait()
    while manager.get_deployment(deployment_id).status.active:
        look(manager, deployment_id, controller=name)


def raced(place, files, names):
    """A rollout that several processes control at once; the manager to look with and the deployment's id."""
    manager = DeploymentManager(Store.at(place, files=files))
    rollout = manager.start("fraud", "v2.0.0", steps=[share / 20 for share in range(1, 21)], **TERMS)
    gate = FORK.Barrier(len(names))
    given = [(place, files, rollout.deployment_id, name, gate) for name in names]
    children = [FORK.Process(target=races, args=one) for one in given]
    for child in children:
        child.start()
    for child in children:
        child.join(120)
    assert [child.exitcode for child in children] == [0] * len(names)
    entries = manager.history(rollout.deployment_id)
    shares = [entry.share for entry in entries if entry.what in ("started", "promoted", "completed")]
    assert shares == [share / 20 for share in range(1, 21)]
    assert len({entry.generation for entry in entries}) == 20
    manager.close()


@pytest.mark.parametrize("names", [("a", "b"), ("", "", "")], ids=["with leases", "without"])
def test_processes_that_race_take_each_step_once(tmp_path, names):
    raced(str(tmp_path / "yard"), tmp_path, names)


@pytest.mark.postgres
def test_processes_that_race_on_postgres_take_each_step_once(postgres_url, tmp_path):
    raced(postgres_url, tmp_path, ("", ""))


def test_while_one_controller_holds_the_lease_anothers_look_decides_nothing(tmp_path):
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    manager = DeploymentManager(tmp_path / "yard", clock=clock)
    rollout = manager.start("fraud", "v2.0.0", **TERMS)
    few = traffic(rollout, n=100)
    manager.advance(rollout.deployment_id, few, controller="a:1")
    refused = look(manager, rollout.deployment_id, controller="b:2")
    assert (refused.verdict, refused.reasons) == (Verdict.HOLD, ("another controller looks after it: a:1",))
    assert manager.look(rollout.deployment_id).controller == "a:1"
    clock.advance(9)
    manager.advance(rollout.deployment_id, few, controller="a:1")  # renewed
    clock.advance(9)
    assert look(manager, rollout.deployment_id, controller="b:2").verdict is Verdict.HOLD
    clock.advance(2)  # a has not been heard of for more than ten seconds
    assert look(manager, rollout.deployment_id, controller="b:2").verdict is Verdict.PROMOTE
    late = manager.advance(
        rollout.deployment_id, few, controller="a:1"
    )  # stopped all the while, it goes on with old counts
    assert late.verdict is Verdict.HOLD
    assert manager.get_deployment(rollout.deployment_id).step == 1
    manager.let_go("b:2")
    assert look(manager, rollout.deployment_id, controller="a:1").verdict is Verdict.PROMOTE


def test_a_person_and_a_guard_need_no_lease(tmp_path):
    manager = DeploymentManager(tmp_path / "yard")
    rollout = manager.start("fraud", "v2.0.0", **TERMS)
    manager.advance(rollout.deployment_id, traffic(rollout, n=100), controller="a:1")
    assert manager.promote(rollout.deployment_id).step == 1
    assert manager.rollback(rollout.deployment_id).status is DeploymentStatus.ROLLED_BACK


def test_of_two_people_who_let_the_same_step_pass_one_promotes(tmp_path):
    manager = DeploymentManager(tmp_path / "yard")
    rollout = manager.start("fraud", "v2.0.0", steps=[0.1, 0.5, 1.0], **TERMS)
    assert manager.promote(rollout.deployment_id, step=0).step == 1
    assert manager.promote(rollout.deployment_id, step=0).step == 1
    with pytest.raises(Conflict, match="in step 1 and cannot leave step 2"):
        manager.promote(rollout.deployment_id, step=2)
    done = manager.promote(rollout.deployment_id, step=1)
    assert manager.promote(rollout.deployment_id, step=1) == done
    assert done.status is DeploymentStatus.COMPLETED


def test_nothing_is_promoted_and_nothing_begins_within_a_freeze_window_but_it_goes_back_in_one(tmp_path):
    clock = FixedClock(datetime(2026, 1, 2, 14, 59, tzinfo=UTC))  # a Friday, 15:59 in Berlin
    manager = DeploymentManager(tmp_path / "yard", clock=clock)
    terms = {**TERMS, "freeze": ["Fri 16:00 - Mon 08:00 Europe/Berlin"]}
    rollout = manager.start("fraud", "v2.0.0", **terms)
    clock.advance(60)
    held = look(manager, rollout.deployment_id)
    assert held.verdict is Verdict.HOLD
    assert held.reasons[0].startswith(
        "freeze window: nothing is promoted in Fri 16:00 - Mon 08:00 Europe/Berlin, until Mon"
    )
    with pytest.raises(Conflict, match="give a reason"):
        manager.promote(rollout.deployment_id)
    assert manager.promote(rollout.deployment_id, reason="the fix for the outage").step == 1
    assert look(manager, rollout.deployment_id, bad=True).verdict is Verdict.ROLL_BACK
    with pytest.raises(Conflict, match="cannot begin"):
        manager.start("fraud", "v2.0.1", **terms)
    clock.advance(2 * 86400 + 16 * 3600)
    second = manager.start("fraud", "v2.0.1", **terms)
    assert look(manager, second.deployment_id).verdict is Verdict.PROMOTE


def test_a_promotion_that_is_no_longer_allowed_is_held_and_told_once_while_a_rollback_goes_through(tmp_path):
    manager = DeploymentManager(tmp_path / "yard")
    rollout = manager.start("fraud", "v2.0.0", **TERMS)

    def refuse(work, event):
        raise Forbidden("v2.0.0 cannot get live traffic: its stage is archived.")

    manager.store.wires.inside = {EventType.DEPLOYMENT_ADVANCED: [refuse]}
    for _ in range(3):
        assert look(manager, rollout.deployment_id).reasons[0].startswith("not allowed: v2.0.0 cannot get live traffic")
    assert manager.get_deployment(rollout.deployment_id).step == 0
    assert [entry.what for entry in manager.history(rollout.deployment_id)] == ["started", "held"]
    assert look(manager, rollout.deployment_id, bad=True).verdict is Verdict.ROLL_BACK
