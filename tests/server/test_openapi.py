"""The OpenAPI document is true: a server is asked by schemathesis, and answers as the document says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PEER = ROOT / ".peers" / "schemathesis" / "bin" / "schemathesis"


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="scripts/peers.sh schemathesis makes its environment")
def test_the_server_answers_as_its_document_says() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "check_openapi.py"), "--examples", "1", "--phases", "fuzzing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
