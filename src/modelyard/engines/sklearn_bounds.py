"""Refuses a loaded scikit-learn model whose native structures would lead compiled code outside their memory.

skops and pickle check which types a file holds, not what is in them: a tree's children, a search tree's row numbers or
a sparse matrix's pointers may be forged. Building such objects is safe (scikit-learn 1.9's own __setstate__ copies only
what it is given, and checks its shape); asking them is not. So this looks at every object of a model, once, before the
first row is asked: the structures that are known (engines/sklearn_structures.py) are checked, unknown ones are refused.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np

from modelyard.core.errors import Damaged, Invalid
from modelyard.engines.sklearn_structures import (
    ESTIMATORS,
    HOLDERS,
    NATIVE,
    SPARSE,
    lightgbm_booster,
    sound,
    sparse_matrix,
)

# (holder's place or None, name within it): a place is put in words only where something is refused
Place = tuple[Any, str] | None

_LEAVES = (
    type(None), bool, int, float, complex, str, bytes, bytearray, range, slice, types.FunctionType, np.ufunc, np.dtype,
)  # fmt: skip
_NAMED: Mapping[str, Callable[[Any], str]] = {
    "lightgbm.basic.Booster": lightgbm_booster,
    "scipy.interpolate._interpolate.interp1d": sound,  # IsotonicRegression makes it itself as it is loaded
    "xgboost.core.Booster": sound,  # bounds/skops.py looked at it before XGBoost read it
}
_NUMBERS_ONLY = ("sklearn._loss._loss", "sklearn.linear_model._sgd_fast")  # compiled, but they hold no index
_PACKAGES = ("sklearn", "modelyard", "lightgbm", "xgboost")
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE (CPython, Include/object.h): a class that is not compiled


def refuse_out_of_bounds(model: Any, file: str) -> None:
    """Damaged for a model with indices that lead outside its arrays; Invalid for parts that cannot be checked.

    >>> from sklearn.tree import DecisionTreeClassifier
    >>> model = DecisionTreeClassifier().fit([[0.0], [1.0]], [0, 1])
    >>> refuse_out_of_bounds(model, "model.skops")
    >>> model.tree_.feature[0] = 7
    >>> refuse_out_of_bounds(model, "model.skops")
    Traceback (most recent call last):
    modelyard.core.errors.Damaged: model.skops is refused: its Tree at tree_ splits on a feature beyond its 1. ...
    """
    seen: set[int] = set()
    estimators: list[tuple[Any, Place, Callable[[Any], str]]] = []
    waiting: list[tuple[Any, Any, Place]] = [(model, None, None)]
    while waiting:
        value, holder, place = waiting.pop()
        _check_holder(value, holder, place, file)
        if id(value) in seen:
            continue
        seen.add(id(value))
        kind: Any = type(value)
        estimators += [(value, place, check) for check in _checks(kind)]
        waiting += ((part, owner, (place, name)) for part, owner, name in _parts(value, place, file))
    for value, place, check in estimators:  # last: one tries its model, whose every part must be sound by then
        _refuse(check(value), value, place, file)


def _check_holder(value: Any, holder: Any, place: Place, file: str) -> None:
    allowed = HOLDERS.get(type(value))
    if allowed is not None and not isinstance(holder, allowed):
        _refuse("lies where nothing checks what it is asked", value, place, file)


def _parts(value: Any, place: Place, file: str) -> Iterator[tuple[Any, Any, str]]:
    """(part, the object whose attribute it is, its name) of all that may hold an index; what has no parts is checked here."""
    kind: Any = type(value)
    native = _native(kind)
    if native is not None:
        _refuse(native(value), value, place, file)
    elif kind in (np.ndarray, np.ma.MaskedArray):
        yield from _items(value, place, file)
    elif isinstance(value, (dict, list, tuple, set, frozenset)):
        inner = [*value.items()] if isinstance(value, dict) else enumerate(value)
        for name, one in (*inner, *getattr(value, "__dict__", {}).items()):
            yield from ((part, None, f"[{name!r}]") for part in (name, one) if type(part) not in _LEAVES)
    elif _has_attributes(kind):
        _refuse(_shadows(value), value, place, file)
        yield from ((one, value, f".{name}") for name, one in vars(value).items() if type(one) not in _LEAVES)
    elif not _is_leaf(value):
        raise Invalid(
            f"{file} is refused: {_where(place)} is a {_name(kind)}, which may hold indices that nothing checks. "
            "Build the model from known parts, or export it to ONNX."
        )


@cache
def _native(kind: type) -> Callable[[Any], str] | None:
    return NATIVE.get(kind) or _NAMED.get(_name(kind)) or (sparse_matrix if issubclass(kind, SPARSE) else None)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _items(value: Any, place: Place, file: str) -> Iterator[tuple[Any, Any, str]]:
    if value.dtype == object:
        yield from ((one, None, f"[{i}]") for i, one in enumerate(value.flat) if type(one) not in _LEAVES)
    elif value.dtype.hasobject:
        _refuse("is an array of records with objects, which is not supported", value, place, file)


def _is_leaf(value: Any) -> bool:
    """True for what holds no index: numbers, plain functions, number types and compiled losses."""
    if isinstance(value, type):
        return issubclass(value, (np.generic, int, float, complex, str, bytes))
    return isinstance(value, (*_LEAVES, np.generic)) or type(value).__module__ in _NUMBERS_ONLY


@cache
def _has_attributes(kind: type) -> bool:
    """True for a class written in Python, of a package whose classes keep what they know in attributes."""
    if kind.__module__.partition(".")[0] not in _PACKAGES or kind.__module__ in _NUMBERS_ONLY:
        return False
    return all(base.__flags__ & _HEAP_TYPE for base in kind.__mro__[:-1]) and kind.__dictoffset__ != 0


def _shadows(value: Any) -> str:
    """An attribute of the file's must not stand in for a method or a constant of the class, which the checks rely on."""
    kind: Any = type(value)
    hidden = vars(value).keys() & _names(kind)
    return f"has an attribute {min(hidden)!r} in the place of its class's own" if hidden else ""


@cache
def _names(kind: type) -> frozenset[str]:
    return frozenset(name for base in kind.__mro__ for name in vars(base))


@cache
def _checks(kind: type) -> tuple[Callable[[Any], str], ...]:
    return tuple(ESTIMATORS[base] for base in kind.__mro__ if base in ESTIMATORS)


def _refuse(why: str, value: Any, place: Place, file: str) -> None:
    if why:
        raise Damaged(
            f"{file} is refused: its {type(value).__name__} at {_where(place)} {why}. Asking it could read outside the "
            "model's memory. Save the model again from where it was trained, or export it to ONNX."
        )


def _where(place: Place) -> str:
    names = []
    while place is not None:
        place, name = place
        names.append(name)
    return "".join(reversed(names)).removeprefix(".") or "its root"
