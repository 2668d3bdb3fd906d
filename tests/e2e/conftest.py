"""Scripts are run as users do: each in a process and a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for what several tests share


@pytest.fixture(scope="session")
def run() -> Callable[[list[str], Path], None]:
    """Runs Python with these arguments in a folder; it has to end well."""
    return _run


def _run(code: list[str], folder: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MODELYARD_")}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", *code],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
