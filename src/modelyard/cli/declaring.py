"""`apply FILE` and `diff FILE` of an area whose things can be declared in files: what would change first, then the change."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from modelyard.cli.derive import FORMAT, YARD, asked, format_of
from modelyard.cli.output import show
from modelyard.core.canonical import dumps
from modelyard.settings import settings

Seen = Mapping[str, Any]
AGAIN = Annotated[
    bool, Parameter(help="Also what was tried before: taken back, aborted, stopped or concluded.", negative="")
]
WHO = Annotated[str | None, Parameter(help="Who is acting; the setting `user` unless given.")]


def commands(area: str, identity: str, what: str) -> tuple[Callable[..., int], Callable[..., int]]:
    """The commands `apply` and `diff` of an area; `what` a file describes, and the argument that names one."""
    word = area.replace("_testing", "-testing")

    def apply(
        path: Path,
        *,
        dry_run: Annotated[bool, Parameter(help="Only say what would change.", negative="")] = False,
        again: AGAIN = False,
        created_by: WHO = None,
        yard: YARD = None,
        format: FORMAT = None,
    ) -> int:
        found = settings({"yard": yard, "format": format, "user": created_by})
        values = {"path": path, "again": again, "created_by": found["user"].value}
        difference = asked(area, "diff", values, found)
        sys.stderr.write("".join(f"{line}\n" for line in told_difference(difference)))
        if dry_run:
            if format_of(found) == "json":
                show(difference, "json")
            return int(difference["verdict"] == "refused")
        if difference["verdict"] == "refused":
            return 1
        applied = asked(area, "apply", values, found)
        show(applied, found["format"].value)
        sys.stderr.write(f"Watch it: modelyard {word} watch {applied[identity]}\n")
        return 0

    def diff(
        path: Path,
        *,
        again: AGAIN = False,
        created_by: WHO = None,
        yard: YARD = None,
        format: FORMAT = None,
    ) -> int:
        found = settings({"yard": yard, "format": format, "user": created_by})
        values = {"path": path, "again": again, "created_by": found["user"].value}
        difference = asked(area, "diff", values, found)
        if format_of(found) == "table":
            sys.stdout.write("".join(f"{line}\n" for line in told_difference(difference)))
        else:
            show(difference["changes"] if format_of(found) == "csv" else difference, format_of(found))
        return int(difference["verdict"] == "refused")

    apply.__doc__ = (
        f"Start or amend the {what} that a YAML or JSON file describes. The same again changes nothing.\n\n"
        "What changes is told first. With --dry-run that is all, and the exit code is 1 where the file would be refused."
    )
    diff.__doc__ = (
        f"What applying a file would do to the {what} that it describes, and why. The exit code is 1 where it is refused."
        "\n\nIt is tried and undone, so that what would be refused is told."
    )
    return apply, diff


def told_difference(found: Seen) -> list[str]:
    """What a file would do, a line a change: + for new, ~ for changed, - for gone.

    >>> told_difference({"endpoint": "e", "version": "v2", "verdict": "unchanged", "reason": "dep_1 has completed it"})
    ['e v2: unchanged, dep_1 has completed it']
    """
    head = found.get("name") or f"{found['endpoint']} {found['version']}"
    lines = [f"{head}: {found['verdict']}, {found['reason']}"]
    for change in found.get("changes", ()):
        now, wanted = change["now"], change["wanted"]
        sign = "+" if now is None else "-" if wanted is None else "~"
        told = " -> ".join(_value(one) for one in (now, wanted) if one is not None)
        lines.append(f"  {sign} {change['key']}: {told}")
    return lines


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else (dumps(value) if isinstance(value, list) else str(value))
