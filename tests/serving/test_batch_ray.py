"""Batch prediction on a Ray cluster leaves the bytes that one process leaves, by tasks and by Ray Data."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from modelyard.core.errors import Invalid
from modelyard.serving import ModelServer

ray = pytest.importorskip("ray", reason="Ray is missing: pip install 'modelyard[ray]'")

pytestmark = [  # Ray Data's own
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def digests(folder: Path) -> dict[str, str]:
    return {one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.iterdir() if one.name != ".lock"}


@pytest.mark.parametrize("runner", ["ray", "ray_data"])
def test_a_cluster_answers_as_one_process_does_and_names_a_bad_row(
    runner: Any, server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    tools.install(server, "e", v1=tools.reference())
    lines = [f"{n},{n - 500},{'x' if n == 777 else 0}" for n in range(1000)]
    (tmp_path / "x.csv").write_text("\n".join(["id,a,b", *lines]))
    asked = {"chunk_rows": 90, "workers": 2}
    with pytest.raises(Invalid, match="line 779: the feature 'b' is 'x'"):
        server.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "strict", runner=runner, **asked)
    report = server.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "out", runner=runner, rejects=True, **asked)
    server.predict_batch("m:v1", tmp_path / "x.csv", tmp_path / "one", chunk_rows=90, workers=1, rejects=True)
    assert (report.predicted, report.rejected, report.parts) == (999, 1, 12)
    assert digests(tmp_path / "out") == digests(tmp_path / "one")
