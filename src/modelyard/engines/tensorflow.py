"""TensorFlow: answers with a .keras file or a SavedModel folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]


class TensorflowRuntime:
    """Answers with a model that takes float32 (n, inputs) and gives numbers (n, 1), or probabilities (n, classes).

    One probability a row is that of the last of two classes. The signature is needed: the file names no inputs. A .keras
    file is read in Keras' safe mode, which runs no code from it.
    """

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model at {path}. Check the path.")
        if signature is None or not signature.numeric:
            raise Invalid(f"{path.name} names no inputs. Pass load_model a signature of numeric inputs.")
        self._signature = signature
        self._classes = np.asarray(signature.classes)
        try:
            if path.is_dir():
                self.native = tensorflow.saved_model.load(str(path)).signatures["serving_default"]
                self._input = next(iter(self.native.structured_input_signature[1]))
            else:
                self.native = tensorflow.keras.models.load_model(path, compile=False, safe_mode=True)
                self._input = ""
        except (ValueError, OSError, KeyError) as error:
            raise Damaged(f"{path} cannot be read by TensorFlow: {str(error).splitlines()[0]}") from error

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs)."""
        rows = tensorflow.constant(np.ascontiguousarray(batch, dtype=np.float32))
        if self._input:
            answer = next(iter(self.native(**{self._input: rows}).values())).numpy()
        else:
            answer = self.native(rows, training=False).numpy()
        if self._signature.task == "regression":
            return Output(predictions=answer.reshape(-1).astype(np.float64))
        if answer.ndim == 1 or answer.shape[1] == 1:
            last = answer.reshape(-1)
            answer = np.column_stack([1.0 - last, last])
        return Output(predictions=self._classes[likeliest(answer)], probabilities=answer)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: a network has no contributions of its own."""
        raise Invalid("A TensorFlow model has no contributions of its own. Explain it with SHAP or LIME.")

    def unload(self) -> None:
        """Free the model."""
        self.native = None
