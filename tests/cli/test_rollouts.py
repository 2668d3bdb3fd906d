"""`modelyard deployment apply` and `watch`: what is told before, and what is shown while it runs and when it has ended."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelyard.cli.live import looks_at
from modelyard.cli.main import main
from modelyard.cli.rollouts import ROLLOUT, seen
from modelyard.cli.watched import line, picture
from modelyard.core.canonical import plain
from modelyard.core.errors import Unavailable
from modelyard.core.traffic import ArmCounts, TrafficCounts
from modelyard.deployment import Deployment, DeploymentManager

FILE = "endpoint: fraud\nversion: v2.0.0\nbaseline: v1.0.0\nsteps: [5%, {share: 50%, gate: true}, 100%]\nmargin: 2%\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_YARD", str(tmp_path / "yard"))
    return tmp_path


@pytest.fixture
def manager(place: Path) -> DeploymentManager:
    return DeploymentManager(place / "yard")  # alone, so that nobody asks for registered versions


@pytest.fixture
def file(place: Path) -> str:
    path = place / "rollout.yaml"
    path.write_text(FILE)
    return str(path)


def looked(manager: DeploymentManager, rollout: Deployment, *, canary_errors: int = 0, n: int = 20_000) -> None:
    arms = {
        "baseline": ArmCounts(requests=int(n * 0.95), errors=2),
        "canary": ArmCounts(requests=int(n * 0.05), errors=canary_errors),
    }
    seen = TrafficCounts(endpoint="fraud", generation=rollout.generation, arms=arms)
    manager.advance(rollout.deployment_id, seen, controller="host:7")


def test_what_a_file_would_change_is_told_first_and_a_dry_run_leaves_it_at_that(
    manager: DeploymentManager, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deployment", "apply", file, "--dry-run"]) == 1  # in a Yard, which knows no such version
    out, words = capsys.readouterr()
    assert json.loads(out)["verdict"] == "refused"
    assert "fraud v2.0.0 cannot be deployed: it is not registered" in words or "v1.0.0 cannot be deployed" in words
    manager.apply(file)
    assert main(["deployment", "apply", file]) == 0
    out, words = capsys.readouterr()
    assert "fraud v2.0.0: unchanged" in words
    assert json.loads(out)["status"] == "running"
    Path(file).write_text(FILE.replace("50%, gate: true", "40%"))
    assert main(["deployment", "apply", file, "--dry-run"]) == 0
    out, words = capsys.readouterr()
    assert "~ steps[1]: 50 %, gate -> 40 %" in words
    assert manager.list_deployments()[0].steps[1].gate
    Path(file).write_text(FILE.replace("5%, {", "7%, {"))
    assert main(["deployment", "apply", file, "--dry-run"]) == 1
    assert main(["deployment", "apply", file]) == 1
    assert "steps[0] cannot change meanwhile" in capsys.readouterr().err
    Path(file).write_text(FILE.replace("margin", "margn"))
    assert main(["deployment", "apply", file]) == 2
    assert "line 5, margn: unknown key. Did you mean margin" in capsys.readouterr().err


def test_a_rollout_is_watched_in_lines_or_documents_and_its_end_is_the_exit_code(
    manager: DeploymentManager, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rollout = manager.apply(file)
    looked(manager, rollout, canary_errors=100)
    assert main(["deployment", "watch", rollout.deployment_id]) == 1
    out = capsys.readouterr().out
    assert "fraud v2.0.0 rolled back, step 1 of 3 at 0%" in out
    assert "canary 1000 requests, 100 errors (10%)" in out
    assert "failed on the canary" in out
    assert main(["deployment", "watch", rollout.deployment_id, "--format", "json"]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert (told["status"], told["look"]["arms"]["canary"]["errors"], told["look"]["controller"]) == (
        "rolled_back",
        100,
        "host:7",
    )
    assert main(["deployment", "watch", rollout.deployment_id[:-1]]) == 1
    assert f"Did you mean {rollout.deployment_id}" in capsys.readouterr().err
    assert main(["deployment", "watch", rollout.deployment_id, "--interval", "0"]) == 2


def test_on_a_terminal_it_is_a_picture(manager: DeploymentManager, file: str) -> None:
    rollout = manager.apply(file)
    looked(manager, rollout, n=1000)
    looked(manager, rollout, canary_errors=100)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "modelyard", "deployment", "watch", rollout.deployment_id]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    code = subprocess.run(command, check=False, stdout=theirs, env=environment, timeout=120).returncode
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    text = shown.decode()
    assert code == 1
    assert all(
        word in text for word in ("rolled back", "error rate", "baseline", "canary", "evidence against it", "10%")
    )


def test_who_watches_is_told_of_an_outage_and_sees_what_follows(manager: DeploymentManager, file: str) -> None:
    rollout = manager.apply(file)
    looked(manager, rollout)
    asked: list[str] = []

    def ask(verb: str) -> Any:
        asked.append(verb)
        if len(asked) == 3:
            raise Unavailable("http://localhost cannot be reached")
        if len(asked) == 4:
            manager.abort(rollout.deployment_id, reason="wrong day")
        return plain(getattr(manager, verb)(rollout.deployment_id))

    looks = looks_at(lambda: seen(ask), ROLLOUT.ended, 0.0)
    told = [line(now).rpartition(" | ")[2] for now in looks]
    assert told[0].startswith(("waits: ", "promote: "))
    assert told[1:] == ["not seen any more: http://localhost cannot be reached", "wrong day"]


def test_a_narrow_terminal_shows_fewer_columns_and_each_whole(manager: DeploymentManager, file: str) -> None:
    rollout = manager.apply(file)
    looked(manager, rollout, n=1000)
    now = {**plain(manager.get_deployment(rollout.deployment_id)), "look": plain(manager.look(rollout.deployment_id))}

    def shown(width: int) -> str:
        console = Console(width=width, file=StringIO(), highlight=False)
        console.print(picture(now, {}, width))
        return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO of above

    assert all(word in shown(120) for word in ("p50 ms", "version", "error rate", "req/s"))
    assert all(word in shown(50) for word in ("baseline", "requests", "errors", "p95 ms"))
    assert "p50 ms" not in shown(50)
    assert "…" not in shown(50)


def test_the_history_is_told_with_its_reasons(
    manager: DeploymentManager, file: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = manager.apply(file)
    manager.abort(rollout.deployment_id, reason="wrong day", user="lead@company.com")
    monkeypatch.setenv("COLUMNS", "150")
    assert main(["deployment", "history", rollout.deployment_id, "--format", "table"]) == 0
    *_, last = capsys.readouterr().out.strip().splitlines()
    assert [word for word in ("aborted", "lead@company.com", "wrong day") if word in last] == [
        "aborted",
        "lead@company.com",
        "wrong day",
    ]
    assert main(["deployment", "history", rollout.deployment_id]) == 0
    assert json.loads(capsys.readouterr().out)[-1]["reasons"] == ["wrong day"]
