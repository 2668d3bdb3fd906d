"""Options that take more than words: JSON on the command line arrives as it was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelyard.cli.main import main

QUEUE = {"name": "queue", "lowest": 0, "highest": 100, "tolerated": 5}
SLOW = {"name": "slow", "numerator": "latency", "quantile": 0.95, "role": "guardrail", "margin": 0.25}


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """The JSON that a command prints."""
    assert main([*words, "--format", "json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


@pytest.fixture(autouse=True)
def own_yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_YARD", str(tmp_path / "yard"))


def test_lists_of_mappings_are_given_whole_or_one_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    start = ("deployment", "start", "fraud", "v2.0.0", "--strategy", "shadow", "--baseline", "v1.0.0")
    refused = [*start, "--guardrails", json.dumps([QUEUE])]
    assert main(refused) == 1  # not registered: the guardrail itself was understood
    assert "not registered" in capsys.readouterr().err
    arms = ("--control-variant", "fraud:v1.0.0", "--treatment-variant", "fraud:v2.0.0")
    spent = {"name": "spent", "kind": "mean"}
    whole = told(capsys, "ab-testing", "create-test", "One", *arms, "--metrics", json.dumps([SLOW, spent]))
    each = told(
        capsys, "ab-testing", "create-test", "Two", *arms, "--metrics", json.dumps(SLOW), "--metrics", json.dumps(spent)
    )
    assert [metric["name"] for metric in whole["metrics"]] == ["success", "slow", "spent"]
    assert whole["metrics"] == each["metrics"]


def test_numbers_and_what_is_nested_stay_what_they_are(capsys: pytest.CaptureFixture[str], small_model: Path) -> None:
    given = {"depth": 6, "deep": {"layers": [1, 2]}, "name": "x"}
    words = ("registry", "register-model", "fraud", "v1.0.0", str(small_model), "--framework", "lightgbm")
    assert told(capsys, *words, "--parameters", json.dumps(given))["parameters"] == given


@pytest.mark.parametrize("text", ["depth=6", "[1]", "[{}, {}]", "3", '{"a": '])
def test_what_is_no_document_is_refused_with_the_option_and_the_text(
    text: str, capsys: pytest.CaptureFixture[str], small_model: Path
) -> None:
    words = ["registry", "register-model", "fraud", "v1.0.0", str(small_model), "--framework", "lightgbm"]
    assert main([*words, "--parameters", text]) == 2
    found = capsys.readouterr().err
    assert "--parameters" in found
    assert text.strip() in found


def test_an_option_that_is_missing_is_named(capsys: pytest.CaptureFixture[str], small_model: Path) -> None:
    assert main(["registry", "register-model", "fraud", "v1.0.0", str(small_model), "lightgbm"]) == 2
    assert "needs --framework" in capsys.readouterr().err


def test_who_acts_is_no_place_that_words_are_counted_by(capsys: pytest.CaptureFixture[str]) -> None:
    """`user` stands between the subject and the reason, and is an option all the same."""
    assert main(["audit", "erase-subject", "nobody", "--reason", "Art. 17"]) == 1
    assert "Nothing is kept of that person" in capsys.readouterr().err


def test_yes_and_no_by_name_are_given_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "governance", "register-model", "fraud", "v1.0.0")
    given = ("--compliance-checks", json.dumps({"data_portability": True, "right_to_erasure": False}))
    found = told(capsys, "governance", "assess-compliance", "fraud", "gdpr", *given)
    assert found["requirements_passed"] == ["data_portability"]
    assert main(["governance", "assess-compliance", "--help"]) == 0
    assert "--compliance-checks JSON" in capsys.readouterr().out


def test_a_statement_expires_on_a_day(capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, "governance", "register-model", "fraud", "v1.0.0")
    words = ("governance", "attest", "fraud", "gdpr", "right_to_erasure", "--statement", "A daily job.")
    assert told(capsys, *words, "--expires", "2126-01-31")["expires"][:7] == "2126-01"


@pytest.mark.parametrize("option", [["--hyperparameters.trees", "5"], ["--hyperparameters.trees=5"]])
def test_a_document_is_not_given_key_by_key(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["governance", "register-model", "fraud", "v1.0.0", *option]) == 2
    assert """--hyperparameters '{"trees": ...}'""" in capsys.readouterr().err
    told(capsys, "governance", "register-model", "fraud", "v1.0.0", "--hyperparameters", '{"a.b": "--metrics.c"}')
