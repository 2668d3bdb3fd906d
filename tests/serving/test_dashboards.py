"""The dashboard and the alerts name metrics and labels that are really told, and are what Grafana and Prometheus read."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import parser

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer
from modelyard.serving.dashboards import ALERTS, PANELS, alerts, dashboard

EXPRESSIONS = [expression for _, _, lines in PANELS for expression in lines.values()] + [one[1] for one in ALERTS]
METRIC = re.compile(r"\b((?:modelyard|process)_\w+)(\{[^}]*\})?")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> dict[str, set[str]]:
    """The labels of every sample that a process tells once it has done all that is counted."""
    server = ModelServer(tmp_path_factory.mktemp("dashboards"))
    tools.install(server, "e", v1=tools.reference(slow=5), v2=tools.reference())
    arms = (
        Arm(name="baseline", model="m", version="v1", weight=0.9),
        Arm(name="canary", model="m", version="v2", weight=0.1),
    )
    guard = Guard(rollout_id="r", step=0, share=0.1, alpha=1e-9)
    server.apply(Traffic(endpoint="e", generation=1, arms=arms, guards=(guard,)))
    shadowed = Traffic(endpoint="s", generation=1, arms=(Arm(name="baseline", model="m", version="v1", weight=1.0),))
    server.configure("s", {"trusted_code": True})
    server.apply(replace(shadowed, shadow=arms[1], shadow_share=1.0))
    with server.start(workers=1) as serving:
        for endpoint in "es":
            row = {"features": {"a": 1, "b": 1}}
            httpx.post(f"{serving.url}/predict/{endpoint}", json=row, headers={"x-modelyard-arm": "baseline"})
            httpx.post(f"{serving.url}/predict/{endpoint}", json=row)
        text = httpx.get(f"{serving.url}/metrics").text
    found: dict[str, set[str]] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    families = set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE))
    return found | {name: {"reason"} for name in families & {"modelyard_worker_restarts_total"}}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_and_label_that_is_asked_for_is_told(told: dict[str, set[str]], expression: str) -> None:
    asked = METRIC.findall(expression)
    assert asked
    for name, chosen in asked:
        assert name in told
        assert set(re.findall(r"(\w+)\s*[=!]", chosen)) <= told[name]
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")}
    assert grouped <= set().union(*(told[name] for name, _ in asked))
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_legends_and_words_name_labels_that_their_expression_keeps() -> None:
    for _, _, lines in PANELS:
        for legend, expression in lines.items():
            for label in re.findall(r"\{\{(\w+)\}\}", legend):
                assert label in expression or " by " not in expression
    for _, expression, _, _, says, _ in ALERTS:
        for label in re.findall(r"\$labels\.(\w+)", says):
            assert label in expression or " by " not in expression


def test_they_are_printed_as_grafana_and_prometheus_read_them(tmp_path: Path) -> None:
    def printed(what: str) -> str:
        command = [sys.executable, "-m", "modelyard", "serving", what]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout

    board = json.loads(printed("dashboard"))
    assert board == json.loads(dashboard())
    places = [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in board["panels"]]
    assert len(set(places)) == len({one["id"] for one in board["panels"]}) == len(PANELS)
    rules = yaml.safe_load(printed("alerts"))
    assert rules == yaml.safe_load(alerts())
    (group,) = rules["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [one[0] for one in ALERTS]
    for rule in group["rules"]:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"\d+m", rule["for"])
        assert set(rule["annotations"]) == {"summary", "description"}
    assert not list(tmp_path.iterdir())
