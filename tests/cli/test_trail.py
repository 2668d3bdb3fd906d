"""`modelyard audit query-events` for people: who decided what, when and why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.cli.main import main


def test_a_person_reads_who_decided_and_why_in_a_narrow_terminal(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "yard")
    reason = "Customers complain of refusals since noon, and support has no more hands for today."
    with Yard(place) as yard:
        for version in ("v1.0.0", "v2.0.0"):
            yard.registry.register_model("fraud", version, small_model, "lightgbm", "ana")
            yard.registry.request_promotion("fraud", version, "production", "ana")
            yard.registry.approve_promotion("fraud", version, "ben")
        yard.deploy("fraud", "v1.0.0", strategy="direct", created_by="cem")
        rollout = yard.deploy("fraud", "v2.0.0", steps=[0.2, 1.0], created_by="cem")
        yard.deployments.rollback(rollout.deployment_id, reason=reason, user="lead")
    monkeypatch.setenv("COLUMNS", "80")
    asked = ["audit", "query-events", "--yard", place, "--limit", "200", "--format"]
    assert main([*asked, "table"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    at = next(place for place, line in enumerate(lines) if "deployment_rolled_back (error)  lead" in line)
    assert lines[at].endswith(f"deployment {rollout.deployment_id}")
    assert " ".join(lines[at + 1].split() + lines[at + 2].split()) == reason
    assert max(map(len, lines[at + 1 : at + 3])) <= 80
    assert "v1.0.0 80%, v2.0.0 20%" in out
    assert main([*asked, "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == sum(line[:4].strip().isdigit() for line in lines)
