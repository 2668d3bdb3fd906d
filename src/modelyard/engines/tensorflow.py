"""TensorFlow: answers with a .keras file or a SavedModel folder."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output
from modelyard.engines.answers import network_output, network_signature

Array = np.ndarray[Any, np.dtype[Any]]
Answer = Callable[[Array], Any]

_REFUSED = (ValueError, TypeError, tensorflow.errors.OpError)  # what a model raises at rows that do not fit it
_UNREADABLE = (
    ValueError, OSError, LookupError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile, tensorflow.errors.OpError,
)  # fmt: skip  # what TensorFlow and Keras raise at damaged files


class TensorflowRuntime:
    """Answers with a model that takes float32 (n, inputs) and gives numbers (n, 1), or probabilities (n, classes).

    One probability a row is that of the last of two classes. The signature is needed: the file names no inputs. A .keras
    file is read in Keras' safe mode, which runs no Python code of the file's: one with a Lambda layer is refused. What
    the model then computes is its maker's program: deploy only those you trust.
    """

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model at {path}. Check the path.")
        self._signature = network_signature(path, signature)
        width = len(self._signature.inputs)
        if path.is_dir() or path.name == "saved_model.pb":
            self.native, self._answer = _saved_model(path if path.is_dir() else path.parent, width)
        else:
            self.native, self._answer = _keras(path, width)
        self.predict(np.zeros((2, width)))  # an answer that does not fit is told now

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs); Invalid for a model that does not fit its signature."""
        try:
            answer = self._answer(batch)
        except _REFUSED as error:
            told = " ".join(str(error).split())
            raise Invalid(f"The TensorFlow model cannot take {batch.shape}: {told[:300]}") from error
        if not isinstance(answer, tensorflow.Tensor):
            raise Invalid(f"The TensorFlow model gives a {type(answer).__name__}. Let it give one tensor.")
        return network_output(answer.numpy(), len(batch), self._signature)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: a network has no contributions of its own."""
        raise Invalid("A TensorFlow model has no contributions of its own. Explain it with SHAP or LIME.")

    def unload(self) -> None:
        """Free the model."""
        self.native = None
        del self._answer


def _keras(path: Path, width: int) -> tuple[Any, Answer]:
    if not zipfile.is_zipfile(path):
        raise Damaged(f"{path} is no whole .keras file. Save it again with model.save({path.name!r}).")
    try:
        model = tensorflow.keras.models.load_model(path, compile=False, safe_mode=True)
    except (*_UNREADABLE, TypeError) as error:
        raise _refusal(path, error) from error
    if len(model.inputs) != 1:
        raise Invalid(f"{path.name} takes {len(model.inputs)} tensors. It must take one matrix.")
    _check_shape(path, tuple(model.inputs[0].shape), width)
    rows = tensorflow.TensorSpec((None, width), tensorflow.float32)
    graph = tensorflow.function(lambda values: model(values, training=False), input_signature=[rows])
    return model, lambda batch: graph(tensorflow.constant(batch, dtype=tensorflow.float32))


def _refusal(path: Path, error: Exception) -> Damaged | Invalid:
    """What Keras' error means: it knows no class for code (ValueError in safe mode) or for an unknown name (TypeError)."""
    told = str(error)
    if "safe_mode" in told or "unsafe" in told or "'Lambda'" in told:
        return Invalid(
            f"{path.name} holds Python code (a Lambda layer or the like), which runs when it is opened. "
            "Build it of named layers, or save a SavedModel: model.export(folder)."
        )
    if isinstance(error, TypeError):
        return Invalid(
            f"{path.name} needs Python classes that only its maker has, or another release of Keras. "
            f"Save a SavedModel, which needs none: model.export(folder). Keras says: {_start(error)}"
        )
    return Damaged(f"{path} cannot be read by Keras: {_start(error)}")


def _saved_model(folder: Path, width: int) -> tuple[Any, Answer]:
    try:
        model = tensorflow.saved_model.load(str(folder))
    except (*_UNREADABLE, TypeError) as error:
        raise Damaged(f"{folder} cannot be read by TensorFlow: {_start(error)}") from error
    if "serving_default" not in model.signatures:
        raise Invalid(f"{folder.name} has no signature serving_default. Save it with model.export(folder).")
    serve = model.signatures["serving_default"]
    inputs, outputs = serve.structured_input_signature[1], list(serve.structured_outputs)
    if len(inputs) != 1 or len(outputs) != 1:
        raise Invalid(
            f"{folder.name} takes {len(inputs)} tensors ({', '.join(inputs)}) and gives {len(outputs)}. "
            "It must take one matrix and give one tensor."
        )
    ((name, spec),) = inputs.items()
    if spec.shape.rank is not None:
        _check_shape(folder, tuple(spec.shape), width)
    return model, lambda batch: serve(**{name: tensorflow.constant(batch, dtype=spec.dtype)})[outputs[0]]


def _check_shape(path: Path, shape: tuple[int | None, ...], width: int) -> None:
    """Any number of rows is None in a shape."""
    if len(shape) != 2 or shape[0] is not None:
        raise Invalid(
            f"{path.name} takes the shape {shape}. It must take (None, {width}): batches of any number of rows."
        )
    if shape[1] not in (None, width):
        raise Invalid(f"{path.name} takes {shape[1]} inputs, and its signature names {width}.")


def _start(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
