"""The unmodified MLflow client is answered by our server as by MLflow's own, call for call."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

# What is meant to differ: (scenario, label) -> (why, a part of our answer).
DIFFERENCES: dict[tuple[str, str], tuple[str, Any]] = {
    ("artifacts.refused", "list a\\..\\b"): ("a backslash is in no path", {"raised": "HTTPError"}),
    ("experiments.delete_and_restore", "rename it"): (
        "MLflow answers with 500, and its client asks seven times more",
        {"code": "INVALID_STATE", "message": "INVALID_STATE: Cannot rename a non-active experiment."},
    ),
    ("stages_and_aliases.archive_the_others", "archiving into archived"): (
        "MLflow answers with 500, and its client asks seven times more",
        {"code": "INVALID_STATE"},
    ),
    ("logged_models.search", "status = 'READY'"): (
        "MLflow compares a number with the text and finds nothing",
        ["alpha", "beta", "gamma"],
    ),
    ("logged_models.search", "on cards"): (
        "MLflow looks for metrics without a digest where none is asked for",
        ["alpha", "beta"],
    ),
    ("logged_models.search", "metrics.auc = 'x'"): ("MLflow fails", {"code": "INVALID_PARAMETER_VALUE"}),
    ("model_versions.of_a_run", "uri"): (
        "the admitted bytes are handed out, and not what the run's files have become",
        "mlflow-artifacts:/modelyard/models/model-versions-of-a-run-model/1",
    ),
    ("stages_and_aliases.champion", "uri"): (
        "the admitted bytes are handed out, and not what the run's files have become",
        "mlflow-artifacts:/modelyard/models/stages-and-aliases-champion-open/2",
    ),
    ("server.information", "api"): ("we take files in parts, and are no gateway", {"multipart_uploads_enabled": True}),
    ("server.information", "ajax-api"): (
        "we take files in parts, and are no gateway",
        {"multipart_uploads_enabled": True},
    ),
    ("server.presigned", "parts create"): ("we take files in parts", 200),
    ("server.presigned", "parts complete"): ("we take files in parts", 404),
    ("server.presigned", "parts abort"): ("we take files in parts", 200),
}


def scenarios() -> list[str]:
    """Their names, without importing what needs MLflow."""
    found = []
    for file in sorted((Path(__file__).parent / "scenarios").glob("*.py")):
        body = ast.parse(file.read_text()).body
        names = [one.name for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
        found += [f"{file.stem}.{name}" for name in names]
    return found


@pytest.mark.parametrize("name", scenarios())
def test_our_answers_are_mlflows(name: str, answered: tuple[dict[str, Any], dict[str, Any]]) -> None:
    theirs, ours = answered[0][name], answered[1][name]
    assert theirs["fault"] == "", "the scenario does not suit MLflow itself"
    assert ours["fault"] == ""
    assert [label for label, _ in theirs["answers"]] == [label for label, _ in ours["answers"]]
    for (label, expected), (_, found) in zip(theirs["answers"], ours["answers"], strict=True):
        if (name, label) not in DIFFERENCES:
            assert found == expected, f"{name}: {label}"
            continue
        _, part = DIFFERENCES[(name, label)]
        assert found != expected, f"{name}: {label} differs no longer"
        assert (found | part if isinstance(part, dict) else part) == found, f"{name}: {label}"


def test_there_are_enough_calls_and_every_difference_is_one(answered: tuple[dict[str, Any], dict[str, Any]]) -> None:
    told = {(name, label) for name, one in answered[0].items() for label, _ in one["answers"]}
    assert len(told) > 600
    assert set(DIFFERENCES) <= told


@pytest.mark.postgres
@pytest.mark.parametrize("name", scenarios())
def test_postgresql_and_s3_answer_as_sqlite_and_files_do(
    name: str, answered: tuple[dict[str, Any], dict[str, Any]], answered_elsewhere: dict[str, Any]
) -> None:
    here, elsewhere = answered[1][name], answered_elsewhere[name]
    assert (elsewhere["fault"], elsewhere["answers"]) == ("", here["answers"])
