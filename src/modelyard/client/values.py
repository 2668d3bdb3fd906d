"""JSON answers as the operations' own return types."""

from __future__ import annotations

import dataclasses
import enum
import math
import typing
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any

import msgspec


def value_of(data: Any, hint: Any) -> Any:
    """The value of a type that its JSON form stands for; ValidationError or TypeError where it stands for none.

    What msgspec refuses is taken apart here: unions of an enumeration and a text.

    >>> from modelyard.core.models import ModelStage
    >>> value_of(["production", "green"], list[ModelStage | str])
    [<ModelStage.PRODUCTION: 'production'>, 'green']
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return data
    if hint is float and data is None:  # JSON has no form for what is no number
        return math.nan
    if dataclasses.is_dataclass(origin or hint) and isinstance(data, dict):
        made = typing.cast("type[Any]", origin or hint)
        hints = typing.get_type_hints(made)
        return made(**{name: value_of(value, _filled(hints[name], made, arguments)) for name, value in data.items()})
    if origin in (typing.Union, UnionType):
        return _one_of(data, arguments)
    if origin in (list, Sequence):
        return [value_of(item, arguments[0]) for item in data]
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(value_of(item, arguments[0]) for item in data)
    if origin is tuple:
        return tuple(value_of(item, one) for item, one in zip(data, arguments, strict=True))
    if origin in (dict, Mapping):
        return {msgspec.convert(k, arguments[0], strict=False): value_of(v, arguments[1]) for k, v in data.items()}
    return msgspec.convert(data, type=hint, strict=False)


def _filled(hint: Any, made: type[Any], arguments: Sequence[Any]) -> Any:
    """A field's type, where the class is of other types: the items of a `Page[Run]` are runs."""
    known = dict(zip(getattr(made, "__parameters__", ()), arguments, strict=True)) if arguments else {}
    if isinstance(hint, typing.TypeVar):
        return known.get(hint, hint)
    open_types = getattr(hint, "__parameters__", ())
    return hint[tuple(known[one] for one in open_types)] if open_types else hint


def _one_of(data: Any, kinds: tuple[Any, ...]) -> Any:
    """The first kind that the data fits: nothing, an enumeration, then the others in order."""
    if data is None and NoneType in kinds:
        return None
    for kind in sorted((k for k in kinds if k is not NoneType), key=lambda k: not _is_enum(k)):
        try:
            return value_of(data, kind)
        except (msgspec.ValidationError, TypeError):
            continue
    raise msgspec.ValidationError(f"{data!r} is none of {kinds}")


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)
