"""What a request may hold: each route's fields with their kinds, read from JSON or a query, and refused as MLflow does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelyard.server.mlflow.errors import Refused

SEE = " See the API docs for more information about request parameters."
INT64 = 2**63
NOT_FINITE: Mapping[str, float] = {
    "NaN": float("nan"),
    "Infinity": float("inf"),
    "-Infinity": float("-inf"),
}


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a request: `read` gives its value or raises; `most` is the largest number it may be."""

    name: str
    read: Callable[[Any], Any]
    required: bool = False
    most: int | None = None
    many: bool = False  # a query may repeat it
    old_name: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """The names that it may be sent under: its own, protobuf's JSON name, and the one of older clients."""
        return tuple(name for name in (self.name, camel(self.name), self.old_name) if name)


def camel(name: str) -> str:
    """Protobuf's JSON name of a field.

    >>> camel("experiment_id")
    'experimentId'
    """
    first, *others = name.split("_")
    return first + "".join(part.title() for part in others)


def as_text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError
    return value


def as_integer(value: Any) -> int:
    """A whole number of 64 bits, also one written as text."""
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise TypeError
    number = int(value)
    if not -INT64 <= number < INT64:
        raise ValueError
    return number


def as_number(value: Any) -> float:
    """A number, also NaN and the infinities as protobuf writes them."""
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def as_flag(value: Any) -> bool:
    """True or false, in a query as text."""
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError
    return value


def as_texts(value: Any) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list):
        raise TypeError
    return [as_text(one) for one in value]


def as_objects(value: Any) -> list[dict[str, Any]]:
    """A list of objects."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise TypeError
    return value


def as_entries(value: Any) -> dict[str, str]:
    """The entries of a list of objects with a key and a value; of equal keys the last one counts."""
    return {as_text(one.get("key", "")): as_text(one.get("value") or "") for one in as_objects(value)}


def text(name: str, *, required: bool = False, old_name: str = "") -> Field:
    """A field with a text."""
    return Field(name, as_text, required, old_name=old_name)


def integer(name: str, *, required: bool = False, most: int | None = None) -> Field:
    """A field with a whole number."""
    return Field(name, as_integer, required, most)


def number(name: str, *, required: bool = False) -> Field:
    """A field with a number."""
    return Field(name, as_number, required)


def flag(name: str) -> Field:
    """A field with true or false."""
    return Field(name, as_flag)


def texts(name: str, *, required: bool = False) -> Field:
    """A field with a list of texts."""
    return Field(name, as_texts, required, many=True)


def objects(name: str, *, required: bool = False) -> Field:
    """A field with a list of objects."""
    return Field(name, as_objects, required)


def entries(name: str) -> Field:
    """A field with a list of keys and values."""
    return Field(name, as_entries)


def anything(name: str) -> Field:
    """A field that its route reads itself."""
    return Field(name, lambda value: value)


RUN_ID = text("run_id", required=True, old_name="run_uuid")


def decoded(body: bytes) -> dict[str, Any]:
    """The object that a JSON body holds; an empty body holds an empty one. Older clients encode theirs twice."""
    if not body.strip():
        return {}
    try:
        value = _json(body)
        if isinstance(value, str):
            value = _json(value.encode())
    except (ValueError, RecursionError) as error:
        raise Refused(f"The body is no JSON: {str(error)[:200]}.") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("The body is no JSON object. Send the request's parameters as one.")
    return value


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        value = json.loads(body)  # Python's clients may send NaN, which is no JSON
        json.dumps(value, ensure_ascii=False).encode()  # raises for half of a surrogate pair
        return value


def values_of(fields: Sequence[Field], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields that were sent, by name. Refused as MLflow does: the first wrong or missing one is told."""
    raw = {field.name: _raw(field, sent) for field in fields}
    read, wrong = {}, set()
    for field in fields:
        value = raw[field.name]
        if value is None:
            continue
        try:
            read[field.name] = field.read(value)
        except (TypeError, ValueError, OverflowError, AttributeError):
            wrong.add(field.name)
    for field in fields:
        value = raw[field.name]
        if field.required and (value is None or value == ""):
            raise Refused(f"Missing value for required parameter '{field.name}'.{SEE}")
        if field.name in wrong or (field.most is not None and read.get(field.name, 0) > field.most):
            raise Refused(wrong_kind(field.name, value))
    _check_unicode(read)
    return read


def wrong_kind(name: str, value: Any) -> str:
    """What MLflow says of a value of the wrong kind."""
    return f"{invalid_value(name, value)}  Hint: Value was of type '{type(value).__name__}'.{SEE}"


def invalid_value(name: str, value: Any) -> str:
    """The beginning of what MLflow says of a wrong value."""
    told = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"Invalid value {told:.1000} for parameter '{name}' supplied:"


def _raw(field: Field, sent: Mapping[str, Any]) -> Any:
    found = [sent[name] for name in field.spellings if name in sent]
    if len(found) > 1 and field.name in sent and camel(field.name) in sent and camel(field.name) != field.name:
        raise Refused(f"Request specifies both '{field.name}' and '{camel(field.name)}'; provide only one of them.")
    return found[0] if found else None


def _check_unicode(value: Any) -> None:
    """No database stores a null character, so none comes in."""
    if isinstance(value, str):
        if "\0" in value:
            raise Refused(f"{value[:100]!r} has a null character. Leave it out.")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_unicode(key)
            _check_unicode(item)
    elif isinstance(value, list):
        for item in value:
            _check_unicode(item)
