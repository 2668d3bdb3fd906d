"""Each operation is whole: a permission, a docstring with an example that runs, a page, a command."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from modelyard.cli.main import AREA_HELP, build
from modelyard.core import plugins
from modelyard.core.operations import Operation, operations

DOCS = Path(__file__).parents[2] / "docs" / "reference"
ALL = operations()


@pytest.mark.parametrize("entry", ALL, ids=lambda entry: entry.name)
def test_an_operation_is_whole(entry: Operation) -> None:
    text = inspect.getdoc(entry.function) or ""
    assert re.fullmatch(
        rf"({entry.area}\.(read|write)|(registry|artifacts)\.approve|registry\.break_glass)", entry.needs
    )
    assert text.splitlines()[0].endswith("."), "the first line is a sentence about the result"
    assert ">>> " in text, "an example"
    assert set(entry.in_path) <= set(inspect.signature(entry.function).parameters)
    page = DOCS / f"{entry.area}.md"
    assert f"`{entry.name}`" in page.read_text()


def test_no_two_operations_share_a_route() -> None:
    routes = [(entry.method, re.sub(r"{\w+}", "{}", entry.path)) for entry in ALL]
    assert len(routes) == len(set(routes))


def test_every_area_has_operations_and_one_line_of_help() -> None:
    assert set(AREA_HELP) == set(plugins.AREAS) == {entry.area for entry in ALL}


@pytest.mark.parametrize("area", sorted(plugins.AREAS))
def test_every_operation_is_a_command(area: str, capsys: pytest.CaptureFixture[str]) -> None:
    app = build([area])
    for entry in operations(area):
        app(
            [area.replace("_", "-"), entry.verb.replace("_", "-"), "--help"],
            exit_on_error=False,
            result_action="return_value",
        )
        shown = capsys.readouterr().out
        assert entry.verb.replace("_", "-") in shown
