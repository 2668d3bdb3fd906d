"""MLflow's routes keep projects apart: who may act in one sees and changes nothing of another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.server.app import create_app

API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"


@dataclass
class Two:
    """Two projects with an experiment, a run and a model each, and a client for whom one is theirs."""

    yard: Yard
    client: TestClient
    ids: dict[str, dict[str, str]]

    def ask(self, method: str, path: str, **sent: Any) -> Any:
        if method == "GET":
            return self.client.get(API + path, params=sent)
        return self.client.request(method, API + path, json=sent)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    with Yard(tmp_path / "yard") as yard:
        token = yard.access.create_token("ann", role="contributor", project="fraud", created_by="root").secret
        ids = {}
        for project in ("fraud", "credit"):
            experiment = yard.tracking.create_experiment(project).experiment_id
            yard.access.place(project, "experiment", experiment, user="root")
            run = yard.tracking.create_run(experiment, name=project).run_id
            model = yard.tracking.create_logged_model(experiment, name=project, source_run_id=run).model_id
            yard.registry.create_model(project, "root", project=project)
            ids[project] = {"experiment": experiment, "run": run, "logged": model}
        client = TestClient(create_app(yard), headers={"Authorization": f"Bearer {token}"})
        yield Two(yard, client, ids)


def test_searches_show_one_project_only(two: Two) -> None:
    found = two.ask("GET", "/experiments/search", max_results=10).json()["experiments"]
    assert [one["name"] for one in found] == ["fraud"]
    found = two.ask("GET", "/registered-models/search").json()["registered_models"]
    assert [one["name"] for one in found] == ["fraud"]
    assert two.ask("GET", "/experiments/get-by-name", experiment_name="fraud").status_code == 200
    assert two.ask("GET", "/experiments/get-by-name", experiment_name="credit").status_code == 404


def test_calls_about_the_other_project_are_refused_and_told(two: Two) -> None:
    for project, allowed in (("fraud", True), ("credit", False)):
        mine = two.ids[project]
        point = {"key": "k", "value": 1.0, "timestamp": 1}
        calls = (
            ("GET", "/experiments/get", {"experiment_id": mine["experiment"]}),
            ("POST", "/runs/create", {"experiment_id": mine["experiment"]}),
            ("POST", "/runs/search", {"experiment_ids": [mine["experiment"]]}),
            ("POST", "/runs/log-metric", {"run_id": mine["run"], **point}),
            ("POST", "/runs/log-batch", {"run_id": mine["run"], "metrics": [point]}),
            (
                "POST",
                "/runs/log-batch",
                {"run_id": two.ids["fraud"]["run"], "metrics": [{**point, "model_id": mine["logged"]}]},
            ),
            ("GET", "/artifacts/list", {"run_id": mine["run"]}),
            ("GET", f"/logged-models/{mine['logged']}", {}),
            ("PATCH", f"/logged-models/{mine['logged']}/tags", {"tags": [{"key": "a", "value": "b"}]}),
            ("GET", "/registered-models/get", {"name": project}),
            ("POST", "/model-versions/create", {"name": project, "source": "s3://b/m"}),
            ("POST", "/model-versions/create", {"name": "fraud", "source": f"models:/{project}/1"}),
            ("POST", "/registered-models/set-tag", {"name": project, "key": "a", "value": "b"}),
        )
        for method, path, sent in calls:
            answer = two.ask(method, path, **sent)
            assert answer.status_code == (200 if allowed else 403), (path, sent, answer.text)
            assert allowed or answer.json()["error_code"] == "PERMISSION_DENIED"
    told = two.yard.audit.query_events(event_type=EventType.SECURITY_VIOLATION)
    assert {event.actor for event in told} == {"ann"}
    assert len(told) == 13


def test_files_belong_to_the_project_of_their_experiment(two: Two) -> None:
    for project, expected in (("fraud", 200), ("credit", 403)):
        path = f"{two.ids[project]['experiment']}/{two.ids[project]['run']}/artifacts/a.txt"
        assert two.client.put(f"{FILES}/{path}", content=b"x").status_code == expected
        assert two.client.get(f"{FILES}/{path}").status_code == expected
        assert two.client.get(FILES, params={"path": path.rpartition("/")[0]}).status_code == expected
        assert two.client.delete(f"{FILES}/{path}").status_code == expected
    for path in ("", "elsewhere", "modelyard/models/credit/1"):
        assert two.client.get(FILES, params={"path": path}).status_code == 403
    assert two.client.put(f"{FILES}/elsewhere/x", content=b"x").status_code == 403


def test_webhooks_hear_of_everything_and_need_the_whole_yard(two: Two) -> None:
    assert two.ask("GET", "/webhooks").status_code == 403
    sent = {"name": "a", "url": "https://93.184.215.14/", "events": [{"entity": "MODEL_VERSION", "action": "CREATED"}]}
    assert two.ask("POST", "/webhooks", **sent).status_code == 403
