"""A rollout that is taken back in a Yard: its evidence, its routing and its champion go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from modelyard import Yard
from modelyard.core.errors import Conflict
from modelyard.deployment import Deployment

Approve = Callable[..., None]


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
    assert yard.deployments.release() == []
    assert yard.serving.traffic("fraud").generation == traffic.generation + 10


def test_a_person_who_promotes_carries_on_what_the_serving_processes_have_counted(
    yard: Yard, registered: Approve
) -> None:
    """Nobody has looked: the controller is dead."""
    registered(yard, "v1.0.0")
    registered(yard, "v2.0.0")
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    rollout = yard.deploy("fraud", "v2.0.0", steps=[0.5, 0.9, 1.0])
    before = yard.serving.counts("fraud").tests
    yard.deployments.promote(rollout.deployment_id)
    guard = yard.serving.traffic("fraud").guard
    assert guard is not None
    assert {name: tuple(numbers) for name, numbers in guard.carried.items()} == before
    (entry,) = yard.deployments.history(rollout.deployment_id)[1:]
    assert entry.measurements[0].name == "rollback_log_e_value"
