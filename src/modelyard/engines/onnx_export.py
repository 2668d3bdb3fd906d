"""ONNX export: a whole fitted pipeline as one graph, with a converter for every part that skl2onnx does not know itself."""

from __future__ import annotations

import copy
import importlib
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid
from modelyard.core.models import Signature
from modelyard.engines.onnx import INPUTS_KEY, SIGNATURE_KEY

Array = np.ndarray[Any, np.dtype[Any]]

MATRIX = "input"  # the one float input (n, inputs) of a graph whose inputs are all numbers
OPSET = {"": 17, "ai.onnx.ml": 3}  # what Triton, OpenVINO and ONNX Runtime of the last three years all read

_REFUSALS = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError, AssertionError)


def export(model: Any, signature: Signature, path: Path) -> None:
    """Write a fitted scikit-learn pipeline as one ONNX graph; Invalid, with the reason, where it cannot be converted.

    The graph has one float input `input` (n, inputs), or one input a column where some are text. Its last output holds
    the probabilities (n, classes) or the predictions (n, 1). Signature and input names are in the file's metadata.
    """
    names = [MATRIX] if signature.numeric else [_input_name(i, spec.name) for i, spec in enumerate(signature.inputs)]
    if signature.numeric:
        types: list[tuple[str, Any]] = [(MATRIX, FloatTensorType([None, len(signature.inputs)]))]
    else:
        kinds = [StringTensorType if spec.kind == "string" else FloatTensorType for spec in signature.inputs]
        types = [(name, kind([None, 1])) for name, kind in zip(names, kinds, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converters' own use of deprecated calls
        try:
            twin = _prepared(model)
            options = {} if signature.task == "regression" else {id(twin[-1]): {"zipmap": False}}
            graph = skl2onnx.to_onnx(twin, initial_types=types, options=options, target_opset=OPSET)
        except _REFUSALS as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise Invalid(f"A {type(model[-1]).__name__} pipeline cannot be exported to ONNX: {reason}") from error
    for key, value in ((SIGNATURE_KEY, signature), (INPUTS_KEY, names)):
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, dumps(value)
    path.write_bytes(graph.SerializeToString())


def _input_name(position: int, name: str) -> str:
    return f"c{position}_" + re.sub(r"\W", "_", name, flags=re.ASCII)


def _prepared(model: Any) -> Any:
    """A copy fit for conversion, with a converter registered for every part that skl2onnx does not know itself."""
    for part in _parts(model):
        if type(part).__module__ == "modelyard.engines.sklearn" and type(part).__name__ in _OWN:
            own = type(part).__name__
            skl2onnx.update_registered_converter(type(part), f"Modelyard{own}", _same_width, _OWN[own])
    final = model[-1]
    library = type(final).__module__.partition(".")[0]
    if library not in ("lightgbm", "xgboost"):
        return model
    _register(final, library)
    twin = copy.copy(model)
    if library == "lightgbm":
        final = plugins.load("trainer", "lightgbm").for_float32(final)
    twin.steps = [*model.steps[:-1], (model.steps[-1][0], final)]
    return twin


def _register(final: Any, library: str) -> None:
    """onnxmltools' converter for a booster; its module needs the booster's own package, so it loads on use."""
    name = {"lightgbm": "LightGbm", "xgboost": "XGBoost"}[library]
    place = f"onnxmltools.convert.{library}.operator_converters.{name}"
    convert = getattr(importlib.import_module(place), f"convert_{library}")
    classifies = hasattr(final, "predict_proba")
    shapes = calculate_linear_classifier_output_shapes if classifies else calculate_linear_regressor_output_shapes
    options: dict[str, Any] = {"nocl": [True, False], "zipmap": [True, False, "columns"]} if classifies else {}
    if library == "lightgbm" and not classifies:
        options["split"] = None
    skl2onnx.update_registered_converter(type(final), type(final).__name__, shapes, convert, options=options)


def _parts(model: Any) -> Iterator[Any]:
    yield model
    for entry in [*getattr(model, "steps", ()), *getattr(model, "transformers_", ())]:
        if not isinstance(entry[1], str):
            yield from _parts(entry[1])


def _same_width(operator: Any) -> None:
    operator.outputs[0].type = FloatTensorType([None, sum(entry.type.shape[1] for entry in operator.inputs)])


Converter = Callable[[Any, Any, Any], None]


def _converter(body: Callable[[Any, str, Callable[..., str]], str]) -> Converter:
    """A converter from a function that adds nodes after the joined inputs and returns the last node's output."""

    def convert(scope: Any, operator: Any, container: Any) -> None:
        def node(kind: str, *inputs: str, **attributes: Any) -> str:
            output: str = scope.get_unique_variable_name(kind)
            name = scope.get_unique_operator_name(kind)
            container.add_node(kind, list(inputs), [output], name=name, **attributes)
            return output

        def constant(values: Array) -> str:
            name: str = scope.get_unique_variable_name("constant")
            container.add_initializer(name, 1, list(values.shape), values.ravel().tolist())  # 1 is float32
            return name

        node.constant = constant  # type: ignore[attr-defined]
        joined = node("Concat", *(entry.full_name for entry in operator.inputs), axis=1)
        last = body(operator.raw_operator, joined, node)
        container.add_node(
            "Identity", [last], [operator.outputs[0].full_name], name=scope.get_unique_operator_name("Out")
        )

    return convert


def _signed_log(_: Any, joined: str, node: Any) -> str:
    one = node.constant(np.ones((1, 1)))
    result: str = node("Mul", node("Sign", joined), node("Log", node("Add", node("Abs", joined), one)))
    return result


def _clip(part: Any, joined: str, node: Any) -> str:
    low, high = (node.constant(bound[None, :]) for bound in part.bounds_)
    result: str = node("Min", node("Max", joined, low), high)
    return result


_OWN: dict[str, Converter] = {
    "AsNumbers": _converter(lambda _, joined, __: joined),
    "SignedLog": _converter(_signed_log),
    "Clip": _converter(_clip),
}
