"""Writes events to one file, whole or not at all: JSON, YAML, CSV or Parquet, a page at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import yaml

from modelyard.audit.leaves import COLUMNS
from modelyard.audit.rules import csv_cell
from modelyard.core import plugins
from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Invalid, nearest
from modelyard.core.events import Event
from modelyard.core.files import draft

Format = Literal["json", "yaml", "csv", "parquet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """A written export: where it is, how many events it holds, and the SHA-256 of its bytes."""

    path: str
    format: str
    events: int
    sha256: str


def _json(head: Mapping[str, Any], events: Iterable[Event]) -> Iterator[str]:
    yield "{\n"
    for name, value in head.items():
        yield f"  {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n"
    yield '  "events": ['
    for number, event in enumerate(events):
        yield (",\n    " if number else "\n    ") + dumps(event)
    yield "\n  ]\n}\n"


def _yaml(head: Mapping[str, Any], events: Iterable[Event]) -> Iterator[str]:
    yield yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)
    empty = True
    for event in events:
        if empty:
            yield "events:\n"
            empty = False
        yield yaml.safe_dump([plain(event)], sort_keys=False, allow_unicode=True)
    if empty:
        yield "events: []\n"


def _csv(head: Mapping[str, Any], events: Iterable[Event]) -> Iterator[str]:  # noqa: ARG001 - CSV has columns only
    yield ",".join(COLUMNS) + "\n"
    for event in events:
        line, values = io.StringIO(), plain(event)
        cells = [dumps(values[name]) if name == "details" else csv_cell(values[name]) for name in COLUMNS]
        csv.writer(line, lineterminator="\n").writerow(cells)
        yield line.getvalue()


def _lines(head: Mapping[str, Any], events: Iterable[Event]) -> Iterator[str]:  # noqa: ARG001 - one object a line only
    """What DuckDB reads to make Parquet of it."""
    for event in events:
        values = plain(event)
        yield dumps({**values, "details": dumps(values["details"])}) + "\n"


WRITERS: dict[str, Callable[[Mapping[str, Any], Iterable[Event]], Iterator[str]]] = {
    "json": _json,
    "yaml": _yaml,
    "csv": _csv,
    "parquet": _lines,
}
TYPES = dict.fromkeys(COLUMNS, "VARCHAR") | {"position": "BIGINT", "occurred_at": "TIMESTAMPTZ"}


def checked_format(name: str) -> str:
    """The format itself if there is a writer for it.

    >>> checked_format("xml")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: There is no export format 'xml'. ...
    """
    if name not in get_args(Format):
        raise Invalid(f"There is no export format {name!r}. {nearest(str(name), list(get_args(Format)))}")
    return name


def write(part: Path, path: Path, form: str, head: Mapping[str, Any], events: Iterable[Event]) -> Export:
    """Write the events under the draft's name and flush them to the disk."""
    with part.open("wb") as file:
        count, digest = _write(file, WRITERS[form], head, events)
    if form == "parquet":
        digest = _to_parquet(part, head)
    return Export(path=str(path), format=form, events=count, sha256=digest)


def _to_parquet(part: Path, head: Mapping[str, Any]) -> str:
    """Turn a draft of lines into one of Parquet, with the head in its metadata; returns the SHA-256 of its bytes."""
    with draft(part) as lines:
        part.replace(lines)
        plugins.load("parquet", "from_lines")(lines, part, TYPES, {name: str(value) for name, value in head.items()})
    with part.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return digest


def _write(
    file: BinaryIO,
    writer: Callable[[Mapping[str, Any], Iterable[Event]], Iterator[str]],
    head: Mapping[str, Any],
    events: Iterable[Event],
) -> tuple[int, str]:
    count, digest = 0, hashlib.sha256()

    def counted() -> Iterator[Event]:
        nonlocal count
        for event in events:
            count += 1
            yield event

    for piece in writer(head, counted()):
        data = piece.encode()
        digest.update(data)
        file.write(data)
    file.flush()
    os.fsync(file.fileno())
    return count, digest.hexdigest()
