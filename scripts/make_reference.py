"""Writes docs/reference from the operation table; `--check` says whether the pages are up to date."""

from __future__ import annotations

import inspect
import sys
import typing
from pathlib import Path

from modelyard.cli.derive import help_of
from modelyard.cli.main import AREA_HELP
from modelyard.core.operations import Operation, operations

DOCS = Path(__file__).parents[1] / "docs" / "reference"
ATTRIBUTE = {"pipeline": "pipelines", "deployment": "deployments", "ab_testing": "ab_tests"}


def _http(entry: Operation) -> str:
    return f"`{entry.method} /api/v1{entry.path}`" if entry.remote else "command only"


def page(area: str) -> str:
    """The reference page of an area."""
    attribute = ATTRIBUTE.get(area, area)
    lines = [
        f"# {area}",
        "",
        AREA_HELP[area],
        "",
        f"In Python: `Yard(...).{attribute}`. On the command line: `modelyard {area.replace('_', '-')}`.",
        "",
    ]
    lines += ["| operation | HTTP | permission |", "|---|---|---|"]
    lines += [f"| `{e.name}` | {_http(e)} | `{e.needs}` |" for e in operations(area)]
    for entry in operations(area):
        lines += section(entry)
    return "\n".join(lines) + "\n"


def section(entry: Operation) -> list[str]:
    """One operation: what it does, its arguments, its example."""
    signature = inspect.signature(entry.function)
    hints = typing.get_type_hints(entry.function)
    lines = ["", f"## {entry.verb}", "", help_of(entry.function), ""]
    for name, p in signature.parameters.items():
        if name == "self":
            continue
        default = "" if p.default is inspect.Parameter.empty else f", default `{p.default!r}`"
        acting = ", filled from the identity at a server" if name in entry.acting else ""
        lines.append(f"- `{name}`: {shown(hints.get(name))}{default}{acting}")
    command = " ".join(["modelyard", entry.area.replace("_", "-"), entry.verb.replace("_", "-"), "--help"])
    text = inspect.getdoc(entry.function) or ""
    example = text[text.index(">>> ") :].strip() if ">>> " in text else ""
    return [*lines, "", f"Command: `{command}`", "", "```pycon", example, "```"]


def shown(hint: object) -> str:
    """A type as people read it."""
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
    for prefix in ("typing.", "collections.abc.", "pathlib.", "datetime.", "modelyard."):
        name = name.replace(prefix, "")
    return f"`{name}`"


def main() -> int:
    """Write the pages, or compare them."""
    check, stale = "--check" in sys.argv, []
    DOCS.mkdir(parents=True, exist_ok=True)
    for area in AREA_HELP:
        file, text = DOCS / f"{area}.md", page(area)
        if not file.exists() or file.read_text() != text:
            stale.append(area)
            if not check:
                file.write_text(text)
    print(f"stale: {', '.join(stale)}" if stale else "up to date")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
