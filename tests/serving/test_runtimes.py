"""Every runtime, through the registry's admission and over HTTP from real processes, answers as its library does.

What this environment lacks (PyTorch, TensorFlow) is run in the environments of scripts/peers.sh: see test_runtimes_peers.py.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import runtime_samples as runtimes
from runtime_samples import BINARY, INPUTS, LABELS, NAMES, ROWS

from modelyard import Yard
from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid
from modelyard.core.traffic import Arm, Traffic
from modelyard.engines import loading

HERE = Path(__file__).parent
SERVED = [*runtimes.here(), "service", "matrix"]
JSON_TYPES = {"float": "FP64", "int": "INT64", "bool": "BOOL"}
CODES = {"FP64": "<f8", "INT64": "<i8", "BOOL": "?"}
GOOD = {"amount": 0.25, "visits": 3, "member": True, "age": 0.5}


class Plane:
    """The serving processes of one yard, with an endpoint for each runtime."""

    def __init__(self, yard: Yard, samples: dict[str, runtimes.Sample], http: httpx.Client) -> None:
        self.yard, self.samples, self.http = yard, samples, http

    def direct(self, name: str, rows: np.ndarray) -> np.ndarray:
        """What the library says itself; the two of Python code ask the LightGBM model."""
        return np.asarray(self.samples[name if name in self.samples else "lightgbm"].direct(rows), dtype=np.float64)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    folder = tmp_path_factory.mktemp("runtimes")
    yard, samples = Yard(folder / "yard"), {}
    for name in runtimes.here():
        (folder / name).mkdir()
        with runtimes.quiet_keras():
            samples[name] = runtimes.LIBRARIES[name][1](folder / name)
        sample = samples[name]
        yard.registry.register_model(
            name, "v1.0.0", sample.path, sample.framework, "ana@example.org", signature=plain(BINARY)
        )
        yard.provide(name, "v1.0.0")
        yard.serving.apply(_only(name))
    for name, code in (("service", "Careful"), ("matrix", "Matrix")):
        yard.serving.configure(name, {"trusted_code": True})
        yard.provide_service(name, "v1.0.0", f"{HERE / 'local_services.py'}:{code}", uses={"model": "lightgbm:v1.0.0"})
        yard.serving.apply(_only(name))
    serving = yard.serve(workers=1, log_file=folder / "log")
    try:
        with httpx.Client(base_url=serving.url, timeout=60) as http:
            yield Plane(yard, samples, http)
    finally:
        serving.stop()
        yard.close()


def _only(name: str) -> Traffic:
    return Traffic(endpoint=name, generation=1, arms=(Arm(name="baseline", model=name, version="v1.0.0", weight=1.0),))


def record(row: np.ndarray) -> dict[str, Any]:
    values: list[Any] = row.tolist()
    return {"amount": values[0], "visits": int(values[1]), "member": bool(values[2]), "age": values[3]}


def tensors(rows: np.ndarray) -> list[dict[str, Any]]:
    """One tensor of JSON for each input."""
    kinds = {"float": float, "int": int, "bool": bool}
    return [
        {
            "name": spec.name,
            "shape": [len(rows)],
            "datatype": JSON_TYPES[spec.kind],
            "data": [kinds[spec.kind](value) for value in rows[:, place].tolist()],
        }
        for place, spec in enumerate(INPUTS)
    ]


def binary(inputs: list[dict[str, Any]]) -> tuple[bytes, dict[str, str]]:
    """The same request with the tensors' bytes after the JSON."""
    heads, pieces = [], []
    for one in inputs:
        piece = _bytes(one["datatype"], one["data"])
        heads.append({k: v for k, v in one.items() if k != "data"} | {"parameters": {"binary_data_size": len(piece)}})
        pieces.append(piece)
    head = json.dumps({"inputs": heads}).encode()
    return head + b"".join(pieces), {"inference-header-content-length": str(len(head))}


def _bytes(datatype: str, data: list[Any]) -> bytes:
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(text)) + text.encode() for text in data)
    return np.array([np.nan if one is None else one for one in data], dtype=CODES[datatype]).tobytes()


def asked(plane: Plane, protocol: str, name: str, inputs: Any) -> httpx.Response:
    """The answer to named features (one record) or to tensors."""
    if protocol == "features":
        return plane.http.post(f"/predict/{name}", content=json.dumps({"features": inputs}))
    if protocol == "tensors":
        return plane.http.post(f"/v2/models/{name}/infer", content=json.dumps({"inputs": inputs}))
    body, headers = binary(inputs)
    return plane.http.post(f"/v2/models/{name}/infer", content=body, headers=headers)


def probabilities(protocol: str, answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    if protocol == "features":
        return np.array(answer.json()["probabilities"])[:, 1]
    found = {one["name"]: one for one in answer.json()["outputs"]}["probabilities"]
    return np.array(found["data"]).reshape(found["shape"])[:, 1]


@pytest.mark.parametrize("protocol", ["features", "tensors", "binary"])
@pytest.mark.parametrize("name", SERVED)
def test_an_endpoint_answers_as_its_library_does(plane: Plane, name: str, protocol: str) -> None:
    for count in (1, 7, 300):
        rows = ROWS[:count]
        sent = [record(row) for row in rows] if protocol == "features" else tensors(rows)
        found = probabilities(protocol, asked(plane, protocol, name, sent))
        assert np.abs(found - plane.direct(name, rows)).max() < 1e-5


@pytest.mark.parametrize("name", SERVED)
def test_all_inputs_may_come_as_one_matrix(plane: Plane, name: str) -> None:
    matrix = {"name": "rows", "shape": [5, 4], "datatype": "FP64", "data": ROWS[:5].ravel().tolist()}
    found = probabilities("tensors", asked(plane, "tensors", name, [matrix]))
    assert np.abs(found - plane.direct(name, ROWS[:5])).max() < 1e-5


@pytest.mark.parametrize("name", SERVED)
def test_the_metadata_tells_the_registered_signature(plane: Plane, name: str) -> None:
    told = plane.http.get(f"/v2/models/{name}").json()
    expected = ["FP64", "INT64", "BOOL", "FP64"]
    assert [(one["name"], one["datatype"]) for one in told["inputs"]] == list(zip(NAMES, expected, strict=True))


@pytest.mark.parametrize("protocol", ["features", "tensors", "binary"])
@pytest.mark.parametrize("name", [one for one in SERVED if one in ("xgboost", "lightgbm", "service", "matrix")])
def test_a_gap_where_one_may_be_is_answered_as_the_library_does(plane: Plane, name: str, protocol: str) -> None:
    gap = np.array([[0.25, 3.0, 1.0, np.nan]])
    if protocol == "features":
        sent: Any = GOOD | {"age": None}
    else:
        sent = tensors(np.array([[0.25, 3.0, 1.0, 0.0]]))
        sent[3]["data"] = [None]
    found = probabilities(protocol, asked(plane, protocol, name, sent))
    assert np.abs(found - plane.direct(name, gap)).max() < 1e-5


def _changed(name: str, /, **change: Any) -> list[dict[str, Any]]:
    """One good row as tensors, with one of them changed, or left out where there is no change."""
    inputs = tensors(np.array([[0.25, 3.0, 1.0, 0.5]]))
    if not change:
        return [one for one in inputs if one["name"] != name]
    return [one | change if one["name"] == name else one for one in inputs]


# fault -> (the feature that the error names, the record, the tensors)
FAULTS: dict[str, tuple[str, Callable[[], Any], Callable[[], Any]]] = {
    "missing": ("visits", lambda: {k: v for k, v in GOOD.items() if k != "visits"}, lambda: _changed("visits")),
    "extra": (
        "weight",
        lambda: GOOD | {"weight": 1.0},
        lambda: [*_changed("-"), {"name": "weight", "shape": [1], "datatype": "FP64", "data": [1.0]}],
    ),
    "misspelt": (
        "amuont",
        lambda: {"amuont" if k == "amount" else k: v for k, v in GOOD.items()},
        lambda: _changed("amount", name="amuont"),
    ),
    "null": ("amount", lambda: GOOD | {"amount": None}, lambda: _changed("amount", data=[None])),
    "text": ("amount", lambda: GOOD | {"amount": "much"}, lambda: _changed("amount", datatype="BYTES", data=["much"])),
    "fraction": ("visits", lambda: GOOD | {"visits": 2.5}, lambda: _changed("visits", datatype="FP64", data=[2.5])),
    "no truth": ("member", lambda: GOOD | {"member": 7}, lambda: _changed("member", datatype="INT64", data=[7])),
    "two rows": ("amount", lambda: GOOD | {"amount": [1.0, 2.0]}, lambda: _changed("amount", shape=[2], data=[1.0, 2.0])),
    "infinite": ("age", lambda: GOOD | {"age": 10**400}, lambda: _changed("age", data=[float("inf")])),
}  # fmt: skip


@pytest.mark.parametrize("protocol", ["features", "tensors", "binary"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SERVED)
def test_a_fault_of_the_client_is_named_and_never_the_models(
    plane: Plane, name: str, fault: str, protocol: str
) -> None:
    feature, as_record, as_tensors = FAULTS[fault]
    answer = asked(plane, protocol, name, as_record() if protocol == "features" else as_tensors())
    assert 400 <= answer.status_code < 500, answer.text
    told = answer.json()
    assert list(told) == ["error"]
    if not (fault == "infinite" and protocol == "tensors"):  # JSON has no infinity: the body as a whole is refused
        assert f"'{feature}'" in told["error"]
    assert plane.yard.serving.counts(name).arms["baseline"].errors == 0


@pytest.mark.parametrize("protocol", ["features", "tensors", "binary"])
def test_a_matrix_of_the_wrong_width_names_what_the_model_takes(plane: Plane, protocol: str) -> None:
    if protocol == "features":
        answer = plane.http.post("/predict/onnx", json={"features": [[1.0, 2.0]]})
    else:
        answer = asked(
            plane, protocol, "onnx", [{"name": "rows", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]
        )
    assert 400 <= answer.status_code < 500
    assert "error" in answer.json()


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not here: see test_runtimes_peers.py")
def test_torchscript_is_code_so_the_registry_refuses_it_and_only_a_local_file_is_served(tmp_path: Path) -> None:
    sample, yard = runtimes.torchscript(tmp_path), Yard(tmp_path / "yard")
    with pytest.raises(Invalid, match=r"TorchScript, which is code. Save the program: torch.export.save"):
        yard.registry.register_model("net", "v1.0.0", sample.path, "torch", "ana@example.org", signature=plain(BINARY))
    yard.serving.install("net", "net", "v1.0.0", sample.path, "torch", signature=BINARY)
    yard.serving.apply(_only("net"))
    serving = yard.serve(workers=1)
    try:
        answer = httpx.post(f"{serving.url}/predict/net", json={"features": record(ROWS[0])})
        assert np.abs(probabilities("features", answer) - sample.direct(ROWS[:1])).max() < 1e-6
    finally:
        serving.stop()
        yard.close()


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="PyTorch is not here: see test_runtimes_peers.py")
def test_a_file_that_names_no_inputs_is_not_served_without_a_signature(tmp_path: Path) -> None:
    sample, yard = runtimes.torch(tmp_path), Yard(tmp_path / "yard")
    yard.registry.register_model("net", "v1.0.0", sample.path, "torch", "ana@example.org")
    yard.provide("net", "v1.0.0")
    yard.serving.apply(_only("net"))
    serving = yard.serve(workers=1)
    try:
        answer = httpx.post(f"{serving.url}/predict/net", json={"features": record(ROWS[0])})
        assert answer.status_code == 404
        assert "names no inputs" in answer.json()["error"]
    finally:
        serving.stop()
        yard.close()


@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="TensorFlow: see test_runtimes_peers.py")
def test_a_lambda_layer_is_code_and_served_from_nowhere(tmp_path: Path) -> None:
    import tensorflow

    layers, yard = tensorflow.keras.layers, Yard(tmp_path / "yard")
    path = tmp_path / "model.keras"
    with runtimes.quiet_keras():
        tensorflow.keras.Sequential(
            [layers.Input((4,)), layers.Lambda(lambda rows: rows * 2), layers.Dense(1, "sigmoid")]
        ).save(path)
    with pytest.raises(Invalid, match="Lambda"):
        yard.registry.register_model("net", "v1.0.0", path, "tensorflow", "ana@example.org", signature=plain(BINARY))
    with pytest.raises(Invalid, match="Lambda"):
        loading.load_model(path, BINARY)
    yard.close()


def test_labels_are_of_both_classes() -> None:
    assert 0.2 < LABELS.mean() < 0.8


def test_only_code_uses_other_models(tmp_path: Path) -> None:
    sample, yard = runtimes.lightgbm(tmp_path), Yard(tmp_path / "yard")
    with pytest.raises(Invalid, match="Only Python code uses other models"):
        yard.serving.install("m", "m", "v1", sample.path, "lightgbm", uses={"other": "m:v1"})
    yard.close()
