"""The arrays that joblib writes as raw bytes into a pickle: how many bytes follow a description (numpy_pickle.py)."""

from __future__ import annotations

import math
import re
from typing import Any

from modelyard.artifacts.inspection import Foreign, Malformed
from modelyard.artifacts.standins import Made, Name

WRAPPER = Name("joblib.numpy_pickle", "NumpyArrayWrapper")
DTYPE = Name("numpy", "dtype")
ARRAYS = (Name("numpy", "ndarray"), Name("numpy", "memmap"))
_ITEM = re.compile(r"[<>=|]?([?biufcSUVMm])(\d{1,6})")


def raw_size(state: Any) -> int | None:
    """The bytes of the array that a wrapper's state describes; None where a pickle of its items follows instead."""
    if not isinstance(state, dict) or not {"subclass", "shape", "order", "dtype"} <= set(state):
        raise Foreign("an array is described in an unknown way")
    if state["subclass"] not in ARRAYS:
        raise Foreign("an array has an unknown class")
    if _holds_objects(state["dtype"]):
        return None
    size = _item_size(state["dtype"])
    shape = state["shape"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise Malformed("an array's shape is no tuple of numbers")
    return math.prod(shape, start=size)


def _holds_objects(dtype: Any) -> bool:
    """True for NumPy's plain object type, as NumPy writes it: neither a record, nor one whose flags say otherwise."""
    if not isinstance(dtype, Made) or dtype.maker != DTYPE or not isinstance(dtype.arguments, tuple):
        return False
    if dtype.arguments[:1] not in (("O8",), ("O4",)) or not isinstance(dtype.state, tuple) or len(dtype.state) < 8:
        return False
    return dtype.state[2:5] == (None, None, None) and type(dtype.state[7]) is int and dtype.state[7] & 1 == 1


def _item_size(dtype: Any) -> int:
    """Bytes of one item of a dtype that holds no Python objects (numpy: dtype.__reduce__)."""
    arguments = dtype.arguments if isinstance(dtype, Made) and dtype.maker == DTYPE else None
    if not isinstance(arguments, tuple) or not arguments or not isinstance(arguments[0], str):
        raise Foreign("an array has a type that is not written as NumPy writes it")
    match = _ITEM.fullmatch(arguments[0])
    if match is None:
        raise Foreign(f"an array holds items of type {arguments[0]!r}, which may be objects")
    size = int(match[2]) * (4 if match[1] == "U" else 1)
    if dtype.built:
        _check_dtype_state(dtype.state, size, record=match[1] == "V", sized=match[1] in "SUV")
    return size


def _check_dtype_state(state: Any, size: int, *, record: bool, sized: bool) -> None:
    """A dtype's state may not change its size or let it hold objects: (version, byte order, sub-array, field names,
    fields, item size, alignment, flags, ...). Flags 1, 2 and 4 say that items are objects."""
    if not isinstance(state, tuple) or len(state) < 8 or state[2] is not None:
        raise Foreign("an array's type is written in an unknown way")
    if type(state[7]) is not int or state[7] & 0x07:
        raise Foreign("an array's type says that its items are objects")
    if state[5] != (size if sized else -1):
        raise Malformed("an array's type gives two sizes")
    fields = state[4]
    if fields is None and state[3] is None:
        return
    if not record or not isinstance(fields, dict):
        raise Foreign("an array's record type is written in an unknown way")
    for value in fields.values():
        if not isinstance(value, tuple) or not value:
            raise Foreign("an array's record type is written in an unknown way")
        _item_size(value[0])
