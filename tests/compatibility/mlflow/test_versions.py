"""What MLflow's client registers is a version like any other: with its run's figures, its bytes and its history."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.errors import Forbidden
from modelyard.core.models import ModelStage
from modelyard.server.app import create_app

API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
ANA, MAX = "ana@example.com", "max@example.com"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path / "yard") as yard:
        yield yard


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard, local_user=ANA))


def post(client: TestClient, path: str, **sent: Any) -> Any:
    answer = client.post(API + path, json=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def run_with_model(client: TestClient, model_file: Path) -> dict[str, Any]:
    tags = [{"key": "mlflow.source.git.commit", "value": "4f1d09c"}]
    run = post(client, "/runs/create", experiment_id="0", start_time=1, tags=tags)["run"]["info"]
    for key, value in (("auc", 0.9), ("auc", 0.95), ("broken", "NaN")):
        post(
            client, "/runs/log-metric", run_id=run["run_id"], key=key, value=value, timestamp=int(value != 0.9), step=0
        )
    post(client, "/runs/log-parameter", run_id=run["run_id"], key="depth", value="6")
    dataset = {"name": "cards", "digest": "d1", "source_type": "local", "source": "here"}
    post(client, "/runs/log-inputs", run_id=run["run_id"], datasets=[{"dataset": dataset}])
    path = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert client.put(f"{FILES}/{path}/m/model.txt", content=model_file.read_bytes()).status_code == 200
    described = b"artifact_path: m\nflavors:\n  lightgbm:\n    lgb_version: '4'\n  python_function:\n    env: x\n"
    assert client.put(f"{FILES}/{path}/m/MLmodel", content=described).status_code == 200
    return run


def register(client: TestClient, run: dict[str, Any], name: str = "fraud") -> dict[str, Any]:
    client.post(f"{API}/registered-models/create", json={"name": name})
    sent = {"name": name, "source": f"runs:/{run['run_id']}/m", "run_id": run["run_id"]}
    version: dict[str, Any] = post(client, "/model-versions/create", **sent)["model_version"]
    return version


def test_a_version_has_the_figures_of_its_run(client: TestClient, yard: Yard, small_model: Path) -> None:
    run = run_with_model(client, small_model)
    assert register(client, run)["version"] == "1"
    known = yard.registry.get_model("fraud", "1.0.0")
    assert (known.number, known.framework, known.metrics, known.parameters) == (
        1,
        "lightgbm",
        {"auc": 0.95},
        {"depth": "6"},
    )
    assert (known.trained_by, known.created_by, known.run_id) == (ANA, ANA, run["run_id"])
    assert (known.training_data, known.references.commit) == ("cards@d1", "4f1d09c")
    assert yard.artifacts.get(known.digest).admission == "accepted"
    assert (yard.registry.path("fraud", "1.0.0") / "model.txt").read_bytes() == small_model.read_bytes()


def test_a_copy_has_its_originals_bytes_and_names_it(client: TestClient, yard: Yard, small_model: Path) -> None:
    register(client, run_with_model(client, small_model))
    client.post(f"{API}/registered-models/create", json={"name": "copy"})
    post(client, "/model-versions/create", name="copy", source="models:/fraud/1")
    original, copy = yard.registry.get_model("fraud", "1.0.0"), yard.registry.get_model("copy", "1.0.0")
    assert (copy.digest, copy.metrics, copy.parent) == (original.digest, original.metrics, "fraud:1.0.0")


def test_an_approved_version_moves_and_its_trainer_cannot_approve(
    client: TestClient, yard: Yard, small_model: Path
) -> None:
    register(client, run_with_model(client, small_model))
    move = {"name": "fraud", "version": "1", "stage": "Production"}
    refused = client.post(f"{API}/model-versions/transition-stage", json=move)
    assert refused.status_code == 403
    assert "modelyard registry request-promotion fraud 1.0.0 production" in refused.json()["message"]
    yard.registry.request_promotion("fraud", "1.0.0", ModelStage.PRODUCTION, "eva@example.com", "because")
    with pytest.raises(Forbidden):
        yard.registry.approve_promotion("fraud", "1.0.0", ANA)
    yard.registry.approve_promotion("fraud", "1.0.0", MAX)
    found = client.get(f"{API}/registered-models/alias", params={"name": "fraud", "alias": "champion"}).json()
    assert found["model_version"]["current_stage"] == "Production"
    assert (
        client.request("DELETE", f"{API}/model-versions/delete", json={"name": "fraud", "version": "1"}).status_code
        == 403
    )
    assert client.request("DELETE", f"{API}/registered-models/delete", json={"name": "fraud"}).status_code == 403


def test_the_files_of_a_version_are_listed_and_verified(client: TestClient, yard: Yard, small_model: Path) -> None:
    register(client, run_with_model(client, small_model))
    asked = client.get(f"{API}/model-versions/get-download-uri", params={"name": "fraud", "version": "1"})
    place = asked.json()["artifact_uri"].removeprefix("mlflow-artifacts:/")
    listed = client.get(FILES, params={"path": place}).json()["files"]
    assert [(one["path"], one["is_dir"]) for one in listed] == [("MLmodel", False), ("model.txt", False)]
    assert listed[1]["file_size"] == small_model.stat().st_size
    answer = client.get(f"{FILES}/{place}/model.txt")
    assert answer.content == small_model.read_bytes()
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"{FILES}/{place}/none").status_code == 404


def test_bytes_that_changed_on_disk_are_not_handed_out(client: TestClient, yard: Yard, small_model: Path) -> None:
    register(client, run_with_model(client, small_model))
    members = yard.artifacts.get(yard.registry.get_model("fraud", "1.0.0").digest).members
    digest = members["model.txt"]
    stored = next(yard.store.folder.rglob(f"sha256/{digest[:2]}/{digest}"))
    stored.chmod(0o644)
    stored.write_bytes(stored.read_bytes()[:-1] + b"!")
    answer = client.get(f"{FILES}/modelyard/models/fraud/1/model.txt")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "DATA_LOSS")


def test_a_version_whose_files_are_no_known_format_is_refused(
    client: TestClient, yard: Yard, small_model: Path
) -> None:
    run = run_with_model(client, small_model)
    path = run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    client.put(f"{FILES}/{path}/m/extra.bin", content=bytes(range(256)))
    client.post(f"{API}/registered-models/create", json={"name": "fraud"})
    sent = {"name": "fraud", "source": f"runs:/{run['run_id']}/m", "run_id": run["run_id"]}
    answer = client.post(f"{API}/model-versions/create", json=sent)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert "extra.bin" in answer.json()["message"]
    assert yard.registry.list_models("fraud") == []
