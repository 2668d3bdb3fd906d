"""The control plane over HTTP: every operation has a route, people act as themselves, and errors explain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.core.operations import operations
from modelyard.server.app import create_app
from modelyard.server.run import Controller

VERSION = "/api/v1/models/fraud/versions/v1.0.0"


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    with Yard(tmp_path / "yard") as yard:
        yield yard


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard, local_user="local@example.org"))


def bearer(yard: Yard, subject: str, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {yard.access.create_token(subject, role=role, created_by='root').secret}"}


def upload(client: TestClient, file: Path, headers: dict[str, str] | None = None) -> str:
    answer = client.post("/api/v1/uploads", params={"name": file.name}, content=file.read_bytes(), headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["upload"]


def register(client: TestClient, file: Path, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    body = {"framework": "lightgbm", "model_path": upload(client, file, headers)} | fields
    return client.post(VERSION, json=body, headers=headers)


def test_every_operation_stands_in_the_openapi_document(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    named = {entry["operationId"] for path in document["paths"].values() for entry in path.values()}
    assert {entry.name for entry in operations() if entry.remote} <= named
    assert not {entry.name for entry in operations() if not entry.remote} & named


def test_a_model_travels_as_an_upload_and_is_registered_by_the_caller(client: TestClient, small_model: Path) -> None:
    answer = register(client, small_model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["created_by"] == "local@example.org"
    assert client.get("/api/v1/models").json()[0]["version"] == "v1.0.0"


def test_a_path_of_the_server_is_no_upload(client: TestClient) -> None:
    answer = client.post(VERSION, json={"framework": "lightgbm", "model_path": "/etc/passwd"})
    assert answer.status_code == 404
    assert "upload" in answer.json()["error"]["message"]


def test_the_acting_person_cannot_be_sent(client: TestClient, small_model: Path) -> None:
    answer = register(client, small_model, created_by="somebody.else@example.org")
    assert answer.status_code == 422
    assert "created_by" in answer.json()["error"]["message"]


def test_a_token_decides_who_acts_and_what_they_may(client: TestClient, yard: Yard, small_model: Path) -> None:
    viewer = bearer(yard, "vic@example.org", "viewer")
    contributor = bearer(yard, "ana@example.org", "contributor")
    assert client.get("/api/v1/models").status_code == 401, "once there are tokens, everybody needs one"
    known = client.get("/api/v1/identity", headers=viewer).json()
    assert (known["subject"], known["roles"]) == ("vic@example.org", [{"role": "viewer", "project": "*"}])
    assert register(client, small_model, contributor).json()["created_by"] == "ana@example.org"
    refused = client.post("/api/v1/uploads", params={"name": "x"}, content=b"", headers=viewer)
    assert refused.status_code == 403
    assert "viewer" in refused.json()["error"]["message"]
    violations = yard.audit.query_events(by="vic@example.org")
    assert [event.event_type.value for event in violations] == ["security_violation"]


def test_a_revoked_token_and_a_wrong_one_are_refused(client: TestClient, yard: Yard) -> None:
    made = yard.access.create_token("ann@example.org", role="admin", created_by="root")
    good = {"Authorization": f"Bearer {made.secret}"}
    assert client.get("/api/v1/models", headers=good).status_code == 200
    assert client.post(f"/api/v1/access/tokens/{made.token_id}/revoke", headers=good).status_code == 200
    for wrong in (made.secret, "myd_wrong", ""):
        assert client.get("/api/v1/models", headers={"Authorization": f"Bearer {wrong}"}).status_code == 401


def test_approval_over_http_needs_another_person(client: TestClient, yard: Yard, small_model: Path) -> None:
    ana, ben = bearer(yard, "ana@example.org", "admin"), bearer(yard, "ben@example.org", "approver")
    register(client, small_model, ana)
    asked = {"target_stage": "production", "justification": "good", "reviewers": ["ben@example.org"]}
    assert client.post(f"{VERSION}/promotion", json=asked, headers=ana).status_code == 200
    path = f"{VERSION}/promotion/approve"
    assert client.post(path, json={"comment": "mine"}, headers=ana).status_code == 403
    refusals = yard.audit.query_events(EventType.SECURITY_VIOLATION)
    assert [event.resource_id for event in refusals] == ["fraud:v1.0.0"], "a refusal is written once, where it happened"
    assert client.post(path, json={"comment": "fine"}, headers=ben).status_code == 200
    assert yard.registry.get_model("fraud", "v1.0.0").stage.value == "production"


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_foreign_hosts_and_origins_are_refused_for_every_method(
    client: TestClient, method: str, headers: dict[str, str]
) -> None:
    assert client.request(method, "/api/v1/models", headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/models/nobody/versions/v1.0.0", None, 404),
        ("GET", "/api/v1/nothing", None, 404),
        ("PUT", "/api/v1/models", None, 405),
        ("POST", VERSION, b"{", 422),
        ("POST", VERSION, b"[]", 422),
        ("POST", VERSION, b'{"framework": 1}', 422),
        ("GET", "/api/v1/models?limit=many", None, 422),
    ],
)
def test_an_error_is_one_envelope(client: TestClient, method: str, path: str, body: bytes | None, status: int) -> None:
    answer = client.request(method, path, content=body, headers={"Content-Type": "application/json"} if body else None)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"code", "message"}


def test_an_export_comes_back_as_a_download(client: TestClient, yard: Yard) -> None:
    yard.audit.log_model_deployment("fraud", "v1.0.0", "bob")
    entry = next(e for e in operations("audit") if e.verb == "export_audit_trail")
    answer = client.post("/api/v1" + entry.path, json={"format": "csv"})
    assert answer.status_code == 200, answer.text
    assert "fraud:v1.0.0" in answer.text
    assert answer.headers["content-disposition"].endswith('.csv"')


def test_health_tells_how_many_events_there_are(client: TestClient, yard: Yard) -> None:
    before = client.get("/api/v1/health").json()["events"]
    yard.audit.log_model_deployment("fraud", "v1.0.0", "bob")
    assert client.get("/api/v1/health").json()["events"] == before + 1


def test_health_says_when_nobody_looks_after_the_rollouts(tmp_path: Path, yard: Yard) -> None:
    app = create_app(yard, local_user="local@example.org")
    app.state.controller = controller = Controller(str(tmp_path / "yard"), None)
    client = TestClient(app)
    assert client.get("/api/v1/health").json()["status"] == "ok"
    controller._looked -= 60  # its store cannot be written to, say
    told = client.get("/api/v1/health").json()
    assert told["status"] == "degraded"
    assert told["controller_silent_s"] >= 60


def test_a_file_comes_in_by_parts_that_may_be_sent_again(client: TestClient, yard: Yard, small_model: Path) -> None:
    content = small_model.read_bytes()
    told = {"name": "model.txt", "size": len(content), "digest": hashlib.sha256(content).hexdigest()}
    path = f"/api/v1/artifacts/uploads/{client.post('/api/v1/artifacts/uploads', json=told).json()['upload_id']}"
    half = len(content) // 2
    assert client.put(f"{path}/0", content=content[:half]).json()["received"] == half
    assert client.put(f"{path}/0", content=content[:half]).json()["received"] == half
    assert client.put(f"{path}/{half + 1}", content=content[half + 1 :]).status_code == 409
    assert client.put(f"{path}/{half}", content=content[half:]).json()["received"] == len(content)
    assert client.post(f"{path}/finish").json()["digest"] == told["digest"]
    assert yard.artifacts.get(told["digest"]).format == "lightgbm"


def test_a_part_may_hold_any_bytes_and_only_so_many(client: TestClient) -> None:
    brackets = b"[" * 200_000
    told = {"name": "x.txt", "size": 64 << 20, "digest": hashlib.sha256(brackets).hexdigest()}
    path = f"/api/v1/artifacts/uploads/{client.post('/api/v1/artifacts/uploads', json=told).json()['upload_id']}"
    assert client.put(f"{path}/0", content=brackets).json()["received"] == len(brackets)
    assert client.put(f"{path}/{len(brackets)}", content=bytes(33 << 20)).status_code == 422
    assert client.put(f"{path}/-1", content=b"x").status_code == 404
    assert client.put("/api/v1/artifacts/uploads/upl_unknown/0", content=b"x").status_code == 404
