"""Real boosters of every objective and option that LightGBM and XGBoost have, in every form that they are kept in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost

RNG = np.random.default_rng(0)
ROWS = 240
X = RNG.normal(size=(ROWS, 4))
X[:, 3] = RNG.integers(0, 50, ROWS)
FULL = X.copy()
X[RNG.random(X.shape) < 0.1] = np.nan
YES = (FULL[:, 0] > 0).astype(int)
THREE = YES + (FULL[:, 1] > 0.5)
NUMBER = 2 * FULL[:, 0] + FULL[:, 3] % 3
POSITIVE = np.exp(np.clip(NUMBER, -2, 2))
GROUPS = [20] * (ROWS // 20)
FRAME = pd.DataFrame(FULL, columns=list("abcd")).assign(
    b=pd.Categorical(RNG.choice(["ä", "日本", "x"], ROWS)), d=pd.Categorical(FULL[:, 3].astype(int))
)
CATEGORY: dict[str, Any] = {"categorical_feature": [3]}
TYPES: dict[str, Any] = {"enable_categorical": True, "feature_types": ["q", "q", "q", "c"]}


def _own(predicted: Any, data: Any) -> tuple[Any, Any]:
    """An objective of one's own, for one output or three."""
    label = data.get_label()
    wanted = label if np.ndim(predicted) == 1 else np.eye(3)[label.astype(int)]
    return predicted - wanted, np.ones_like(predicted)


# name -> (parameters, target, what the data set takes)
LIGHTGBM: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    **{name: ({"objective": name}, YES, {}) for name in ("binary", "cross_entropy", "cross_entropy_lambda")},
    **{
        name: ({"objective": name}, NUMBER, {})
        for name in ("regression", "regression_l1", "huber", "fair", "quantile", "mape")
    },
    **{name: ({"objective": name}, POSITIVE, {}) for name in ("poisson", "gamma", "tweedie")},
    **{
        name: ({"objective": name, "num_class": 3}, THREE, {})
        for name in ("multiclass", "multiclassova", "softmax", "ova")
    },
    **{name: ({"objective": name}, THREE, {"group": GROUPS}) for name in ("lambdarank", "rank_xendcg")},
    "root of the target": ({"objective": "regression", "reg_sqrt": True}, NUMBER, {}),
    "dart": ({"objective": "multiclass", "num_class": 3, "boosting": "dart"}, THREE, {}),
    "random forest": ({"objective": "binary", "boosting": "rf", "bagging_fraction": 0.6, "bagging_freq": 1}, YES, {}),
    "one side": ({"objective": "binary", "data_sample_strategy": "goss"}, YES, {}),
    "categories": ({"objective": "regression", "max_cat_to_onehot": 2, "cat_smooth": 1}, NUMBER, CATEGORY),
    "category against others": ({"objective": "binary", "max_cat_to_onehot": 64}, YES, CATEGORY),
    "linear": ({"objective": "regression", "linear_tree": True}, NUMBER, {}),
    "linear classes": ({"objective": "multiclass", "num_class": 3, "linear_tree": True}, THREE, CATEGORY),
    "monotone": ({"objective": "regression", "monotone_constraints": [1, 0, -1, 0]}, NUMBER, {}),
    "interaction": ({"objective": "binary", "interaction_constraints": [[0, 1], [2, 3]]}, YES, {}),
    "zero as missing": ({"objective": "binary", "zero_as_missing": True}, YES, {}),
    "no missing": ({"objective": "binary", "use_missing": False}, YES, {}),
    "trees of one leaf": ({"objective": "binary", "min_data_in_leaf": ROWS}, YES, {}),
    "linear trees of one leaf": (
        {"objective": "regression", "min_data_in_leaf": ROWS, "linear_tree": True},
        NUMBER,
        {},
    ),
    "stumps": ({"objective": "binary", "num_leaves": 2}, YES, {}),
    "deep": ({"objective": "regression", "num_leaves": 200, "min_data_in_leaf": 1}, NUMBER, {}),
    "quantized": ({"objective": "binary", "use_quantized_grad": True}, YES, {}),
    "names": ({"objective": "binary"}, YES, {"feature_name": ["ä=b", "日本", "num_class", "Tree=0"]}),
    "own objective": ({"objective": _own}, NUMBER, {}),
}
XGBOOST: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    **{name: ({"objective": name}, YES, {}) for name in ("binary:logistic", "binary:logitraw", "binary:hinge", "reg:logistic")},
    **{
        name: ({"objective": name}, POSITIVE, {})
        for name in (
            "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:gamma", "reg:tweedie", "reg:squaredlogerror",
            "count:poisson", "survival:cox",
        )
    },
    **{name: ({"objective": name, "num_class": 3}, THREE, {}) for name in ("multi:softprob", "multi:softmax")},
    **{name: ({"objective": name}, YES, {"group": GROUPS}) for name in ("rank:ndcg", "rank:pairwise", "rank:map")},
    "unbiased ranks": ({"objective": "rank:ndcg", "lambdarank_unbiased": True}, THREE, {"group": GROUPS}),
    "quantiles": ({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9]}, NUMBER, {}),
    "dart": ({"booster": "dart", "rate_drop": 0.4, "num_parallel_tree": 2, "subsample": 0.5}, NUMBER, {}),
    "dart classes": ({"booster": "dart", "objective": "multi:softprob", "num_class": 3}, THREE, {}),
    "linear": ({"booster": "gblinear"}, NUMBER, {}),
    "linear classes": ({"booster": "gblinear", "objective": "multi:softprob", "num_class": 3}, THREE, {}),
    "several targets": ({}, np.c_[NUMBER, POSITIVE], {}),
    "vectors": ({"multi_strategy": "multi_output_tree"}, np.c_[NUMBER, POSITIVE], {}),
    "vectors of classes": ({"multi_strategy": "multi_output_tree", "objective": "multi:softprob", "num_class": 3}, THREE, {}),
    "labels": ({"objective": "binary:logistic"}, np.c_[YES, 1 - YES], {}),
    "pruned": ({"tree_method": "exact", "gamma": 10, "max_depth": 8}, NUMBER, {}),
    "approximate": ({"tree_method": "approx"}, NUMBER, {}),
    "by loss": ({"grow_policy": "lossguide", "max_leaves": 100, "max_depth": 0}, NUMBER, {}),
    "random forest": ({"num_parallel_tree": 5, "subsample": 0.5, "objective": "multi:softprob", "num_class": 3}, THREE, {}),
    "categories": ({"max_cat_to_onehot": 1}, NUMBER, TYPES),
    "category against others": ({"max_cat_to_onehot": 100}, NUMBER, TYPES),
    "monotone": ({"monotone_constraints": "(1,0,-1,0)"}, NUMBER, {}),
    "trees of one leaf": ({"min_child_weight": 1e9}, NUMBER, {}),
    "names": ({}, NUMBER, {"feature_names": ['a"b', "日本", "c\\d", "e f"]}),
    "own objective": ({"num_class": 3, "base_score": 0.5, "own": True}, THREE, {}),
}  # fmt: skip


def lightgbms(rounds: int = 3) -> Iterator[tuple[str, Any]]:
    """(name, booster)."""
    for name, (params, target, kept) in LIGHTGBM.items():
        settings = {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 5, "min_data_per_group": 5, **params}
        yield name, lightgbm.train(settings, lightgbm.Dataset(X, target, **kept), rounds)
    framed = lightgbm.LGBMClassifier(n_estimators=rounds, n_jobs=1, verbose=-1).fit(FRAME, THREE)
    yield "data frame", framed.booster_


def xgboosts(rounds: int = 3) -> Iterator[tuple[str, Any]]:
    """(name, booster)."""
    for name, (params, target, kept) in XGBOOST.items():
        settings = {"nthread": 1, "verbosity": 0, "max_depth": 4, **params}
        own = {"obj": _own} if settings.pop("own", False) else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the linear booster is deprecated
            yield name, xgboost.train(settings, xgboost.DMatrix(FULL, target, **kept), rounds, **own)
    data = xgboost.DMatrix(FRAME, NUMBER, enable_categorical=True)
    yield "data frame", xgboost.train({"nthread": 1}, data, rounds)
