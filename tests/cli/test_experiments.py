"""`modelyard ab-testing analyze-test`: what a person sees, and what a program gets."""

import csv
import io
import json

import pytest

from modelyard.cli.main import main
from modelyard.yard import Yard


@pytest.fixture
def analysed(tmp_path):
    with Yard(tmp_path / "yard") as yard:
        tests = yard.ab_tests
        test = tests.create_test(
            "Ranking",
            control_variant="m:v1.0.0",
            treatment_variant="m:v2.0.0",
            strategy="random",
            metrics=[{"name": "spent", "kind": "mean"}],
        )
        tests.start_test(test.test_id)
        for variant, good in (("control", 500), ("treatment", 700)):
            rows = [
                {"variant": variant, "success": i < good, "latency": 0.05, "custom_metrics": {"spent": float(i % 9)}}
                for i in range(1000)
            ]
            tests.record_many(test.test_id, rows)
    return str(tmp_path / "yard"), test.test_id


def said(capsys, *words):
    assert main(["ab-testing", "analyze-test", *words]) == 0
    return capsys.readouterr().out


def test_a_person_reads_the_conclusion_first_and_each_metric_on_a_line(analysed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    yard, test_id = analysed
    lines = said(capsys, test_id, "--yard", yard, "--format", "table").splitlines()
    assert lines[0].startswith("treatment succeeds more often (70.00% against 50.00%, +40.00%, between +")
    told = {tuple(line.split()[:3]): line for line in lines if line.startswith("treatment  ")}
    assert "sure" in told["treatment", "success", "goal"]
    assert "+40.00%" in told["treatment", "success", "goal"]
    assert ("treatment", "spent", "secondary") in told
    assert ("treatment", "latency", "secondary") in told


def test_a_program_gets_every_figure(analysed, capsys):
    yard, test_id = analysed
    found = json.loads(said(capsys, test_id, "--yard", yard))
    assert found["comparisons"]["treatment"]["success"]["p_value_holm"] < 0.001
    assert found["winner"] == "treatment"
    rows = list(csv.DictReader(io.StringIO(said(capsys, test_id, "--yard", yard, "--format", "csv"))))
    assert [row["metric"] for row in rows] == ["success", "latency", "spent"]
    assert float(rows[0]["low"]) < 40 < float(rows[0]["high"])


def test_a_narrow_terminal_shows_fewer_columns_and_breaks_none(analysed, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    yard, test_id = analysed
    lines = said(capsys, test_id, "--yard", yard, "--format", "table").splitlines()
    [head] = [line for line in lines if line.startswith("metric ")]
    assert head.split("  ")[0] == "metric"
    assert "interval" in head
    [success] = [line for line in lines if line.startswith("success ")]
    assert "sure" in success
    assert "+40.00%" in success


def test_tests_are_listed_with_what_they_compare(analysed, capsys, monkeypatch):
    yard, test_id = analysed
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["ab-testing", "list-tests", "--yard", yard, "--format", "table"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["test", "name", "status", "since", "endpoint", "compares", "winner"]
    assert [test_id, "Ranking", "running"] == row.split()[:3]
    assert "m:v1.0.0 m:v2.0.0" in row
    assert main(["ab-testing", "list-tests", "--yard", yard, "--status", "draft"]) == 0
    assert json.loads(capsys.readouterr().out) == []
