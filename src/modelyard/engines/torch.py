"""PyTorch: answers with a program saved by `torch.export.save` (.pt2) or by `torch.jit.save` (.pt).

Neither form unpickles code, which `torch.load` of a whole module would do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output
from modelyard.engines.answers import likeliest

Array = np.ndarray[Any, np.dtype[Any]]


class TorchRuntime:
    """Answers with a module that takes float32 (n, inputs) and gives numbers (n,), or probabilities (n, classes).

    One probability a row is that of the last of two classes. The signature is needed: the file names no inputs.
    """

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model file {path}. Check the path.")
        if signature is None or not signature.numeric:
            raise Invalid(f"{path.name} names no inputs. Pass load_model a signature of numeric inputs.")
        self._signature = signature
        self._classes = np.asarray(signature.classes)
        try:
            if path.suffix == ".pt2":
                self.native = torch.export.load(path).module()
            else:
                self.native = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise Damaged(f"{path} cannot be read by PyTorch: {str(error).splitlines()[0]}") from error

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs)."""
        with torch.inference_mode():
            answer = self.native(torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))).cpu().numpy()
        if self._signature.task == "regression":
            return Output(predictions=answer.reshape(-1).astype(np.float64))
        if answer.ndim == 1 or answer.shape[1] == 1:
            last = answer.reshape(-1)
            answer = np.column_stack([1.0 - last, last])
        return Output(predictions=self._classes[likeliest(answer)], probabilities=answer)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: a network has no contributions of its own."""
        raise Invalid("A PyTorch module has no contributions of its own. Explain it with SHAP or LIME.")

    def unload(self) -> None:
        """Free the module."""
        self.native = None
