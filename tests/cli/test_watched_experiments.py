"""`modelyard ab-testing apply`, `diff` and `watch`: what is told before, what is shown while it runs, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from modelyard.ab_testing import ABTest, ABTestManager
from modelyard.cli.experiments import EXPERIMENT, seen
from modelyard.cli.live import looks_at
from modelyard.cli.main import main
from modelyard.cli.standing import line, picture, todo
from modelyard.core.canonical import plain
from modelyard.core.errors import Unavailable

FILE = """\
name: Ranking
unit: user
control: ranker:v1.0.0
variants:
  - {name: bigger, version: v2.0.0}
strategy: random
metrics:
  - {name: slow, numerator: latency, quantile: 0.95, role: guardrail, margin: 25%}
planned_units: 4000
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELYARD_YARD", str(tmp_path / "yard"))
    return tmp_path


@pytest.fixture
def manager(place: Path) -> ABTestManager:
    return ABTestManager(place / "yard")


@pytest.fixture
def file(place: Path) -> str:
    path = place / "experiment.yaml"
    path.write_text(FILE)
    return str(path)


def record(manager: ABTestManager, test: ABTest, **arms: tuple[int, int]) -> None:
    """So many results of each arm, and so many successes among them."""
    for variant, (n, good) in arms.items():
        rows = [{"variant": variant, "success": i < good, "latency": 0.05 + i % 7 / 1000} for i in range(n)]
        manager.record_many(test.test_id, rows)


def now(manager: ABTestManager, test: ABTest) -> Mapping[str, Any]:
    return seen(lambda verb: plain(getattr(manager, verb)(test.test_id)))


def shown(told: Mapping[str, Any], width: int) -> str:
    console = Console(width=width, file=StringIO(), highlight=False)
    console.print(picture(told, width))
    return console.file.getvalue()  # type: ignore[attr-defined]  # the StringIO of above


def test_what_a_file_would_change_is_told_first_and_a_dry_run_leaves_it_at_that(
    manager: ABTestManager, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ab-testing", "apply", file, "--dry-run"]) == 0
    out, words = capsys.readouterr()
    assert json.loads(out)["verdict"] == "start"
    assert "  + variants.bigger: ranker:v2.0.0, share 0.5\n" in words
    assert manager.list_tests() == []
    assert main(["ab-testing", "apply", file]) == 0
    out, words = capsys.readouterr()
    assert f"modelyard ab-testing watch {json.loads(out)['test_id']}" in words
    assert main(["ab-testing", "diff", file, "--format", "table"]) == 0
    assert capsys.readouterr().out.startswith("Ranking: unchanged, test_")
    Path(file).write_text(FILE.replace("4000", "8000"))
    assert main(["ab-testing", "diff", file, "--format", "table"]) == 1
    out = capsys.readouterr().out
    assert "line 9, planned_units: 4000 -> 8000" in out
    assert "  ~ planned_units: 4000 -> 8000\n" in out
    assert main(["ab-testing", "apply", file]) == 1
    Path(file).write_text(FILE.replace("variants", "variant"))
    assert main(["ab-testing", "apply", file]) == 2
    assert "line 4, variant: unknown key. Did you mean variants" in capsys.readouterr().err


def test_a_test_is_watched_until_a_treatment_has_won(
    manager: ABTestManager, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    test = manager.apply(file)
    record(manager, test, control=(600, 200), bigger=(600, 400))
    assert main(["ab-testing", "watch", test.test_id]) == 0
    (told,) = capsys.readouterr().out.splitlines()
    assert "\x1b" not in told
    assert " Ranking running | 1,200 of 4,000 units (user), day 1" in told
    assert "success of bigger +100.00%" in told
    assert "Conclude the test and promote ranker:v2.0.0." in told
    assert main(["ab-testing", "watch", test.test_id, "--format", "json"]) == 0
    (document,) = capsys.readouterr().out.splitlines()
    assert json.loads(document)["analysis"]["winner"] == "bigger"
    assert main(["ab-testing", "watch", test.test_id, "--format", "csv"]) == 2
    assert "analyze-test ID --format csv" in capsys.readouterr().err
    manager.conclude_test(test.test_id, winner="control", conclusion="too dear")
    assert main(["ab-testing", "watch", test.test_id]) == 1
    assert "concluded with control: too dear" in capsys.readouterr().out


def test_a_planned_sample_without_a_difference_and_units_that_are_missing_end_it_with_another_code(
    manager: ABTestManager, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    test = manager.apply(file)
    record(manager, test, control=(2000, 500), bigger=(2000, 500))
    assert main(["ab-testing", "watch", test.test_id]) == 1
    assert "No difference was shown with the planned 4,000 units" in capsys.readouterr().out
    assert "conclude-test" in shown(now(manager, test), 80)
    manager.stop_test(test.test_id)
    other = manager.apply(file, again=True)
    record(manager, other, control=(800, 100), bigger=(400, 300))
    assert main(["ab-testing", "watch", other.test_id]) == 1
    assert "Do not trust the difference" in capsys.readouterr().out
    told = now(manager, other)
    assert todo(other.test_id, told["analysis"]).startswith(f"modelyard ab-testing stop-test {other.test_id}")
    assert "units did not arrive in the planned shares" in shown(told, 80)


def test_watching_spends_a_look_at_each_hundredth_of_the_plan_and_tells_nobody_else(
    manager: ABTestManager, file: str
) -> None:
    def analyses() -> int:
        with manager.store.reading() as rows:
            return len(rows.all("SELECT 1 FROM events WHERE event_type = 'ab_test_analyzed'"))

    test = manager.apply(file)
    for _ in range(3):
        now(manager, test)
    assert analyses() == 0
    record(manager, test, control=(30, 10), bigger=(30, 10))
    for _ in range(3):
        now(manager, test)
    assert analyses() == 1
    record(manager, test, control=(10, 3), bigger=(10, 3))
    assert not now(manager, test)["due"]
    record(manager, test, control=(10, 3), bigger=(10, 3))
    now(manager, test)
    assert analyses() == 2


def test_a_difference_between_two_looks_decides_nothing(manager: ABTestManager, file: str) -> None:
    test = manager.apply(file)
    record(manager, test, control=(500, 100), bigger=(500, 100))
    assert now(manager, test)["analysis"]["winner"] is None
    record(manager, test, control=(19, 0), bigger=(19, 19))
    told = plain(manager.look(test.test_id))
    assert (told["due"], told["over"], told["analysis"]["comparisons"]["bigger"]["goals"]) == (
        False,
        False,
        {"success": "open"},
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_screen_fits_its_terminal_and_breaks_no_column(manager: ABTestManager, file: str, width: int) -> None:
    test = manager.apply(file)
    record(manager, test, control=(600, 200), bigger=(600, 400))
    lines = shown(now(manager, test), width).splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in one for one in lines)
    assert len([one for one in lines if one.startswith("bigger ") and "600" in one.split()]) == 1
    assert any({"success", "sure", "to"} <= set(one.split()) for one in lines)
    assert any({"slow", "held"} <= set(one.split()) for one in lines)


def test_a_screen_of_beliefs_shows_chances(manager: ABTestManager) -> None:
    made = manager.create_test(
        "Beliefs", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0", strategy="random", inference="bayesian"
    )
    assert todo(made.test_id, plain(manager.look(made.test_id))["analysis"]) == (
        f"modelyard ab-testing start-test {made.test_id}"
    )
    manager.start_test(made.test_id)
    record(manager, made, control=(300, 100), treatment=(300, 130))
    text = shown(now(manager, made), 120)
    assert "best" in text
    assert "is the best with 9" in text


def test_who_watches_is_told_of_an_outage_and_sees_what_follows(manager: ABTestManager, file: str) -> None:
    test = manager.apply(file)
    asked: list[str] = []

    def ask(verb: str) -> Any:
        asked.append(verb)
        if len(asked) == 2:
            raise Unavailable("http://localhost cannot be reached")
        if len(asked) == 3:
            manager.stop_test(test.test_id, reason="wrong day")
        return plain(getattr(manager, verb)(test.test_id))

    told = [line(one).rpartition(" | ")[2] for one in looks_at(lambda: seen(ask), EXPERIMENT.ended, 0.0)]
    assert told[0].startswith("Not enough evidence")
    assert told[1:] == ["not seen any more: http://localhost cannot be reached", "stopped: wrong day"]
