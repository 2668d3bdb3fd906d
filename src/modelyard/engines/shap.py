"""SHAP: Shapley values of any model, by probing it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

with warnings.catch_warnings():  # importing shap warns of what its plotting library will drop
    warnings.simplefilter("ignore")
    import shap

Array = np.ndarray[Any, np.dtype[Any]]
_SEED = 0
_EXACT = 8  # columns up to which all coalitions are asked


class ShapExplainer:
    """Shapley values against a background (n, columns): what a column adds when the others are drawn from it."""

    def __init__(self, predict: Callable[[Array], Array], background: Array, names: Sequence[str]) -> None:
        width = background.shape[1]
        masker = shap.maskers.Independent(background, max_samples=len(background))
        if width <= _EXACT:
            self._explainer, self._evaluations = shap.explainers.ExactExplainer(predict, masker), 2**width + 1
        else:
            self._explainer = shap.explainers.PermutationExplainer(predict, masker, seed=_SEED)
            self._evaluations = 10 * (2 * width + 1)  # ten permutations, there and back
        self.names = tuple(names)

    def explain(self, row: Array) -> tuple[Array, float]:
        """Values (columns,) and the base value: the mean answer on the background."""
        found = self._explainer(row[None, :], max_evals=self._evaluations)
        return np.asarray(found.values[0], dtype=float), float(np.ravel(found.base_values)[0])
