"""Data on stdout: a table for people, JSON or CSV for programs."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid

FORMATS = ("table", "json", "csv")


def show(value: Any, format: str = "", *, out: TextIO | None = None) -> None:
    """Write a result. Without a format it is a table on a terminal, else JSON."""
    stream = out or sys.stdout
    chosen = format or ("table" if stream.isatty() else "json")
    if chosen not in FORMATS:
        raise Invalid(f"{chosen!r} is no output format. Use table, json or csv.")
    if isinstance(value, str) and chosen == "table":
        stream.write(value if value.endswith("\n") else value + "\n")
    elif chosen == "json":
        stream.write(dumps(value, indent=2) + "\n")
    elif chosen == "csv":
        _csv(rows_of(value), stream)
    else:
        _table(value, stream)


def rows_of(value: Any) -> list[dict[str, Any]]:
    """The result as rows of named cells; nested values become compact JSON.

    >>> rows_of({"a": 1, "b": [1, 2]})
    [{'a': 1, 'b': '[1,2]'}]
    """
    data = plain(value)
    items = data if isinstance(data, list) else [data]
    return [
        {k: _cell(v) for k, v in item.items()} if isinstance(item, Mapping) else {"value": _cell(item)}
        for item in items
    ]


def _cell(value: Any) -> Any:
    return dumps(value) if isinstance(value, (dict, list)) else value


def _csv(rows: list[dict[str, Any]], stream: TextIO) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _table(value: Any, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(file=stream, highlight=False)
    rows = rows_of(value)
    if not rows:
        console.print("(none)")
        return
    single = not isinstance(plain(value), list)
    table = Table(show_header=not single, header_style="bold", box=None, pad_edge=False)
    if single:
        for name, cell in rows[0].items():
            table.add_row(f"[bold]{name}[/]", _text(cell))
    else:
        columns = [
            name
            for name in dict.fromkeys(n for row in rows for n in row)
            if any(row.get(name) not in ("", None, "{}", "[]") for row in rows)
        ]
        for name in columns:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(_text(row.get(name)) for name in columns))
    console.print(table)


def _text(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return str(cell).replace("[", r"\[")
