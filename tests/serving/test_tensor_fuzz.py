"""The tensor parsers of HTTP and gRPC against a slow reading of the same request by struct, value by value."""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.core.ports import Output
from modelyard.serving import tensors

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
SIZES = {**{name: struct.calcsize(code) for name, code in FORMATS.items()}, "BF16": 2}
BOUNDS = {name: 2 ** (8 * SIZES[name] - (not name.startswith("U"))) for name in FORMATS if "INT" in name}
DATATYPES = [*FORMATS, "BF16", "BYTES"]


class Wrong(Exception):
    """The slow reader finds the request malformed."""


# the slow reader


def slowly_from_bytes(datatype: str, count: int, data: bytes) -> list[Any]:
    """The elements in some bytes, one by one."""
    if datatype == "BYTES":
        found, rest = [], data
        while rest:
            if len(rest) < 4:
                raise Wrong
            (size,) = struct.unpack("<I", rest[:4])
            if len(rest) < 4 + size:
                raise Wrong
            try:
                found.append(rest[4 : 4 + size].decode())
            except UnicodeDecodeError:
                raise Wrong from None
            rest = rest[4 + size :]
        if len(found) != count:
            raise Wrong
        return found
    size = SIZES[datatype]
    if len(data) != size * count:
        raise Wrong
    pieces = [data[place : place + size] for place in range(0, len(data), size)]
    if datatype == "BF16":  # the upper half of an FP32
        return [struct.unpack("<f", b"\0\0" + piece)[0] for piece in pieces]
    if datatype == "BOOL" and any(piece not in (b"\0", b"\1") for piece in pieces):
        raise Wrong
    return [struct.unpack("<" + FORMATS[datatype], piece)[0] for piece in pieces]


def slowly_from_json(datatype: str, shape: list[int], data: Any) -> list[Any]:
    """The elements of JSON data, one by one: flat, or nested exactly in the shape."""
    if data is None or datatype == "BF16":
        raise Wrong
    flat = data if isinstance(data, list) else [data]
    if flat and isinstance(flat[0], list):
        flat = unnested(data, shape)
    if len(flat) != math.prod(shape):
        raise Wrong
    return [element(datatype, one) for one in flat]


def unnested(data: Any, shape: list[int]) -> list[Any]:
    if not shape:
        return [data]
    if not isinstance(data, list) or len(data) != shape[0]:
        raise Wrong
    return [one for inner in data for one in unnested(inner, shape[1:])]


def element(datatype: str, one: Any) -> Any:
    if datatype == "BYTES":
        ok = one is None or isinstance(one, str)
    elif datatype == "BOOL":
        ok = isinstance(one, bool)
    elif "INT" in datatype:
        top = BOUNDS[datatype]
        ok = isinstance(one, int) and not isinstance(one, bool) and (0 if datatype[0] == "U" else -top) <= one < top
    else:
        ok = one is None or (isinstance(one, (int, float)) and not isinstance(one, bool))
    if not ok:
        raise Wrong
    if datatype.startswith("FP"):
        return rounded(datatype, math.nan if one is None else one)
    return one


def rounded(datatype: str, one: float) -> float:
    try:
        return struct.unpack("<" + FORMATS[datatype], struct.pack("<" + FORMATS[datatype], float(one)))[0]
    except OverflowError:  # beyond the type's largest: infinity
        return math.copysign(math.inf, one)


def slowly(request: dict[str, Any], rest: bytes) -> dict[str, tuple[list[int], list[Any]]]:
    """Each input's shape and elements."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for one in request["inputs"]:
        shape, datatype = one["shape"], one["datatype"]
        if one["name"] in found or datatype not in DATATYPES or not 1 <= len(shape) <= 8 or min(shape) < 0:
            raise Wrong
        if max(shape) > 1 << 28 or math.prod(shape) > 1 << 28:
            raise Wrong
        size = one.get("parameters", {}).get("binary_data_size")
        if size is None:
            found[one["name"]] = shape, slowly_from_json(datatype, shape, one.get("data"))
            continue
        if (
            isinstance(size, bool)
            or not isinstance(size, int)
            or not 0 <= size <= len(rest)
            or one.get("data") is not None
        ):
            raise Wrong
        found[one["name"]] = shape, slowly_from_bytes(datatype, math.prod(shape), rest[:size])
        rest = rest[size:]
    if rest:
        raise Wrong
    return found


def quickly(body: bytes, length: bytes | None) -> dict[str, np.ndarray]:
    """The same by what is tested."""
    sent = tensors.parse(body, length)
    return tensors.arrays(sent.request, sent.rest)


# requests, most of them nearly right

shapes = st.lists(st.integers(0, 3), min_size=1, max_size=3)
floats = st.floats(allow_nan=False, allow_infinity=False)
ELEMENTS = {
    "BOOL": st.booleans(),
    "BYTES": st.text(max_size=5),
    **{name: st.integers(0 if name[0] == "U" else -top, top - 1) for name, top in BOUNDS.items()},
    **{name: floats | st.integers(-(2**60), 2**60) for name in ("FP16", "FP32", "FP64")},
}
odd = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), floats, st.text(max_size=3), st.just([]), st.just({})
)


@st.composite
def tensor(draw: st.DrawFn, name: str) -> tuple[dict[str, Any], bytes]:
    """A tensor and the bytes that follow for it."""
    datatype, shape = draw(st.sampled_from(DATATYPES)), draw(shapes)
    count = math.prod(shape)
    told: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
    data = b""
    if datatype == "BF16" or draw(st.booleans()):
        data = draw(packed(datatype, count))
        told["parameters"] = {"binary_data_size": len(data)}
    else:
        flat = draw(st.lists(ELEMENTS[datatype], min_size=count, max_size=count))
        told["data"] = nested(flat, shape) if count and draw(st.booleans()) else flat
    return draw(spoilt(told, data))


@st.composite
def packed(draw: st.DrawFn, datatype: str, count: int) -> bytes:
    if datatype == "BYTES":
        texts = draw(st.lists(st.text(max_size=5), min_size=count, max_size=count))
        return b"".join(struct.pack("<I", len(one.encode())) + one.encode() for one in texts)
    size = SIZES[datatype] * count
    if datatype == "BOOL":
        return bytes(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    return draw(st.binary(min_size=size, max_size=size))


def nested(flat: list[Any], shape: list[int]) -> list[Any]:
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0]
    return [nested(flat[place : place + step], shape[1:]) for place in range(0, len(flat), step)]


@st.composite
def spoilt(draw: st.DrawFn, told: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Now and then something is wrong."""
    match draw(st.sampled_from(["", "", "", "data", "shape", "datatype", "size", "bytes", "both", "flip"])):
        case "data" if told.get("data"):
            told["data"] = [*told["data"][:-1], draw(odd)]
        case "shape":
            told["shape"] = draw(st.lists(st.integers(-1, 4) | st.just(2**40), max_size=9))
        case "datatype":
            told["datatype"] = draw(st.sampled_from([*DATATYPES, "FP8", "bool", ""]))
        case "size":
            told["parameters"] = {"binary_data_size": draw(st.integers(-2, 30) | odd)}
        case "bytes":
            data = data[:-1] if draw(st.booleans()) else data + draw(st.binary(max_size=3))
        case "both" if data:
            told["data"] = [1]
        case "flip" if data:
            place = draw(st.integers(0, len(data) - 1))
            data = data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]
    return told, data


def same(quick: np.ndarray, shape: list[int], slow: list[Any]) -> bool:
    if list(quick.shape) != shape:
        return False
    if quick.dtype == object:
        return quick.ravel().tolist() == slow
    if quick.dtype.kind == "f":
        return np.array_equal(quick.ravel().astype(float), np.array(slow, dtype=float), equal_nan=True)
    return quick.ravel().tolist() == slow


@settings(max_examples=600)
@given(st.tuples(tensor("a"), tensor("b")), st.sampled_from([b"", b"", b"", b"\0"]))
def test_http_reads_what_the_slow_reader_reads_and_refuses_what_it_refuses(
    given_: tuple[tuple[dict[str, Any], bytes], ...], tail: bytes
) -> None:
    request = {"inputs": [told for told, _ in given_]}
    rest = b"".join(data for _, data in given_) + tail
    text = json.dumps(request).encode()
    try:
        expected = slowly(request, rest)
    except Wrong:
        with pytest.raises(Invalid):
            quickly(text + rest, b"%d" % len(text))
        return
    found = quickly(text + rest, b"%d" % len(text))
    assert found.keys() == expected.keys()
    for name, (shape, slow) in expected.items():
        assert same(found[name], shape, slow)


@settings(max_examples=300)
@given(st.tuples(tensor("a"), tensor("b")), st.data())
def test_a_cut_or_shifted_body_is_read_or_refused_and_nothing_else(
    given_: tuple[tuple[dict[str, Any], bytes], ...], data: st.DataObject
) -> None:
    text = json.dumps({"inputs": [told for told, _ in given_]}).encode()
    body = text + b"".join(piece for _, piece in given_)
    body = body[: data.draw(st.integers(0, len(body)))]
    length = data.draw(st.sampled_from([b"%d" % len(text), b"", b"-1", b"x", b"9" * 13, "１".encode(), None]))
    try:
        found = quickly(body, length)
    except Invalid:
        return
    assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":['])
@pytest.mark.parametrize(
    "place", ["%s", '{"inputs":%s', '{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":%s']
)
def test_nesting_bombs_are_refused(opening: bytes, place: str) -> None:
    with pytest.raises(Invalid):
        tensors.parse(place.encode() % (opening * 300_000), None)


@given(
    st.sampled_from(["<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "<i1", "<u1", "<u2", "<u4", "<u8", "?", "O"]),
    st.integers(1, 4),
    st.sampled_from([None, True, False]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_an_answer_is_read_back_by_the_slow_reader(
    dtype: str, rows: int, all_binary: bool | None, first: bool, second: bool, data: st.DataObject
) -> None:
    raw = data.draw(st.lists(st.integers(0, 100), min_size=rows, max_size=rows))
    predictions = np.array([str(one) for one in raw] if dtype == "O" else raw, dtype=dtype if dtype != "O" else object)
    output = Output(predictions=predictions, probabilities=np.linspace(0, 1, rows * 3).reshape(rows, 3))
    wanted = [
        tensors.Wanted("probabilities", {"binary_data": first}),
        tensors.Wanted("predictions", {"binary_data": second}),
    ]
    chosen = data.draw(st.sampled_from([None, wanted, wanted[:1], wanted[1:]]))
    parameters = {} if all_binary is None else {"binary_data_output": all_binary}
    request = tensors.InferRequest(inputs=[], parameters=parameters, outputs=chosen)
    reply = tensors.answer(request, output, tensors.Head("m", "v1", "baseline", "r"))
    length = dict(reply.headers).get(b"inference-header-content-length")
    cut = len(reply.body) if length is None else int(length)
    told, rest = json.loads(reply.body[:cut]), reply.body[cut:]
    assert [one["name"] for one in told["outputs"]] == (
        ["predictions", "probabilities"] if chosen is None else [one.name for one in chosen]
    )
    expected = {"predictions": predictions.tolist(), "probabilities": output.probabilities.ravel().tolist()}
    for place, one in enumerate(told["outputs"]):
        binary = all_binary or False if chosen is None else chosen[place].parameters["binary_data"]
        assert ("data" not in one) == binary
        elements = one.get("data")
        if binary:
            size = one["parameters"]["binary_data_size"]
            elements = slowly_from_bytes(one["datatype"], math.prod(one["shape"]), rest[:size])
            rest = rest[size:]
        assert elements == expected[one["name"]]
    assert rest == b""
