"""What a model takes and gives, as tensors: its batch from a request's arrays, its outputs by name, its metadata.

A request gives either one tensor for each input, named as in the metadata, or one numeric tensor of shape (rows, inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid, nearest
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

Array = np.ndarray[Any, np.dtype[Any]]

KINDS = {"float": "FP64", "int": "INT64", "bool": "BOOL", "string": "BYTES"}
PREDICTIONS, PROBABILITIES = "predictions", "probabilities"
MATRIX = "input"  # what the one tensor of a model is called whose columns have no names of their own
MAX_ROWS = 1 << 20


def batch(signature: Signature, given: Mapping[str, Array], read: Callable[[Any], list[list[Any]]]) -> Array:
    """The model's batch from the request's arrays; Invalid names the input that is wrong."""
    if len(given) == 1:
        (name, array), *_ = given.items()
        if array.ndim == 2 and array.dtype != object and signature.numeric and _whole(signature, name, array):
            return _matrix(signature, name, array)
    names = signature.names
    for name, array in given.items():
        if name not in names and len(given) == 1 and signature.numeric:
            raise Invalid(
                f"The input {name!r} is {'text' if array.dtype == object else 'numbers'} of the shape {list(array.shape)}. "
                f"Send numbers of the shape (rows, {len(names)}), or one tensor for each of: {', '.join(names[:8])}."
            )
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


def _whole(signature: Signature, name: str, array: Array) -> bool:
    """Whether a lone tensor holds every input: it has their number of columns, or a name that none of them has."""
    return array.shape[1] == len(signature.inputs) > 1 or name not in signature.names


def _matrix(signature: Signature, name: str, array: Array) -> Array:
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


def _column(spec: FeatureSpec, given: Mapping[str, Array]) -> Array:
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


def _numbers(spec: FeatureSpec, column: Array) -> Array:
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


def check_inputs(names: Sequence[str], signature: Signature) -> None:
    """Refuse more inputs than the model has by the name of one, before they are read."""
    if len(names) <= len(signature.inputs):
        return
    known = frozenset(signature.names)
    name = next((name for name in names if name not in known), None)
    if name is None:
        raise Invalid(f"The request has {len(names)} inputs, but the model takes {len(known)}: one is given twice.")
    raise Invalid(f"There is no input {name!r}. {nearest(name, list(signature.names))}")


def check_outputs(asked: Sequence[tuple[str, Mapping[str, Any]]], signature: Signature) -> None:
    """Refuse outputs that there are not, in forms that there are not, or twice, before the model is asked: the fault is
    the client's then, and not the arm's."""
    seen: set[str] = set()
    for name, parameters in asked:
        if name in seen:
            raise Invalid(f"The output {name!r} is asked for twice. Ask once.")
        seen.add(name)
        _check_output(name, parameters, signature)


def check_flag(parameters: Mapping[str, Any], name: str) -> None:
    """Refuse a parameter that is neither true nor false."""
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise Invalid(f"{name} is {str(value)[:40]!r}. Send true or false.")


def _check_output(name: str, parameters: Mapping[str, Any], signature: Signature) -> None:
    check_flag(parameters, "binary_data")
    known = [PREDICTIONS] if signature.task == "regression" else [PREDICTIONS, PROBABILITIES]
    if name not in known:
        raise Invalid(f"There is no output {name!r}. Known: {', '.join(known)}.")
    for asked in ("classification", "shared_memory_region"):
        if parameters.get(asked):
            raise Invalid(f"The output {name!r} is asked for with {asked}, which is not had here. Ask without it.")


def outputs(output: Output) -> dict[str, Array]:
    """What a model has answered, by the names of its outputs."""
    if output.probabilities is None:
        return {PREDICTIONS: output.predictions}
    return {PREDICTIONS: output.predictions, PROBABILITIES: output.probabilities}


def metadata(signature: Signature) -> dict[str, Any]:
    """The inputs and outputs as the protocol's model metadata lists them."""
    classes, width = signature.classes, len(signature.inputs)
    labels = "FP64" if signature.task == "regression" else _class_type(classes)
    told: list[dict[str, Any]] = [{"name": PREDICTIONS, "datatype": labels, "shape": [-1]}]
    if signature.task != "regression":
        told.append({"name": PROBABILITIES, "datatype": "FP64", "shape": [-1, len(classes) or -1]})
    inputs = [{"name": spec.name, "datatype": KINDS[spec.kind], "shape": [-1, 1]} for spec in signature.inputs]
    if nameless(signature):
        inputs = [{"name": MATRIX, "datatype": "FP64", "shape": [-1, width]}]
    return {"inputs": inputs, "outputs": told}


def nameless(signature: Signature) -> bool:
    """Whether the columns have no names of their own: the model was made with one matrix (runtimes call them x0, x1, ...)."""
    return len(signature.inputs) > 1 and all(spec.name == f"x{i}" for i, spec in enumerate(signature.inputs))


def _class_type(classes: tuple[Any, ...]) -> str:
    if classes and all(isinstance(one, bool) for one in classes):
        return "BOOL"
    if all(isinstance(one, int) for one in classes):
        return "INT64"
    return "FP64" if all(isinstance(one, float) for one in classes) else "BYTES"
