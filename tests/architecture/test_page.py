"""docs/architecture.md tells of what is there: its files, its layers, and every handler."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from source import ROOT

from modelyard.wiring import AFTER, INSIDE

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text()
FILES = sorted(set(re.findall(r"`([\w/*-]+(?:\.(?:py|c|md|toml)|/))`", PAGE)))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_the_page_names_is_there(name: str) -> None:
    assert list(ROOT.rglob(name.rstrip("/"))) or list(REPOSITORY.glob(name.rstrip("/")))


def test_every_handler_has_its_line_and_no_line_is_of_another() -> None:
    rows = [row.split("|")[2] for row in PAGE.splitlines() if row.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    inside = {handler.__name__ for handlers in INSIDE.values() for handler in handlers}
    assert sorted(told) == sorted({*inside, *(wire.name for wire in AFTER)})


def test_the_layers_are_drawn_as_they_are_held() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    held = [set(layer.split(" | ")) for layer in contracts[0]["layers"] if layer != "__main__"]
    drawing = PAGE.split("```")[1].replace("\n  | ", " | ")
    drawn = [re.match(r"\w+(?: \| \w+)*", line) for line in drawing.splitlines()]
    assert [set(names[0].split(" | ")) for names in drawn if names] == held
