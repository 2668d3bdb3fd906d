"""XGBoost's two ways of writing a document, JSON and UBJSON, read within bounds into dicts, lists and rows of numbers.

Only what XGBoost's own readers (3.2, src/common/json.cc) take in exactly one way is read: where they are lenient, or would
read past the end, the document is refused.
"""

from __future__ import annotations

import json
import re
import secrets
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from modelyard.bounds import OutOfBounds

Array = np.ndarray[Any, np.dtype[Any]]

DEPTH = 64  # XGBoost nests less than ten deep, and reads by recursion
TYPED = {b"d": ">f4", b"D": ">f8", b"i": ">i1", b"U": ">u1", b"I": ">i2", b"l": ">i4", b"L": ">i8"}
SCALARS = {mark: struct.Struct(kind) for mark, kind in
           ((b"d", ">f"), (b"D", ">d"), (b"i", ">b"), (b"U", ">B"), (b"I", ">h"), (b"l", ">i"), (b"L", ">q"))}  # fmt: skip
CONSTANTS = {b"Z": None, b"T": True, b"F": False}
_LONG = struct.Struct(">q")
_ROW = re.compile(rb'(?<!\\)"(\s*:\s*)\[([-+0-9.eE,\s]{64,})\]')  # behind the key that it belongs to
_INTEGERS = re.compile(rb"\s*-?[0-9]{1,18}\s*(?:,\s*-?[0-9]{1,18}\s*)*")
_PRINTABLE = re.compile(rb"\\u00[2-7]")


class Row:
    """A long row of figures in a JSON text, as it is written there: most are never read, only counted."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def __len__(self) -> int:
        return self.text.count(b",") + 1


Numbers = Row | Array | list[Any]


def read(data: bytes) -> dict[str, Any]:
    """The document in the bytes, in whichever of the two forms; OutOfBounds unless it is one object and nothing more.

    >>> read(b'{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    if data[:1] != b"{":
        raise OutOfBounds("it is no JSON or UBJSON object")
    return _Ubjson(data).document() if data[1:2].isalpha() else _json(data)


def integers(rows: Sequence[Numbers]) -> Array:
    """The whole numbers of the rows, one row after the other; OutOfBounds for others."""
    try:
        parts = [row if isinstance(row, np.ndarray) else _written(row) for row in rows]
        found = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise OutOfBounds("a row of whole numbers holds something else") from error
    if found.ndim != 1 or (len(found) and found.dtype.kind not in "iu"):
        raise OutOfBounds("a row of whole numbers holds something else")
    return found.astype(np.int64)


def _written(row: Row | list[Any]) -> Array:
    if isinstance(row, Row):
        if not _INTEGERS.fullmatch(row.text):
            raise ValueError(row.text[:40])
        return np.fromstring(row.text.translate(None, b" \n\r\t"), dtype=np.int64, sep=",")
    return np.array(row) if row else np.zeros(0, dtype=np.int64)


def _json(data: bytes) -> dict[str, Any]:
    """The object of a JSON text. XGBoost keeps escapes of characters as they are: to it they are other names."""
    if _PRINTABLE.search(data):
        raise OutOfBounds("it writes plain characters as escapes, which two readers take for different names")
    rows: list[Row] = []
    mark = secrets.token_hex(8)  # which no file can guess

    def put_aside(found: re.Match[bytes]) -> bytes:
        rows.append(Row(found[2]))
        return b'"%s"%s%d"' % (found[1], mark.encode(), len(rows) - 1)

    def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            raise OutOfBounds("an object of it repeats a key")
        for key, value in pairs:
            if type(value) is str and value.startswith(mark):
                made[key] = rows[int(value.removeprefix(mark))]
        return made

    try:
        value = json.loads(_ROW.sub(put_aside, data).decode("utf-8"), object_pairs_hook=unrepeated)
    except OutOfBounds:
        raise
    except (ValueError, RecursionError) as error:
        raise OutOfBounds(f"it is no JSON: {str(error)[:120]}") from error
    if not isinstance(value, dict):
        raise OutOfBounds("it is no JSON object")
    return value


class _Ubjson:
    """A walk over UBJSON bytes (https://ubjson.org/type-reference/), in the subset that XGBoost writes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 1  # behind the brace

    def document(self) -> dict[str, Any]:
        """The one object."""
        try:
            found = self._object(0)
        except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, OutOfBounds):
                raise
            raise OutOfBounds("it is cut short, or no UBJSON") from error
        if self._at != len(self._data):
            raise OutOfBounds("bytes follow its end")
        return found

    def _mark(self) -> bytes:
        self._at += 1
        return self._data[self._at - 1 : self._at]

    def _length(self) -> int:
        """XGBoost takes no other mark before a length than L."""
        if self._mark() != b"L":
            raise OutOfBounds("a length of it is written in an unknown way")
        (length,) = _LONG.unpack_from(self._data, self._at)
        self._at += 8
        if not 0 <= length <= len(self._data) - self._at:
            raise OutOfBounds("it is cut short")
        return int(length)

    def _text(self) -> str:
        length = self._length()
        self._at += length
        return self._data[self._at - length : self._at].decode("utf-8", "surrogateescape")

    def _object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self._data[self._at] != 0x7D:  # }
            key = self._text()
            if key in found:
                raise OutOfBounds("an object of it repeats a key")
            found[key] = self._value(depth + 1)
        self._at += 1
        return found

    def _value(self, depth: int) -> Any:
        if depth > DEPTH:
            raise OutOfBounds("it is nested too deeply")
        mark = self._mark()
        if mark == b"[":
            return self._array(depth)
        if mark == b"S":
            return self._text()
        if mark == b"{":
            return self._object(depth)
        if mark in SCALARS:
            scalar = SCALARS[mark]
            self._at += scalar.size
            return scalar.unpack_from(self._data, self._at - scalar.size)[0]
        if mark in CONSTANTS:
            return CONSTANTS[mark]
        raise OutOfBounds(f"it has the unknown mark {mark!r}" if mark else "it is cut short")

    def _array(self, depth: int) -> Array | list[Any]:
        start = self._data[self._at : self._at + 1]
        if start == b"$":
            kind = TYPED.get(self._data[self._at + 1 : self._at + 2])
            if kind is None or self._data[self._at + 2 : self._at + 3] != b"#":
                raise OutOfBounds("a row of it has an unknown type")
            self._at += 3
            count = self._length()
            found = np.frombuffer(self._data, dtype=kind, count=count, offset=self._at)
            self._at += found.nbytes
            return found
        if start == b"#":
            self._at += 1
            return [self._value(depth + 1) for _ in range(self._length())]
        values = []
        while self._data[self._at] != 0x5D:  # ]
            values.append(self._value(depth + 1))
        self._at += 1
        return values


def objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object within a value, the outermost first."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
