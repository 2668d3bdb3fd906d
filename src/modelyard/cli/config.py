"""`modelyard config show`: every setting, its value and where it came from."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from modelyard.cli.output import show_whole
from modelyard.settings import settings

app = App(help="Show the settings and where each came from.", help_format="plaintext")


@app.command(name="show")
def show_settings(
    *,
    origin: Annotated[bool, Parameter(help="Say where each value came from.")] = False,
    format: Annotated[str | None, Parameter(help="table, json or csv.")] = None,
) -> None:
    """Show the settings in force: flag, environment, project file, user file, default, in that order."""
    found = settings({"format": format})
    rows = []
    for setting in found.values():
        row = {"setting": setting.name, "value": setting.shown}
        if origin:
            row["origin"] = setting.origin
        rows.append({**row, "meaning": setting.meaning})
    show_whole(rows, found["format"].value)
