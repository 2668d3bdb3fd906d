"""Whatever is sent to a route, the answer is an envelope and never a fault of the server."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from modelyard import Yard
from modelyard.core.operations import Operation, operations
from modelyard.server.app import create_app

NAMES = st.sampled_from(["fraud", "v1.0.0", "card", "amount", "cards", "gdpr", "github", "t", "production", "canary"])
TEXT = st.one_of(
    NAMES, st.text(max_size=8), st.sampled_from(["\0", "\ud800", "..", "a" * 300, "%s", "2026-01-01", "-1"])
)
NUMBER = st.one_of(
    st.integers(-3, 3), st.sampled_from([10**30, -(2**63), 2**63, 1e308, -0.0, math.nan, math.inf]), st.floats(-2, 2)
)
LEAF = st.one_of(st.none(), st.booleans(), NUMBER, TEXT)
VALUE = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=6
)
FILES = (
    b"",
    b"{}",
    b"[1]",
    b"\x00\xff" * 9,
    b"a,b,c\n1,2,3\n4,5,6\n",
    b"card,event_timestamp,amount\nc1,2026-01-01,1.5\n",
    b"endpoint: fraud\nversion: v2.0.0\nsteps: [0.1, 1.0]\n",
    b'{"metrics": {"auc": 1}, "name": "t", "target_column": "a"}',
    b"a: &a [*a]\n",
    b"tree\nversion=v4\n",
)
ENDINGS = ("txt", "csv", "json", "yaml", "parquet", "onnx", "pkl", "zip")
TRIES = 10
REMOTE = [entry for entry in operations() if entry.remote]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Iterator[TestClient]:
    """A yard with something in it, so that names may hit."""
    with Yard(tmp_path_factory.mktemp("any") / "yard") as yard:
        yard.registry.register_model(
            "fraud", "v1.0.0", small_model, "lightgbm", "ana@example.com", metrics={"auc": 0.9}
        )
        yard.registry.request_promotion("fraud", "v1.0.0", "production", "ana@example.com", "x")
        yard.registry.approve_promotion("fraud", "v1.0.0", "ben@example.com")
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        yard.governance.register_dataset("cards")
        yard.governance.register_model("fraud", "v1.0.0", "cards")
        token = yard.access.create_token("local@example.org", role="admin", created_by="root").secret
        headers = {"Authorization": f"Bearer {token}"}
        yield TestClient(create_app(yard), raise_server_exceptions=False, headers=headers)


def body_of(client: TestClient, entry: Operation) -> dict[str, Any]:
    """The schema's properties of the operation's body."""
    route = document(client)["paths"]["/api/v1" + entry.path][entry.method.lower()]
    schema = route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    schemas = document(client)["components"]["schemas"]
    return dict(schemas.get(schema.get("$ref", "").rpartition("/")[2], {}).get("properties", {}))


_document: dict[str, Any] = {}


def document(client: TestClient) -> dict[str, Any]:
    if not _document:
        _document.update(client.get("/api/v1/openapi.json").json())
    return _document


def fitting(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what the schema asks for, so that requests get past the door; sometimes anything."""
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "string": TEXT,
        "integer": st.integers(-(2**65), 2**65) | st.integers(-2, 5),
        "number": st.floats() | st.floats(0, 1),
        "boolean": st.booleans(),
        "null": st.none(),
    }
    if "anyOf" in schema:
        return st.one_of([fitting(one) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema.get("type") == "array":
        return st.lists(fitting(schema.get("items", {})), max_size=3)
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return st.dictionaries(TEXT, fitting(inner) if isinstance(inner, dict) else VALUE, max_size=3)
    return kinds.get(schema.get("type", ""), VALUE)


def sent(client: TestClient, entry: Operation) -> st.SearchStrategy[tuple[str, Any, Any]]:
    """A path, a query and a body for the operation."""
    parts = st.fixed_dictionaries(dict.fromkeys(entry.in_path, TEXT))
    path = parts.map(
        lambda found: re.sub(r"{(\w+)}", lambda m: quote(found[m[1]].encode("utf-8", "replace"), safe=""), entry.path)
    )
    files = st.tuples(st.sampled_from(FILES), st.sampled_from(ENDINGS))
    fields = {
        name: files | TEXT if name == "path" or name.endswith(("_path", "_source")) else fitting(schema) | VALUE
        for name, schema in body_of(client, entry).items()
    }
    route = document(client)["paths"]["/api/v1" + entry.path][entry.method.lower()]
    asked = [p["name"] for p in route.get("parameters", []) if p["in"] == "query"]
    query = st.fixed_dictionaries({}, optional={name: LEAF.map(_shown) for name in asked})
    whole = st.fixed_dictionaries({}, optional=fields)
    full = st.fixed_dictionaries(fields)
    return st.tuples(path, query, full | whole | VALUE)


def _uploaded(client: TestClient, value: Any) -> Any:
    """The id of a file that has been sent, for a pair of its content and ending; anything else as it is."""
    if not isinstance(value, tuple):
        return value
    answer = client.post("/api/v1/uploads", params={"name": f"file.{value[1]}"}, content=value[0])
    return answer.json()["upload"]


def _shown(value: Any) -> str:
    return str(value).encode("utf-8", "replace").decode()


@pytest.mark.parametrize("entry", REMOTE, ids=lambda entry: entry.name)
def test_no_request_is_a_fault_of_the_server(entry: Operation, client: TestClient) -> None:
    @seed(7)
    @settings(
        max_examples=TRIES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(request=sent(client, entry))
    def ask(request: tuple[str, Any, Any]) -> None:
        path, query, body = request
        if isinstance(body, dict):
            body = {name: _uploaded(client, value) for name, value in body.items()}
        content = None if entry.method == "GET" else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        answer = client.request(entry.method, "/api/v1" + path, params=query, content=content, headers=headers)
        assert answer.status_code < 500, (path, query, body, answer.text[:300])
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"code", "message"}

    ask()


def test_the_body_may_be_no_json_at_all(client: TestClient) -> None:
    for content in (b"", b"{", b"\xff\xfe", b"null", b"[" * 100_000, b'{"a":' * 5_000, b"1" * 10_000):
        answer = client.post("/api/v1/ab-tests", content=content, headers={"Content-Type": "application/json"})
        assert 400 <= answer.status_code < 500, (content[:20], answer.text[:200])
        assert set(answer.json()["error"]) == {"code", "message"}
