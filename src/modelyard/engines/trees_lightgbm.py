"""LightGBM's trees, read from its own text as arrays.

Source: LightGBM's include/LightGBM/tree.h (NumericalDecision) and src/objective (ConvertOutput).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.engines.trees import LEAF, Ensemble, Link, Tree, joined

Array = np.ndarray[Any, np.dtype[Any]]

CATEGORICAL, DEFAULT_LEFT = 1, 2  # of a decision type; the two bits above say what counts as missing
MISSING_ZERO, MISSING_NAN = 1, 2
ZERO = float(np.float32(1e-35))  # kZeroThreshold
_EXPONENTIAL = {"poisson", "gamma", "tweedie"}
_LOGISTIC = {"binary", "cross_entropy"}
_PLAIN = {"regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg"}


def ensemble(path: Path, opened: Callable[[], Any]) -> Ensemble:  # noqa: ARG001
    """The trees of the booster that `opened` gives the runtime of."""
    return of_booster(opened().native)


def of_booster(booster: Any) -> Ensemble:
    """The trees of a booster; Invalid, with the reason, where they decide by more than thresholds."""
    head, *parts = booster.model_to_string().partition("\nparameters:")[0].split("\nTree=")
    outputs = booster.num_model_per_iteration()
    if re.search(r"^average_output$", head, flags=re.MULTILINE):
        share = outputs / len(parts)
    else:
        share = 1.0
    link, scale = _link(head, outputs)
    trees = [_tree(_fields(part), number % outputs, share * scale) for number, part in enumerate(parts)]
    return joined(trees, base=np.zeros(outputs), link=link, single=False)


def _link(head: str, outputs: int) -> tuple[Link, float]:
    """How sums become answers, and what they are multiplied with before."""
    objective = re.search(r"^objective=(.*)$", head, flags=re.MULTILINE)
    name, *settings = objective[1].split() if objective else ["regression"]
    known = dict(entry.split(":", 1) for entry in settings if ":" in entry)
    scale = float(known.get("sigmoid", 1.0))
    if "sqrt" in settings or name not in _PLAIN | _EXPONENTIAL | _LOGISTIC | {"multiclass", "multiclassova"}:
        raise Invalid(f"its objective is {' '.join([name, *settings])}")
    if name in _LOGISTIC:
        return "logistic_pair", scale
    if name == "multiclass":
        return "softmax", 1.0
    if name == "multiclassova":
        return "logistic", scale
    if outputs != 1:
        raise Invalid(f"it gives {outputs} numbers a row")
    return ("exponential" if name in _EXPONENTIAL else "identity"), 1.0


def _fields(part: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in part.split("\n") if "=" in line)


def _tree(fields: dict[str, str], output: int, scale: float) -> Tree:
    """One tree: its inner nodes first, then its leaves."""
    if fields.get("is_linear", "0") != "0":
        raise Invalid("its leaves hold linear models")
    leaves = _numbers(fields, "leaf_value") * scale
    inner = len(leaves) - 1
    feature = _numbers(fields, "split_feature")[:inner].astype(np.int64)
    threshold = _around_zero(_numbers(fields, "threshold")[:inner])
    decision = _numbers(fields, "decision_type")[:inner].astype(np.int64)
    if (decision & CATEGORICAL).any():
        raise Invalid("it splits on categories")
    default, missing = (decision & DEFAULT_LEFT) != 0, decision >> 2
    zero_left = threshold >= 0  # without a way of its own, what is missing counts as zero
    if ((missing == MISSING_ZERO) & (default != zero_left)).any():
        raise Invalid("zeros count as missing in it")
    left, right = (
        np.where(child < 0, inner + ~child, child)
        for child in (_numbers(fields, side)[:inner].astype(np.int64) for side in ("left_child", "right_child"))
    )
    end = np.full(len(leaves), LEAF)
    nothing = np.zeros(len(leaves))
    return Tree(
        feature=np.concatenate([feature, end * 0]),
        threshold=np.concatenate([threshold, nothing]),
        left=np.concatenate([left, end]),
        right=np.concatenate([right, end]),
        missing_left=np.concatenate([np.where(missing == MISSING_NAN, default, zero_left), nothing > 0]),
        values=np.concatenate([np.zeros(inner), leaves]),
        output=output,
    )


def _around_zero(threshold: Array) -> Array:
    """The thresholds with which a row need not be rounded: LightGBM takes what is within 1e-35 of zero for zero."""
    near = np.abs(threshold) <= ZERO
    return np.where(near, np.where(threshold < 0, np.nextafter(-ZERO, -1.0), ZERO), threshold)


def _numbers(fields: dict[str, str], name: str) -> Array:
    return np.array(fields.get(name, "").split(), dtype=np.float64)
