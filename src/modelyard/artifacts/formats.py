"""Which format a file is, by its bytes and never by its name."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from modelyard.artifacts import onnx, saved_model
from modelyard.artifacts.pickles import acts

START = 512
TEXT_LIMIT = 1 << 30
# What every file of the format begins with. Order does not matter: none is the beginning of another.
MAGIC = {
    b"PK\x03\x04": "zip",
    b"\x89HDF\r\n\x1a\n": "hdf5",
    b"PAR1": "parquet",
    b"CBM1": "catboost",
    b"\x93NUMPY": "npy",
    b"tree\n": "lightgbm",  # LightGBM looks at no more than this line
    b"tree\r": "lightgbm",
}
COMPRESSED = {  # the codecs that joblib reads without being asked (joblib, compressor.py), lz4 aside
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
    b"]\x00\x00": "lzma",
}
TEXTS = {"text", "csv", "json", "lightgbm", "xgboost-json"}


def identify(stream: BinaryIO, size: int) -> str:
    """The format's name, or `binary` for bytes that are none of the known ones. The stream is left at its start."""
    stream.seek(0)
    start = stream.read(START)
    stream.seek(0)
    for table in (MAGIC, COMPRESSED):
        for magic, name in table.items():
            if start.startswith(magic):
                return name
    if _is_zlib(start):
        return "zlib"
    if _is_safetensors(start, size):
        return "safetensors"
    if len(start) > 1 and start[0] == 0x80 and start[1] in (2, 3, 4, 5):  # PROTO
        return "pickle"
    if start[:1] == b"{" and start[1:2] in b"iUIlL" and start[1:2]:
        return "xgboost-ubj"
    if saved_model.looks_like(stream, start, size):
        return "saved-model"
    if onnx.looks_like(start):
        return "onnx"
    if start.lstrip()[:1] in (b"{", b"["):
        return "json"
    return _text_or_not(stream, size)


def _is_zlib(start: bytes) -> bool:
    if len(start) < 8 or start[0] != 0x78 or int.from_bytes(start[:2], "big") % 31:
        return False
    try:
        zlib.decompressobj().decompress(start, 64)
    except zlib.error:
        return False
    return True


def _is_safetensors(start: bytes, size: int) -> bool:
    return len(start) >= 10 and start[8:9] == b"{" and 2 <= struct.unpack("<Q", start[:8])[0] <= size - 8


def _text_or_not(stream: BinaryIO, size: int) -> str:
    """Text, unless it is also a pickle of the old text protocol that would call something."""
    found = acts(stream)
    stream.seek(0)
    if found:
        return "pickle"
    text = size <= TEXT_LIMIT and _is_text(stream)
    stream.seek(0)
    return "text" if text else "binary"


def _is_text(stream: BinaryIO) -> bool:
    tail = b""
    while chunk := stream.read(1 << 20):
        if b"\x00" in chunk:
            return False
        try:
            (tail + chunk).decode("utf-8")
            tail = b""
        except UnicodeDecodeError as error:
            tail = (tail + chunk)[error.start :]
            if len(tail) > 3 or error.reason != "unexpected end of data":
                return False
    return not tail
