"""Whatever is sent to MLflow's routes, the answer is one of MLflow's refusals and never a fault of the server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from starlette.routing import Mount
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.server.app import create_app
from modelyard.server.callers import PUBLIC
from modelyard.server.mlflow import artifacts, server_info
from modelyard.server.mlflow.calls import Route
from modelyard.server.mlflow.errors import STATUS
from modelyard.server.mlflow.routes import TABLE, routes

API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts"
TEXT = st.one_of(
    st.sampled_from(["0", "1", "fraud", "champion", "Production", "runs:/x/y", "models:/fraud/1", "m-1", "name = 'x'"]),
    st.sampled_from(
        ["\0", "\ud800", "..", "a" * 300, "%s", "%00", "-1", "metrics.x > 1", "a\x1fb", "'", "eyJhIjoxfQ=="]
    ),
    st.text(max_size=8),
)
NUMBER = st.one_of(
    st.integers(-3, 3), st.sampled_from([10**30, -(2**63), 2**63, 1e308, -0.0, math.nan, math.inf, 1.5]), st.floats()
)
LEAF = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
VALUE = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=6
)
ENTRY = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("key", "value", "timestamp", "step", "model_id", "dataset", "tags", "field_name"), VALUE),
)
TRAVERSALS = (
    "..",
    "../x",
    "a/../../x",
    "/etc/passwd",
    "//proc/self/root",
    "a\\..\\..\\x",
    "..\\x",
    "%2e%2e/x",
    "%2e%2e%2fx",
    "%252e%252e%252fx",
    "%25252e%25252e/x",
    "a/%5c..%5cx",
    "a#/../../x",
    "file:///etc/passwd",
    "C:\\x",
    "C:/x",
    "a/./b",
    "a//b",
    "\x00",
    "a%00b",
    "a%0ab",
    "modelyard/models/fraud/1/../../../x",
    "a" * 5000,
)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A yard with something in it, so that names may hit."""
    with Yard(tmp_path_factory.mktemp("any") / "yard") as yard:
        client = TestClient(create_app(yard, local_user="local@example.org"), raise_server_exceptions=False)
        client.post(f"{API}/experiments/create", json={"name": "e"})
        client.post(f"{API}/registered-models/create", json={"name": "fraud"})
        client.post(f"{API}/model-versions/create", json={"name": "fraud", "source": "s3://b/m"})
        yield client


def check(answer: Any) -> None:
    """A refusal has a code of MLflow's that fits its status."""
    assert answer.status_code < 500 or answer.status_code == 501, answer.text[:500]
    if answer.status_code >= 400:
        told = answer.json()
        if "error_code" in told:  # what the guard refuses has our own envelope
            assert STATUS[told["error_code"]] == answer.status_code
            assert told["message"]
        else:
            assert set(told["error"]) == {"code", "message"}


def send(client: TestClient, entry: Route, sent: dict[str, Any]) -> Any:
    path = entry.path
    for name in ("model_id", "webhook_id", "tag_key"):
        path = (
            path.replace("{" + name, "{x")
            .replace("{x:path}", "{x}")
            .replace("{x}", quote(str(sent.get(name, "m-1")).encode("utf-8", "replace"), safe="")[:200] or "x")
        )
    if entry.method == "GET":
        query = {name: _shown(value) for name, value in sent.items()}
        return client.get(API + path, params=query)
    body = json.dumps(sent).encode("utf-8", "surrogatepass")
    return client.request(entry.method, API + path, content=body, headers={"Content-Type": "application/json"})


def _shown(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace").decode()


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: f"{entry.method} {entry.path}")
def test_any_fields_are_answered(entry: Route, client: TestClient) -> None:
    names = [spelling for field in entry.fields for spelling in field.spellings] or [
        "run_id",
        "metrics",
        "params",
        "tags",
    ]
    fields = st.fixed_dictionaries({}, optional={name: st.one_of(VALUE, st.lists(ENTRY, max_size=3)) for name in names})

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(fields)
    def any_fields(sent: dict[str, Any]) -> None:
        check(send(client, entry, sent))

    any_fields()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b'"{\\"name\\": 3}"',
        b"[" * 60 + b"]" * 60,
        b"[" * 200_000,
        b'{"a":' * 50 + b"1" + b"}" * 50,
        b"\xff\xfe",
        b'{"run_id": "\\u0000", "key": "\\ud800", "value": "\\u0000"}',
        b'{"run_id": NaN}',
        b'{"run_id": "a", "metrics": [{"key": "k", "value": 1e999, "timestamp": 99999999999999999999}]}',
        b'{"run_id": "a", "metrics": [{"key": "k", "value": "abc", "timestamp": "x"}]}',
    ],
)
def test_any_body_is_answered(body: bytes, client: TestClient) -> None:
    for path in (
        "/runs/log-batch",
        "/runs/log-metric",
        "/experiments/create",
        "/logged-models",
        "/webhooks",
        "/runs/search",
    ):
        for kind in ("application/json", "text/plain", ""):
            check(client.post(API + path, content=body, headers={"Content-Type": kind}))


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_out_of_the_artifact_root(path: str, client: TestClient) -> None:
    made = client.post(f"{API}/runs/create", json={"experiment_id": "0"}).json()["run"]["info"]["run_id"]
    raw = quote(path, safe="%/\\:").replace("\\", "%5C")[:4000]
    for method in ("GET", "PUT", "DELETE"):
        status, body = raw_call(client.app, method, f"{FILES}/artifacts/{raw}")
        assert status in (400, 404), (method, body)
        assert b"root:" not in body
    for address in (f"{FILES}/artifacts?path={quote(path)}", f"{API}/artifacts/list?run_id={made}&path={quote(path)}"):
        answer = client.get(address)
        check(answer)
        assert answer.status_code in (400, 404), (address, answer.text)
    for verb in ("create", "complete", "abort"):
        sent = {"path": "/x/a.bin", "upload_id": "u", "parts": [{"part_number": 1, "etag": "e"}]}
        status, body = raw_call(client.app, "POST", f"{FILES}/mpu/{verb}/{raw}", json.dumps(sent).encode())
        assert status in (400, 404), (verb, body)


def raw_call(app: Any, method: str, target: str, body: bytes = b"x") -> tuple[int, bytes]:
    """A request whose path no client has tidied up: decoded once, as a server does it."""
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(target),
        "raw_path": target.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"content-type", b"application/json")],
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 5),
        "server": ("testserver", 80),
    }
    told: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send_on(message: Any) -> None:
        told.append(message)

    asyncio.run(app(scope, receive, send_on))
    return told[0]["status"], b"".join(one.get("body", b"") for one in told)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc",
        "/etc",
        "//proc/self/root",
        "relative/path",
        "http://example.org/x",
        "runs:/a/b",
        "models:/m/1",
        "dbfs:/x",
        "mlflow-artifacts:/../x",
        "mlflow-artifacts:/a/%2e%2e/%2e%2e/x",
        "mlflow-artifacts://host/x",
        "s3://b/../../x",
        "s3://b/x#f",
        "s3:",
        "mlflow-artifacts:/a?b=../../c",
        "x" * 5000,
    ],
)
def test_an_experiment_lies_in_no_folder_of_the_server(location: str, client: TestClient) -> None:
    answer = client.post(f"{API}/experiments/create", json={"name": location[:50], "artifact_location": location})
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"


def test_nobody_writes_where_admitted_models_lie(client: TestClient) -> None:
    for path in ("modelyard/models/fraud/1/x", "modelyard", "modelyard/y"):
        assert client.put(f"{FILES}/artifacts/{path}", content=b"x").status_code == 400
        assert client.delete(f"{FILES}/artifacts/{path}").status_code == 400
        assert client.post(f"{FILES}/mpu/create/{path}", json={"path": "x", "num_parts": 1}).status_code == 400


def test_parts_are_put_by_signed_addresses_only(client: TestClient) -> None:
    made = client.post(f"{FILES}/mpu/create/1/a", json={"path": "big.bin", "num_parts": 2}).json()
    first, second = (part["url"] for part in made["credentials"])
    assert client.put(first.rpartition("?")[0], content=b"x").status_code == 403
    assert client.put(first.replace("/1?", "/2?"), content=b"x").status_code == 403
    tags = [client.put(url, content=content).headers["etag"] for url, content in ((first, b"ab"), (second, b"cd"))]
    parts = [{"part_number": number, "etag": tag} for number, tag in enumerate(tags, 1)]
    body = {"path": "big.bin", "upload_id": made["upload_id"], "parts": parts}
    wrong = {**body, "parts": [{"part_number": 1, "etag": "0" * 64}]}
    assert client.post(f"{FILES}/mpu/complete/1/a", json=wrong).status_code == 409
    assert client.post(f"{FILES}/mpu/complete/1/a", json=body).status_code == 200
    assert client.get(f"{FILES}/artifacts/1/a/big.bin").content == b"abcd"
    assert client.post(f"{FILES}/mpu/complete/1/a", json=body).status_code == 404


def test_json_files_are_files_however_deep_or_large(client: TestClient) -> None:
    deep = b"[" * 5_000 + b"]" * 5_000
    for content in (deep, b"{not json", b'"' + b"x" * 40_000_000 + b'"'):
        answer = client.put(
            f"{FILES}/artifacts/1/run/artifacts/d.json", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        assert client.get(f"{FILES}/artifacts/1/run/artifacts/d.json").content == content


def test_every_route_says_what_its_caller_needs() -> None:
    public = set()
    for route in routes():
        for inner in route.routes if isinstance(route, Mount) else [route]:
            needs = inner.endpoint.needs
            if needs == PUBLIC:
                public.add(inner.path)
            else:
                assert needs.partition(".")[0] in ("tracking", "registry", "webhooks")
                assert needs.partition(".")[2] == ("read" if _reads(inner) else "write")
    assert public == {"/health", "/version", "/mpu/part/{upload}/{number:int}"}


def _reads(route: Any) -> bool:
    searching = route.path in (
        "/runs/search",
        "/experiments/search",
        "/logged-models/search",
        "/registered-models/get-latest-versions",
        "/artifacts/presigned-download-url",
    )
    return "GET" in route.methods or searching


def test_the_classical_routes_of_mlflow_are_all_there() -> None:
    told = {(entry.method, entry.path) for entry in (*TABLE, server_info.INFORMATION)}
    proxied = {
        (method, route.path) for route in artifacts.proxy() for method in route.methods or () if method != "HEAD"
    }
    assert len(told - {("GET", "/server-info")}) + len(proxied) - 1 == 74  # the parts' own address is ours alone
