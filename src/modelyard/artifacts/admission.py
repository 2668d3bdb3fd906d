"""Which files may come in: a closed list of formats, each checked by its content.

A malformed file is refused. A sound one that could run code, or reach outside itself, is unsafe: it may only be kept in
quarantine. Scanners that list what is forbidden miss what nobody thought of; this lists what is allowed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from modelyard.artifacts import boosters, keras, onnx, packed, pickles, saved_model, tensors, trusted, zips
from modelyard.artifacts.formats import identify
from modelyard.artifacts.inspection import Foreign, Inspection, Malformed

RULES_VERSION = 3  # raise it when a rule changes: files admitted under another version are inspected again
JSON_LIMIT = 512 << 20
INFLATED_LIMIT = 8 << 30
CHUNK = 1 << 20
_FIGURES = re.compile(rb"\[[-+0-9.eE,\s]{64,}\]")
OPENERS: Mapping[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "lzma": lzma.LZMAFile,
}


def inspect(stream: BinaryIO, size: int) -> Inspection:
    """The format of the bytes and whether they are safe to load; Malformed if they are not what they begin as."""
    if size == 0:
        return Inspection(format="empty")
    return _checked(identify(stream, size), stream, size)


def inspect_alone(found: Inspection) -> Inspection:
    """The same for a file that is registered by itself."""
    if found.format in ("binary", "empty"):
        what = "is empty" if found.format == "empty" else "is none of the formats that modelyard knows"
        raise Malformed(f"it {what}. Save the model as ONNX, safetensors, skops, or its framework's own text or JSON")
    if found.needs:
        raise Malformed(f"its data lie in {found.needs[0].path!r} beside it. Register the folder that holds both")
    return found


def _checked(found: str, stream: BinaryIO, size: int) -> Inspection:
    if found == "pickle":
        return _pickle(stream)
    if found == "zip":
        return packed.inspect(stream, size, inspect_member)
    if found == "json":
        return _json(stream, size)
    if found == "text":
        return Inspection(format=_kind_of_text(stream))
    if found in OPENERS or found == "zlib":
        return _compressed(found, stream)
    check = _CHECKS.get(found)
    return check(stream, size) if check else Inspection(format=found)


def inspect_member(stream: BinaryIO, size: int) -> Inspection:
    """The same for a file within a zip, where no further zip may be, other than NumPy's."""
    if size == 0:
        return Inspection(format="empty")
    found = identify(stream, size)
    if found == "zip":
        inner = packed.inspect(stream, size, _no_zip)
        if inner.format != "npz":
            raise Malformed("a zip file lies within a zip file")
        return inner
    return _checked(found, stream, size)


def _no_zip(stream: BinaryIO, size: int) -> Inspection:
    found = "empty" if size == 0 else identify(stream, size)
    if found != "npy":
        raise Malformed("a zip file lies within a zip file")
    return _checked(found, stream, size)


def _pickle(stream: BinaryIO) -> Inspection:
    try:
        unsafe = pickles.unlisted(stream, trusted.PICKLE)
    except Foreign as error:
        unsafe = [str(error)]
    return Inspection(format="pickle", unsafe=tuple(unsafe))


def _json(stream: BinaryIO, size: int) -> Inspection:
    if size > JSON_LIMIT:
        raise Malformed(f"it is JSON of more than {JSON_LIMIT:,} bytes. Save it in its framework's binary form")
    # long rows of figures are most of a model and none of its structure
    data = stream.read()
    value = tensors.strict_json(_FIGURES.sub(b"[]", data))
    if boosters.is_xgboost(value):
        boosters.refuse_out_of_bounds("xgboost", data)
        return Inspection(format="xgboost-json")
    keys = set(value) if isinstance(value, dict) else set()
    return Inspection(format="catboost-json" if {"features_info", "model_info"} <= keys else "json")


def _catboost(stream: BinaryIO, size: int) -> Inspection:
    """CatBoost's binary form: its mark, the length of a flatbuffer, the flatbuffer, then tables (model.fbs)."""
    head = stream.read(12)
    length, root = struct.unpack("<II", head[4:]) if len(head) == 12 else (0, 0)
    if not 8 <= length <= size - 8 or not 4 <= root <= length - 4:
        raise Malformed("it is cut short")
    return Inspection(format="catboost")


def _parquet(stream: BinaryIO, size: int) -> Inspection:
    stream.seek(max(size - 8, 0))
    tail = stream.read(8)
    if size < 12 or tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > size - 12:
        raise Malformed("it is cut short")
    return Inspection(format="parquet")


def _kind_of_text(stream: BinaryIO) -> str:
    lines = stream.read(64_000).decode("utf-8", "ignore").splitlines()[:20]
    try:
        widths = {len(row) for row in csv.reader(lines[: max(len(lines) - 1, 1)], strict=True) if row}
    except csv.Error:
        return "text"
    return "csv" if len(widths) == 1 and widths.pop() > 1 and len(lines) > 1 else "text"


def _compressed(codec: str, stream: BinaryIO) -> Inspection:
    """What a compressed file holds, inflated within bounds first."""
    with tempfile.TemporaryFile() as copy:
        try:
            _inflate(codec, stream, copy)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise Malformed(f"its {codec} compression is not sound: {str(error)[:120]}") from error
        size = copy.tell()
        inner = "empty" if size == 0 else identify(copy, size)
        if inner in OPENERS or inner in ("zlib", "zip", "empty", "binary"):
            raise Malformed(f"it is {inner} within {codec}")
        found = _checked(inner, copy, size)
    return Inspection(format=f"{codec}+{found.format}", unsafe=found.unsafe, needs=found.needs)


def _inflate(codec: str, stream: BinaryIO, copy: BinaryIO) -> None:
    total, packed = 0, stream.seek(0, 2)
    stream.seek(0)
    for chunk in _zlib_chunks(stream) if codec == "zlib" else _chunks(OPENERS[codec](stream)):
        total += len(chunk)
        if total > INFLATED_LIMIT or total > max(zips.FREE_RATIO, zips.RATIO_LIMIT * packed):
            raise Malformed(f"it inflates to more than {total:,} bytes, too many for its {packed:,}")
        copy.write(chunk)


def _chunks(source: Any) -> Any:
    while chunk := source.read(CHUNK):
        yield chunk


def _zlib_chunks(stream: BinaryIO) -> Any:
    inflater = zlib.decompressobj()
    waiting = stream.read(CHUNK)
    while waiting and not inflater.eof:
        yield inflater.decompress(waiting, CHUNK)
        waiting = inflater.unconsumed_tail or stream.read(CHUNK)
    if not inflater.eof:
        raise Malformed("it is cut short")
    if inflater.unused_data or stream.read(1):
        raise Malformed("bytes follow its end")


_CHECKS: Mapping[str, Callable[[BinaryIO, int], Inspection]] = {
    "onnx": onnx.onnx,
    "safetensors": tensors.safetensors,
    "npy": tensors.npy,
    "xgboost-ubj": boosters.ubj,
    "lightgbm": boosters.lightgbm,
    "parquet": _parquet,
    "catboost": _catboost,
    "hdf5": keras.weights,
    "saved-model": saved_model.saved_model,
}
