"""ONNX: a whole fitted pipeline as one graph, and answers from such graphs through ONNX Runtime."""

from __future__ import annotations

import copy
import importlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import skl2onnx
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from skl2onnx.common.shape_calculator import (
    calculate_linear_classifier_output_shapes,
    calculate_linear_regressor_output_shapes,
)

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.packages import signature_of
from modelyard.core.ports import Output
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]

MATRIX = "input"  # the one float input (n, inputs) of a graph whose inputs are all numbers
SIGNATURE_KEY, INPUTS_KEY = "modelyard.signature", "modelyard.inputs"
OPSET = {"": 17, "ai.onnx.ml": 3}  # what Triton, OpenVINO and ONNX Runtime of the last three years all read

_REFUSALS = (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError, LookupError, AssertionError)
_BROKEN = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
    "tensor(string)": np.object_,
}


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


class OnnxRuntime:
    """Answers with an ONNX graph on one thread: a row is answered in microseconds, and processes do not fight for cores."""

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        self.native = None
        self._session = _session(path)
        kept = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._signature = signature or _signature_in(kept, path) or _signature_of(inputs, outputs)
        self._classes = np.asarray(self._signature.classes)
        self._regression = self._signature.task == "regression"
        self._wanted = [outputs[-1].name]
        self._mapped = outputs[-1].type.startswith("seq(")
        self._matrix = inputs[0].name if len(inputs) == 1 and _DTYPES.get(inputs[0].type) is not np.object_ else ""
        self._dtype = _DTYPES.get(inputs[0].type, np.float32)
        by_name = {entry.name: _DTYPES.get(entry.type, np.float32) for entry in inputs}
        order = json.loads(kept[INPUTS_KEY]) if INPUTS_KEY in kept else list(by_name)
        self._columns = [(name, by_name[name]) for name in order if name in by_name]
        if not self._matrix and len(self._columns) != len(self._signature.inputs):
            raise Damaged(f"{path} takes {len(self._columns)} inputs, its signature {len(self._signature.inputs)}.")

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a batch of shape (n, inputs)."""
        feed = {self._matrix: _as(batch, self._dtype)} if self._matrix else self._by_column(batch)
        answer = self._session.run(self._wanted, feed)[0]
        if self._regression:
            return Output(predictions=answer.reshape(-1).astype(np.float64))
        probabilities = np.array([list(row.values()) for row in answer]) if self._mapped else answer
        return Output(predictions=self._classes[likeliest(probabilities)], probabilities=probabilities)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: a graph tells no contributions."""
        raise Invalid("An ONNX graph has no contributions of its own. Load its model package, or explain it with SHAP.")

    def unload(self) -> None:
        """Free the session."""
        self._session = None

    def _by_column(self, batch: Array) -> dict[str, Array]:
        feed = {}
        for position, (name, dtype) in enumerate(self._columns):
            column = batch[:, position : position + 1]
            if dtype is np.object_:
                feed[name] = np.where(
                    np.equal(column, np.array(None)), "", column
                )  # missing text is empty text, as in training
            else:
                feed[name] = _as(column, dtype)
        return feed


def _as(values: Array, dtype: Any) -> Array:
    with np.errstate(over="ignore"):  # beyond 3.4e38 is infinite to a float32 model
        return np.ascontiguousarray(values, dtype=dtype)


def _session(path: Path) -> Any:
    if not path.exists():
        raise NotFound(f"There is no model file {path}. Check the path.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except _BROKEN as error:
        raise Damaged(f"{path} cannot be read by ONNX Runtime: {str(error).splitlines()[0]}") from error


def _signature_in(kept: Mapping[str, str], path: Path) -> Signature | None:
    if SIGNATURE_KEY not in kept:
        return None
    try:
        return signature_of(json.loads(kept[SIGNATURE_KEY]))
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"The signature in {path} cannot be read: {error}") from error


def _signature_of(inputs: list[Any], outputs: list[Any]) -> Signature:
    """What a bare graph tells: numbered or named inputs, and classes by number."""
    if len(inputs) == 1 and len(inputs[0].shape) == 2 and isinstance(inputs[0].shape[1], int):
        specs = tuple(FeatureSpec(name=f"x{i}") for i in range(inputs[0].shape[1]))
    elif len(inputs) > 1:
        text = [entry.type == "tensor(string)" for entry in inputs]
        specs = tuple(
            FeatureSpec(name=entry.name, kind="string" if is_text else "float")
            for entry, is_text in zip(inputs, text, strict=True)
        )
    else:
        raise Invalid(
            f"This graph's input has the shape {inputs[0].shape}, which does not say how many columns it takes. "
            "Export it with a fixed number of columns."
        )
    width = outputs[-1].shape[-1] if outputs[-1].shape else None
    if len(outputs) < 2 and width in (None, 1):
        return Signature(inputs=specs, task="regression")
    count = width if isinstance(width, int) and width > 1 else 2
    return Signature(inputs=specs, task="binary" if count == 2 else "multiclass", classes=tuple(range(count)))


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
