"""Each column's part in a fitted estimator's answer (SHAP values), from the estimator's own arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.stats.tree_shap import TreeArrays, tree_shap

Array = np.ndarray[Any, np.dtype[Any]]


def contributions(model: Any, seen: Array, means: Array) -> tuple[Array, Array]:
    """SHAP values (n, columns) and base values (n,) at the rows that the estimator sees, for its last class.

    Boosters tell their own (path-dependent TreeSHAP); scikit-learn's trees go through `stats.tree_shap`; a linear model's
    are coefficient x (value - training mean) (Lundberg and Lee 2017, corollary 1). Invalid for any other kind.
    """
    library = type(model).__module__.partition(".")[0]
    if library in ("lightgbm", "xgboost"):
        found: tuple[Array, Array] = plugins.load("trainer", library).contributions(model, seen)
        return found
    if hasattr(model, "coef_"):
        return _linear(model, seen, means)
    family = type(model).__name__.removesuffix("Classifier").removesuffix("Regressor")
    if family in ("GradientBoosting", "RandomForest", "ExtraTrees", "DecisionTree"):
        trees, start = _boosted(model, seen) if family == "GradientBoosting" else (_voting(model), 0.0)
        # scikit-learn's trees compare float32 values
        values, base = tree_shap(trees, seen.astype(np.float32).astype(np.float64))
        return values, np.full(len(seen), base + start)
    raise Invalid(
        f"A {type(model).__name__} has no contributions of its own. Explain it with SHAP or LIME: "
        "pip install 'modelyard[explain]'"
    )


def _linear(model: Any, seen: Array, means: Array) -> tuple[Array, Array]:
    if means.shape != (seen.shape[1],):
        raise Invalid("This linear model comes without the means of its training rows. Train it with modelyard.")
    weights = np.atleast_2d(model.coef_)[-1]
    intercept = np.atleast_1d(model.intercept_)[-1]
    return (seen - means) * weights, np.full(len(seen), intercept + means @ weights)


def _voting(model: Any) -> list[TreeArrays]:
    """The trees of a forest or a lone tree: leaves hold the probability of the last class, or the mean."""
    members = getattr(model, "estimators_", [model])
    return [_arrays(member.tree_, _leaf_values(member.tree_) / len(members)) for member in members]


def _leaf_values(tree: Any) -> Array:
    value = tree.value[:, 0, :]
    last: Array = value[:, -1] / value.sum(axis=1) if value.shape[1] > 1 else value[:, 0]
    return last


def _boosted(model: Any, seen: Array) -> tuple[list[TreeArrays], float]:
    """The trees of the last class, and the raw prediction that boosting started from."""
    trees = [
        _arrays(stage[-1].tree_, model.learning_rate * stage[-1].tree_.value[:, 0, 0]) for stage in model.estimators_
    ]
    row = seen[:1]
    raw = model.decision_function(row) if hasattr(model, "decision_function") else model.predict(row)
    told = float(np.atleast_2d(np.asarray(raw).reshape(1, -1))[0, -1])
    stages = sum(model.learning_rate * float(stage[-1].predict(row)[0]) for stage in model.estimators_)
    return trees, told - stages


def _arrays(tree: Any, value: Array) -> TreeArrays:
    missing = getattr(tree, "missing_go_to_left", None)
    return TreeArrays(
        tree.children_left,
        tree.children_right,
        tree.feature,
        tree.threshold,
        value,
        tree.weighted_n_node_samples,
        None if missing is None else np.asarray(missing, dtype=bool),
    )
