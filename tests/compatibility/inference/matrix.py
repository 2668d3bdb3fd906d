"""Models as the serving processes load them: one made with a matrix whose columns have no names, and one that cannot be loaded."""

from __future__ import annotations

import numpy as np

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output


class Matrix:
    """The likeliest of three classes, from three unnamed columns."""

    signature = Signature(
        inputs=tuple(FeatureSpec(name=f"x{i}") for i in range(3)), task="multiclass", classes=(0, 1, 2)
    )

    def predict(self, batch: np.ndarray) -> Output:
        shares = np.exp(batch) / np.exp(batch).sum(axis=1, keepdims=True)
        return Output(predictions=shares.argmax(axis=1), probabilities=shares)


class Broken:
    """Raises where it is loaded."""

    def __init__(self) -> None:
        raise OSError("the disk is gone")
