"""LIME: the weights of a linear model fitted around one row (Ribeiro, Singh & Guestrin 2016, arXiv 1602.04938)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from lime.lime_tabular import LimeTabularExplainer

Array = np.ndarray[Any, np.dtype[Any]]
_SEED = 0


class LimeExplainer:
    """Local weights against a background (n, columns). They need not add up to the prediction."""

    def __init__(self, predict: Callable[[Array], Array], background: Array, names: Sequence[str]) -> None:
        self._predict = predict
        self._names = list(names)
        self._explainer = LimeTabularExplainer(
            background, mode="regression", feature_names=self._names, discretize_continuous=False, random_state=_SEED
        )

    def explain(self, row: Array) -> tuple[Array, float]:
        """Values (columns,), each weight times the row's distance from the mean in standard deviations, and the intercept."""
        found = self._explainer.explain_instance(row, self._predict, num_features=len(self._names), num_samples=2000)
        weights = np.zeros(len(self._names))
        for position, weight in found.local_exp[1]:  # 0 holds the same with the sign turned
            weights[position] = weight
        scale = np.where(self._explainer.scaler.scale_ > 0, self._explainer.scaler.scale_, 1.0)
        return weights * (row - self._explainer.scaler.mean_) / scale, float(found.intercept[1])
