"""Versions side by side on the command line: figures, intervals, and a page that loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard.cli.main import main
from modelyard.registry import ModelRegistry


@pytest.fixture
def place(tmp_path: Path, small_model: Path) -> Path:
    registry = ModelRegistry(tmp_path / "yard")
    for version, auc, scores in (("v1.0.0", 0.7, [0.0, 1.0] * 100), ("v2.0.0", 0.8, [1.0] * 200)):
        metrics = {"auc": auc, "log_loss": 0.5}
        registry.register_model("fraud", version, small_model, "lightgbm", "ana@example.org", metrics=metrics)
        registry.store_scores("fraud", version, "holdout", scores, "ana@example.org", metric="accuracy")
    return tmp_path


def compare(place: Path, *arguments: str) -> int:
    return main(["compare", "fraud:v1.0.0", "fraud:v2.0.0", "--yard", str(place / "yard"), *arguments])


def test_versions_stand_side_by_side_with_a_winner(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(place, "--format", "table") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "fraud:v1.0.0", "fraud:v2.0.0", "winner"]
    assert ["auc", "0.7", "0.8", "fraud:v2.0.0"] in [line.split() for line in lines]
    assert any("accuracy on holdout" in line and "better [+0." in line for line in lines)


def test_programs_get_the_whole_comparison(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(place, "--format", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["winner"] == "fraud:v2.0.0"
    assert found["scores"][0]["difference"]["value"] == 0.5


def test_the_page_has_the_figures_and_loads_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(place, "--html", str(place / "page.html")) == 0
    page = (place / "page.html").read_text()
    assert "<svg" in page
    assert "0.8 (+14.3 %)" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "<script" not in page


def test_one_version_is_no_comparison(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "fraud:v1.0.0", "--yard", str(place / "yard")]) == 2
    assert "2 to 50" in capsys.readouterr().err
