"""Rows as documents of the portable layout, and back: times as ISO text, JSON columns as what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard.core.canonical import dumps, plain
from modelyard.core.errors import Damaged
from modelyard.core.instants import from_micros, micros
from modelyard.core.ports import Connection, Row
from modelyard.core.work import Work

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of document: all there are, the one that stands in a yard for what a document is about, and writing one.

    `check` raises Conflict where a document, though nothing stands in its place, cannot be taken in.
    """

    name: str
    every: Callable[[Connection], Iterator[Document]]
    standing: Callable[[Connection, Document], Document | None]
    write: Callable[[Work, Document], None]
    check: Callable[[Connection, Document], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The columns of a table that a document has; `times` are microseconds in the row, `values` JSON text."""

    name: str
    columns: tuple[str, ...]
    times: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()

    def document(self, row: Row) -> Document:
        """The document of a row.

        >>> Table(name="t", columns=("a", "at"), times=frozenset({"at"})).document({"a": 1, "at": 0})
        {'a': 1, 'at': '1970-01-01T00:00:00.000000Z'}
        """
        return {column: self._read(column, row[column]) for column in self.columns}

    def insert(self, rows: Connection, documents: Iterable[Mapping[str, Any]], **more: Any) -> None:
        """Write documents as rows; `more` are columns that all of them share and that stand elsewhere."""
        names = (*more, *self.columns)
        sql = f"INSERT INTO {self.name} ({', '.join(names)}) VALUES ({', '.join(':' + name for name in names)})"
        rows.many(sql, [{**more, **self.row(document)} for document in documents])

    def row(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """The row of a document; Damaged for one that has other fields, or what no row can hold."""
        if set(document) != set(self.columns):
            odd = ", ".join(sorted(set(document) ^ set(self.columns)))
            raise Damaged(
                f"A document of {self.name} lacks fields or has others: {odd}. Was it made by a newer modelyard?"
            )
        return {column: self._written(column, document[column]) for column in self.columns}

    def _read(self, column: str, value: Any) -> Any:
        if value is None:
            return None
        if column in self.times:
            return plain(from_micros(value))
        return json.loads(value) if column in self.values else value

    def _written(self, column: str, value: Any) -> Any:
        if value is None:
            return None
        if column in self.times:
            try:
                return micros(datetime.fromisoformat(value))
            except (TypeError, ValueError) as error:
                raise Damaged(f"{column} of a document of {self.name} is no time: {value!r:.80}.") from error
        if column in self.values:
            return dumps(value)
        if isinstance(value, (str, int, float)):
            return value
        raise Damaged(f"{column} of a document of {self.name} is no text or number: {value!r:.80}.")
