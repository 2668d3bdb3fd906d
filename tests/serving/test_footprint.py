"""What a serving process carries: the model's own runtime, and none of the libraries that trained or exported it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import skl2onnx
from sklearn.linear_model import LogisticRegression

from modelyard.core.models import FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_text
from modelyard.serving import ModelServer

TRAINING = {
    "onnx",
    "skl2onnx",
    "onnxmltools",
    "sklearn",
    "pandas",
    "scipy",
    "lightgbm",
    "xgboost",
    "duckdb",
    "sqlalchemy",
}
ANSWER = """
import asyncio, json, sys
from modelyard.serving.desk import Desk
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.places import Places
from modelyard.serving.worker import Plane

places = Places(sys.argv[1])
desk = Desk(places)
desk.routes.refresh()
scope = {"type": "http", "method": "POST", "path": "/predict/e", "headers": []}
sent = []

async def receive():
    return {"type": "http.request", "body": b'{"features": {"a": 1.0, "b": -0.5}}'}

async def send(message):
    sent.append(message)

plane = Plane(desk, RequestMetrics(places, desk.slot.number))
asyncio.run(plane(scope, receive, send))
plane.close()
desk.stop()
answer = json.loads(sent[1]["body"])
print(json.dumps({"answer": answer, "modules": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def package(folder: Path) -> LogisticRegression:
    """A model package with its exported form; the model that is in it."""
    x = np.random.default_rng(0).normal(size=(200, 2))
    model = LogisticRegression().fit(x, x[:, 0] > x[:, 1])
    model.classes_ = np.array([0, 1])
    folder.mkdir()
    graph = skl2onnx.to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False}, target_opset=17)
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    signature = Signature(inputs=(FeatureSpec(name="a"), FeatureSpec(name="b")), task="binary", classes=(0, 1))
    files = {"onnx": "model.onnx"}
    manifest = PackageManifest(name="m", framework="sklearn", primary="onnx", files=files, signature=signature)
    (folder / "modelyard.json").write_text(manifest_text(manifest))
    return model


def test_a_process_that_answers_with_an_onnx_package_loads_no_training_library(server: ModelServer, tools) -> None:
    model = package(server.store.folder / "package")
    server.install("e", "m", "v1", server.store.folder / "package", "onnx")
    server.apply(tools.split("e", 1))
    command = [sys.executable, "-c", ANSWER, str(server.store.folder)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert "onnxruntime" in told["modules"]
    assert TRAINING.isdisjoint(told["modules"])
    assert np.allclose(told["answer"]["probabilities"], model.predict_proba([[1.0, -0.5]]), atol=1e-6)
