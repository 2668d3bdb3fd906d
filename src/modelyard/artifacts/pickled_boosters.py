"""Boosters within pickles: they hand their state to their library as they are built, which reads it unchecked."""

from __future__ import annotations

import re
from typing import Any

from modelyard.artifacts import boosters
from modelyard.artifacts.inspection import Foreign
from modelyard.artifacts.standins import OPAQUE, Made, Name

LIGHTGBM, XGBOOST = Name("lightgbm.basic", "Booster"), Name("xgboost.core", "Booster")
ENCODE, BYTEARRAYS = Name("_codecs", "encode"), (Name("builtins", "bytearray"), Name("__builtin__", "bytearray"))


def check_built(made: Made) -> None:
    """Refuse a booster whose state is held in an unknown way, or whose indices lead outside its arrays."""
    named = (made.maker, *(made.arguments if isinstance(made.arguments, tuple) else ()))
    if LIGHTGBM in named or XGBOOST in named:
        kind, key = ("lightgbm", "_handle") if LIGHTGBM in named else ("xgboost-snapshot", "handle")
        state = made.state if isinstance(made.state, dict) else {}
        held = _held_bytes(state.get(key))
        if held is None or OPAQUE in state or {"handle", "_handle"} & state.keys() != {key}:
            raise Foreign("it holds a booster in an unknown way")
        boosters.refuse_out_of_bounds(kind, held)


def _held_bytes(value: Any) -> bytes | None:
    """What a str or a bytearray holds, as pickles of any protocol write it; None for what is neither."""
    match value:
        case str():
            return value.encode("utf-8", "surrogatepass")
        case bytes() | bytearray():
            return bytes(value)
        case Made(maker=maker, arguments=(inner,)) if maker in BYTEARRAYS and not isinstance(inner, str):
            return _held_bytes(inner)
        case Made(maker=maker, arguments=(str(text), "latin1")) if maker == ENCODE and not re.search(
            "[^\x00-\xff]", text
        ):
            return text.encode("latin-1")
    return None
