"""A rollout that is taken back in a Yard: its evidence, its routing and its champion go with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.errors import Conflict
from modelyard.deployment import Deployment

Approve = Callable[..., None]
MODELS = Path(__file__).parents[1] / "serving" / "local_models.py"
FORK = multiprocessing.get_context("fork")


def arms(yard: Yard) -> list[tuple[str, str, float]]:
    return [(arm.name, arm.version, arm.weight) for arm in yard.serving.traffic("fraud").arms]


def completed(yard: Yard, version: str) -> Deployment:
    rollout = yard.deploy("fraud", version, steps=[0.5, 1.0])
    ended: Deployment = yard.deployments.promote(rollout.deployment_id)
    return ended


def test_the_champion_goes_back_with_its_traffic_unless_somebody_named_another(yard: Yard, registered: Approve) -> None:
    for version in ("v1.0.0", "v2.0.0", "v3.0.0"):
        registered(yard, version)
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    second = completed(yard, "v2.0.0")
    assert yard.registry.champion("fraud").version == "v2.0.0"
    assert arms(yard) == [("baseline", "v2.0.0", 1.0), ("previous", "v1.0.0", 0.0)]
    yard.deployments.rollback(second.deployment_id, reason="customers complain")
    assert yard.registry.champion("fraud").version == "v1.0.0"
    assert arms(yard) == [("baseline", "v1.0.0", 1.0)]
    aborted = yard.deploy("fraud", "v2.0.0", steps=[0.5, 1.0])
    yard.deployments.rollback(aborted.deployment_id)
    assert yard.registry.champion("fraud").version == "v1.0.0"
    third = completed(yard, "v2.0.0")
    yard.registry.set_alias("fraud", "champion", "v3.0.0", user="ana@example.com")
    yard.deployments.rollback(third.deployment_id)
    assert yard.registry.champion("fraud").version == "v3.0.0"


def test_going_back_wins_over_a_routing_that_was_set_by_hand_meanwhile(yard: Yard, registered: Approve) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v2.0.0")
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    rollout = yard.deploy("fraud", "v2.0.0", steps=[0.5, 0.9, 1.0])
    traffic = yard.serving.traffic("fraud")
    yard.serving.apply(replace(traffic, generation=traffic.generation + 10))
    with pytest.raises(Conflict, match="its routing has been set since"):
        yard.deployments.promote(rollout.deployment_id)
    back = yard.deployments.rollback(rollout.deployment_id, reason="customers complain")
    assert arms(yard) == [("baseline", "v1.0.0", 1.0)]
    assert yard.serving.traffic("fraud").generation == back.generation


def test_a_routing_that_was_set_by_hand_is_not_released(yard: Yard, registered: Approve) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v2.0.0")
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    yard.deploy("fraud", "v2.0.0", strategy="direct", keep_seconds=1e-6)
    traffic = yard.serving.traffic("fraud")
    yard.serving.apply(replace(traffic, generation=traffic.generation + 10))
    assert yard.deployments.release_due() == []
    assert yard.serving.traffic("fraud").generation == traffic.generation + 10


def test_a_person_who_promotes_carries_on_what_the_serving_processes_have_counted(
    yard: Yard, registered: Approve
) -> None:
    """Nobody has looked: the controller is dead."""
    registered(yard, "v1.0.0")
    registered(yard, "v2.0.0")
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    rollout = yard.deploy("fraud", "v2.0.0", steps=[0.5, 0.9, 1.0])
    before = yard.serving.counts("fraud").arms["canary"].tests
    yard.deployments.promote(rollout.deployment_id)
    guard = yard.serving.traffic("fraud").guard
    assert guard is not None
    assert {name: tuple(numbers) for name, numbers in guard.carried.items()} == before
    (entry,) = yard.deployments.history(rollout.deployment_id)[1:]
    assert entry.measurements[0].name == "rollback_log_e_value"


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def acts_and_dies(place: str, where: str, act: str, *given: str) -> None:
    with Yard(place) as yard:
        if where == "handing on":  # what was decided is in the store, and nobody has heard of it
            yard.store.wires.after = die
        else:  # the routing is in the store, and the serving processes have not been told
            yard.serving.publish = die  # type: ignore[method-assign]  # killed at this point
        getattr(yard.deployments, act)(*given, **({"steps": [0.5, 1.0]} if act == "start" else {}))


@pytest.mark.parametrize("where", ["handing on", "publishing"])
def test_who_is_killed_between_a_decision_and_its_routing_is_followed_by_the_next_who_looks(
    tmp_path: Path, registered: Approve, where: str
) -> None:
    place = str(tmp_path / "yard")
    with Yard(place) as yard:
        for version in ("v1.0.0", "v2.0.0"):
            registered(yard, version)
            yard.provide("fraud", version)
        yard.deploy("fraud", "v1.0.0", strategy="direct")
    given: tuple[str, ...] = ("fraud", "v2.0.0")
    for act, weights in (("start", [0.5, 0.5]), ("promote", [1.0, 0.0]), ("rollback", [1.0])):
        child = FORK.Process(target=acts_and_dies, args=(place, where, act, *given))
        child.start()
        child.join(120)
        assert child.exitcode == -signal.SIGKILL
        with Yard(place) as yard:
            yard.dispatch()
            rollout = yard.deployments.list_deployments()[-1]
            published = yard.serving.places.read_traffic("fraud").traffic
            assert published == yard.serving.traffic("fraud") == rollout.traffic
            assert [arm.weight for arm in published.arms] == weights
            assert len(yard.audit.query_events("traffic_changed", limit=1000)) == rollout.generation
        given = (rollout.deployment_id,)


@pytest.mark.postgres
def test_going_back_reaches_the_serving_processes_of_every_machine(postgres_url: str, tmp_path: Path) -> None:
    """Two machines with folders of their own share a database; of each event one of them hears."""
    with Yard(postgres_url, files=tmp_path / "here") as here, Yard(postgres_url, files=tmp_path / "there") as there:
        here.serving.configure("fraud", {"trusted_code": True})
        for version in ("v1.0.0", "v2.0.0"):
            here.serving.install("fraud", "fraud", version, f"{MODELS}:Linear@{{}}", "python")
        here.deployments.start("fraud", "v1.0.0", strategy="direct")
        rollout = here.roll_out("fraud", "v2.0.0", steps=[0.5, 1.0])
        assert there.serving.follow()
        assert there.serving.places.read_traffic("fraud").traffic == rollout.traffic
        assert not there.serving.follow()
        back = here.deployments.rollback(rollout.deployment_id)
        there.dispatch()
        assert there.serving.follow()
        assert there.serving.places.read_traffic("fraud").traffic == back.traffic
