"""The page about MLflow's client says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "mlflow.md"


def test_the_example_on_the_page_runs(mlflow_peer: Any, guarded: str) -> None:
    (code,) = re.findall(r"```py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    told = mlflow_peer.run(
        code + "\nimport json; print(json.dumps(list(MlflowClient().get_model_version('fraud', '1').aliases)))", guarded
    )
    assert told == ["challenger"]
