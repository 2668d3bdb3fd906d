"""The runtimes whose libraries live in environments of their own (scripts/peers.sh), each with its real library there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = {
    "torch": ("tests/engines/test_torch.py", "torch or service"),
    "tensorflow": ("tests/engines/test_tensorflow.py", "keras or savedmodel or lambda"),
}


@pytest.mark.slow
@pytest.mark.parametrize("library", TESTS)
def test_the_librarys_own_environment_passes_the_runtimes_tests(
    peer: Callable[[str], Path], tmp_path: Path, library: str
) -> None:
    if importlib.util.find_spec(library):
        pytest.skip(f"{library} is in this environment, whose own run has these tests")
    python = peer(library) / "bin" / "python"
    engine, runtimes = TESTS[library]
    pytest_ = [str(python), "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'there'}"]
    environment = {"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3", "CI": os.environ.get("CI", "")}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for chosen in ([engine], ["tests/serving/test_runtimes.py", "-k", runtimes]):
        ran = subprocess.run(
            [*pytest_, *chosen], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
        last = ran.stdout.strip().splitlines()[-1]
        assert "passed" in last, ran.stdout[-2000:]
        sys.stdout.write(f"{library}: {last}\n")
