"""What every test and every docstring example can use: an empty folder and a small real model file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # speed is measured in benchmarks/
settings.load_profile("untimed")

pytest_plugins = ["modelyard.testing.fixtures"]
MODEL_TEXT_SEED = 0

# Adapters of libraries that live in environments of their own; their examples run where the library is.
collect_ignore = [
    f"src/modelyard/engines/{name}.py"
    for name in ("torch", "tensorflow", "ray")
    if importlib.util.find_spec(name) is None
]


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LightGBM text file: three trees on three columns (a, b, c)."""
    import lightgbm
    import numpy as np

    path = tmp_path_factory.mktemp("model") / "model.txt"
    x = np.random.default_rng(MODEL_TEXT_SEED).normal(size=(200, 3))
    data = lightgbm.Dataset(x, x[:, 0] > 0, feature_name=["a", "b", "c"])
    lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, num_boost_round=3).save_model(path)
    return path


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest) -> None:
    """Docstring examples see `folder`, a fresh empty folder, and `model_file`, a small LightGBM model."""
    if isinstance(request.node, pytest.DoctestItem):
        namespace = request.node.dtest.globs if request.node.dtest else {}
        namespace["folder"] = request.getfixturevalue("tmp_path")
        if "model_file" in (request.node.dtest.docstring or ""):
            namespace["model_file"] = request.getfixturevalue("small_model")
