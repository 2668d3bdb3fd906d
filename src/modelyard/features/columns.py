"""Parsing at the rim: values of any shape become typed columns with a mask, entity keys text, times microseconds."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.instants import micros
from modelyard.features.values import Feature, FeatureType

Masked = np.ma.MaskedArray[Any, Any]
DTYPES = {
    FeatureType.FLOAT: np.float64,
    FeatureType.INT: np.int64,
    FeatureType.BOOL: np.bool_,
    FeatureType.STRING: object,
}


def instant(moment: datetime) -> int:
    """Microseconds since 1970 UTC; a time without a zone is UTC.

    >>> instant(datetime(1970, 1, 1, 0, 0, 1))
    1000000
    """
    if not isinstance(moment, datetime) or _is_nan(moment):
        raise Invalid(f"{moment!r} is no time. Pass a datetime.")
    return micros(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def entity_key(value: Any) -> str | None:
    """The text that stands for an entity: whole numbers in digits, so that 7, 7.0 and "7" are one entity; None for null.

    >>> entity_key(7.0), entity_key("007"), entity_key(float("nan"))
    ('7', '007', None)
    """
    if isinstance(value, str):
        return _unicode(value)
    if value is None or _is_nan(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        raise Invalid(f"{value!r} is no entity id. Pass text or a whole number.")
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, uuid.UUID):
        return str(value)
    raise Invalid(f"{value!r} is no entity id. Pass text or a whole number.")


def keys_of(entity_ids: Iterable[Any]) -> list[str | None]:
    """The texts of a list of entity ids, None for null; Invalid for one text, which would be taken apart."""
    if isinstance(entity_ids, str):
        raise Invalid(f"Entities are a list of ids. Pass [{entity_ids!r}].")
    return [entity_key(one) for one in entity_ids]


def entity_keys(values: Masked) -> np.ndarray:
    """The texts of a column of entity ids, None for null: an object array."""
    data, missing = np.ma.getdata(values), np.ma.getmaskarray(values)
    if data.dtype.kind in "iu":
        keys = data.astype(str).astype(object)
    else:
        keys = np.array([x if type(x) is str else entity_key(x) for x in data.tolist()], dtype=object)
        _unicode("".join(x for x in keys.tolist() if x is not None))
    keys[missing] = None
    return keys


def masked(values: Iterable[Any]) -> Masked:
    """Python values as an object column; None and NaN are null."""
    items = list(values)
    data = np.empty(len(items), dtype=object)
    data[:] = items
    return np.ma.MaskedArray(data, mask=[x is None or _is_nan(x) for x in items])


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"An entity id is not valid Unicode: {error.reason}. Correct the text.") from error
    return text


def _is_nan(value: Any) -> bool:
    """True for what is not equal to itself: NaN and NaT."""
    return isinstance(value, (float, np.floating, datetime)) and bool(value != value)  # noqa: PLR0124


def typed(values: Masked, feature: Feature) -> Masked:
    """The column in the feature's own type: float64, int64, bool or text. Invalid names the first value that does not fit."""
    data, missing = np.ma.getdata(values), np.ma.getmaskarray(values).copy()
    if data.dtype.kind in "US":
        data = data.astype(str).astype(object)
    parsed: np.ndarray = np.zeros(len(data), dtype=DTYPES[feature.feature_type])
    if feature.feature_type is FeatureType.STRING:
        parsed[:] = None
    present = data[~missing]
    parsed[~missing] = _PARSERS[feature.feature_type](present, feature)
    if feature.feature_type is FeatureType.FLOAT:
        missing |= np.isnan(parsed)
        parsed[missing] = 0.0
    return np.ma.MaskedArray(parsed, mask=missing)


def _floats(data: np.ndarray, feature: Feature) -> np.ndarray:
    if data.dtype.kind == "O":
        _refuse(data, feature, (int, float, np.integer, np.floating))
        return np.array([float(x) for x in data.tolist()], dtype=np.float64)
    if data.dtype.kind not in "iuf":
        raise _misfit(data, feature)
    return data.astype(np.float64)


def _integers(data: np.ndarray, feature: Feature) -> np.ndarray:
    if data.dtype.kind == "O":
        _refuse(data, feature, (int, float, np.integer, np.floating))
        whole = [x if isinstance(x, int) else _whole(x, feature) for x in data.tolist()]
        if any(not -(2**63) <= x < 2**63 for x in whole):
            raise Invalid(f"{feature.reference} holds 64-bit integers, and {max(whole, key=abs)} does not fit.")
        return np.array(whole, dtype=np.int64)
    if data.dtype.kind == "f":
        return np.array([_whole(x, feature) for x in data.tolist()], dtype=np.int64)
    if data.dtype.kind not in "iu":
        raise _misfit(data, feature)
    if data.dtype.kind == "u" and len(data) and int(data.max()) >= 2**63:
        raise Invalid(f"{feature.reference} holds 64-bit integers, and {data.max()} does not fit.")
    return data.astype(np.int64)


def _whole(value: Any, feature: Feature) -> int:
    number = float(value) if not isinstance(value, np.integer) else int(value)
    if isinstance(number, float) and not (number.is_integer() and -(2.0**63) <= number < 2.0**63):
        raise Invalid(
            f"{feature.reference} holds integers, and {value!r} is none. Round it, or register a FLOAT feature."
        )
    return int(number)


def _bools(data: np.ndarray, feature: Feature) -> np.ndarray:
    if data.dtype.kind == "O":
        _refuse(data, feature, (bool, np.bool_, int, float))
    elif data.dtype.kind not in "biuf":
        raise _misfit(data, feature)
    items = data.tolist()
    for item in items:
        if item not in (0, 1):
            raise Invalid(f"{feature.reference} holds true or false, and {item!r} is neither.")
    return np.array([bool(x) for x in items], dtype=np.bool_)


def _texts(data: np.ndarray, feature: Feature) -> np.ndarray:
    if data.dtype.kind != "O":
        raise _misfit(data, feature)
    _refuse(data, feature, (str,))
    try:
        "".join(data.tolist()).encode()
    except UnicodeEncodeError as error:
        raise Invalid(f"{feature.reference} holds text, and one value is not valid Unicode: {error.reason}.") from error
    return data


_PARSERS = {
    FeatureType.FLOAT: _floats,
    FeatureType.INT: _integers,
    FeatureType.BOOL: _bools,
    FeatureType.STRING: _texts,
}


def _refuse(data: np.ndarray, feature: Feature, allowed: tuple[type, ...]) -> None:
    """Invalid if an object column holds anything but the allowed types (a bool is no number)."""
    strangers = {type(x) for x in data.tolist()}
    for kind in strangers:
        if not issubclass(kind, allowed) or (issubclass(kind, (bool, np.bool_)) and bool not in allowed):
            raise _misfit([x for x in data.tolist() if type(x) is kind], feature)


def _misfit(data: Sequence[Any] | np.ndarray, feature: Feature) -> Invalid:
    first = data[0] if len(data) else None
    first = first.item() if isinstance(first, np.generic) else first  # as it was given, not as NumPy holds it
    return Invalid(
        f"{feature.reference} holds {feature.feature_type.value} values, and {first!r} is a {type(first).__name__}. "
        "Convert the column, or register a feature of that type."
    )
