"""Areas that know more than the one that acts refuse within its transaction: use, holds, owners of services, roles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.registry import ModelStage, RequestStatus

from .conftest import ANA, BEN

Register = Callable[..., None]
ROBOT = "release-robot"


def test_a_version_that_takes_traffic_or_part_in_a_rollout_is_not_deleted(yard: Yard, registered: Register) -> None:
    for version in ("v1.0.0", "v1.1.0", "v1.2.0"):
        registered(yard, version)
    yard.deploy("fraud", "v1.0.0", strategy="direct")
    started = yard.deploy("fraud", "v1.1.0", strategy="canary", baseline="v1.0.0")
    for version in ("v1.1.0", "v1.2.0"):
        yard.registry.demote("fraud", version, ModelStage.ARCHIVED, ANA)
    with pytest.raises(Conflict, match="endpoint fraud"):
        yard.registry.delete("fraud", "1.1.0", ANA)
    yard.registry.demote("fraud", "v1.0.0", ModelStage.ARCHIVED, ANA)
    with pytest.raises(Conflict, match="endpoint fraud"):
        yard.registry.rename_model("fraud", "cards", ANA)
    yard.registry.delete("fraud", "v1.2.0", ANA)
    yard.deployments.abort(started.deployment_id)
    yard.dispatch()
    yard.registry.delete("fraud", "v1.1.0", ANA)
    with pytest.raises(NotFound):
        yard.registry.get_model("fraud", "v1.1.0")


def test_a_legal_hold_keeps_a_version_and_its_whole_model(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0", approved=False)
    for thing in ("fraud:v1.0.0", "fraud"):
        hold = yard.audit.legal_hold("model", thing, user="counsel@example.com", reason="case 7")
        with pytest.raises(Conflict, match="legal hold"):
            yard.registry.delete("fraud", "v1.0.0", ANA)
        with pytest.raises(Conflict, match="legal hold"):
            yard.registry.delete_model("fraud", ANA)
        assert yard.registry.get_model("fraud", "v1.0.0").version == "v1.0.0"
        yard.audit.lift_hold(hold.hold_id, user="counsel@example.com", reason="settled")
    yard.registry.delete("fraud", "v1.0.0", ANA)


def test_an_artifact_on_hold_is_not_collected(yard: Yard, small_model: Path) -> None:
    digest = yard.artifacts.add(small_model).digest
    hold = yard.audit.legal_hold("artifact", digest, user="counsel@example.com", reason="case 7")
    assert yard.artifacts.collect(grace_hours=0).artifacts == ()
    yard.audit.lift_hold(hold.hold_id, user="counsel@example.com", reason="settled")
    assert yard.artifacts.collect(grace_hours=0).artifacts == (digest,)
    with pytest.raises(NotFound):
        yard.audit.legal_hold("artifact", digest, user="counsel@example.com", reason="too late")


@pytest.mark.parametrize(("asks", "approves"), [(ANA, ROBOT), (ROBOT, ANA)])
def test_nobody_approves_through_a_service_what_they_asked_for(
    yard: Yard, registered: Register, asks: str, approves: str
) -> None:
    registered(yard, "v1.0.0", approved=False)
    yard.area("access").create_token(ROBOT, owner=ANA, created_by="root")
    yard.registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, asks)
    with pytest.raises(Forbidden, match=ANA):
        yard.registry.approve_promotion("fraud", "v1.0.0", approves)
    assert yard.registry.approve_promotion("fraud", "v1.0.0", BEN).status is RequestStatus.APPROVED


def test_a_person_and_their_service_are_one_approval(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0", approved=False)
    yard.area("access").create_token(ROBOT, owner=BEN, created_by="root")
    yard.registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, ANA, quorum=2)
    yard.registry.approve_promotion("fraud", "v1.0.0", BEN)
    with pytest.raises(Forbidden, match=BEN):
        yard.registry.approve_promotion("fraud", "v1.0.0", ROBOT)
    assert yard.registry.get_model("fraud", "v1.0.0").stage is ModelStage.DEVELOPMENT


def test_where_a_policy_names_a_role_only_its_holders_approve(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0", approved=False)
    policy = yard.registry.propose_policy("fraud", ModelStage.STAGING, ANA, roles=["approver"])
    yard.registry.approve_policy(policy.policy_id, BEN)
    yard.registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, ANA)
    with pytest.raises(Forbidden, match="approver"):
        yard.registry.approve_promotion("fraud", "v1.0.0", BEN)
    yard.area("access").grant_role(BEN, "approver", created_by="root")
    assert yard.registry.approve_promotion("fraud", "v1.0.0", BEN).status is RequestStatus.APPROVED


def test_a_policy_is_not_approved_through_its_proposers_service(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0", approved=False)
    yard.area("access").create_token(ROBOT, owner=ANA, created_by="root")
    policy = yard.registry.propose_policy("fraud", ModelStage.STAGING, ANA, quorum=0)
    with pytest.raises(Forbidden, match=ANA):
        yard.registry.approve_policy(policy.policy_id, ROBOT)
