"""A pickle's opcodes and their arguments, read exactly as the unpickler reads them.

`pickletools.genops` decodes escapes in names and ids, which the unpickler does not, and warns of unknown escapes.
"""

from __future__ import annotations

import codecs
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

_ESCAPE = re.compile(rb"""\\(?:[\n\\'"abfnrtvx]|[0-3][0-7]{2}|([4-7][0-7]{2})|[0-7]{1,2})|\\(?!\Z)""")
LINE_LIMIT = 1 << 20
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def operations(stream: BinaryIO) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int]]:
    """(opcode, argument, position) up to STOP; ValueError where a reader would fail."""
    while True:
        position, code = stream.tell(), stream.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise ValueError(f"it has the unknown opcode {code!r}" if code else "it ends without STOP")
        yield opcode, _argument(opcode, stream), position
        if opcode.name == "STOP":
            return


def _argument(opcode: pickletools.OpcodeInfo, stream: BinaryIO) -> Any:
    own = _READERS.get(opcode.name)
    if own is not None:
        return own(stream)
    return None if opcode.arg is None else opcode.arg.reader(stream)


def _line(stream: BinaryIO) -> bytes:
    line = stream.readline(LINE_LIMIT)
    if not line.endswith(b"\n"):
        raise ValueError("a line is cut short")
    return line[:-1]


def _names(stream: BinaryIO) -> str:
    return f"{_line(stream).decode()} {_line(stream).decode()}"


def _plain(stream: BinaryIO) -> str:
    return _line(stream).decode("ascii")


def _string(stream: BinaryIO) -> str:
    data = _line(stream)
    if len(data) < 2 or data[:1] != data[-1:] or data[:1] not in b"\"'":
        raise ValueError("a text has no quotes")
    plain, _ = codecs.escape_decode(_ESCAPE.sub(_known, data[1:-1]))
    return bytes(plain).decode("ascii")


def _known(match: re.Match[bytes]) -> bytes:
    """The escape in a form that means the same and needs no warning: an unknown one stands for itself."""
    if match[1]:
        return b"\\x%02x" % (int(match[1], 8) & 0xFF)
    return match[0] if len(match[0]) > 1 else b"\\\\"


_READERS: Mapping[str, Callable[[BinaryIO], Any]] = {
    "GLOBAL": _names,
    "INST": _names,
    "PERSID": _plain,
    "STRING": _string,
}
