"""The main job, run as a user runs it: killed and run again, stopped in the middle, watched for calls to the outside."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from demo_run import Demo

from modelyard import Yard
from modelyard.testing.serving import stopped_between_writes


def until(reached: Callable[[], Any], seconds: float = 120.0) -> Any:
    """What the condition answers once it is true; the test fails when it never is."""
    end = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)
    return found


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(folder).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has gone
            continue
    return found


def third(yard: Yard, status: str) -> bool:
    found = yard.deployments.list_deployments()
    return any(d.model_version == "v3.0.0" and d.status.value == status for d in found)


def canary_requests(yard: Yard) -> int:
    """How many requests it has had; none before its traffic begins, which is a moment after the rollout runs."""
    found = yard.serving.counts("employment").arms.get("canary")
    return 0 if found is None else found.requests


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Demo]:
    """Killed while it begins and while it serves, then run to its end, stopped in the middle of the broken canary."""
    folder = tmp_path_factory.mktemp("demo")
    for chapter in (1, 6):
        killed = Demo(folder)
        killed.until(chapter)
        killed.kill()
        until(lambda: not processes_of(folder / "modelyard-demo"))
    demo = Demo(folder, "--keep")
    demo.until(8)
    yard_folder = next(mark.parent / "yard" for mark in (folder / "modelyard-demo").glob("run-*/running"))
    with Yard(yard_folder) as yard:
        until(lambda: third(yard, "running") and canary_requests(yard))
        with stopped_between_writes(demo.process.pid, yard):
            until(lambda: third(yard, "rolled_back"))
            assert yard.serving.traffic("employment").arms[0].version == "v2.0.0"
    return demo.document() | {"folder": str(folder)}, demo


@pytest.fixture(scope="module")
def facts(story: tuple[dict[str, Any], Demo]) -> dict[str, dict[str, Any]]:
    return {chapter["key"]: chapter["facts"] for chapter in story[0]["chapters"]}


def test_the_story_is_whole(story: tuple[dict[str, Any], Demo]) -> None:
    assert [chapter["key"] for chapter in story[0]["chapters"]] == [
        "features", "train_v1", "approval", "train_v2", "serving", "shadow", "canary", "fault", "experiment",
        "performance", "drift", "explanation", "bias", "controls", "audit",
    ]  # fmt: skip


def test_features_come_back_as_they_were(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["features"]["rows"] == facts["features"]["joined"] == 68_785
    assert facts["features"]["equal"]


def test_the_models_are_good_and_exported_truly(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["train_v1"]["metrics"]["test_accuracy"] > 0.75
    assert facts["train_v2"]["metrics"]["test_accuracy"] > facts["train_v1"]["metrics"]["test_accuracy"] + 0.03
    assert all(facts[key]["parity"]["passed"] for key in ("train_v1", "train_v2"))


def test_the_requester_was_refused_and_another_person_approved(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["approval"]["refusal"]
    assert facts["approval"]["requested_by"] != facts["approval"]["approved_by"]
    assert facts["approval"]["stage"] == "production"


def test_the_good_canary_was_promoted_step_by_step(facts: dict[str, dict[str, Any]]) -> None:
    assert facts["canary"]["status"] == "completed"
    assert [step["weight"] for step in facts["canary"]["steps"]] == [0.05, 0.25, 0.5]
    assert facts["canary"]["after_version"] == "v2.0.0"
    assert facts["canary"]["failed"] == 0


def test_the_broken_canary_was_taken_back_while_the_demo_stood_still(facts: dict[str, dict[str, Any]]) -> None:
    fault = facts["fault"]
    assert fault["rolled_back"]
    assert fault["e_value"] >= fault["threshold"]
    assert 0 < fault["canary_requests"] < 2000
    assert fault["after_version"] == "v2.0.0"


def test_the_experiment_has_an_interval_that_excludes_zero(facts: dict[str, dict[str, Any]]) -> None:
    found = facts["experiment"]
    assert 0 < found["low"] < found["difference"] < found["high"]
    assert found["significant"]


def test_drift_is_seen_where_it_is_and_named_where_it_is_a_unit(facts: dict[str, dict[str, Any]]) -> None:
    drift = facts["drift"]
    assert drift["held_back"]["drifted"] == []
    assert all(drift["years"][year]["drifted"] for year in ("2016", "2017", "2018"))
    assert "AGEP" in drift["unit_error"]
    assert "12" in drift["unit_error"]


def test_contributions_add_up_to_the_models_answer(facts: dict[str, dict[str, Any]]) -> None:
    import math

    told = facts["explanation"]
    total = told["base"] + sum(told["contributions"].values())
    assert total == pytest.approx(told["total"], abs=1e-6)
    assert 1 / (1 + math.exp(-total)) == pytest.approx(told["probability"], abs=1e-5)


def test_bias_has_four_methods_with_intervals_for_each_attribute(facts: dict[str, dict[str, Any]]) -> None:
    for reports in facts["bias"]["attributes"].values():
        assert {r["metric"] for r in reports} == {
            "statistical_parity",
            "disparate_impact",
            "equal_opportunity",
            "equalized_odds",
        }
        assert all(r["value"] is None or r["low"] <= r["value"] <= r["high"] for r in reports)


def test_every_control_has_a_status_and_proof_points_at_an_event(facts: dict[str, dict[str, Any]]) -> None:
    for rows in facts["controls"]["frameworks"].values():
        assert {row["status"] for row in rows} <= {"proved", "attested", "missing", "not applicable"}
        assert all(row["digest"] for row in rows if row["status"] == "proved")


def test_the_proof_holds_by_the_rules_of_rfc_6962(facts: dict[str, dict[str, Any]]) -> None:
    """Recomputes the root from the proof's own lines, without any code of the package."""
    proof = facts["audit"]["proof"].splitlines()
    leaf = base64.b64decode(next(line for line in proof if line.startswith("extra "))[6:])
    index = int(next(line for line in proof if line.startswith("index "))[6:])
    start = next(i for i, line in enumerate(proof) if line.startswith("index ")) + 1
    path = [base64.b64decode(line) for line in proof[start : proof.index("", start)]]
    note = proof[proof.index("", start) + 1 :]
    size, root = int(note[1]), base64.b64decode(note[2])
    found, first, last = hashlib.sha256(b"\0" + leaf).digest(), index, size - 1
    for other in path:  # RFC 9162, 2.1.3.2
        if first % 2 or first == last:
            found = hashlib.sha256(b"\1" + other + found).digest()
            while first % 2 == 0 and first:
                first, last = first >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\1" + found + other).digest()
        first, last = first >> 1, last >> 1
    assert last == 0
    assert found == root
    assert facts["audit"]["ok"]


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.targets += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]


def test_the_report_stands_alone(story: tuple[dict[str, Any], Demo]) -> None:
    page = Path(story[0]["report"]).read_text()
    links = Links()
    links.feed(page)
    assert all(target.startswith("#") for target in links.targets)
    assert not links.tags & {"script", "link", "iframe", "img", "object"}
    assert not re.search(r"url\(|@import", page)
    assert page.count("<svg") >= 8


def test_nothing_called_the_outside(story: tuple[dict[str, Any], Demo]) -> None:
    log = story[1].log
    assert not log.exists(), log.read_text()


def test_the_kept_yard_can_be_looked_around_in(story: tuple[dict[str, Any], Demo]) -> None:
    with Yard(story[0]["yard"]) as yard:
        assert yard.registry.champion("employment").version == "v2.0.0"
        assert yard.audit.verify().ok


def test_no_process_is_left_behind(story: tuple[dict[str, Any], Demo]) -> None:
    assert not processes_of(Path(story[0]["folder"]) / "modelyard-demo")
