"""One byte form for every value: RFC 8785 canonical JSON, and SHA-256 digests over it."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any

from modelyard.core.errors import Invalid
from modelyard.core.instants import as_utc


def plain(value: Any) -> Any:
    """The value in JSON's own types: dataclasses become objects, enums their values, times ISO text in UTC.

    NumPy scalars and arrays become numbers and lists. Not-a-number and infinities become None, since JSON has none.

    >>> plain({"at": datetime(2026, 1, 1, tzinfo=__import__("datetime").UTC), "n": (1, 2)})
    {'at': '2026-01-01T00:00:00.000000Z', 'n': [1, 2]}
    """
    if value is None or (isinstance(value, (bool, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return as_utc(value).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, date):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.repr}
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [plain(item) for item in items]
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, without importing NumPy
        return plain(value.tolist())
    raise Invalid(f"{type(value).__name__} cannot be stored as JSON. Pass numbers, text, lists, mappings or dates.")


def canonical(value: Any) -> bytes:
    """The RFC 8785 bytes of a JSON value: keys in UTF-16 order, no spaces, numbers as ECMAScript writes them.

    >>> canonical({"b": 1.0, "a": [True, None, "é"]}).decode()
    '{"a":[true,null,"é"],"b":1}'
    """
    return "".join(_pieces(value)).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """The SHA-256 of the value's canonical form, as 64 hex digits.

    >>> digest({})
    '44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a'
    """
    return hashlib.sha256(canonical(plain(value))).hexdigest()


def dumps(value: Any, *, indent: int | None = None) -> str:
    """Any value as JSON text with sorted keys: compact and canonical, or indented for people."""
    if indent is None:
        quick = _quick(value)
        return canonical(plain(value)).decode() if quick is None else quick
    return json.dumps(plain(value), indent=indent, sort_keys=True, ensure_ascii=False)


_ENCODE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def _quick(value: Any) -> str | None:
    """The canonical text by the encoder in C, for values that it writes as RFC 8785 does; None for others."""
    try:
        text = _ENCODE(_everyday(value))
        if not text.isascii():
            text.encode()
    except (TypeError, RecursionError, UnicodeEncodeError):  # the thorough way knows what to do with it
        return None
    return text


def _everyday(value: Any) -> Any:
    """The value if JSON's own types make it up, with ASCII keys and numbers that need no exponent; else TypeError."""
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int and -(2**53) <= value <= 2**53:
        return value
    if kind is float and 1e-4 <= abs(value) < 2**53:  # written without an exponent here and there
        return int(value) if value.is_integer() else value
    if kind is dict and all(type(key) is str and key.isascii() for key in value):  # else the order could differ
        return {key: _everyday(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return [_everyday(item) for item in value]
    raise TypeError


def _pieces(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        yield json.dumps(value, ensure_ascii=False)
    elif isinstance(value, (int, float)):
        yield _number(value)
    elif isinstance(value, Mapping):
        yield "{"
        for position, key in enumerate(sorted(value, key=lambda k: k.encode("utf-16-be", "surrogatepass"))):
            yield ("," if position else "") + json.dumps(key, ensure_ascii=False) + ":"
            yield from _pieces(value[key])
        yield "}"
    elif isinstance(value, (list, tuple)):
        yield "["
        for position, item in enumerate(value):
            if position:
                yield ","
            yield from _pieces(item)
        yield "]"
    else:
        raise Invalid(f"{type(value).__name__} is not a JSON value. Pass it through plain() first.")


def _number(value: float) -> str:
    """A number as ECMAScript's Number::toString writes it (ECMA-262, 6.1.6.1.20)."""
    if isinstance(value, int) and abs(value) <= 2**53:
        return str(value)
    if not math.isfinite(value):
        raise Invalid(f"{value} has no JSON form. Leave the field out or pass None.")
    number = float(value)
    if number == 0:
        return "0"
    mantissa, _, power = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + ("" if fraction == "0" else fraction)).lstrip("0")
    point = (len(whole) if whole != "0" else len(fraction.lstrip("0")) - len(fraction)) + int(power or 0)
    digits = digits.rstrip("0") or "0"
    return ("-" if number < 0 else "") + _places(digits, point)


def _places(digits: str, point: int) -> str:
    """Digits with the decimal point after `point` of them, in plain or exponent form."""
    count = len(digits)
    if count <= point <= 21:
        return digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return "0." + "0" * -point + digits
    sign = "+" if point > 0 else "-"
    head = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{head}e{sign}{abs(point - 1)}"
