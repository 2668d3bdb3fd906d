"""LightGBM's and XGBoost's own files: whether their trees stay within their arrays (modelyard.bounds says so)."""

from __future__ import annotations

from typing import Any, BinaryIO

from modelyard.artifacts.inspection import Inspection, Malformed
from modelyard.bounds import OutOfBounds
from modelyard.core import plugins

SIZE_LIMIT = 2 << 30


def lightgbm(stream: BinaryIO, size: int) -> Inspection:
    """A text model, whole and within its bounds."""
    refuse_out_of_bounds("lightgbm", _bytes(stream, size))
    return Inspection(format="lightgbm")


def ubj(stream: BinaryIO, size: int) -> Inspection:
    """A binary model, whole and within its bounds."""
    refuse_out_of_bounds("xgboost", _bytes(stream, size))
    return Inspection(format="xgboost-ubj")


def is_xgboost(value: Any) -> bool:
    """True for a JSON value that XGBoost would take for a model; it does not ask for a version."""
    learner = value.get("learner") if isinstance(value, dict) else None
    return isinstance(learner, dict) and "gradient_booster" in learner


def refuse_out_of_bounds(kind: str, *held: Any) -> None:
    """Malformed for a booster whose indices lead outside its arrays. The checks need NumPy, and are loaded on use."""
    try:
        plugins.load("bounds", kind)(*held)
    except OutOfBounds as error:
        raise Malformed(str(error)) from error


def _bytes(stream: BinaryIO, size: int) -> bytes:
    if size > SIZE_LIMIT:
        raise Malformed(f"it is a booster of more than {SIZE_LIMIT:,} bytes")
    return stream.read()
