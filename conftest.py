"""What every test and every docstring example can use: an empty folder, a small real model file, a bucket."""

from __future__ import annotations

import gc
import importlib.util
import inspect
import os
import socket
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import settings

from modelyard.testing.servers import end, free_port, wait_until

# Libraries take a thread a core, and those of two test processes then wait for one another as they spin: scikit-learn's
# boosted trees took twenty times as long. Set before any of them is loaded, here and in the processes that tests start.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# What httpx waits for where nothing is said is five seconds, which a machine that does other things may pass.
_WAIT = inspect.signature(httpx.get).parameters["timeout"].default
_WAIT.connect = _WAIT.read = _WAIT.write = _WAIT.pool = 120.0

settings.register_profile("untimed", deadline=None)  # speed is measured in benchmarks/
settings.load_profile("untimed")

pytest_plugins = ["modelyard.testing.fixtures"]
MODEL_TEXT_SEED = 0

# Adapters of libraries that live in environments of their own; their examples run where the library is.
# The kernel for trees is missing where no C compiler was; continuous integration has one.
NEEDS = {
    "modelyard.engines._trees": (
        "trees",
        "trees_compile",
        "trees_lightgbm",
        "trees_onnx",
        "trees_sklearn",
        "trees_xgboost",
    ),
    "ray": ("ray", "ray_data", "ray_serve"),
    "tensorflow": ("tensorflow",),
    "torch": ("torch",),
}
collect_ignore = [
    f"src/modelyard/engines/{name}.py"
    for library, names in NEEDS.items()
    for name in names
    if importlib.util.find_spec(library) is None
]
collect_ignore += [
    "tests/s3_server.py",
    "tests/serving/ray_scenario.py",
    "tests/stats/judge.py",
]  # scripts for environments of their own


# Files that take minutes, begun first: at the end, one of them would keep one of two processes waiting for the other.
LONGEST = (
    "tests/serving/test_runtimes_peers.py",
    "tests/serving/test_ray_serve.py",
    "tests/e2e/test_pages.py",
    "tests/e2e/test_demo.py",
    "tests/serving/test_resilience.py",
    "tests/e2e/test_examples.py",
    "tests/serving/test_processes.py",
    "tests/e2e/test_demo_healthy.py",
    "tests/engines/test_ray.py",
    "tests/e2e/test_rollback.py",
    "tests/e2e/test_fleet.py",
    "tests/serving/test_grpc.py",
    "tests/serving/test_reading.py",
    "tests/serving/test_regions.py",
    "tests/serving/test_batch.py",
    "tests/serving/test_batch_ray.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


FAILED = pytest.StashKey[bool]()  # of the session: whether a test has failed since what it left was swept away


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a failure."""
    report = yield
    if report.failed:
        item.session.stash[FAILED] = True
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    """Sweep away what the failed tests of a file left open, silently: the traceback keeps it beyond the test, and
    whichever test runs as the collector comes by would be charged with the warning."""
    done = yield
    if item.session.stash.get(FAILED, False) and (nextitem is None or nextitem.path != item.path):
        item.session.stash[FAILED] = False
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            sys.__dict__.pop(name, None)
        told, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            gc.collect()
        finally:
            sys.unraisablehook = told
    return done


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


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """The environment of another product, made by scripts/peers.sh; else a skip, or a failure with CI=true."""

    def place_of(name: str) -> Path:
        place = Path(__file__).parent / ".peers" / name
        if not (place / ".ready").exists():
            told = f"{name} is not installed. Install it: scripts/peers.sh {name}"
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(told, pytrace=False)
            pytest.skip(told)
        return place

    return place_of


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory, peer: Callable[[str], Path]) -> Iterator[str]:
    """The address of a real S3 server (moto, in an environment of its own)."""
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [peer("moto") / "bin" / "python", Path(__file__).parent / "tests" / "s3_server.py", str(port)],
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: _answers(port), process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a fresh bucket, with everything in the environment that reaches it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"b{uuid.uuid4().hex[:20]}"
    signature = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"
    head = {"Authorization": signature}
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT", headers=head)  # noqa: S310 - loopback
    urllib.request.urlopen(request).close()  # noqa: S310
    return f"s3://{name}/yard"


@pytest.fixture(autouse=True)
def _examples(request: pytest.FixtureRequest) -> None:
    """Docstring examples see `folder`, a fresh empty folder, and `model_file`, a small LightGBM model."""
    if isinstance(request.node, pytest.DoctestItem):
        namespace = request.node.dtest.globs if request.node.dtest else {}
        namespace["folder"] = request.getfixturevalue("tmp_path")
        if "model_file" in (request.node.dtest.docstring or ""):
            namespace["model_file"] = request.getfixturevalue("small_model")
