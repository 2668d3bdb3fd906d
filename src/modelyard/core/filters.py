"""The filter language of every search: `metrics.auc > 0.9 and tags.team = 'fraud'`, parsed into a tree and bound into SQL.

A text never becomes part of a statement: names are looked up in the area's own table, values are bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from modelyard.core.errors import Invalid

Comparator = Literal["=", "!=", "<", "<=", ">", ">=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"]
Value = float | str | tuple[str, ...] | None

LONGEST = 20_000  # characters
DEEPEST = 20  # parentheses and nots within each other; SQLite's parser overflows at some thirty
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<quoted>`[^`]*`)
      | (?P<number>[-+]?(?:\d+\.?\d*|(?<![\w`"])\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
      | (?P<comparator><=|>=|!=|<>|=|<|>)
      | (?P<mark>[(),.])
      | (?P<word>[A-Za-z_][\w/-]*)
    )""",
    re.VERBOSE,
)
_WORDS = frozenset({"and", "or", "not", "in", "is", "null", "like", "ilike", "asc", "desc"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """What a comparison is about: `metrics.auc` is of the kind metrics with the key auc; `stage` has no kind.

    A word alone has its name as the key and the kind "".
    """

    kind: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.key}" if self.kind else self.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One comparison. The value is a float, a text, a tuple of texts (IN, NOT IN) or None (IS NULL)."""

    field: Field
    comparator: Comparator
    value: Value = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parts that must all hold (and), of which one must hold (or), or of which the one must not hold (not)."""

    joined: Literal["and", "or", "not"]
    parts: tuple[Filter, ...]


Filter = Condition | Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One key of an ordering."""

    field: Field
    descending: bool = False


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Filter | None:
    """The tree of a filter, None for an empty one; Invalid, with the place, if it cannot be read.

    Comparators are = != < <= > >= LIKE ILIKE IN (...) NOT IN (...) IS NULL IS NOT NULL; comparisons are joined by and,
    or, not and parentheses. A key with other characters than letters, digits, _ - / is written in backquotes or double
    quotes: metrics."val loss". A text stands in single or double quotes, a quote within it is doubled.

    >>> parse("metrics.auc > 0.9").value
    0.9
    >>> parse("tags.team = 'fraud' and stage in ('staging', 'production')").joined
    'and'
    >>> parse("metrics.auc >")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: The filter cannot be read at character 13: a value is missing. ...
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise Invalid(f"A filter is a text of at most {LONGEST:,} characters.")
    reader = _Reader(text, "filter")
    if reader.next is None:
        return None
    found = _either(reader, 0)
    reader.end()
    return found


def parse_order(text: str) -> Order:
    """The key that `metrics.auc DESC` orders by; ascending unless it ends in DESC.

    >>> parse_order("metrics.auc DESC").descending
    True
    """
    if not isinstance(text, str) or len(text) > LONGEST:
        raise Invalid(f"An ordering is a text of at most {LONGEST:,} characters.")
    reader = _Reader(text, "ordering")
    found = _field(reader)
    descending = False
    if reader.is_word("asc", "desc"):
        descending = reader.take().text.lower() == "desc"
    reader.end()
    return Order(field=found, descending=descending)


def conditions(filter: Filter | None) -> Iterator[Condition]:
    """Every comparison of a tree, from left to right."""
    if isinstance(filter, Condition):
        yield filter
    elif filter is not None:
        for part in filter.parts:
            yield from conditions(part)


@dataclass(slots=True)
class Bound:
    """Builds a WHERE clause: `values` are the bound parameters so far."""

    values: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any) -> str:
        """The parameter's place in the statement, for example `:f3`."""
        name = f"f{len(self.values)}"
        self.values[name] = value
        return f":{name}"

    def compare(self, column: str, condition: Condition) -> str:
        """The SQL that compares a column or an expression of the area's own with the condition's value.

        LIKE minds the case and ILIKE does not, in both databases.
        """
        comparator, value = condition.comparator, condition.value
        if comparator in ("IS NULL", "IS NOT NULL"):
            return f"{column} {comparator}"
        if isinstance(value, tuple):
            places = ", ".join(self.bind(one) for one in value)
            return f"{column} {comparator} ({places})"
        if comparator in ("LIKE", "ILIKE"):
            place = self.bind(str(value).replace("\\", "\\\\"))  # no escape of the caller's
            if comparator == "LIKE":
                return f"{column} LIKE {place} ESCAPE '\\'"
            return f"LOWER({column}) LIKE LOWER({place}) ESCAPE '\\'"
        return f"{column} {comparator} {self.bind(value)}"


def clause(filter: Filter | None, one: Callable[[Condition], str]) -> str:
    """The SQL of a tree, where `one` makes that of a comparison; "1 = 1" for an empty filter.

    >>> bound = Bound()
    >>> clause(parse("stage = 'staging' or not size > 3"), lambda c: bound.compare(c.field.key, c)), bound.values
    ('(stage = :f0 OR NOT (size > :f1))', {'f0': 'staging', 'f1': 3.0})
    """
    if filter is None:
        return "1 = 1"
    if isinstance(filter, Condition):
        return one(filter)
    parts = [clause(part, one) for part in filter.parts]
    if filter.joined == "not":
        return f"NOT ({parts[0]})"
    return f"({f' {filter.joined.upper()} '.join(parts)})"


class _Reader:
    """The tokens of a text, one ahead."""

    def __init__(self, text: str, what: str) -> None:
        self.text, self.what = text, what
        self._tokens = _tokens(text, what)
        self.next: _Token | None = next(self._tokens, None)

    def take(self) -> _Token:
        token = self.next
        if token is None:
            raise self.fault("it ends too early")
        self.next = next(self._tokens, None)
        return token

    def is_word(self, *words: str) -> bool:
        return self.next is not None and self.next.kind == "word" and self.next.text.lower() in words

    def is_mark(self, mark: str) -> bool:
        return self.next is not None and self.next.kind == "mark" and self.next.text == mark

    def expect(self, mark: str) -> None:
        if not self.is_mark(mark):
            raise self.fault(f"{mark!r} is missing")
        self.take()

    def end(self) -> None:
        if self.next is not None:
            raise self.fault(f"{self.next.text[:40]!r} is one too many")

    def fault(self, why: str) -> Invalid:
        at = len(self.text) if self.next is None else self.next.at
        return _fault(self.what, at, why)


def _fault(what: str, at: int, why: str) -> Invalid:
    example = "metrics.auc DESC" if what == "ordering" else "metrics.auc > 0.9 and stage = 'production'"
    return Invalid(f"The {what} cannot be read at character {at}: {why}. Write for example: {example}")


def _tokens(text: str, what: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise _fault(what, start, f"{text[start : start + 20]!r} is no name, number or quoted text")
        yield _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
        at = match.end()


def _either(reader: _Reader, depth: int) -> Filter:
    parts = [_both(reader, depth)]
    while reader.is_word("or"):
        reader.take()
        parts.append(_both(reader, depth))
    return parts[0] if len(parts) == 1 else Group(joined="or", parts=tuple(parts))


def _both(reader: _Reader, depth: int) -> Filter:
    parts = [_one(reader, depth)]
    while reader.is_word("and"):
        reader.take()
        parts.append(_one(reader, depth))
    return parts[0] if len(parts) == 1 else Group(joined="and", parts=tuple(parts))


def _one(reader: _Reader, depth: int) -> Filter:
    if depth > DEEPEST:
        raise reader.fault(f"more than {DEEPEST} parentheses lie within each other")
    if reader.is_word("not"):
        reader.take()
        return Group(joined="not", parts=(_one(reader, depth + 1),))
    if reader.is_mark("("):
        reader.take()
        inner = _either(reader, depth + 1)
        reader.expect(")")
        return inner
    return _condition(reader)


def _condition(reader: _Reader) -> Condition:
    about = _field(reader)
    if reader.is_word("is"):
        reader.take()
        negated = reader.is_word("not") and reader.take() is not None
        if not reader.is_word("null"):
            raise reader.fault("NULL is missing")
        reader.take()
        return Condition(field=about, comparator="IS NOT NULL" if negated else "IS NULL")
    if reader.is_word("in", "not"):
        negated = reader.take().text.lower() == "not"
        if negated and not reader.is_word("in"):
            raise reader.fault("IN is missing")
        if negated:
            reader.take()
        return Condition(field=about, comparator="NOT IN" if negated else "IN", value=_texts(reader))
    return Condition(field=about, comparator=_comparator(reader), value=_value(reader))


def _comparator(reader: _Reader) -> Comparator:
    if reader.is_word("like", "ilike"):
        return "ILIKE" if reader.take().text.lower() == "ilike" else "LIKE"
    if reader.next is None or reader.next.kind != "comparator":
        raise reader.fault("a comparator such as = or > is missing")
    found = reader.take().text
    return "!=" if found == "<>" else found  # type: ignore[return-value]  # the token's pattern has only these


def _field(reader: _Reader) -> Field:
    first = _name(reader)
    if not reader.is_mark("."):
        return Field(kind="", key=first)
    reader.take()
    return Field(kind=first, key=_dotted(reader))


def _dotted(reader: _Reader) -> str:
    """The rest of a name: `mlflow.runName` in tags.mlflow.runName."""
    key = _name(reader, quotes=True)
    while reader.is_mark("."):
        reader.take()
        key += "." + _name(reader, quotes=True)
    return key


def _name(reader: _Reader, *, quotes: bool = False) -> str:
    token = reader.next
    if token is not None and token.kind == "quoted":
        return reader.take().text[1:-1]
    if token is not None and token.kind == "text" and quotes:
        return _unquoted(reader.take().text)
    if token is not None and token.kind == "number" and quotes:  # metrics.0, params.1
        return reader.take().text
    if token is None or token.kind != "word" or (token.text.lower() in _WORDS and not quotes):
        raise reader.fault("a name is missing")
    return reader.take().text


def _value(reader: _Reader) -> float | str:
    token = reader.next
    if token is None or token.kind not in ("text", "number"):
        raise reader.fault(
            "a value is missing" if token is None else f"{token.text[:40]!r} is no number or quoted text"
        )
    reader.take()
    return float(token.text) if token.kind == "number" else _unquoted(token.text)


def _texts(reader: _Reader) -> tuple[str, ...]:
    reader.expect("(")
    found: list[str] = []
    while not reader.is_mark(")"):
        if reader.next is None or reader.next.kind != "text":
            raise reader.fault("a quoted text is missing")
        found.append(_unquoted(reader.take().text))
        if not reader.is_mark(")"):
            reader.expect(",")
    reader.take()
    if not found:
        raise reader.fault("the list is empty")
    return tuple(found)


def _unquoted(text: str) -> str:
    return text[1:-1].replace(text[0] * 2, text[0])
