"""Data on stdout: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("table", "json", "csv")
WIDEST = 40  # characters of a column
SHORT = 14  # characters of a cell that is never broken
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)\Z")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


def check(format: str) -> None:
    """Invalid where a format is none: before anything is done whose result could not be shown."""
    if format and format not in FORMATS:
        raise Invalid(f"{format!r} is no output format. Use table, json or csv.")


def show(value: Any, format: str = "", *, out: TextIO | None = None) -> None:
    """Write a result. Without a format it is a table on a terminal, else JSON."""
    check(format)
    stream = out or sys.stdout
    chosen = format or ("table" if stream.isatty() else "json")
    if isinstance(value, str) and chosen == "table":
        stream.write(value if value.endswith("\n") else value + "\n")
    elif chosen == "json":
        stream.write(dumps(value, indent=2) + "\n")
    elif chosen == "csv":
        _csv(rows_of(value), stream)
    else:
        _table(value, stream)


def show_whole(value: Sequence[Any], format: str = "", *, dropped: Sequence[str | tuple[str, ...]] = ()) -> None:
    """Write a result as `show` does, but for a table with every column, and long cells over several lines.

    Where they do not fit side by side, the columns in `dropped` are left out, the first ones first.
    """
    if (format or ("table" if sys.stdout.isatty() else "json")) != "table":
        show(value, format)
        return
    from rich.console import Console
    from rich.table import Table

    rows, console = (
        [{name: _text(cell) for name, cell in row.items()} for row in rows_of(value)],
        Console(highlight=False),
    )
    table = Table(header_style="bold", box=None, pad_edge=False)
    names = fitting(rows, console.width, dropped)
    for name in names:
        longest = max(len(row.get(name, "")) for row in rows)
        table.add_column(name, overflow="fold", no_wrap=longest <= SHORT)
    for row in rows:
        table.add_row(*(row.get(name, "") for name in names))
    console.print(table)


def fitting(rows: Sequence[Mapping[str, str]], width: int, dropped: Sequence[str | tuple[str, ...]]) -> list[str]:
    """The names of the columns that are shown: without as many of `dropped` as it takes to stand side by side; several
    together go together.

    >>> row = {"arm": "canary", "requests": "1,000", "errors": "0", "p50 ms": "1.25"}
    >>> fitting([row], 80, ["p50 ms"]), fitting([row], 25, ["p50 ms"])
    (['arm', 'requests', 'errors', 'p50 ms'], ['arm', 'requests', 'errors'])
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    for gone in dropped:
        wanted = sum(max(len(name), *(len(row.get(name, "")) for row in rows)) + 2 for name in names) - 2
        if wanted <= width:
            break
        names = [name for name in names if name not in (gone if isinstance(gone, tuple) else (gone,))]
    return names


def rows_of(value: Any) -> list[dict[str, Any]]:
    """The result as rows of named cells; nested values become compact JSON.

    >>> rows_of({"a": 1, "b": [1, 2]})
    [{'a': 1, 'b': '[1,2]'}]
    """
    found = _items(plain(value))
    items = found if isinstance(found, list) else [found]
    return [
        {k: _cell(v) for k, v in item.items()} if isinstance(item, Mapping) else {"value": _cell(item)}
        for item in items
    ]


def _items(data: Any) -> Any:
    """The items of a page; anything else as it is."""
    return data["items"] if isinstance(data, dict) and data.keys() == {"items", "next_page_token"} else data


def _cell(value: Any) -> Any:
    return dumps(value) if isinstance(value, (dict, list)) else value


def _csv(rows: list[dict[str, Any]], stream: TextIO) -> None:
    if not rows:
        return  # nothing has no columns
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(value: Any, stream: TextIO) -> None:
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    data = plain(value)
    rows = rows_of(data)
    if not rows:
        console.print("(none)")
    elif isinstance(_items(data), list):
        _many(rows, console)
    else:
        _one(rows[0], console)
    if isinstance(data, dict) and data.get("next_page_token"):
        console.print(f"\nMore: --page-token {data['next_page_token']}", soft_wrap=True)


def _one(row: Mapping[str, Any], console: Console) -> None:
    """Each field of one thing on a line of its own, whole."""
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for name, cell in row.items():
        table.add_row(f"[bold]{name}[/]", _text(cell))
    console.print(table)


def _many(rows: list[dict[str, Any]], console: Console) -> None:
    """One line a thing, with the columns that fit; those left out are named below."""
    from rich.table import Table

    cells = {
        name: [_short(row.get(name)) for row in rows]
        for name in dict.fromkeys(name for row in rows for name in row)
        if any(row.get(name) not in ("", None, "{}", "[]") for row in rows)
    }
    shown = _fitting(cells, console.width)
    table = Table(header_style="bold", box=None, pad_edge=False)
    for name in shown:
        table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=WIDEST)
    for line in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*line)
    console.print(table)
    hidden = [name for name in cells if name not in shown]
    if hidden:
        console.print(f"\n[dim]Not shown: {', '.join(hidden)}. All of it: --format json[/]")


def _fitting(cells: Mapping[str, list[str]], width: int) -> list[str]:
    """The columns that fit into a width, in their order; words and numbers go before nested values."""
    nested = [name for name, column in cells.items() if any(cell.startswith(("{", "\\[")) for cell in column)]
    chosen: set[str] = set()
    left = width
    for name in [*(name for name in cells if name not in nested), *nested]:
        needed = min(max(len(name), *(len(cell) for cell in cells[name])), WIDEST) + 2
        if needed <= left or not chosen:
            chosen.add(name)
            left -= needed
    return [name for name in cells if name in chosen]


def _short(cell: Any) -> str:
    """A cell as it stands in a column: moments to the second, digests by their beginning."""
    text = _text(cell)
    if _MOMENT.match(text):
        return text[:19].replace("T", " ")
    return text[:12] if _DIGEST.match(text) else text


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell).replace("[", r"\[")
