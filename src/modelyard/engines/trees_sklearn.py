"""The trees of scikit-learn's forests and boosters, and of the boosters that its pipelines hold, as arrays.

Nothing is imported: what an estimator is shows in its attributes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.engines import trees_lightgbm, trees_xgboost
from modelyard.engines.trees import LEAF, Ensemble, Link, Tree, joined, margins

Array = np.ndarray[Any, np.dtype[Any]]

_FORESTS = {"RandomForestClassifier", "RandomForestRegressor", "ExtraTreesClassifier", "ExtraTreesRegressor"}
_TREES = {"DecisionTreeClassifier", "DecisionTreeRegressor", "ExtraTreeClassifier", "ExtraTreeRegressor"}
_BOOSTED = {"GradientBoostingClassifier", "GradientBoostingRegressor"}
_HISTOGRAM = {"HistGradientBoostingClassifier", "HistGradientBoostingRegressor"}


def of_estimator(model: Any) -> Ensemble:
    """The trees of a fitted estimator or booster; Invalid where it is more than trees."""
    name = type(model).__name__
    if name in _FORESTS:
        return _averaged([tree.tree_ for tree in model.estimators_])
    if name in _TREES:
        return _averaged([model.tree_])
    if name in _BOOSTED:
        return _boosted(model)
    if name in _HISTOGRAM:
        return _histogram(model)
    if hasattr(model, "booster_"):
        return trees_lightgbm.of_booster(model.booster_)
    if hasattr(model, "get_booster"):
        return trees_xgboost.of_booster(model.get_booster(), best=True)
    raise Invalid(f"a {name} is no ensemble of trees")


def _plain(tree: Any, values: Array, output: int = 0) -> Tree:
    return Tree(
        feature=np.maximum(tree.feature, 0),
        threshold=tree.threshold,
        left=tree.children_left,
        right=tree.children_right,
        missing_left=tree.missing_go_to_left,
        values=values,
        output=output,
    )


def _averaged(trees: list[Any]) -> Ensemble:
    """The mean of the trees: of a classifier their classes' shares, of a regressor their numbers."""
    if trees[0].n_outputs != 1:
        raise Invalid(f"it gives {trees[0].n_outputs} numbers a row")
    classes = trees[0].value.shape[2]
    shares = [tree.value[:, 0, :] / len(trees) for tree in trees]
    if classes == 2:
        made = [_plain(tree, share[:, 1]) for tree, share in zip(trees, shares, strict=True)]
        return joined(made, base=np.zeros(1), link="pair", single=True)
    made = [_plain(tree, share) for tree, share in zip(trees, shares, strict=True)]
    return joined(made, base=np.zeros(classes), link="identity", single=True)


def _boosted(model: Any) -> Ensemble:
    """Sums of stages, from a first guess that is the same for all rows (else parity shows that it is not)."""
    stages, rate = model.estimators_, model.learning_rate
    classifies = hasattr(model, "classes_")
    scale = 2.0 if classifies and model.loss == "exponential" else 1.0  # its probability is expit(2 raw)
    outputs = stages.shape[1]
    made = [
        _plain(tree.tree_, tree.tree_.value[:, 0, 0] * rate * scale, output)
        for stage in stages
        for output, tree in enumerate(stage)
    ]
    link: Link = "identity" if not classifies else "softmax" if outputs > 1 else "logistic_pair"
    found = joined(made, base=np.zeros(outputs), link=link, single=True)
    origin = np.zeros((1, model.n_features_in_))
    raw = model.decision_function(origin) if classifies else model.predict(origin)
    return replace(found, base=np.reshape(raw, -1) * scale - margins(found, origin)[0])


def _histogram(model: Any) -> Ensemble:
    if getattr(model, "is_categorical_", None) is not None and np.any(model.is_categorical_):
        raise Invalid("it splits on categories")
    made = [_nodes(predictor.nodes, output) for stage in model._predictors for output, predictor in enumerate(stage)]
    base = np.reshape(model._baseline_prediction, -1).astype(np.float64)
    link: Link = "identity"
    if hasattr(model, "classes_"):
        link = "softmax" if len(base) > 1 else "logistic_pair"
    elif model.loss in ("poisson", "gamma"):
        link = "exponential"
    return joined(made, base=base, link=link, single=False)


def _nodes(nodes: Array, output: int) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=np.where(leaf, 0, nodes["feature_idx"]),
        threshold=nodes["num_threshold"],
        left=np.where(leaf, LEAF, nodes["left"].astype(np.int64)),
        right=np.where(leaf, LEAF, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        values=np.where(leaf, nodes["value"], 0.0),
        output=output,
    )
