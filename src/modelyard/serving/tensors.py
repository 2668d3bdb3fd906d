"""Open Inference Protocol v2: tensors in JSON and in its binary extension, to a model's batch and back.

Source: https://github.com/kserve/open-inference-protocol (HTTP/REST) and Triton's binary tensor data extension.
A request gives either one tensor for each input, named as in the metadata, or one numeric tensor of shape (rows, inputs).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid, nearest
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

DTYPES = {
    "BOOL": "?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_LETTERS = {"B": "b", "U": "i", "I": "i", "F": "f"}  # by a datatype's first letter: BOOL, UINT, INT, FP
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
KINDS = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}
PREDICTIONS, PROBABILITIES = "predictions", "probabilities"
MAX_ROWS = 1 << 20
_FLOAT32 = 3.4e38  # just below what a float32 holds


class Tensor(msgspec.Struct):
    """An input as it is sent; `data` is absent where its bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


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


_request = msgspec.json.Decoder(InferRequest)
_flat: dict[str, Callable[[Any], Any]] = {
    "b": msgspec.json.Decoder(list[bool]).decode,
    "i": msgspec.json.Decoder(list[int]).decode,
    "f": msgspec.json.Decoder(list[float | None]).decode,
    "s": msgspec.json.Decoder(list[str | None]).decode,
}
_floats = msgspec.json.Decoder(list[float]).decode
_any = msgspec.json.Decoder().decode
_ITEMS: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "f": (float, int, type(None)),
    "s": (str, type(None)),
}


def parse(body: bytes, json_length: int | None) -> tuple[InferRequest, memoryview]:
    """The request and the bytes that follow its JSON; Invalid says what is wrong."""
    if json_length is not None and not 0 <= json_length <= len(body):
        raise Invalid(
            f"Inference-Header-Content-Length is {json_length}, but the body has {len(body)} bytes. "
            "Send the length of the JSON part."
        )
    view = memoryview(body)
    head = view if json_length is None else view[:json_length]
    try:
        request = _request.decode(head)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(
            f"The body is no inference request: {error}. Send inputs with name, shape and datatype."
        ) from error
    return request, view[len(head) :]


def arrays(request: InferRequest, rest: memoryview) -> dict[str, np.ndarray]:
    """Each input's array in its shape, from JSON or from the bytes that follow it."""
    found: dict[str, np.ndarray] = {}
    offset = 0
    for tensor in request.inputs:
        if tensor.name in found:
            raise Invalid(f"The input {tensor.name!r} is given twice. Send it once.")
        count = _count(tensor)
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            flat = _from_json(tensor, count)
        else:
            if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest) - offset:
                raise Invalid(
                    f"The input {tensor.name!r} has binary_data_size {size!r}, but {len(rest) - offset} bytes are left."
                )
            flat = _from_bytes(tensor, count, rest[offset : offset + size])
            offset += size
        found[tensor.name] = flat.reshape(tensor.shape)
    if offset != len(rest):
        raise Invalid(f"{len(rest) - offset} bytes follow the last input. Send binary_data_size for each binary input.")
    return found


def one_row(request: InferRequest, rest: memoryview, width: int) -> np.ndarray | None:
    """One row of finite numbers in one tensor as the batch; None for anything that has to be looked at more closely."""
    if len(request.inputs) != 1 or width < 2 or len(rest):
        return None
    tensor = request.inputs[0]
    if tensor.shape != [1, width] or tensor.datatype not in ("FP32", "FP64") or tensor.parameters:
        return None
    try:
        values = _floats(tensor.data)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    if len(values) != width or max(map(abs, values)) > _FLOAT32:
        return None
    return np.array((values,), dtype=DTYPES[tensor.datatype]).astype(np.float64)


def _count(tensor: Tensor) -> int:
    if tensor.datatype not in DTYPES and tensor.datatype != "BYTES":
        known = nearest(tensor.datatype, [*DTYPES, "BYTES"])
        raise Invalid(f"The input {tensor.name!r} has the unknown datatype {tensor.datatype!r}. {known}")
    if not 1 <= len(tensor.shape) <= 8 or any(size < 0 for size in tensor.shape):
        raise Invalid(f"The input {tensor.name!r} has the shape {tensor.shape}. Give 1 to 8 sizes, none negative.")
    count = math.prod(tensor.shape)
    if count > 1 << 28:
        raise Invalid(f"The input {tensor.name!r} has {count} elements. Send smaller batches.")
    return count


def _from_json(tensor: Tensor, count: int) -> np.ndarray:
    if not len(tensor.data):
        raise Invalid(f"The input {tensor.name!r} has no data. Send data, or binary_data_size and the bytes.")
    letter = _letter(tensor.datatype)
    try:
        values = _values(tensor.data, letter)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise Invalid(f"The data of the input {tensor.name!r} is no {tensor.datatype} array: {error}.") from error
    if len(values) != count:
        raise Invalid(
            f"The input {tensor.name!r} has {len(values)} values, but the shape {tensor.shape} holds {count}."
        )
    if letter == "s":
        return _objects(values)
    try:
        with np.errstate(over="ignore"):
            return np.array(values, dtype=DTYPES[tensor.datatype])
    except (OverflowError, ValueError, TypeError) as error:
        raise Invalid(f"The input {tensor.name!r} has a value that {tensor.datatype} cannot hold: {error}.") from error


def _values(data: msgspec.Raw, letter: str) -> list[Any]:
    """The flat list of a tensor's JSON data, which may be nested in its shape."""
    if letter == "f":
        try:
            return _floats(data)  # the common case, checked and converted in C
        except msgspec.ValidationError:
            pass
    try:
        flat: list[Any] = _flat[letter](data)
    except msgspec.ValidationError:
        return _flattened(_any(data), letter)
    return flat


def _flattened(value: Any, letter: str) -> list[Any]:
    level: list[Any] = value if isinstance(value, list) else [value]
    while level and isinstance(level[0], list):  # a bare value is an array of one, and fits only the shape [1]
        if not all(isinstance(item, list) and len(item) == len(level[0]) for item in level):
            raise ValueError("its lists differ in length")
        level = [item for inner in level for item in inner]
    for item in level:
        if not isinstance(item, _ITEMS[letter]) or (letter != "b" and isinstance(item, bool)):
            raise ValueError(f"{str(item)[:40]!r} is of another type")
    return level


def _letter(datatype: str) -> str:
    if datatype == "BYTES":
        return "s"
    return _LETTERS[datatype[0]]


def _from_bytes(tensor: Tensor, count: int, data: memoryview) -> np.ndarray:
    if tensor.datatype == "BYTES":
        return _objects(_texts(tensor, count, data))
    dtype = np.dtype(DTYPES[tensor.datatype])
    if len(data) != count * dtype.itemsize:
        raise Invalid(
            f"The input {tensor.name!r} has {len(data)} bytes, but {tensor.datatype} of shape {tensor.shape} "
            f"takes {count * dtype.itemsize}."
        )
    return np.frombuffer(data, dtype=dtype)


def _texts(tensor: Tensor, count: int, data: memoryview) -> list[str]:
    """Elements of BYTES: four bytes of length, little-endian, and the text in UTF-8."""
    found, offset = [], 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise Invalid(f"The input {tensor.name!r} ends within the length of an element.")
        (size,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if offset + size > len(data):
            raise Invalid(f"The input {tensor.name!r} ends within an element of {size} bytes.")
        try:
            found.append(str(data[offset : offset + size], "utf-8"))
        except UnicodeDecodeError as error:
            raise Invalid(f"The input {tensor.name!r} has an element that is no UTF-8 text.") from error
        offset += size
    if len(found) != count:
        raise Invalid(
            f"The input {tensor.name!r} has {len(found)} elements, but its shape {tensor.shape} holds {count}."
        )
    return found


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def batch(signature: Signature, given: dict[str, np.ndarray], read: Callable[[Any], list[list[Any]]]) -> np.ndarray:
    """The model's batch from the request's arrays; Invalid names the input that is wrong."""
    if len(given) == 1:
        (name, array), *_ = given.items()
        if array.ndim == 2 and array.dtype != object and signature.numeric and _whole(signature, name, array):
            return _matrix(signature, name, array)
    names = signature.names
    for name in given:
        if name not in names:
            raise Invalid(f"There is no input {name!r}. {nearest(name, list(names))}")
    columns = [_column(spec, given) for spec in signature.inputs]
    rows = len(columns[0]) if columns else 0
    for spec, column in zip(signature.inputs, columns, strict=True):
        if len(column) != rows:
            raise Invalid(f"The input {spec.name!r} has {len(column)} rows, but {names[0]!r} has {rows}.")
    _check_rows(rows)
    if signature.numeric:
        matrix = np.empty((rows, len(columns)))
        for place, (spec, column) in enumerate(zip(signature.inputs, columns, strict=True)):
            matrix[:, place] = _numbers(spec, column)
        return matrix
    records = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    return np.array(read(records), dtype=object)


def _whole(signature: Signature, name: str, array: np.ndarray) -> bool:
    """Whether a lone tensor holds every input: it has their number of columns, or a name that none of them has."""
    return array.shape[1] == len(signature.inputs) > 1 or name not in signature.names


def _matrix(signature: Signature, name: str, array: np.ndarray) -> np.ndarray:
    width = len(signature.inputs)
    if array.shape[1] != width:
        raise Invalid(
            f"The input {name!r} has {array.shape[1]} columns, but the model takes {width}: "
            f"{', '.join(signature.names[:8])}."
        )
    _check_rows(len(array))
    matrix = array.astype(np.float64)
    plain = all(spec.kind == "float" for spec in signature.inputs)
    if plain and np.isfinite(matrix).all():
        return matrix
    for place, spec in enumerate(signature.inputs):
        _numbers(spec, matrix[:, place])
    return matrix


def _column(spec: FeatureSpec, given: dict[str, np.ndarray]) -> np.ndarray:
    array = given.get(spec.name)
    if array is None:
        raise Invalid(f"The input {spec.name!r} is missing. Send every input, or one tensor of shape (rows, inputs).")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise Invalid(f"The input {spec.name!r} has the shape {list(array.shape)}. Send (rows) or (rows, 1).")
    if (array.dtype == object) != (spec.kind == "string"):
        raise Invalid(f"The input {spec.name!r} takes {KINDS[spec.kind]}. Send that datatype.")
    return array


def _numbers(spec: FeatureSpec, column: np.ndarray) -> np.ndarray:
    numbers = column.astype(np.float64)
    missing = np.isnan(numbers)
    if np.isinf(numbers).any():
        raise Invalid(f"The input {spec.name!r} has an infinite value. Send finite numbers.")
    if missing.any() and not spec.nullable:
        raise Invalid(f"The input {spec.name!r} is missing a value, and may not. Send a number in every row.")
    seen = numbers[~missing]
    if spec.kind == "int" and not (seen == np.floor(seen)).all():
        raise Invalid(f"The input {spec.name!r} takes whole numbers. Send {KINDS['int']}.")
    if spec.kind == "bool" and not np.isin(seen, (0.0, 1.0)).all():
        raise Invalid(f"The input {spec.name!r} takes true or false. Send {KINDS['bool']}.")
    return numbers


def _check_rows(rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise Invalid(f"The request has {rows} rows. Send 1 to {MAX_ROWS}.")


def answer(
    request: InferRequest, output: Output, head: dict[str, Any], encode: Callable[[Any], bytes]
) -> tuple[bytes, int | None]:
    """The response's body, and the length of its JSON part where binary tensors follow it."""
    values = {PREDICTIONS: output.predictions}
    if output.probabilities is not None:
        values[PROBABILITIES] = output.probabilities
    all_binary = request.parameters.get("binary_data_output") is True
    wanted = request.outputs if request.outputs is not None else [Wanted(name=name) for name in values]
    outputs: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for one in wanted:
        if one.name not in values:
            raise Invalid(f"There is no output {one.name!r}. {nearest(one.name, list(values))}")
        binary = one.parameters.get("binary_data", all_binary) is True
        array, datatype = typed(values[one.name])
        entry: dict[str, Any] = {"name": one.name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            piece = _to_bytes(array, datatype)
            entry["parameters"] = {"binary_data_size": len(piece)}
            pieces.append(piece)
        else:
            entry["data"] = array.ravel().tolist()
        outputs.append(entry)
    text = encode({**head, "outputs": outputs})
    return (b"".join([text, *pieces]), len(text)) if pieces else (text, None)


def typed(array: np.ndarray) -> tuple[np.ndarray, str]:
    """The array in a type that the protocol has, and its name."""
    if array.dtype.kind in "OUS":
        return array.astype(object), "BYTES"
    name = _NAMES.get(array.dtype)
    if name is not None:
        return array, name
    return array.astype("<f8"), "FP64"


def _to_bytes(array: np.ndarray, datatype: str) -> bytes:
    if datatype != "BYTES":
        return np.ascontiguousarray(array, dtype=DTYPES[datatype]).tobytes()
    texts = [str(item).encode() for item in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def metadata(signature: Signature) -> dict[str, Any]:
    """The inputs and outputs as the protocol's model metadata lists them."""
    classes = signature.classes
    labels = "FP64" if signature.task == "regression" else _class_type(classes)
    outputs: list[dict[str, Any]] = [{"name": PREDICTIONS, "datatype": labels, "shape": [-1]}]
    if signature.task != "regression":
        outputs.append({"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, len(classes) or -1]})
    inputs = [{"name": spec.name, "datatype": KINDS[spec.kind], "shape": [-1, 1]} for spec in signature.inputs]
    return {"inputs": inputs, "outputs": outputs}


def check_outputs(request: InferRequest, signature: Signature) -> None:
    """Refuse an unknown output before the model is asked, so that it is the client's fault and not the arm's."""
    if request.outputs is None:
        return
    known = [PREDICTIONS] if signature.task == "regression" else [PREDICTIONS, PROBABILITIES]
    for one in request.outputs:
        if one.name not in known:
            raise Invalid(f"There is no output {one.name!r}. Known: {', '.join(known)}.")


def _class_type(classes: tuple[Any, ...]) -> str:
    if classes and all(isinstance(one, bool) for one in classes):
        return "BOOL"
    if all(isinstance(one, int) for one in classes):
        return "INT64"
    return "FP64" if all(isinstance(one, float) for one in classes) else "BYTES"
