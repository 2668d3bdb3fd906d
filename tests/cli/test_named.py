"""Commands that texts name, in errors, alerts, pages: each one exists."""

import re
from pathlib import Path

from cyclopts import App

from modelyard.cli import main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"(?<!from )\bmodelyard ([a-z][a-z-]+) ([a-z][a-z-]+)")


def words(app: App) -> set[str]:
    return {word for word in app if not word.startswith("-")}


def test_every_command_that_a_text_names_exists() -> None:
    every = main.build([*main.AREA_HELP, *main.OWN])
    below = {word: words(every[word]) for word in words(every)}
    wrong = [
        f"{page.relative_to(ROOT)}: modelyard {area} {verb}"
        for page in [*sorted((ROOT / "src").rglob("*.py")), *PAGES]
        for area, verb in NAMED.findall(page.read_text(encoding="utf-8"))
        if below.get(area) and verb not in below[area]
    ]
    assert wrong == []
    assert {"promote", "watch"} <= below["deployment"]  # derived ones and others
