"""`modelyard ab-testing apply FILE`, `watch ID` live, and `analyze-test ID`: the conclusion first, then arms and metrics."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Annotated

from cyclopts import App, Parameter

from modelyard.ab_testing import TestStatus
from modelyard.cli.declaring import commands
from modelyard.cli.derive import FORMAT, YARD, asked, format_of
from modelyard.cli.live import Ask, Watched
from modelyard.cli.live import watch as watch_live
from modelyard.cli.output import show, show_whole
from modelyard.cli.standing import (
    ARM_DROPPED,
    METRIC_DROPPED,
    Seen,
    arms,
    kind,
    line,
    listed,
    methods,
    picture,
    rows,
    todo,
    won,
)
from modelyard.settings import settings

apply, diff = commands("ab_testing", "test_id", "experiment")


def add(app: App) -> None:
    """Put these commands in place of the derived ones."""
    for command in (apply, diff, analyze_test, list_tests, look, watch):
        name = command.__name__.replace("_", "-")
        if name in app:
            del app[name]
        app.command(command, name=name)


def analyze_test(test_id: str, *, confidence_level: float = 0.95, yard: YARD = None, format: FORMAT = None) -> int:
    """Whether the arms differ, by how much, and what to do next; all figures with --format json."""
    found = settings({"yard": yard, "format": format})
    answer = asked("ab_testing", "analyze_test", {"test_id": test_id, "confidence_level": confidence_level}, found)
    chosen = format_of(found)
    if chosen == "json":
        show(answer, chosen)
        return 0
    metrics = list(rows(answer))
    if chosen == "csv":
        show(metrics, chosen)
        return 0
    command = todo(test_id, answer)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    told = [textwrap.fill(answer["conclusion"], width), *([command] if command else []), "", *methods(answer), "", ""]
    show("\n".join(told), chosen)
    show_whole(list(arms(answer)), chosen, dropped=ARM_DROPPED)
    show("", chosen)
    show_whole(
        [{name: cell for name, cell in row.items() if name not in ("low", "high")} for row in metrics],
        chosen,
        dropped=METRIC_DROPPED if len(answer["comparisons"]) > 1 else ("treatment", *METRIC_DROPPED),
    )
    return 0


def list_tests(*, status: TestStatus | None = None, yard: YARD = None, format: FORMAT = None) -> int:
    """The tests, oldest first: what each compares, where it stands, and how it ended."""
    found = settings({"yard": yard, "format": format})
    tests = asked("ab_testing", "list_tests", {"status": status}, found)
    chosen = format_of(found)
    if chosen != "table" or not tests:
        show(tests, chosen)
        return 0
    show_whole([listed(test) for test in tests], chosen, dropped=("since", "endpoint", "compares", "winner"))
    return 0


def look(test_id: str, *, yard: YARD = None, format: FORMAT = None) -> int:
    """Where a test stands at 95 % confidence, and what to do next. Nothing is kept: no look of a planned sample is spent."""
    found = settings({"yard": yard, "format": format})
    stands = asked("ab_testing", "look", {"test_id": test_id}, found)
    if format_of(found) != "table":
        show(stands, found["format"].value)
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    console.print(picture(stands, console.width))
    return 0


def watch(
    test_id: str,
    *,
    interval: Annotated[float, Parameter(help="Seconds between two looks.")] = 5.0,
    yard: YARD = None,
    format: FORMAT = None,
) -> int:
    """Show an experiment live until there is an answer: arms, units, goals with intervals, guardrails, what comes next.

    On a terminal it is one picture; elsewhere a line for each change and every half minute; with --format json one
    document a line for each look. Of a planned sample it spends the looks that are due, at each hundredth of the plan.
    It ends with an answer, with the planned sample, when there can be none (units that do not arrive in the planned
    shares), or when somebody ends the test. The exit code is 0 if a treatment has won, else 1.
    """
    return int(not won(watch_live(EXPERIMENT, test_id, interval=interval, yard=yard, format=format)))


def seen(ask: Ask) -> Seen:
    """Where a test stands, after the analysis that is due."""
    now: Seen = ask("look")
    if now["due"]:
        ask("analyze_test")
        now = ask("look")
    return now


EXPERIMENT = Watched(
    area="ab_testing",
    identity="test_id",
    see=seen,
    ended=lambda now: bool(now["over"]),
    line=line,
    kind=kind,
    picture=lambda now, _before, width, _height: picture(now, width),
    history="modelyard ab-testing analyze-test ID --format csv",
)
