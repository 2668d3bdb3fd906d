"""Tensors in the messages of the gRPC service: typed contents or raw bytes to arrays, and answers in the form of the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from modelyard.core.errors import Invalid
from modelyard.core.ports import Output
from modelyard.serving import feeds, tensors
from modelyard.serving.grpc_messages import message
from modelyard.serving.replies import Reply

if TYPE_CHECKING:
    from modelyard.serving.loaded import LoadedModel

CONTENT_TYPE = b"application/grpc"
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_FLOATING = {name: tensors.DTYPES[name] for name in ("FP32", "FP64")}
_Request, _Response = message("ModelInferRequest"), message("ModelInferResponse")


def decoded(kind: Any, body: bytes) -> Any:
    """The message in some bytes; Invalid for others."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise Invalid(f"The body is no {kind.DESCRIPTOR.name}: {error}. Send the protocol's message.") from error


def values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as plain values."""
    found = {}
    for name, one in parameters.items():
        kind = one.WhichOneof("parameter_choice")
        found[name] = None if kind is None else getattr(one, kind)
    return found


@dataclass(slots=True)
class Called:
    """A request as it came over gRPC."""

    request: Any
    id: str | None
    parameters: dict[str, Any]

    @classmethod
    def read(cls, body: bytes) -> Called:
        """The request in a message's bytes; Invalid for others."""
        request = decoded(_Request, body)
        return cls(request, request.id or None, values(request.parameters) if len(request.parameters) else {})

    def batch(self, model: LoadedModel) -> np.ndarray:
        """The batch for a model; Invalid says which input, or which output that is asked for, is wrong."""
        request = self.request
        found = one_row(request, len(model.signature.inputs)) if model.plain else None
        if found is None:
            feeds.check_inputs([one.name for one in request.inputs], model.signature)
            found = feeds.batch(model.signature, arrays(request), model.read)
        if len(request.outputs):
            feeds.check_outputs([(one.name, values(one.parameters)) for one in request.outputs], model.signature)
        return found

    def reply(self, head: tensors.Head, output: Output) -> Reply:
        """The answer: raw bytes to raw bytes, typed contents to typed contents."""
        request, found = self.request, feeds.outputs(output)
        raw = len(request.raw_input_contents) > 0
        pieces = [_head(head.endpoint, head.version, head.arm), _field(3, head.request_id.encode())]
        if self.parameters.get("triton_enable_empty_final_response"):
            pieces.append(_LAST)
        contents = []
        for name in [one.name for one in request.outputs] or found:
            if name not in found:
                raise Invalid(f"There is no output {name!r}: the model gave none.")
            array, datatype = tensors.typed(found[name])
            if raw:
                pieces.append(_told(name, datatype, array.shape))
                contents.append(_field(6, tensors.to_bytes(array, datatype)))
            else:
                pieces.append(_typed_output(name, datatype, array))
        return Reply(200, b"".join(pieces + contents), CONTENT_TYPE)


# A message is the sum of its parts: what differs little between answers is kept in bytes, and joined.


@lru_cache(4096)
def _head(endpoint: str, version: str, arm: str) -> bytes:
    response = _Response(model_name=endpoint, model_version=version)
    response.parameters["arm"].string_param = arm
    head: bytes = response.SerializeToString()
    return head


@lru_cache(4096)
def _told(name: str, datatype: str, shape: tuple[int, ...]) -> bytes:
    response = _Response()
    response.outputs.add(name=name, datatype=datatype, shape=shape)
    told: bytes = response.SerializeToString()
    return told


def _typed_output(name: str, datatype: str, array: np.ndarray) -> bytes:
    if datatype == "FP16":  # has no typed contents
        array, datatype = array.astype(np.float32), "FP32"
    response = _Response()
    contents = response.outputs.add(name=name, datatype=datatype, shape=array.shape).contents
    flat = tensors.texts(array) if datatype == tensors.BYTES else array.ravel().tolist()
    getattr(contents, _CONTENTS[datatype]).extend(flat)
    told: bytes = response.SerializeToString()
    return told


def _last() -> bytes:
    """That no more answers follow: there is one a request here."""
    response = _Response()
    response.parameters["triton_final_response"].bool_param = True
    last: bytes = response.SerializeToString()
    return last


_LAST = _last()


def _field(number: int, data: bytes) -> bytes:
    """A field of bytes or text, or a message, on the wire (https://protobuf.dev/programming-guides/encoding)."""
    size, length = len(data), []
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes((number << 3 | 2, *length)) + data


def streamed(answer: bytes) -> bytes:
    """An answer as the message of a stream."""
    return _field(2, answer)


def one_row(request: Any, width: int) -> np.ndarray | None:
    """One row of finite numbers in one raw tensor as the batch; None for anything that has to be looked at more closely."""
    raw, inputs = request.raw_input_contents, request.inputs
    if len(raw) != 1 or len(inputs) != 1 or width < 2:
        return None
    tensor, dtype = inputs[0], _FLOATING.get(inputs[0].datatype)
    if dtype is None or list(tensor.shape) != [1, width] or len(raw[0]) != width * dtype.itemsize:
        return None
    if tensor.HasField("contents"):
        return None
    row = np.frombuffer(raw[0], dtype).astype(np.float64)
    return row.reshape(1, width) if isfinite(row.sum()) else None  # a sum is finite only if every term is


def arrays(request: Any) -> dict[str, np.ndarray]:
    """Each input's array in its shape."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise Invalid(
            f"The request has {len(request.inputs)} inputs, but {len(raw)} raw_input_contents. Send one for each input."
        )
    found: dict[str, np.ndarray] = {}
    for place, tensor in enumerate(request.inputs):
        name, shape, datatype = tensor.name, list(tensor.shape), tensor.datatype
        if name in found:
            raise Invalid(f"The input {name!r} is given twice. Send it once.")
        count = tensors.elements(name, shape, datatype)
        if raw:
            if tensor.HasField("contents"):
                raise Invalid(f"The input {name!r} has contents and raw_input_contents. Send the one or the other.")
            flat = tensors.from_bytes(name, datatype, count, memoryview(raw[place]))
        else:
            flat = _typed(tensor, name, datatype, count)
        found[name] = flat.reshape(shape)
    return found


def _typed(tensor: Any, name: str, datatype: str, count: int) -> np.ndarray:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise Invalid(f"The input {name!r} is {datatype}, which only goes as bytes. Send raw_input_contents.")
    others = [one.name for one, _ in tensor.contents.ListFields() if one.name != field]
    if others:
        raise Invalid(f"The input {name!r} is {datatype}, but has {others[0]}. Send {field}.")
    given = list(getattr(tensor.contents, field))
    if len(given) != count:
        raise Invalid(f"The input {name!r} has {len(given)} values in {field}, but its shape holds {count}.")
    if datatype == tensors.BYTES:
        return tensors.objects([tensors.text(name, one) for one in given])
    try:
        return tensors.array_of(given, datatype)
    except OverflowError as error:
        raise Invalid(f"The input {name!r} has a value that {datatype} cannot hold: {error}.") from error
