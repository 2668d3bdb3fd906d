"""Open Inference Protocol v2 over HTTP: tensors in JSON and in its binary extension, to arrays and from answers.

Source: https://github.com/kserve/open-inference-protocol (HTTP/REST) and Triton's binary tensor data extension.
Datatypes, shapes and bytes are the same over gRPC. `feeds` makes a model's batch of the arrays.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid, nearest
from modelyard.core.ports import Output
from modelyard.serving import feeds, malformed
from modelyard.serving.replies import BINARY, JSON, Reply

if TYPE_CHECKING:
    from modelyard.serving.loaded import LoadedModel

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
BF16, BYTES = "BF16", "BYTES"  # BF16 is the upper half of an FP32, and becomes one: NumPy has none
DATATYPES = [*DTYPES, BF16, BYTES]
MAX_ELEMENTS = 1 << 28
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_FLOAT32 = 3.4e38  # just below what a float32 holds
_FLOATING = frozenset(("FP16", "FP32", "FP64"))
_FLOATS, _LISTS = np.dtype("<f8"), {list}
_encode = msgspec.json.Encoder(enc_hook=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)).encode


class Tensor(msgspec.Struct):
    """An input as it is sent; `data` is absent where its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: Any = None


class Wanted(msgspec.Struct):
    """An output as it is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct):
    """The JSON of POST .../infer."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[Wanted] | None = None


class NumbersTensor(Tensor):
    """An input whose data are numbers in a flat list: checked and made floats while they are decoded."""

    data: list[float] | None = None


class NumbersRequest(InferRequest):
    """A request with such inputs only: most are, and are read in one pass."""

    inputs: list[NumbersTensor]  # type: ignore[assignment]  # a list that is only read


class Answered(msgspec.Struct, gc=False):
    """One output in the answer."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    data: Any = msgspec.UNSET


class InferResponse(msgspec.Struct, gc=False):
    """The JSON of its answer."""

    model_name: str
    model_version: str
    id: str
    parameters: dict[str, str]
    outputs: list[Answered]


@dataclass(slots=True)
class Sent:
    """A request as it came over HTTP: its JSON, and the bytes that follow it."""

    request: InferRequest
    rest: memoryview
    id: str | None
    parameters: dict[str, Any]

    def batch(self, model: LoadedModel) -> Array:
        """The batch for a model; Invalid says which input, or which output that is asked for, is wrong."""
        request, signature = self.request, model.signature
        found = one_row(request, self.rest, len(signature.inputs)) if model.plain else None
        if found is None:
            feeds.check_inputs([one.name for one in request.inputs], signature)
            found = feeds.batch(signature, arrays(request, self.rest), model.read)
        if request.outputs:
            feeds.check_outputs([(one.name, one.parameters) for one in request.outputs], signature)
        if self.parameters:
            feeds.check_flag(self.parameters, "binary_data_output")
        return found

    def reply(self, head: Head, output: Output) -> Reply:
        """The answer, with the outputs in the forms that were asked for."""
        return answer(self.request, output, head)


@dataclass(slots=True)
class Head:
    """Who answered which request."""

    endpoint: str
    version: str
    arm: str
    request_id: str


_request = msgspec.json.Decoder(InferRequest).decode
_numbers = msgspec.json.Decoder(NumbersRequest).decode


def parse(body: bytes, told: bytes | None) -> Sent:
    """The request and the bytes that follow its JSON, whose length the client told; Invalid says what is wrong."""
    head, rest = (body, memoryview(b"")) if told is None else _parted(body, told)
    try:
        request = _decoded(head)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        text = f"The body is no inference request: {error}. Send inputs with name, shape and datatype."
        raise Invalid(malformed.fault(head) or text) from error
    return Sent(request, rest, request.id, request.parameters)


def _decoded(head: bytes | memoryview) -> InferRequest:
    try:
        request = _numbers(head)
    except msgspec.ValidationError:  # other data than numbers, or what is no request at all
        return _request(head)
    for one in request.inputs:
        if one.data is not None and one.datatype not in _FLOATING:
            return _request(head)  # 1.0 is no INT64, and the largest of those are no float
    return request


def _parted(body: bytes, told: bytes) -> tuple[memoryview, memoryview]:
    if not told.isdigit() or len(told) > 12:
        raise Invalid("Inference-Header-Content-Length is no number. Send the length of the JSON part.")
    length = int(told)
    if length > len(body):
        raise Invalid(
            f"Inference-Header-Content-Length is {length}, but the body has {len(body)} bytes. "
            "Send the length of the JSON part."
        )
    view = memoryview(body)
    return view[:length], view[length:]


def one_row(request: InferRequest, rest: memoryview, width: int) -> Array | None:
    """One row of finite numbers in one tensor as the batch; None for anything that has to be looked at more closely."""
    if len(request.inputs) != 1 or width < 2 or len(rest):
        return None
    tensor = request.inputs[0]
    datatype, values = tensor.datatype, tensor.data
    if tensor.shape != [1, width] or tensor.parameters or (datatype != "FP32" and datatype != "FP64"):  # noqa: PLR1714 - quicker
        return None
    if type(tensor) is not NumbersTensor or values is None or len(values) != width:
        return None
    if max(map(abs, values)) > _FLOAT32:
        return None
    row = np.array((values,), dtype=DTYPES[datatype])
    return row if datatype == "FP64" else row.astype(_FLOATS)


def arrays(request: InferRequest, rest: memoryview) -> dict[str, Array]:
    """Each input's array in its shape, from JSON or from the bytes that follow it."""
    found: dict[str, Array] = {}
    offset = 0
    for tensor in request.inputs:
        name, shape, size = tensor.name, tensor.shape, tensor.parameters.get("binary_data_size")
        if name in found:
            raise Invalid(f"The input {name!r} is given twice. Send it once.")
        count = elements(name, shape, tensor.datatype)
        if size is None:
            flat = _from_json(tensor, count)
        else:
            left = len(rest) - offset
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= left:
                raise Invalid(
                    f"The input {name!r} has binary_data_size {size!r}, but {left} bytes are left. Send its bytes after "
                    "the JSON, and the JSON's length in the header Inference-Header-Content-Length."
                )
            if tensor.data is not None:
                raise Invalid(f"The input {name!r} has data and binary_data_size. Send the one or the other.")
            flat = from_bytes(name, tensor.datatype, count, rest[offset : offset + size])
            offset += size
        found[name] = flat.reshape(shape)
    if offset != len(rest):
        raise Invalid(f"{len(rest) - offset} bytes follow the last input. Send binary_data_size for each binary input.")
    return found


def elements(name: str, shape: Sequence[int], datatype: str) -> int:
    """How many elements an input has; Invalid for a datatype or shape that there is not."""
    if datatype not in DATATYPES:
        raise Invalid(f"The input {name!r} has the unknown datatype {datatype!r}. {nearest(datatype, DATATYPES)}")
    if not 1 <= len(shape) <= 8 or any(size < 0 for size in shape):
        raise Invalid(f"The input {name!r} has the shape {list(shape)[:9]}. Give 1 to 8 sizes, none negative.")
    count = math.prod(shape)
    if max(shape) > MAX_ELEMENTS or count > (feeds.MAX_ROWS if datatype == BYTES else MAX_ELEMENTS):
        raise Invalid(f"The input {name!r} has {count} elements. Send smaller batches.")
    return count


def _from_json(tensor: Tensor, count: int) -> Array:
    name, datatype = tensor.name, tensor.datatype
    if tensor.data is None:
        raise Invalid(f"The input {name!r} has no data. Send data, or binary_data_size and the bytes.")
    if isinstance(tensor.data, np.ndarray):  # of a large body (`large`), and checked
        if len(tensor.data) != count:
            raise _unlike(
                name, datatype, f"it has {len(tensor.data)} values, but the shape {tensor.shape} holds {count}"
            )
        return tensor.data
    if datatype == BF16:
        raise Invalid(f"The input {name!r} is BF16, which only goes as bytes. Send binary_data_size, or FP32.")
    try:
        values = _flat(tensor.data, tensor.shape)
        if len(values) != count:
            raise ValueError(f"it has {len(values)} values, but the shape {tensor.shape} holds {count}")
        return _floats(values, DTYPES[datatype]) if type(tensor) is NumbersTensor else array_of(values, datatype)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _unlike(name, datatype, str(error)) from error
    except OverflowError as error:
        raise Invalid(f"The input {name!r} has a value that {datatype} cannot hold: {error}.") from error


def _unlike(name: str, datatype: str, why: str) -> Invalid:
    return Invalid(f"The data of the input {name!r} is no {datatype} array: {why}.")


def _flat(data: Any, shape: Sequence[int]) -> list[Any]:
    """The flat list of a tensor's data, which may be nested in its shape; a bare value is an array of one."""
    level: list[Any] = data if isinstance(data, list) else [data]
    if not level or not isinstance(level[0], list):
        return level
    if len(level) != shape[0]:
        raise ValueError(f"it has {len(level)} lists, but the shape {list(shape)} asks for {shape[0]}")
    for size in shape[1:]:
        if set(map(type, level)) != _LISTS or any(size != length for length in set(map(len, level))):
            raise ValueError(f"its lists differ in length from the shape {list(shape)}")
        level = list(chain.from_iterable(level))
    return level


def array_of(values: list[Any], datatype: str) -> Array:
    """Checked values as an array: they are looked at one by one in C only, and text, null or true is no number."""
    if datatype == BYTES:
        return objects(msgspec.convert(values, list[str | None]))
    dtype = DTYPES[datatype]
    if dtype.kind == "f":
        return _checked_floats(values, dtype)
    if dtype.kind == "b":
        return np.array(msgspec.convert(values, list[bool]), dtype=dtype)
    return np.array(msgspec.convert(values, list[int]), dtype=dtype)


def _checked_floats(values: list[Any], dtype: np.dtype[Any]) -> Array:
    """As a number, null is not-a-number."""
    try:
        return _floats(msgspec.convert(values, list[float]), dtype)
    except msgspec.ValidationError:
        return _rounded(np.array(msgspec.convert(values, list[float | None]), dtype=_FLOATS), dtype)


def _floats(values: list[float], dtype: np.dtype[Any]) -> Array:
    packed = struct.pack(f"<{len(values)}d", *values)  # a third of the time that np.array takes
    return _rounded(np.frombuffer(packed, _FLOATS), dtype)


def _rounded(wide: Array, dtype: np.dtype[Any]) -> Array:
    """What is beyond the type's largest becomes infinite, which no model takes."""
    with np.errstate(over="ignore"):
        return wide.astype(dtype, copy=False)


def from_bytes(name: str, datatype: str, count: int, data: memoryview) -> Array:
    """An input's flat array from its little-endian bytes; BYTES elements each follow their length of four bytes."""
    if datatype == BYTES:
        return objects(_texts(name, count, data))
    dtype = DTYPES["UINT16" if datatype == BF16 else datatype]
    if len(data) != count * dtype.itemsize:
        raise Invalid(
            f"The input {name!r} has {len(data)} bytes, but {count} elements of {datatype} take "
            f"{count * dtype.itemsize}."
        )
    flat = np.frombuffer(data, dtype=dtype)
    if datatype == BF16:
        return (flat.astype("<u4") << 16).view("<f4")
    if datatype == "BOOL" and len(data) and flat.view(np.uint8).max() > 1:
        raise Invalid(f"The input {name!r} has a byte that is no BOOL. Send 0 or 1.")
    return flat


def _texts(name: str, count: int, data: memoryview) -> list[str]:
    found, offset, end = [], 0, len(data)
    length = struct.Struct("<I").unpack_from
    while offset < end:
        if offset + 4 > end:
            raise Invalid(f"The input {name!r} ends within the length of an element.")
        start = offset + 4
        offset = start + length(data, offset)[0]
        if offset > end:
            raise Invalid(f"The input {name!r} ends within an element of {offset - start} bytes.")
        found.append(text(name, data[start:offset]))
    if len(found) != count:
        raise Invalid(f"The input {name!r} has {len(found)} elements, but its shape holds {count}.")
    return found


def text(name: str, data: bytes | memoryview) -> str:
    """An element of BYTES, which is text here."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise Invalid(f"The input {name!r} has an element that is no UTF-8 text. Send text.") from error


def objects(values: list[Any]) -> Array:
    """An array of texts, some of which may be missing."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def answer(request: InferRequest, output: Output, head: Head) -> Reply:
    """The response; its binary tensors follow the JSON, whose length a header tells."""
    values = feeds.outputs(output)
    wanted = request.outputs or None
    if wanted is None and not request.parameters:
        return Reply(200, _encode(_response(head, [_in_json(name, array) for name, array in values.items()])))
    binary = request.parameters.get("binary_data_output") is True
    outputs: list[Answered] = []
    pieces: list[bytes] = []
    for name in values if wanted is None else [one.name for one in wanted]:
        if name not in values:
            raise Invalid(f"There is no output {name!r}. {nearest(name, list(values))}")
        if binary if wanted is None else wanted[len(outputs)].parameters.get("binary_data", binary):
            array, datatype = typed(values[name])
            piece = to_bytes(array, datatype)
            outputs.append(Answered(name, array.shape, datatype, {"binary_data_size": len(piece)}))
            pieces.append(piece)
        else:
            outputs.append(_in_json(name, values[name]))
    body = _encode(_response(head, outputs))
    if not pieces:
        return Reply(200, body, JSON)
    length = (b"inference-header-content-length", b"%d" % len(body))
    return Reply(200, b"".join((body, *pieces)), BINARY, (length,))


def _in_json(name: str, answer: Array) -> Answered:
    array, datatype = typed(answer)
    return Answered(name, array.shape, datatype, msgspec.UNSET, array.ravel().tolist())


def _response(head: Head, outputs: list[Answered]) -> InferResponse:
    return InferResponse(head.endpoint, head.version, head.request_id, {"arm": head.arm}, outputs)


def typed(array: Array) -> tuple[Array, str]:
    """The array in a type that the protocol has, and its name."""
    name = _NAMES.get(array.dtype)
    if name is not None:
        return array, name
    if array.dtype.kind in "OUS":
        return array.astype(object), BYTES
    return array.astype(_FLOATS), "FP64"


def to_bytes(array: Array, datatype: str) -> bytes:
    """A tensor's little-endian bytes."""
    if datatype != BYTES:
        return array.astype(DTYPES[datatype], copy=False).tobytes()
    return b"".join(struct.pack("<I", len(one)) + one for one in texts(array))


def texts(array: Array) -> list[bytes]:
    """The elements of a BYTES output."""
    return [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel().tolist()]
