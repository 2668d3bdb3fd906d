"""Large JSON bodies, read in slices: a decoder holds the interpreter until it has ended, and others are to be answered.

Their long lists (the rows of `features`, the numbers of a tensor's `data`) are cut where an element ends. That is exact: a
piece between two brackets is a list of its own only if the whole is, at that place, between two elements of the same list.
The rest of the body is read as any other, with the lists away. A body of another kind is read whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid
from modelyard.serving import tensors
from modelyard.serving.asked import Features
from modelyard.serving.loaded import LoadedModel

LARGE = 512 << 10  # bytes of a body that is read in slices: what is smaller takes some milliseconds
SLICE = 32 << 10  # half a millisecond
MOST = 32 * SLICE  # of one element: what holds larger ones is read whole
HEAD = 4096  # where `features` begins
ENDS = 8  # brackets that are tried, from the last one on, for the end of the rows

_FEATURES = re.compile(rb'(?<!\\)"features"\s*:\s*\[')
_DATA = re.compile(rb"\s*:\s*\[")
_ROWS, _NUMBERS, _LISTS = re.compile(rb"\}\s*,\s*\{"), re.compile(rb","), re.compile(rb"\]\s*,\s*\[")
_BYTE, _PLACE, _ROW = re.compile(r"\(byte (\d+)\)"), re.compile(r"\$\[(\d+)\]"), re.compile(r"\ARow (\d+)")
_CUT = "modelyard:cut:"

_rows = msgspec.json.Decoder(list[dict[str, Any]]).decode
_lines = msgspec.json.Decoder(dict[str, Any]).decode_lines
_floats = msgspec.json.Decoder(list[float]).decode
_float_lists = msgspec.json.Decoder(list[list[float]]).decode
_lists = msgspec.json.Decoder(list[list[Any]]).decode
_plain = msgspec.json.Decoder(list[Any]).decode
_features = msgspec.json.Decoder(Features).decode
_request = msgspec.json.Decoder(tensors.InferRequest).decode


class Uncut(Exception):
    """A body that is read whole."""


async def rows(body: bytes, choose: Callable[[Features], LoadedModel]) -> np.ndarray:
    """The batch of a body of named features, for the model that is chosen by what it says besides; Invalid or a
    MsgspecError says what is wrong."""
    try:
        found = Rows(body)
        return await found.batch(choose(found.given))
    except Uncut:
        given = _features(body)
        return choose(given).batch(given.features)


async def named(body: bytes) -> Features:
    """A body of named features as it is, its rows read in slices."""
    try:
        found = Rows(body)
        return Features(
            [row async for some in found.records() for row in some], found.given.request_id, found.given.unit_id
        )
    except Uncut:
        return _features(body)


async def lines(body: bytes) -> list[dict[str, Any]]:
    """The rows of a body that has one a line."""
    rows: list[dict[str, Any]] = []
    start = 0
    while start < len(body):
        end = body.find(b"\n", start + SLICE) + 1 or len(body)
        piece = body[start:end]
        try:
            rows += _lines(piece) if not piece.isspace() else []
        except msgspec.DecodeError as error:
            if "truncated" in str(error):  # a row of several lines
                return _lines(body)
            raise type(error)(_moved(_BYTE, _moved(_PLACE, str(error), len(rows)), start)) from error
        start = end
        await asyncio.sleep(0)
    return rows


class Rows:
    """The rows of a body of named features; `given` is what it says besides."""

    def __init__(self, body: bytes) -> None:
        found = _FEATURES.search(body, 0, HEAD)
        if found is None:
            raise Uncut
        self._body, self._start = body, found.end()
        self._end, self.given = self._ended()

    def _ended(self) -> tuple[int, Features]:
        """Where the list of rows ends, and the body without it."""
        end = len(self._body)
        for _ in range(ENDS):
            end = self._body.rfind(b"]", self._start, end)
            if end < 0 or len(self._body) - end > HEAD:
                break
            try:
                given = _features(self._body[: self._start] + self._body[end:])
            except msgspec.MsgspecError:
                continue
            if given.features == []:
                return end, given
        raise Uncut

    async def records(self) -> AsyncIterator[list[dict[str, Any]]]:
        """The rows, some at a time; others have their turn between."""
        row = 0
        for place in _slices(self._body, self._start, self._end, _ROWS):
            some = _read(self._body, place, _rows, row, "$.features")
            yield some
            row += len(some)
            await asyncio.sleep(0)

    async def batch(self, model: LoadedModel) -> np.ndarray:
        """The model's batch; Invalid names the row that is wrong."""
        parts, row = [], 0
        async for some in self.records():
            try:
                parts.append(model.batch(some))
            except Invalid as error:
                raise Invalid(_moved(_ROW, str(error), row)) from error
            row += len(some)
        return np.concatenate(parts)


async def sent(body: bytes) -> tensors.Sent:
    """A request of tensors in JSON; Invalid says what is wrong."""
    try:
        return await _sent(body)
    except Uncut:
        return tensors.parse(body, None)
    except msgspec.DecodeError as error:
        raise Invalid(
            f"The body is no inference request: {error}. Send inputs with name, shape and datatype."
        ) from error


async def _sent(body: bytes) -> tensors.Sent:
    """The request, its long data as arrays by now."""
    cuts = list(_long(body))
    if not cuts:
        raise Uncut
    pieces, at = [], 0
    for number, (start, end, _) in enumerate(cuts):
        pieces += [body[at : start - 1], b'"%s%d"' % (_CUT.encode(), number)]
        at = end + 1
    try:
        request = _request(b"".join((*pieces, body[at:])))
    except msgspec.MsgspecError:
        raise Uncut from None
    names = [one.data for one in request.inputs if isinstance(one.data, str) and one.data.startswith(_CUT)]
    if names != [f"{_CUT}{number}" for number in range(len(cuts))]:
        raise Uncut
    holders = [one for one in request.inputs if isinstance(one.data, str) and one.data.startswith(_CUT)]
    for tensor, (start, end, nested) in zip(holders, cuts, strict=True):
        tensors.elements(tensor.name, tensor.shape, tensor.datatype)
        if tensor.datatype not in tensors.DTYPES or (nested and len(tensor.shape) != 2):
            raise Uncut
        tensor.data = await _array(body, start, end, tensor, nested=nested)
    return tensors.Sent(request, memoryview(b""), request.id, request.parameters)


def _long(body: bytes) -> Iterator[tuple[int, int, bool]]:
    """The long lists of numbers that a body has as `data`: from, to, and whether they are in lists of their own."""
    at = 0
    while (at := body.find(b'"data"', at)) >= 0:
        at += 6
        begun = _DATA.match(body, at)
        if begun is None or body[at - 7 : at - 6] == b"\\":
            continue
        start = begun.end()
        nested = body[start : start + 1] == b"["
        end = body.find(b"]]", start) + 1 if nested else body.find(b"]", start)
        if end <= start or any(body.find(mark, start, end) >= 0 for mark in (b'"', b"{")):
            raise Uncut
        if end - start > SLICE:
            yield start, end, nested
        at = end


async def _array(body: bytes, start: int, end: int, tensor: tensors.Tensor, *, nested: bool) -> np.ndarray:
    """A tensor's data; Invalid as of a small one."""
    parts, seen, count = [], 0, 0
    floats = tensors.DTYPES[tensor.datatype].kind == "f"
    for place in _slices(body, start, end, _LISTS if nested else _NUMBERS):
        try:
            values = _read(body, place, _float_lists if nested else _floats, seen, "$") if floats else None
        except msgspec.ValidationError:
            values = None  # null is a number here, and text is told below
        if values is None:
            values = _read(body, place, _lists if nested else _plain, seen, "$")
        if not values:  # a comma too many
            raise Uncut
        seen += len(values)
        if nested and set(map(len, values)) != {tensor.shape[1]}:
            raise _unlike(tensor, f"its lists differ in length from the shape {tensor.shape}")
        try:
            flat = list(chain.from_iterable(values)) if nested else values
            parts.append(tensors.array_of(flat, tensor.datatype))
        except (msgspec.MsgspecError, ValueError) as error:
            raise _unlike(tensor, _moved(_PLACE, str(error), count)) from error
        except OverflowError as error:
            raise Invalid(
                f"The input {tensor.name!r} has a value that {tensor.datatype} cannot hold: {error}."
            ) from error
        count += len(flat)
        del values, flat
        await asyncio.sleep(0)
    if nested and seen != tensor.shape[0]:
        raise _unlike(tensor, f"it has {seen} lists, but the shape {tensor.shape} asks for {tensor.shape[0]}")
    return np.concatenate(parts)


def _unlike(tensor: tensors.Tensor, why: str) -> Invalid:
    return Invalid(f"The data of the input {tensor.name!r} is no {tensor.datatype} array: {why}.")


def _slices(body: bytes, start: int, end: int, between: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """The places of the slices of a list's elements. `between` matches the end of one, a comma, and the beginning of another."""
    while end - start > SLICE:
        found = between.search(body, start + SLICE, min(start + MOST, end))
        if found is None:
            if end - start > MOST:
                raise Uncut
            break
        comma = body.index(b",", found.start(), found.end())
        yield start, comma
        start = comma + 1
    yield start, end


def _read(body: bytes, place: tuple[int, int], decode: Any, before: int, path: str) -> Any:
    """The elements of a slice; a DecodeError tells what is no JSON or of another kind as of the whole."""
    start, end = place
    try:
        return decode(b"[%s]" % body[start:end])
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(_moved(_PLACE, str(error), before).replace("$[", f"{path}[", 1)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        byte, trailing = _BYTE.search(str(error)), "trailing" in str(error)
        if byte is None or trailing or int(byte[1]) > end - start:  # cut within an element, or behind the list's end
            raise Uncut from None
        raise msgspec.DecodeError(_moved(_BYTE, str(error), start - 1)) from error


def _moved(pattern: re.Pattern[str], text: str, before: int) -> str:
    """An error of a slice with its number in the whole."""
    return pattern.sub(lambda found: found[0].replace(found[1], str(int(found[1]) + before)), text, count=1)
