"""Roles in one project: what belongs to another is neither changed nor seen, and no route stands open."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.access.rules import ROLES, covers
from modelyard.access.scopes import RESOLVERS, touch_of
from modelyard.core.errors import YardError
from modelyard.core.operations import Operation, operation, operations
from modelyard.server.app import check_declared, create_app
from modelyard.server.callers import PUBLIC, declares, permitted

ALL = operations()
# arguments whose names speak of a model, an experiment or something that belongs to one
SPEAKING = re.compile(r"^(model|model_id|model_name|models|endpoint|endpoint_id|(deployment|test|experiment)_id)$")
OF_OTHERS = {  # operations in which such a name means something without a project
    "webhooks.",  # what a webhook hears of is the whole yard's
}


@pytest.fixture
def yard(tmp_path: Path, small_model: Path) -> Iterator[Yard]:
    with Yard(tmp_path / "yard") as yard:
        for name, project in (("fraud", "risk"), ("churn", "sales"), ("plain", "default")):
            yard.registry.create_model(name, created_by="root", project=project)
            yard.registry.register_model(name, "v1.0.0", small_model, "lightgbm", "root@example.com")
        yield yard


@pytest.fixture
def client(yard: Yard) -> TestClient:
    return TestClient(create_app(yard))


def bearer(yard: Yard, subject: str, **grants: str) -> dict[str, str]:
    """A token of somebody who has a role in each of the projects named."""
    made = yard.access.create_token(subject, created_by="root")
    for project, role in grants.items():
        yard.access.grant_role(subject, role, project="*" if project == "all" else project, created_by="root")
    return {"Authorization": f"Bearer {made.secret}"}


def test_a_model_of_another_project_is_neither_read_nor_changed(client: TestClient, yard: Yard) -> None:
    ann = bearer(yard, "ann", risk="contributor")
    assert client.get("/api/v1/models/fraud/versions/v1.0.0", headers=ann).status_code == 200
    for name in ("churn", "plain", "unknown"):
        assert client.get(f"/api/v1/models/{name}/versions/v1.0.0", headers=ann).status_code == 403, name
    body = {"description": "mine now"}
    assert client.patch("/api/v1/models/fraud/versions/v1.0.0", json=body, headers=ann).status_code == 200
    assert client.patch("/api/v1/models/churn/versions/v1.0.0", json=body, headers=ann).status_code == 403
    assert client.get("/api/v1/resolve", params={"reference": "churn:v1.0.0"}, headers=ann).status_code == 403
    told = [event for event in yard.audit.query_events(by="ann") if event.event_type.value == "security_violation"]
    assert len(told) == 5, "every refusal is an event"


def test_a_list_shows_what_the_caller_may_see(client: TestClient, yard: Yard) -> None:
    ann = bearer(yard, "ann", risk="viewer", sales="viewer")
    root = bearer(yard, "root", all="admin")

    def names(headers: dict[str, str], **asked: str) -> set[str]:
        answer = client.get("/api/v1/models", params=asked, headers=headers)
        assert answer.status_code == 200, answer.text
        return {model["name"] for model in answer.json()}

    assert names(root) == {"fraud", "churn", "plain"}
    assert names(ann) == {"fraud", "churn"}
    assert names(ann, name="fraud") == {"fraud"}
    assert client.get("/api/v1/models", params={"name": "plain"}, headers=ann).status_code == 403
    page = client.get("/api/v1/search/versions", headers=ann).json()
    assert {model["name"] for model in page["items"]} == {"fraud", "churn"}


def test_a_model_is_made_in_a_project_and_moved_by_who_may_in_both(client: TestClient, yard: Yard) -> None:
    ann, eve = bearer(yard, "ann", risk="contributor"), bearer(yard, "eve", risk="contributor", sales="contributor")
    assert client.post("/api/v1/models/new", json={"project": "sales"}, headers=ann).status_code == 403
    assert client.post("/api/v1/models/new", json={}, headers=ann).status_code == 403, "the default project"
    assert client.post("/api/v1/models/new", json={"project": "risk"}, headers=ann).status_code == 200
    assert client.patch("/api/v1/models/new", json={"project": "sales"}, headers=ann).status_code == 403
    assert client.patch("/api/v1/models/new", json={"project": "sales"}, headers=eve).status_code == 200
    assert client.patch("/api/v1/models/new", json={"description": "x"}, headers=ann).status_code == 403


def test_what_belongs_to_a_model_is_in_its_project(client: TestClient, yard: Yard) -> None:
    yard.registry.request_promotion("churn", "v1.0.0", "production", "root@example.com", "x")
    yard.registry.approve_promotion("churn", "v1.0.0", "ben@example.com")
    rollout = yard.deployments.start("churn", "v1.0.0", strategy="direct", created_by="root")
    test = yard.ab_tests.create_test("t", control_variant="churn:v1.0.0", treatment_variant="churn:v2.0.0")
    ann, sam = bearer(yard, "ann", risk="contributor"), bearer(yard, "sam", sales="contributor")
    for path in (
        f"/api/v1/deployments/{rollout.deployment_id}",
        f"/api/v1/ab-tests/{test.test_id}",
        "/api/v1/serving/endpoints/churn/traffic",
    ):
        assert client.get(path, headers=sam).status_code == 200, path
        assert client.get(path, headers=ann).status_code == 403, path
    assert client.get("/api/v1/deployments", headers=ann).json() == []
    assert len(client.get("/api/v1/deployments", headers=sam).json()) == 1
    assert client.get("/api/v1/ab-tests", headers=ann).json() == []


def test_an_experiment_is_placed_and_its_runs_go_with_it(client: TestClient, yard: Yard) -> None:
    experiment = yard.tracking.create_experiment("spring", user="root")
    number = str(getattr(experiment, "experiment_id", experiment))
    run = yard.tracking.create_run(number, user="root")
    yard.access.place("risk", "experiment", number, user="root")
    ann, sam = bearer(yard, "ann", risk="contributor"), bearer(yard, "sam", sales="contributor")
    path = f"/api/v1/runs/{run.run_id}"
    assert client.get(path, headers=ann).status_code == 200
    assert client.get(path, headers=sam).status_code == 403


def test_what_has_no_project_is_for_those_who_may_everywhere(client: TestClient, yard: Yard) -> None:
    ann, ben = bearer(yard, "ann", risk="admin"), bearer(yard, "ben", all="viewer")
    for path in ("/api/v1/audit/events", "/api/v1/artifacts", "/api/v1/features", "/api/v1/webhooks"):
        assert client.get(path, headers=ann).status_code == 403, path
        assert client.get(path, headers=ben).status_code == 200, path
    assert client.get("/api/v1/access/tokens", headers=ben).status_code == 403, "reading tokens is always named"


def test_an_administrator_of_a_project_gives_roles_there_only(client: TestClient, yard: Yard) -> None:
    ann = bearer(yard, "ann", risk="admin")

    def grant(project: str) -> int:
        body = {"subject": "ben", "role": "viewer", "project": project}
        return client.post("/api/v1/access/grants", json=body, headers=ann).status_code

    assert [grant(project) for project in ("risk", "sales", "*")] == [200, 403, 403]
    default = client.post("/api/v1/access/grants", json={"subject": "ben", "role": "admin"}, headers=ann)
    assert default.status_code == 403
    assert client.post("/api/v1/access/tokens", json={"subject": "root"}, headers=ann).status_code == 403


def test_a_token_does_no_more_than_its_scopes_and_its_project(client: TestClient, yard: Yard) -> None:
    yard.access.grant_role("root", "admin", created_by="root")

    def token(**limits: Any) -> dict[str, str]:
        return {"Authorization": f"Bearer {yard.access.create_token('root', created_by='root', **limits).secret}"}

    reads, bound = token(scopes=["registry.read"]), token(project="risk")
    assert client.get("/api/v1/models", headers=reads).status_code == 200
    assert client.get("/api/v1/audit/events", headers=reads).status_code == 403
    refused = client.post("/api/v1/access/tokens", json={"subject": "root"}, headers=reads)
    assert refused.status_code == 403
    assert "registry.read" in refused.json()["error"]["message"]
    assert {model["name"] for model in client.get("/api/v1/models", headers=bound).json()} == {"fraud"}
    assert client.post("/api/v1/access/tokens", json={"subject": "root"}, headers=bound).status_code == 403


def test_an_upload_is_its_senders_only(client: TestClient, yard: Yard, small_model: Path) -> None:
    ann, sam = bearer(yard, "ann", risk="contributor"), bearer(yard, "sam", sales="contributor")
    sent = client.post("/api/v1/uploads", params={"name": "m.txt"}, content=small_model.read_bytes(), headers=ann)
    body = {"framework": "lightgbm", "model_path": sent.json()["upload"]}
    assert client.post("/api/v1/models/churn/versions/v2.0.0", json=body, headers=sam).status_code == 404
    assert client.post("/api/v1/models/fraud/versions/v2.0.0", json=body, headers=ann).status_code == 200


def test_what_an_area_forbids_is_an_event_too(client: TestClient, yard: Yard) -> None:
    root = bearer(yard, "root@example.com", all="admin")
    asked = {"target_stage": "production", "justification": "good"}
    client.post("/api/v1/models/fraud/versions/v1.0.0/promotion", json=asked, headers=root)
    answer = client.post("/api/v1/models/fraud/versions/v1.0.0/promotion/approve", json={}, headers=root)
    assert answer.status_code == 403
    kinds = [event.event_type.value for event in yard.audit.query_events(by="root@example.com")]
    assert "security_violation" in kinds


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_every_operation_says_what_it_needs_and_what_it_touches(entry: Operation) -> None:
    holders = [role for role, permissions in ROLES.items() if any(covers(one, entry.needs) for one in permissions)]
    assert holders, f"no role has {entry.needs}"
    touch = touch_of(entry)
    named = {argument for _, argument in touch.arguments}
    assert {kind for kind, _ in touch.arguments} <= set(RESOLVERS)
    if any(entry.name.startswith(prefix) for prefix in OF_OTHERS):
        return
    speaking = {name for name in inspect.signature(entry.function).parameters if SPEAKING.match(name)}
    lists = {name for name in speaking if name == "models"}  # links of a run, which the run's own project guards
    assert speaking - lists <= named, f"{entry.name} names a model or an experiment without a scope"


async def _open(_: Request) -> Response:
    return Response("open")


@declares("registry.read")
async def _closed(_: Request) -> Response:
    return Response("closed")


@pytest.mark.parametrize(
    "route",
    [
        Route("/api/2.0/mlflow/runs/search", _open),
        Route("/ajax-api/3.0/jobs", partial(_open)),
        Mount("/v1", routes=[Route("/closed", _closed), Route("/traces", _open)]),
        Mount("/static", app=Starlette(routes=[])),
        Mount("/app", app=Starlette(routes=[Route("/", _open)])),
        WebSocketRoute("/live", _open),
    ],
    ids=lambda route: route.path,
)
def test_a_route_that_declares_nothing_keeps_the_server_from_starting(route: Any, yard: Yard) -> None:
    with pytest.raises(YardError, match="does not say what its caller needs"):
        create_app(yard, more=[route])


def test_declared_routes_are_let_in_and_ask_for_what_they_declare(yard: Yard) -> None:
    @declares("registry.read")
    def endpoint(request: Request) -> Response:
        return Response(permitted(request, "registry.read", ("model", "fraud")).subject)

    client = TestClient(create_app(yard, more=[Mount("/x", routes=[Route("/fraud", endpoint)])]))
    ann, sam = bearer(yard, "ann", risk="viewer"), bearer(yard, "sam", sales="viewer")
    assert client.get("/x/fraud", headers=ann).text == "ann"
    assert client.get("/x/fraud", headers=sam).status_code == 403
    assert client.get("/x/fraud").status_code == 401


def leaves(routes: Iterable[Any], before: str = "") -> Iterator[tuple[str, Route]]:
    """Every route with its whole path."""
    for route in routes:
        inner = getattr(route, "routes", None)
        if inner:
            yield from leaves(inner, before + getattr(route, "path", ""))
        else:
            yield before + route.path, route


def test_the_whole_route_table_is_declared_and_strangers_are_kept_from_it(yard: Yard) -> None:
    yard.access.create_token("root", role="admin", created_by="root")
    app = create_app(yard)
    check_declared(app.routes.routes)
    client = TestClient(app)
    found = list(leaves(app.routes.routes))
    assert len(found) > 300
    open_to_all = set()
    for path, route in found:
        for method in (route.methods or set()) - {"HEAD"}:
            answer = client.request(method, re.sub(r"{\w+(:\w+)?}", "1", path))
            client.app.state.callers._strangers._buckets.clear()
            if answer.status_code != 401:
                open_to_all.add(path)
                assert route.endpoint.needs == PUBLIC, (method, path, answer.status_code)
    assert open_to_all >= {"/api/v1/health", "/api/v1/openapi.json", "/api/v1/login"}
    named = [path for path in open_to_all if "{" in path]
    assert all("/mpu/part/{upload}" in path for path in named), "an unguessable id, which MLflow's client sends alone"
    assert len(open_to_all) < 12, open_to_all


def test_a_scope_that_names_no_argument_is_told_at_once() -> None:
    def probe(self: object, name: str) -> None: ...

    from modelyard.core import operations as table

    for scope in ("model:nmae", "modle:name", "model"):
        probe.__module__, probe.__qualname__ = "modelyard.probing.service", f"probe{scope}"
        operation("GET", "/probing/{name}", needs="registry.read", scope=scope)(probe)
        made = table._TABLE.pop("probing.probe")
        with pytest.raises(ValueError, match="scope"):
            touch_of(made)
