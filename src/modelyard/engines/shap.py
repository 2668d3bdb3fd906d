"""SHAP: Shapley values of any model, by probing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import shap

Array = np.ndarray[Any, np.dtype[Any]]
_SEED = 0


class ShapExplainer:
    """Shapley values against a background (n, columns): what a column adds when the others are drawn from it."""

    def __init__(self, predict: Callable[[Array], Array], background: Array, names: Sequence[str]) -> None:
        self._width = background.shape[1]
        masker = shap.maskers.Independent(background, max_samples=len(background))
        kind = shap.explainers.ExactExplainer if self._width <= 8 else shap.explainers.PermutationExplainer
        seed = {} if self._width <= 8 else {"seed": _SEED}
        self._explainer = kind(predict, masker, feature_names=list(names), **seed)

    def explain(self, row: Array) -> tuple[Array, float]:
        """Values (columns,) and the base value: the mean answer on the background."""
        found = self._explainer(
            row[None, :], max_evals=max(10 * (2 * self._width + 1), 2**self._width + 1 if self._width <= 8 else 0)
        )
        return np.asarray(found.values[0], dtype=float), float(np.ravel(found.base_values)[0])
