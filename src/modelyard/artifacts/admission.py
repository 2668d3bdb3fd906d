"""Which files may come in: a closed list of formats, each checked by its content.

A malformed file is refused. A sound one that could run code, or reach outside itself, is unsafe: it may only be kept in
quarantine. Scanners that list what is forbidden miss what nobody thought of; this lists what is allowed.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import tempfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from modelyard.artifacts import keras, onnx, packed, pickles, saved_model, tensors, trusted, zips
from modelyard.artifacts.formats import identify
from modelyard.artifacts.inspection import External, Foreign, Inspection, Malformed
from modelyard.core.errors import Damaged
from modelyard.core.models import PACKAGE_MANIFEST
from modelyard.core.packages import manifest_of

RULES_VERSION = 1  # raise it when a rule changes: files admitted under another version are inspected again
JSON_LIMIT = 512 << 20
INFLATED_LIMIT = 8 << 30
MANIFEST_LIMIT = 16 << 20
CHUNK = 1 << 20
OPENERS: Mapping[str, Callable[[BinaryIO], Any]] = {
    "gzip": lambda stream: gzip.GzipFile(fileobj=stream),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
    "lzma": lzma.LZMAFile,
}
FORMATS_OF = {  # what a package may hold for each framework it names
    "onnx": {"onnx"},
    "sklearn": {"skops"},
    "lightgbm": {"lightgbm"},
    "xgboost": {"xgboost-json", "xgboost-ubj"},
    "torch": {"torch", "safetensors"},
    "tensorflow": {"keras"},
}


def inspect(stream: BinaryIO, size: int) -> Inspection:
    """The format of the bytes and whether they are safe to load; Malformed if they are not what they begin as."""
    if size == 0:
        return Inspection(format="empty")
    return _checked(identify(stream, size), stream, size)


def inspect_folder(files: Mapping[str, Inspection], sizes: Mapping[str, int], manifest: bytes | None) -> Inspection:
    """What a folder of inspected files is as a whole, by relative path."""
    needed = {path for name, one in files.items() for path in _needed(name, one, sizes)}
    unsafe: list[str] = []
    for name, one in files.items():
        if one.format == "binary" and name not in needed:
            raise Malformed(f"{name} is none of the formats that modelyard knows")
        unsafe += [f"{name}: {why}" for why in one.unsafe]
    if manifest is not None:
        _check_manifest(manifest, files)
    return Inspection(format="folder" if manifest is None else "modelyard", unsafe=tuple(unsafe))


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
    value = tensors.strict_json(stream.read())
    model = isinstance(value, dict) and {"learner", "version"} <= set(value)
    return Inspection(format="xgboost-json" if model else "json")


def _lightgbm(stream: BinaryIO, _: int) -> Inspection:
    """The parts that LightGBM writes, in their order (LightGBM, gbdt_model_text.cpp, SaveModelToString)."""
    expected = iter((b"num_class=", b"max_feature_idx=", b"feature_names=", b"tree_sizes=", b"end of trees"))
    wanted = next(expected)
    for line in stream:
        if b"\x00" in line:
            raise Malformed("it is no text")
        if line.startswith(wanted):
            wanted = next(expected, b"")
            if not wanted:
                return Inspection(format="lightgbm")
    raise Malformed(f"it is cut short: the part {wanted.decode()!r} is missing")


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


def _needed(name: str, found: Inspection, sizes: Mapping[str, int]) -> list[str]:
    """The members of the folder that a file refers to; Malformed where it reaches outside or past an end."""
    return [_resolved(name, external, sizes) for external in found.needs]


def _resolved(name: str, external: External, sizes: Mapping[str, int]) -> str:
    parts = external.path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in external.path or ":" in parts[0]:
        raise Malformed(f"{name} refers to {external.path[:80]!r}, which is no plain path beside it")
    path = str(PurePosixPath(name).parent / external.path)
    if path not in sizes:
        raise Malformed(f"{name} refers to {external.path[:80]!r}, which is not in the folder")
    if external.offset + (external.length or 0) > sizes[path]:
        raise Malformed(f"{name} refers to bytes past the end of {external.path[:80]!r}")
    return path


def _check_manifest(manifest: bytes, files: Mapping[str, Inspection]) -> None:
    """Each file that a package names must be there and be what it is named for."""
    try:
        named = manifest_of(manifest[:MANIFEST_LIMIT]).files
    except Damaged as error:
        raise Malformed(str(error)) from error
    for framework, name in named.items():
        if name not in files:
            raise Malformed(f"{PACKAGE_MANIFEST} names {name}, which is not in the folder")
        expected = FORMATS_OF.get(framework)
        if expected is not None and files[name].format not in expected:
            raise Malformed(f"{PACKAGE_MANIFEST} calls {name} {framework}, but it is {files[name].format}")


_CHECKS: Mapping[str, Callable[[BinaryIO, int], Inspection]] = {
    "onnx": onnx.onnx,
    "safetensors": tensors.safetensors,
    "npy": tensors.npy,
    "xgboost-ubj": tensors.ubj,
    "lightgbm": _lightgbm,
    "parquet": _parquet,
    "hdf5": keras.weights,
    "saved-model": saved_model.saved_model,
}
