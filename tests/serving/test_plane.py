"""The data plane over real HTTP, from two worker processes: protocol, routing, counting, and input of any kind."""

from __future__ import annotations

import json
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.serving import ModelServer

BINARY = {"Inference-Header-Content-Length": ""}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Iterator[ModelServer]:
    server = ModelServer(tmp_path_factory.mktemp("plane"))
    tools.install(
        server,
        "e",
        v1=tools.reference(),
        v2=tools.reference(shift=1.0),
        bad=tools.reference(fail=1.0),
        number=tools.reference(task="regression"),
        texts=f"{tools.models}:Texts",
    )
    server.apply(tools.split("e", 1, 0.25))
    for name in ("bad", "number", "texts"):
        arm = tools.split(name, 1).arms[0]
        import dataclasses

        server.apply(dataclasses.replace(tools.split(name, 1), arms=(dataclasses.replace(arm, version=name),)))
    with server.start(workers=2) as serving:
        server.url = serving.url  # type: ignore[attr-defined]
        yield server


@pytest.fixture(scope="module")
def client(served: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as client:  # type: ignore[attr-defined]
        yield client


def test_health_and_metadata_are_as_the_protocol_says(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert "binary_tensor_data" in client.get("/v2").json()["extensions"]
    assert client.get("/v2/models/e/ready").status_code == 200
    assert client.get("/v2/models/e/versions/v2/ready").status_code == 200
    told = client.get("/v2/models/texts").json()
    assert told["inputs"] == [
        {"name": "colour", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "n", "datatype": "INT64", "shape": [-1, 1]},
    ]
    assert client.get("/v2/models/e").json()["versions"] == ["v1", "v2"]
    assert [one["name"] for one in client.get("/v2/models/e").json()["outputs"]] == ["predictions", "probabilities"]


def test_named_features_are_answered_for_one_row_and_for_many(client: httpx.Client) -> None:
    pin = {"x-modelyard-arm": "baseline", "x-request-id": "mine"}
    one = client.post("/predict/e", json={"features": {"a": 1, "b": None}}, headers=pin)
    assert one.json() == {
        "predictions": [1],
        "probabilities": [[1 - 1 / (1 + np.exp(-1.0)), 1 / (1 + np.exp(-1.0))]],
        "model_version": "v1",
        "arm": "baseline",
        "request_id": "mine",
    }
    assert one.headers["x-modelyard-version"] == "v1"
    many = client.post("/predict/e", json={"features": [{"a": 1, "b": 0}, {"a": -1, "b": 0}]}, headers=pin)
    assert many.json()["predictions"] == [1, 0]


def test_tensors_are_answered_in_json_and_in_bytes_alike(client: httpx.Client) -> None:
    rows = np.array([[1.0, 0.5], [-3.0, np.nan]])
    nan = rows.astype("<f8").tobytes()
    head = {
        "id": "r7",
        "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "parameters": {"binary_data_size": len(nan)}}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    sent = {"Inference-Header-Content-Length": str(len(text)), "Content-Type": "application/octet-stream"}
    answer = client.post("/v2/models/e/versions/v1/infer", content=text + nan, headers=sent)
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])
    assert (told["id"], told["model_version"], told["parameters"]) == ("r7", "v1", {"arm": "baseline"})
    sizes = [one["parameters"]["binary_data_size"] for one in told["outputs"]]
    assert sizes == [16, 32]
    assert struct.unpack("<2q", answer.content[length : length + 16]) == (1, 0)
    plain = client.post(
        "/v2/models/e/versions/v1/infer",
        json={
            "inputs": [
                {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, -3.0]},
                {"name": "b", "shape": [2, 1], "datatype": "FP32", "data": [[0.5], [None]]},
            ]
        },
    ).json()
    p = np.frombuffer(answer.content[length + 16 :], "<f8")
    assert plain["outputs"][0]["data"] == [1, 0]
    assert np.allclose(plain["outputs"][1]["data"], p, atol=0)


def test_only_the_outputs_asked_for_come_back(client: httpx.Client) -> None:
    body = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 1]}],
        "outputs": [{"name": "predictions"}],
    }
    assert [one["name"] for one in client.post("/v2/models/e/infer", json=body).json()["outputs"]] == ["predictions"]


def test_text_tensors_go_in_and_out(client: httpx.Client) -> None:
    body = {
        "inputs": [
            {"name": "colour", "shape": [2, 1], "datatype": "BYTES", "data": ["red", "blue"]},
            {"name": "n", "shape": [2, 1], "datatype": "INT64", "data": [1, 2]},
        ]
    }
    (answer,) = client.post("/v2/models/texts/infer", json=body).json()["outputs"]
    assert (answer["datatype"], answer["data"]) == ("BYTES", ["yes", "no"])


FINE = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/predict/e", {"features": {"a": 1}}, 400, "'b'"),
        ("/predict/e", {"features": {"a": 1, "b": 1, "bb": 1}}, 400, "'bb'"),
        ("/predict/e", {"features": {"a": None, "b": 1}}, 400, "'a'"),
        ("/predict/e", {"features": {"a": "1", "b": 1}}, 400, "'a'"),
        ("/predict/e", {"features": {"a": [1], "b": 1}}, 400, "'a'"),
        ("/predict/e", {"features": []}, 400, "empty"),
        ("/predict/e", {"features": [1]}, 400, "features"),
        ("/predict/e", {"a": 1, "b": 1}, 400, "features"),
        ("/predict/e", {"features": {"a": 1, "b": 1}, "unit_id": 5}, 400, "unit_id"),
        ("/predict/texts", {"features": {"colour": 1, "n": 1}}, 400, "'colour'"),
        ("/predict/texts", {"features": {"colour": "red", "n": 1.5}}, 400, "'n'"),
        ("/predict/nobody", {"features": {"a": 1, "b": 1}}, 404, "'nobody'"),
        ("/v2/models/nobody/infer", {"inputs": [FINE]}, 404, "'nobody'"),
        ("/v2/models/e/versions/v9/infer", {"inputs": [FINE]}, 404, "'v9'"),
        ("/v2/models/e/infer", {"inputs": [{**FINE, "shape": [2, 2]}]}, 400, "holds 4"),
        ("/v2/models/e/infer", {"inputs": [{**FINE, "datatype": "FP9"}]}, 400, "FP9"),
        ("/v2/models/e/infer", {"inputs": [FINE], "outputs": [{"name": "p"}]}, 400, "'p'"),
        ("/v2/models/e/infer", {"inputs": [FINE], "parameters": {"unit_id": [1]}}, 400, "unit_id"),
        ("/v2/models/e/infer", {"instances": [[1, 2]]}, 400, "inputs"),
        ("/v2/models/e/infer", {"inputs": [{**FINE, "name": name} for name in ("a", "b", "c")]}, 400, "no input 'c'"),
        ("/v2/models/e/infer", {"inputs": [FINE], "outputs": [{"name": "predictions"}] * 2}, 400, "twice"),
        ("/v2/models/e/infer", {"inputs": [{**FINE, "datatype": "BYTES", "data": ["1", "2"]}]}, 400, "(rows, 2)"),
        ("/v2/models/e/infer", {"inputs": [{**FINE, "shape": [1, 1, 2]}]}, 400, "(rows, 2)"),
        ("/nowhere", {}, 404, "/nowhere"),
        ("/v2/health/live", {}, 405, "GET"),
    ],
)
def test_bad_input_is_a_4xx_that_names_the_fault(
    client: httpx.Client, path: str, body: Any, status: int, says: str
) -> None:
    answer = client.post(path, json=body)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_json_has_not_is_told_by_its_feature(client: httpx.Client, number: str) -> None:
    """As Python's own json writes what NumPy and pandas hold."""
    sent = {
        "/predict/e": '{"features": [{"a": 1, "b": 2}, {"a": 1, "b": %s}]}',
        "/v2/models/e/infer": '{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [[1, %s]]}]}',
    }
    for (path, body), says in zip(sent.items(), ("Row 1: the feature 'b' is", "The input 'x' has"), strict=True):
        answer = client.post(path, content=body % number)
        assert answer.status_code == 400
        assert answer.json()["error"].startswith(says)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[" * 200_000, b'{"features": {"a": 1e999, "b": 0}}', b"null"]
)
@pytest.mark.parametrize("path", ["/predict/e", "/v2/models/e/infer"])
def test_bodies_that_are_no_json_are_refused(client: httpx.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == 400
    assert "error" in answer.json()


def test_what_is_too_large_or_compressed_is_refused_and_the_server_goes_on(client: httpx.Client) -> None:
    assert client.post("/predict/e", content=b" " * ((16 << 20) + 1)).status_code == 413
    assert client.post("/predict/e", content=b"x", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert client.get("/predict/e").status_code == 405
    assert client.get("/v2/health/ready").status_code == 200


def test_what_is_wrong_is_told_in_few_words_however_long_its_name_is(client: httpx.Client) -> None:
    name = "é" * 1_000_000
    tensor = {"name": name, "shape": [1, 2], "datatype": name, "data": [1, 2]}
    for path, body in (
        ("/predict/e", {"features": {name: 1, "a": 1, "b": 1}}),
        ("/v2/models/e/infer", {"inputs": [tensor]}),
        (f"/predict/{'e' * 50_000}", {}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 3000
        assert answer.json()["error"].endswith(".")


def test_no_outputs_are_all_outputs_and_no_id_is_one_of_ours(client: httpx.Client) -> None:
    answer = client.post("/v2/models/e/infer", json={"inputs": [FINE], "outputs": [], "id": ""}).json()
    assert [one["name"] for one in answer["outputs"]] == ["predictions", "probabilities"]
    assert answer["id"]


def test_a_proxys_form_of_the_target_is_understood(client: httpx.Client) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), 120) as connection:
        connection.sendall(b"GET http://models.example/v2/health/live HTTP/1.1\r\nHost: models.example\r\n\r\n")
        assert b'{"live":true}' in connection.recv(4096)


def test_bad_headers_are_refused(client: httpx.Client) -> None:
    body = {"features": {"a": 1, "b": 1}}
    for limit in ("nan", "-1", "soon", "1e9"):
        assert client.post("/predict/e", json=body, headers={"x-timeout-ms": limit}).status_code == 400
    assert client.post("/predict/e", json=body, headers={"x-modelyard-arm": "canry"}).status_code == 404
    head = {"Inference-Header-Content-Length": "many"}
    assert client.post("/v2/models/e/infer", json={"inputs": [FINE]}, headers=head).status_code == 400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx") | st.text(max_size=4), inner),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=50),
        json_values.map(lambda value: json.dumps({"features": value}).encode()),
        json_values.map(lambda value: json.dumps({"inputs": [{**FINE, "data": value}]}).encode()),
    ),
    st.sampled_from(["/predict/e", "/predict/texts", "/v2/models/e/infer", "/v2/models/texts/infer"]),
    st.sampled_from([{}, {"Inference-Header-Content-Length": "7"}, {"x-unit-id": "ü"}]),
)
def test_no_body_of_any_kind_is_a_5xx(client: httpx.Client, body: bytes, path: str, head: dict[str, str]) -> None:
    headers = {name: value.encode("latin-1") for name, value in head.items()}
    assert client.post(path, content=body, headers=headers).status_code < 500


def test_requests_split_in_proportion_units_stay_and_pins_do_not_count(
    served: ModelServer, client: httpx.Client
) -> None:
    before = served.counts("e")
    body = {"features": {"a": 0.5, "b": 0}}
    seen = Counter(client.post("/predict/e", json=body).json()["arm"] for _ in range(800))
    assert abs(seen["canary"] - 200) < 65  # 5 standard deviations
    for unit in ("u1", "u2", "u3"):
        arms = {client.post("/predict/e", json={**body, "unit_id": unit}).json()["arm"] for _ in range(5)}
        arms |= {client.post("/predict/e", json=body, headers={"x-unit-id": unit}).json()["arm"] for _ in range(5)}
        infer = {"inputs": [FINE], "parameters": {"unit_id": unit}}
        arms |= {client.post("/v2/models/e/infer", json=infer).json()["parameters"]["arm"]}
        assert len(arms) == 1
    for arm in ("baseline", "canary", "v2"):
        client.post("/predict/e", json=body, headers={"x-modelyard-arm": arm})
    after = served.counts("e")
    more = {name: after.arms[name].requests - before.arms[name].requests for name in ("baseline", "canary")}
    assert sum(more.values()) == 833
    assert more["canary"] >= seen["canary"]


def test_a_failing_model_is_a_500_in_json_counted_as_its_arms_error(served: ModelServer, client: httpx.Client) -> None:
    answer = client.post("/predict/bad", json={"features": {"a": 1.5, "b": 0}})
    assert answer.status_code == 500
    assert "FloatingPointError" in answer.json()["error"]
    arm = served.counts("bad").arms["baseline"]
    assert (arm.requests, arm.errors) == (1, 1)


def test_metrics_of_all_workers_come_from_any_of_them(served: ModelServer, tools: Any) -> None:
    url = served.url  # type: ignore[attr-defined]
    for _ in range(20):
        httpx.post(
            f"{url}/predict/number", json={"features": {"a": 2, "b": 3}}
        )  # a connection each: both workers answer
    wanted = 'modelyard_requests_total{endpoint="number",arm="baseline",code="200"} 20'
    assert all(wanted in httpx.get(f"{url}/metrics").text for _ in range(4))
    rows = tools.until(lambda: len(found := list(served.payload_rows("number"))) == 20 and found)
    assert {row["prediction"] for row in rows} == {5.0}
    assert {row["version"] for row in rows} == {"number"}


def test_a_client_that_hangs_up_in_its_body_harms_nobody(served: ModelServer, client: httpx.Client) -> None:
    import socket

    host, port = served.url.removeprefix("http://").split(":")  # type: ignore[attr-defined]
    for sent in (b"POST /predict/e HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{", b"\x16\x03\x01 TLS", b"GET"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert client.get("/v2/health/ready").status_code == 200


def test_workers_import_neither_frames_nor_learning_libraries(served: ModelServer) -> None:
    for process in served.processes():
        maps = Path(f"/proc/{process.pid}/maps").read_text() if process.ready else ""
        assert not any(name in maps for name in ("/pandas/", "/sklearn/", "/scipy/", "/sqlalchemy/", "_duckdb"))
