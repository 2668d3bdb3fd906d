"""Every example script runs. Apart from the pages, so that two processes share what takes minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.name)
def test_an_example_script_runs(script: Path, tmp_path: Path, run: Callable[[list[str], Path], None]) -> None:
    run([str(script)], tmp_path)
