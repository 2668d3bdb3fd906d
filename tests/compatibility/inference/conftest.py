"""A server of ours, and the unmodified clients of the Open Inference Protocol, each in a process and an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
MODELS = ROOT / "tests" / "serving" / "local_models.py"
collect_ignore_glob = ["clients/*"]  # other Pythons' code

Results = dict[str, str]


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where a server of ours answers: two workers, an endpoint with a canary, one with texts, one that is slow, one that fails."""
    if importlib.util.find_spec("grpc") is None:
        pytest.skip("grpcio is not installed: pip install 'modelyard[grpc]'")
    server = ModelServer(tmp_path_factory.mktemp("inference"))
    versions = {
        "v1": f"{MODELS}:Linear@{{}}",
        "v2": f'{MODELS}:Linear@{{"shift": 1.0}}',
        "texts": f"{MODELS}:Texts",
        "slow": f'{MODELS}:Linear@{{"slow": 3000}}',
        "bad": f'{MODELS}:Linear@{{"fail": 1.0}}',
        "matrix": f"{HERE / 'matrix.py'}:Matrix",
    }
    server.configure("e", {"trusted_code": True})
    for version, reference in versions.items():
        server.install("e", "m", version, reference, "python")
    server.install("e", "spare", "1.9.0", versions["v1"], "python")
    server.install("e", "spare", "1.10.0", versions["v2"], "python")
    server.install("e", "broken", "1", f"{HERE / 'matrix.py'}:Broken", "python")
    only = Arm(name="baseline", model="m", version="v1", weight=1.0)
    canary = Arm(name="canary", model="m", version="v2", weight=0.25)
    server.apply(Traffic(endpoint="e", generation=1, arms=(replace(only, weight=0.75), canary)))
    for name in ("texts", "slow", "bad", "matrix"):
        server.configure(name, {"trusted_code": True})
        server.apply(Traffic(endpoint=name, generation=1, arms=(replace(only, version=name),)))
    with (
        server.start(workers=2, grpc_port=0, model_control=True) as open_one,
        server.start(workers=1, grpc_port=0) as closed,
    ):
        yield {
            "http": open_one.url,
            "grpc": open_one.grpc,
            "closed_http": closed.url,
            "closed_grpc": closed.grpc,
        }


@pytest.fixture(scope="session")
def results(address: dict[str, str]) -> Callable[[str, str], Results]:
    """What each check of a client says, "" where all is well; a client runs once."""
    done: dict[str, Results] = {}

    def ran(peer: str, client: str) -> Results:
        if client not in done:
            python = ROOT / ".peers" / peer / "bin" / "python"
            if not python.exists():
                pytest.skip(f"the client is not here: scripts/peers.sh {peer}")
            done[client] = _run([str(python), str(HERE / "clients" / f"{client}.py"), json.dumps(address)])
        return done[client]

    return ran


def _run(command: list[str]) -> Results:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False, cwd="/")
    assert finished.returncode == 0, finished.stderr[-3000:]
    told: Any = json.loads(finished.stdout.splitlines()[-1])
    return dict(told)
