"""The environments of products that we are compared with: made when they are missing, one process at a time."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def peer() -> Callable[[str], Path]:
    """The environment's folder of a peer by its name."""

    def made(name: str) -> Path:
        places = ROOT / ".peers"
        places.mkdir(exist_ok=True)
        with (places / f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            subprocess.run(["scripts/peers.sh", name], cwd=ROOT, check=True)
        return places / name

    return made
