"""Checks of the formats that hold only numbers: safetensors and NumPy arrays."""

from __future__ import annotations

import ast
import json
import math
import struct
from typing import Any, BinaryIO

from modelyard.artifacts.inspection import Inspection, Malformed

HEADER_LIMIT = 100_000_000  # the safetensors specification's own
SAFETENSORS_BITS = {  # safetensors, src/tensor.rs
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip


def strict_json(text: bytes | str) -> Any:
    """The JSON value of the text; a repeated key, a constant that JSON lacks or endless nesting is Malformed."""
    try:
        return json.loads(text, object_pairs_hook=_unrepeated, parse_constant=_no_constant)
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:
        raise Malformed(f"it is no JSON: {str(error)[:120]}") from error


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Malformed("a JSON object repeats a key")
    return made


def _no_constant(text: str) -> float:
    """NaN and infinities, which Python, NumPy and XGBoost write although JSON has none."""
    return float(text)


def safetensors(stream: BinaryIO, size: int) -> Inspection:
    """The header's tensors must cover the data without hole or overlap (safetensors, README, Format)."""
    length = struct.unpack("<Q", _exactly(stream, 8))[0]
    if length > HEADER_LIMIT or 8 + length > size:
        raise Malformed("its header is longer than the file")
    header = strict_json(_exactly(stream, length))
    if not isinstance(header, dict):
        raise Malformed("its header is no JSON object")
    spans = sorted(_span(name, entry) for name, entry in header.items() if name != "__metadata__")
    end = 0
    for start, stop in spans:
        if start != end:
            raise Malformed("its tensors overlap or leave a hole")
        end = stop
    if 8 + length + end != size:
        raise Malformed("its tensors do not cover the file")
    return Inspection(format="safetensors")


def _span(name: str, entry: Any) -> tuple[int, int]:
    try:
        bits, shape, (start, stop) = SAFETENSORS_BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise Malformed(f"its tensor {name[:80]!r} is described in an unknown way") from error
    whole = [start, stop, *shape] if isinstance(shape, list) else [None]
    if not all(type(number) is int and number >= 0 for number in whole):
        raise Malformed(f"its tensor {name[:80]!r} has offsets or sides that are no whole numbers")
    if math.prod(shape) * bits != (stop - start) * 8:
        raise Malformed(f"its tensor {name[:80]!r} has a shape that does not fit its bytes")
    return start, stop


def npy(stream: BinaryIO, size: int) -> Inspection:
    """A NumPy array without objects, exactly as long as its header says (numpy/lib/format.py)."""
    magic = _exactly(stream, 8)
    wide = magic[6] > 1
    if magic[6] not in (1, 2, 3):
        raise Malformed(f"it has the unknown version {magic[6]}")
    length = struct.unpack("<I" if wide else "<H", _exactly(stream, 4 if wide else 2))[0]
    if length > 1_000_000:
        raise Malformed("its header is too long")
    try:
        header = ast.literal_eval(_exactly(stream, length).decode("utf-8" if magic[6] == 3 else "latin-1"))
        descr, shape = header["descr"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError) as error:
        raise Malformed("its header cannot be read") from error
    item = _npy_item(descr, 0)
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise Malformed("its shape is no tuple of whole numbers")
    if stream.tell() + math.prod(shape) * item != size:
        raise Malformed("its length does not fit its shape")
    return Inspection(format="npy")


def _npy_item(descr: Any, depth: int) -> int:
    if depth > 20:
        raise Malformed("its type is nested too deeply")
    if isinstance(descr, str):
        kind, digits = descr[1:2], descr[2:].partition("[")[0]
        if kind == "O":
            raise Malformed("it holds Python objects, which are a pickle. Save numbers, or use allow_pickle=False")
        if kind not in "biufcSUVMm" or not digits.isascii() or not digits.isdigit() or len(digits) > 9:
            raise Malformed(f"its type {descr[:40]!r} is unknown")
        return int(digits) * (4 if kind == "U" else 1)
    if isinstance(descr, list):
        return sum(_npy_field(field, depth) for field in descr)
    raise Malformed("its type is written in an unknown way")


def _npy_field(field: Any, depth: int) -> int:
    if not isinstance(field, tuple) or len(field) not in (2, 3):
        raise Malformed("its record type is written in an unknown way")
    shape = field[2] if len(field) == 3 else ()
    sides = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(side) is int and side >= 0 for side in sides):
        raise Malformed("its record type is written in an unknown way")
    return _npy_item(field[1], depth + 1) * math.prod(sides)


def _exactly(stream: BinaryIO, length: int) -> bytes:
    data = stream.read(length)
    if len(data) != length:
        raise Malformed("it is cut short")
    return data
