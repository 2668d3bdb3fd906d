"""ONNX graphs answered by ONNX Runtime. Imports no converter: a serving process needs this file and no training library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.packages import signature_of
from modelyard.core.ports import Output
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]

SIGNATURE_KEY, INPUTS_KEY = "modelyard.signature", "modelyard.inputs"  # of the graph's metadata

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
        return Output(predictions=self._classes.take(likeliest(probabilities)), probabilities=probabilities)

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
