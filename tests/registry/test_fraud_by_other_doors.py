"""The same attempts through service tokens, runs, MLflow's routes, portable folders and packages: no door is weaker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.errors import Conflict, Forbidden
from modelyard.core.events import EventType
from modelyard.registry import ModelStage
from modelyard.server.app import create_app
from modelyard.server.mlflow.routes import routes

ANA, TIM, MAX = "ana@example.com", "tim@example.com", "max@example.com"
PRODUCTION = ModelStage.PRODUCTION


@pytest.fixture
def open_yard(yard: Path) -> Iterator[Yard]:
    with Yard(yard) as opened:
        yield opened


def _add(yard: Yard, model: Path, version: str = "v1.0.0", by: str = ANA, **more: Any) -> None:
    yard.registry.register_model("fraud", version, model, "lightgbm", by, **more)


def _stage(yard: Yard, version: str = "v1.0.0") -> str:
    return yard.registry.get_model("fraud", version).stage.value


def test_a_service_token_is_its_owner_on_either_side(open_yard: Yard, small_model: Path) -> None:
    """Whether the service registers and its owner approves, or the other way round, or it approves twice."""
    access, registry = open_yard.access, open_yard.registry
    for robot, owner in (("robot", ANA), ("twin", ANA), ("helper", MAX)):
        access.create_user(robot, owner=owner, created_by="root")
    _add(open_yard, small_model, by="robot")
    registry.request_promotion("fraud", "v1.0.0", PRODUCTION, "robot", quorum=2)
    for person in ("robot", "Robot ", ANA, "twin", ANA.replace("a", "\N{CYRILLIC SMALL LETTER A}")):
        with pytest.raises(Forbidden):
            registry.approve_promotion("fraud", "v1.0.0", person)
    registry.approve_promotion("fraud", "v1.0.0", MAX)
    with pytest.raises(Forbidden, match="counts as max"):
        registry.approve_promotion("fraud", "v1.0.0", "helper")
    assert _stage(open_yard) == "development"
    made = registry.break_glass("fraud", "v1.0.0", PRODUCTION, "twin", reason="outage", incident="INC-1")
    for person in (ANA, "robot", "twin"):
        with pytest.raises(Forbidden):
            registry.review_break_glass(made.break_id, person, "justified")
    proposed = registry.propose_policy("fraud", PRODUCTION, "robot", quorum=0)
    with pytest.raises(Forbidden):
        registry.approve_policy(proposed.policy_id, "twin")
    told = open_yard.audit.query_events(EventType.SECURITY_VIOLATION)
    assert {event.details["action"] for event in told} == {"approve_promotion", "review_break_glass", "approve_policy"}
    assert len(told) == 10


@pytest.mark.parametrize("person", [TIM, "tim"])
def test_who_made_the_run_trained_the_model_though_its_registration_is_silent(
    open_yard: Yard, small_model: Path, person: str
) -> None:
    run = open_yard.tracking.create_run("0", user=person)
    _add(open_yard, small_model, run_id=run.run_id)
    open_yard.registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    for act in (open_yard.registry.approve_promotion, open_yard.registry.reject_promotion):
        with pytest.raises(Forbidden, match="took part"):
            act("fraud", "v1.0.0", person)
    assert open_yard.registry.approve_promotion("fraud", "v1.0.0", MAX).status.value == "approved"


def test_no_version_comes_from_a_run_that_was_deleted(open_yard: Yard, small_model: Path) -> None:
    run = open_yard.tracking.create_run("0", user=TIM)
    open_yard.tracking.delete_run(run.run_id, user=TIM)
    with pytest.raises(Conflict, match=f"restore-run {run.run_id}"):
        _add(open_yard, small_model, run_id=run.run_id)
    assert open_yard.registry.search_models().items == (), "the model is not made either"
    open_yard.tracking.restore_run(run.run_id, user=TIM)
    _add(open_yard, small_model, run_id=run.run_id)
    _add(open_yard, small_model, "v2.0.0", run_id="a run of another tracker")


def test_the_same_bytes_under_another_name_have_the_same_uploader(open_yard: Yard, small_model: Path) -> None:
    _add(open_yard, small_model)
    open_yard.registry.register_model("copy", "v1.0.0", small_model, "lightgbm", TIM)
    open_yard.registry.request_promotion("copy", "v1.0.0", PRODUCTION, TIM)
    with pytest.raises(Forbidden, match="uploaded its bytes"):
        open_yard.registry.approve_promotion("copy", "v1.0.0", ANA)
    assert open_yard.registry.approve_promotion("copy", "v1.0.0", MAX).status.value == "approved"


def test_mlflows_routes_hold_to_the_same_approval(open_yard: Yard, small_model: Path) -> None:
    _add(open_yard, small_model)
    client = TestClient(create_app(open_yard, local_user=ANA, more=routes()))
    root = "/api/2.0/mlflow"
    tries = [
        ("POST", "/model-versions/transition-stage", {"name": "fraud", "version": "1", "stage": "Production"}),
        ("POST", "/model-versions/transition-stage", {"name": "fraud", "version": "1", "stage": "Staging"}),
        ("POST", "/registered-models/alias", {"name": "fraud", "alias": "champion", "version": "1"}),
        ("POST", "/registered-models/alias", {"name": "fraud", "alias": "Champion", "version": "1"}),
    ]
    for method, path, body in tries:
        answer = client.request(method, root + path, json=body)
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED"), (path, answer.text)
        assert "request-promotion" in answer.json()["message"]
    assert _stage(open_yard) == "development"
    open_yard.registry.approve_policy(
        open_yard.registry.propose_policy("fraud", PRODUCTION, ANA, quorum=3).policy_id, MAX
    )
    renamed = client.post(f"{root}/registered-models/rename", json={"name": "fraud", "new_name": "loans"})
    assert renamed.status_code >= 400
    assert open_yard.registry.policy_of("fraud", PRODUCTION).quorum == 3


def test_only_an_administrator_brings_stages_and_approvals_along(
    open_yard: Yard, small_model: Path, tmp_path: Path
) -> None:
    """A folder that says production is believed from whoever administers the yard, and from nobody else."""
    _add(open_yard, small_model)
    open_yard.export(tmp_path / "out")
    [path] = (tmp_path / "out" / "metadata").glob("*v1.0.0.json")
    document = json.loads(path.read_text())
    document["version"]["stage"] = "production"
    path.write_text(json.dumps(document))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    named = str(path.relative_to(tmp_path / "out"))
    manifest["files"][named] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "size": path.stat().st_size,
    }
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Conflict, match="stage"):
        open_yard.import_(tmp_path / "out", user="root")
    assert _stage(open_yard) == "development"
    with Yard(tmp_path / "other") as other:
        other.access.create_token("root@example.com", role="admin", created_by="setup")
        other.access.create_token(ANA, role="contributor", created_by="root@example.com")
        with pytest.raises(Forbidden):
            other.import_(tmp_path / "out", user=ANA)
        assert other.registry.search_versions().items == ()


def test_a_package_of_an_approved_version_is_not_approved_here(
    open_yard: Yard, small_model: Path, tmp_path: Path
) -> None:
    _add(open_yard, small_model, trained_by=TIM)
    open_yard.registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    open_yard.registry.approve_promotion("fraud", "v1.0.0", MAX)
    listing = open_yard.marketplace.publish("fraud", "v1.0.0", ANA, licence="MIT", owner=ANA, summary="Cards")
    open_yard.marketplace.pack(listing.listing_id, tmp_path / "fraud.zip", ANA)
    with Yard(tmp_path / "other") as other:
        other.marketplace.trust_publisher("them", open_yard.marketplace.publishing_key().public_key, "root")
        other.marketplace.receive(tmp_path / "fraud.zip", "zoe@example.com")
        assert _stage(other) == "development"
        other.registry.request_promotion("fraud", "v1.0.0", PRODUCTION, "zoe@example.com")
        with pytest.raises(Forbidden, match="trained it"):
            other.registry.approve_promotion("fraud", "v1.0.0", TIM)


def test_a_refusal_by_another_area_is_told_once_and_of_the_version(open_yard: Yard, small_model: Path) -> None:
    run = open_yard.tracking.create_run("0", user=TIM)
    _add(open_yard, small_model, run_id=run.run_id)
    open_yard.registry.request_promotion("fraud", "v1.0.0", PRODUCTION, ANA)
    secret = open_yard.access.create_token(TIM, role="approver", created_by="root").secret
    client = TestClient(create_app(open_yard))
    answer = client.post(
        "/api/v1/models/fraud/versions/v1.0.0/promotion/approve", json={}, headers={"Authorization": f"Bearer {secret}"}
    )
    assert answer.status_code == 403, answer.text
    refused = open_yard.audit.query_events(EventType.SECURITY_VIOLATION)
    assert [(event.actor, event.resource_id) for event in refused] == [(TIM, "fraud:v1.0.0")]
