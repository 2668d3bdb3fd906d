"""A model server on a fresh folder, small models, and traffic for them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer, calls

MODELS = Path(__file__).parent / "local_models.py"
sys.path.insert(0, str(MODELS.parent))  # for the samples that several tests share


def reference(**settings: Any) -> str:
    return f"{MODELS}:Linear@{json.dumps(settings)}"


def install(server: ModelServer, endpoint: str, **versions: str) -> None:
    """Make versions known: name -> reference."""
    server.configure(endpoint, {"trusted_code": True})
    for version, path in versions.items():
        server.install(endpoint, "m", version, path, "python")


def split(endpoint: str, generation: int, share: float = 0.0, guard: Guard | None = None, **more: Any) -> Traffic:
    """Baseline v1, and a canary v2 with a share."""
    arms = [Arm(name="baseline", model="m", version="v1", weight=1 - share)]
    if share:
        arms.append(Arm(name="canary", model="m", version="v2", weight=share))
    return Traffic(endpoint=endpoint, generation=generation, arms=tuple(arms), guards=(guard,) if guard else (), **more)


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true answer; a bounded wait for another process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail("it did not come about in time")


def gone(pid: int) -> bool:
    """Whether a process has ended, if its parent has not asked for it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def in_flight(server: ModelServer) -> int:
    """How many requests all serving processes have begun and not answered, as they told last."""
    told = [calls.read(path) for path in server.places.slots.glob("*.vitals")]
    return sum(one.gauges["in_flight"] for one in told if one is not None)


def carried_out(server: ModelServer, endpoint: str, generation: int, workers: int = 2) -> bool:
    """Whether that many workers carry the generation out."""
    at = [one.generations.get(endpoint) for one in server.processes() if one.ready]
    return at.count(generation) >= workers


class Tools:
    reference = staticmethod(reference)
    install = staticmethod(install)
    split = staticmethod(split)
    until = staticmethod(until)
    carried_out = staticmethod(carried_out)
    gone = staticmethod(gone)
    in_flight = staticmethod(in_flight)
    models = MODELS


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture
def server(tmp_path: Path) -> ModelServer:
    return ModelServer(tmp_path / "yard")
