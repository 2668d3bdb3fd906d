"""Protocol buffers on the wire, without their descriptions (https://protobuf.dev/programming-guides/encoding/)."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.artifacts.inspection import Malformed


def fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, bytes) of each field of a message; the bytes are empty for plain numbers."""
    position, end = 0, len(data)
    while position < end:
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise Malformed("a field has the number 0")
        start = position
        if wire == 0:
            _, position = _varint(data, position)
            start = position
        elif wire == 2:
            length, start = _varint(data, position)
            position = start + length
        elif wire in (1, 5):
            position = start = position + (8 if wire == 1 else 4)
        else:
            raise Malformed(f"a field has the unknown wire type {wire}")
        if position > end:
            raise Malformed("it is cut short")
        yield number, wire, data[start:position]


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise Malformed("it is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise Malformed("a number has more than ten bytes")


def text_of(value: memoryview) -> str:
    """A short text field's value."""
    try:
        return bytes(value[:4096]).decode()
    except UnicodeDecodeError as error:
        raise Malformed("a name is no UTF-8 text") from error


def within(data: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages or texts that lie along a path of field numbers."""
    for number, wire, value in fields(data):
        if number == path[0] and wire == 2:
            if len(path) == 1:
                yield value
            else:
                yield from within(value, *path[1:])


def only(data: memoryview, *path: int) -> str:
    """The one text along a path, empty if there is none; Malformed for two, of which readers might take either."""
    found = [text_of(value) for value in within(data, *path)]
    if len(found) > 1:
        raise Malformed("it gives a name twice")
    return found[0] if found else ""
