"""XGBoost's trees, read from its own JSON as arrays.

Source: https://xgboost.readthedocs.io/en/stable/tutorials/saving_model.html and src/objective (ProbToMargin).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.engines.trees import LEAF, Ensemble, Link, Tree, joined

Array = np.ndarray[Any, np.dtype[Any]]


def _logit(value: float) -> float:
    return -math.log(1.0 / value - 1.0)


def _same(value: float) -> float:
    return value


# objective -> how sums become answers, and how the base score becomes a sum
_LINKS: dict[str, tuple[Link, Callable[[float], float]]] = {
    "binary:logistic": ("logistic_pair", _logit),
    "reg:logistic": ("logistic", _logit),
    "multi:softprob": ("softmax", _same),
    "multi:softmax": ("softmax", _same),
    "count:poisson": ("exponential", math.log),
    "reg:gamma": ("exponential", math.log),
    "reg:tweedie": ("exponential", math.log),
    "reg:squarederror": ("identity", _same),
    "reg:squaredlogerror": ("identity", _same),
    "reg:absoluteerror": ("identity", _same),
    "reg:pseudohubererror": ("identity", _same),
    "reg:quantileerror": ("identity", _same),
}


def ensemble(path: Path, opened: Callable[[], Any]) -> Ensemble:  # noqa: ARG001
    """The trees of the booster that `opened` gives the runtime of."""
    return of_booster(opened().native)


def of_booster(booster: Any, *, best: bool = False) -> Ensemble:
    """The trees of a booster, up to the `best` round of early stopping if wanted, as XGBoost's scikit-learn classes answer.

    Invalid, with the reason, where they decide by more than thresholds.
    """
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective = learner["objective"]["name"]
    if objective not in _LINKS:
        raise Invalid(f"its objective is {objective}")
    link, margin = _LINKS[objective]
    gradient = learner["gradient_booster"]
    weights = None
    if gradient["name"] == "dart":
        weights, gradient = gradient["weight_drop"], gradient["gbtree"]
    elif gradient["name"] != "gbtree":
        raise Invalid(f"it is a {gradient['name']}")
    model, about = gradient["model"], learner["learner_model_param"]
    weights = weights or model.get("weight_drop") or None  # in the model since XGBoost 3.4
    outputs = max(int(about["num_class"]), int(about.get("num_target", 1)), 1)
    scores = np.atleast_1d(np.array(json.loads(str(about["base_score"])), dtype=np.float64))
    base = np.array([margin(float(score)) for score in scores])
    trees = [
        _tree(tree, int(output), 1.0 if weights is None else float(weights[number]))
        for number, (tree, output) in enumerate(zip(model["trees"], model["tree_info"], strict=True))
    ]
    last = learner.get("attributes", {}).get("best_iteration")
    if best and last is not None:
        trees = trees[: int(model["iteration_indptr"][int(last) + 1])]
    return joined(trees, base=np.broadcast_to(base, (outputs,)).copy(), link=link, single=True)


def _tree(tree: dict[str, Any], output: int, weight: float) -> Tree:
    if any(tree.get("split_type", ())) or tree.get("categories"):
        raise Invalid("it splits on categories")
    if int(tree["tree_param"].get("size_leaf_vector", 1)) > 1:
        raise Invalid("its leaves hold several numbers")
    left = np.array(tree["left_children"], np.int64)
    condition = np.array(tree["split_conditions"], np.float32)
    leaf = left == LEAF
    return Tree(
        feature=np.where(leaf, 0, np.array(tree["split_indices"], np.int64)),
        # x < t is x <= the float32 before t, since x is a float32
        threshold=np.where(leaf, 0.0, np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)),
        left=left,
        right=np.where(leaf, LEAF, np.array(tree["right_children"], np.int64)),
        missing_left=np.array(tree["default_left"]).astype(bool),
        values=np.where(leaf, condition.astype(np.float64) * weight, 0.0),
        output=output,
    )
