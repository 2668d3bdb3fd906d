"""Every export is held to the native model; one that answers otherwise never answers a request."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from modelyard.engines.loading import load_model
from modelyard.engines.onnx import OnnxRuntime


@pytest.mark.parametrize(
    ("model_type", "model_class", "params"),
    [
        ("sklearn", "LogisticRegression", {}),
        ("sklearn", "RandomForest", {"n_estimators": 20}),
        ("sklearn", "GradientBoosting", {"n_estimators": 20}),
        ("lightgbm", "LGBM", {"n_estimators": 20}),
        ("xgboost", "XGB", {"n_estimators": 20}),
    ],
)
def test_a_mixed_table_is_answered_alike_by_both_forms(train, model_type, model_class, params, people, undated):
    result = train(undated, model_type=model_type, model_class=model_class, model_params=params)
    assert result.parity.passed, result.parity
    model = load_model(result.artifacts["model"])
    assert model.manifest.primary == "onnx"
    fresh = {name: values for name, values in people(500, seed=9).items() if name in model.signature.names}
    exported, native = model.predict_proba(fresh), model.runtime.native.predict
    batch = np.array([list(row) for row in zip(*(fresh[n] for n in model.signature.names), strict=True)], dtype=object)
    assert np.abs(exported - native(batch).probabilities).max() < 1e-5
    assert set(model.predict(fresh)) == {"yes", "no"}


def test_binary_discriminant_analysis_converts_wrongly_and_is_caught(train):
    table = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "bought"})
    result = train(table, model_class="LinearDiscriminantAnalysis")
    assert not result.parity.passed
    assert result.parity.max_difference > 0.01
    assert "ordinary rows" in result.parity.reason
    assert "onnx" not in result.artifacts
    assert load_model(result.artifacts["model"]).manifest.primary == "sklearn"


def test_what_cannot_be_converted_answers_natively_with_the_reason_kept(train, undated):
    result = train(undated, model_class="HistGradientBoosting", model_params={"max_iter": 10})
    model = load_model(result.artifacts["model"])
    assert not result.parity.passed
    assert "HistGradientBoosting" in result.parity.reason
    assert model.manifest.primary == "sklearn"
    assert model.manifest.parity == result.parity
    assert model.predict_proba({n: undated[n] for n in model.signature.names}).shape == (600, 2)


def test_dates_are_taken_raw_and_answer_natively(train, people):
    result = train(people(), model_type="lightgbm")
    model = load_model(result.artifacts["model"])
    assert "joined" in model.signature.names
    assert not result.parity.passed
    record = {n: people()[n][0] for n in model.signature.names}
    assert model.predict([record]).tolist()[0] in ("yes", "no")
    with pytest.raises(ValueError, match="no date"):
        model.predict([{**record, "joined": "yesterday"}])


def test_numeric_tables_have_one_float_input_and_multiclass_and_regression_export(train):
    iris = load_iris(as_frame=True).frame.rename(columns={"target": "bought"})
    many = load_model(train(iris, model_type="lightgbm", model_params={"n_estimators": 5}).artifacts["model"])
    assert many.signature.classes == (0, 1, 2)
    assert many.predict_proba(iris.drop(columns="bought")).shape == (150, 3)
    diabetes = load_diabetes(as_frame=True).frame.rename(columns={"target": "bought"})
    for model_class, model_type in (
        ("Ridge", "sklearn"),
        ("LGBM", "lightgbm"),
        ("XGB", "xgboost"),
        ("RandomForest", "sklearn"),
    ):
        result = train(diabetes, model_class=model_class, model_type=model_type)
        assert result.parity.passed, (model_class, result.parity)
        model = load_model(result.artifacts["model"])
        assert {"test_rmse", "cv_r2"} <= set(result.metrics)
        session = OnnxRuntime(__import__("pathlib").Path(result.artifacts["onnx"]))._session
        assert [entry.name for entry in session.get_inputs()] == ["input"]
        assert model.predict(diabetes.drop(columns="bought")).shape == (442,)


def test_rows_on_lightgbms_thresholds_go_the_same_way_in_both_forms(train):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 4)).astype(np.float32).astype(float)
    table = {f"f{i}": x[:, i] for i in range(4)} | {"bought": (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=2000) > 0)}
    model = load_model(train(table, model_type="lightgbm", model_params={"n_estimators": 30}).artifacts["model"])
    rows = []

    def walk(node):
        if "threshold" in node:
            near = np.float32(node["threshold"])  # at 1e-35, LightGBM's name for zero, the two differ
            for value in (
                ()
                if abs(near) < 1e-30
                else (near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf)))
            ):
                row = x[len(rows) % 2000].copy()
                row[node["split_feature"]] = value
                rows.append(row)
            walk(node["left_child"])
            walk(node["right_child"])

    for tree in model.native[-1].booster_.dump_model()["tree_info"]:
        walk(tree["tree_structure"])
    batch = np.array(rows)
    gap = np.abs(model.runtime.predict(batch).probabilities - model.native.predict_proba(batch)).max()
    assert len(rows) > 1000
    assert gap < 1e-6


def test_transformations_of_our_own_are_exported_exactly(train, undated):
    transforms = [
        {"type": "log", "columns": ["income"]},
        {"type": "clip", "columns": ["age"], "low": 0.05, "high": 0.95},
        {"type": "interaction", "columns": ["age", "children"]},
        {"type": "bin", "columns": ["children"], "n_bins": 3},
        {"type": "ordinal", "columns": ["job"]},
    ]
    result = train(undated, model_class="LogisticRegression", feature_transforms=transforms)
    assert result.parity.passed, result.parity
    model = load_model(result.artifacts["model"])
    values, base = model.contributions({n: undated[n] for n in model.signature.names})
    odds = np.log(model.predict_proba({n: undated[n] for n in model.signature.names})[:, 1])
    rest = np.log(model.predict_proba({n: undated[n] for n in model.signature.names})[:, 0])
    assert np.allclose(values.sum(axis=1) + base, odds - rest, atol=1e-3)
