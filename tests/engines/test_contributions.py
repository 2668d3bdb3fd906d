"""Contributions add up to the answer, and belong to raw columns."""

from __future__ import annotations

import numpy as np
import pytest

from modelyard.core import plugins
from modelyard.pipeline import MLPipeline, PipelineConfig

TREES = [
    ("sklearn", "RandomForest", {"n_estimators": 10}, "probability"),
    ("sklearn", "ExtraTrees", {"n_estimators": 10}, "probability"),
    ("sklearn", "DecisionTree", {}, "probability"),
    ("sklearn", "GradientBoosting", {"n_estimators": 10}, "odds"),
    ("sklearn", "LogisticRegression", {}, "odds"),
    ("lightgbm", "LGBM", {"n_estimators": 10}, "odds"),
    ("xgboost", "XGB", {"n_estimators": 10}, "odds"),
]


def table(rows=400, seed=0):
    rng = np.random.default_rng(seed)
    colour = rng.choice(["red", "green", "blue"], rows)
    size = rng.normal(size=rows)
    y = (size + 2 * (colour == "red") + rng.normal(size=rows) > 0.8).astype(int)
    return {"size": size, "colour": colour.astype(object), "noise": rng.normal(size=rows), "y": y}


@pytest.mark.parametrize(("model_type", "model_class", "params", "scale"), TREES)
def test_contributions_add_up_on_raw_columns(tmp_path, model_type, model_class, params, scale):
    config = PipelineConfig(name="t", target_column="y", model_type=model_type, model_class=model_class,
                            model_params=params, cross_validation_folds=0, output_dir=str(tmp_path), threads=1)  # fmt: skip
    result = MLPipeline(config, frame=table()).run()
    model = plugins.load("loader", "path")(result.artifacts["model"])
    rows = {name: values for name, values in table(seed=1).items() if name != "y"}
    values, base = model.contributions(rows)
    # a single tree's certain leaves have no log-odds; the others are compared on their own scale
    probability = model.native.predict_proba(
        np.column_stack([np.array(rows[n], dtype=object) for n in model.signature.names])
    )
    expected = probability[:, 1] if scale == "probability" else np.log(probability[:, 1] / probability[:, 0])
    assert values.shape == (400, 3)
    assert np.allclose(values.sum(axis=1) + base, expected, atol=1e-4)
    weight = np.abs(values).mean(axis=0)
    assert weight[model.signature.names.index("noise")] == min(weight)


def test_a_model_without_contributions_of_its_own_says_so(tmp_path):
    config = PipelineConfig(name="t", target_column="y", model_class="KNeighbors", cross_validation_folds=0,
                            output_dir=str(tmp_path), threads=1)  # fmt: skip
    result = MLPipeline(config, frame=table()).run()
    model = plugins.load("loader", "path")(result.artifacts["model"])
    with pytest.raises(ValueError, match="SHAP"):
        model.contributions({name: values[:2] for name, values in table().items() if name != "y"})
