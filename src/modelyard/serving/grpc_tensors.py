"""Tensors in the messages of the gRPC service: typed contents or raw bytes to arrays, and answers in the form of the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
        return cls(request, request.id or None, values(request.parameters))

    def batch(self, model: LoadedModel) -> np.ndarray:
        """The batch for a model; Invalid says which input, or which output that is asked for, is wrong."""
        found = feeds.batch(model.signature, arrays(self.request), model.read)
        for one in self.request.outputs:
            feeds.check_output(one.name, values(one.parameters), model.signature)
        return found

    def reply(self, head: tensors.Head, output: Output) -> Reply:
        """The answer: raw bytes to raw bytes, typed contents to typed contents."""
        response = _Response(model_name=head.endpoint, model_version=head.version, id=head.request_id)
        response.parameters["arm"].string_param = head.arm
        if self.parameters.get("triton_enable_empty_final_response"):
            response.parameters["triton_final_response"].bool_param = True  # one answer a request: each is the last
        found = feeds.outputs(output)
        for name in [one.name for one in self.request.outputs] or found:
            if name not in found:
                raise Invalid(f"There is no output {name!r}: the model gave none.")
            self._add(response, name, found[name])
        return Reply(200, response.SerializeToString(), CONTENT_TYPE)

    def _add(self, response: Any, name: str, answer: np.ndarray) -> None:
        array, datatype = tensors.typed(answer)
        raw = len(self.request.raw_input_contents) > 0
        if datatype == "FP16" and not raw:  # has no typed contents
            array, datatype = array.astype(np.float32), "FP32"
        told = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if raw:
            response.raw_output_contents.append(tensors.to_bytes(array, datatype))
        else:
            flat = tensors.texts(array) if datatype == tensors.BYTES else array.ravel().tolist()
            getattr(told.contents, _CONTENTS[datatype]).extend(flat)


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
