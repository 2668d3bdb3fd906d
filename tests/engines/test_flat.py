"""Whole pipelines compiled: what stands before and behind trees and lines, held to the library that made them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import (
    calibration,
    compose,
    ensemble,
    feature_selection,
    impute,
    linear_model,
    pipeline,
    preprocessing,
    tree,
)

from modelyard.core import plugins
from modelyard.core.errors import Damaged, Invalid, Unfit
from modelyard.core.models import FeatureSpec, Signature
from modelyard.engines import flat, trees_compile
from modelyard.engines.flat import FlatRuntime
from modelyard.engines.sklearn import Clip, SignedLog
from modelyard.engines.trees import TreesRuntime

RNG = np.random.default_rng(7)
N = 500
NUMBERS = RNG.normal(size=(N, 4)) * [1.0, 30.0, 0.01, 1.0] + [0.0, 100.0, 0.0, 0.0]
NUMBERS[:, 3] = RNG.integers(0, 5, N)
HOLES = np.where(RNG.random(NUMBERS.shape) < 0.15, np.nan, NUMBERS)
WORDS = np.column_stack(
    [RNG.choice(["red", "green", "blue", "grey"], N, p=[0.4, 0.3, 0.28, 0.02]), RNG.choice(list("abc"), N)]
)
MIXED = np.empty((N, 6), dtype=object)
MIXED[:, :4], MIXED[:, 4:] = HOLES, WORDS
TWO = (NUMBERS[:, 0] + (NUMBERS[:, 1] - 100) / 30 * NUMBERS[:, 3] + (WORDS[:, 0] == "red") > 0.3).astype(int)
THREE = TWO + (NUMBERS[:, 3] > 2)
AMOUNT = np.exp(NUMBERS[:, 0] / 2) + NUMBERS[:, 3]

NUMERIC = Signature(inputs=tuple(FeatureSpec(name=f"x{i}") for i in range(4)), task="binary", classes=(0, 1))
GAPPED = tuple(FeatureSpec(name=f"x{i}", nullable=True) for i in range(4))
ALL = (*GAPPED, FeatureSpec(name="colour", kind="string"), FeatureSpec(name="letter", kind="string"))


def _like(inputs: tuple[FeatureSpec, ...], y: Any) -> Signature:
    if y is AMOUNT:
        return Signature(inputs=inputs, task="regression")
    classes = tuple(range(len(np.unique(y))))
    return Signature(inputs=inputs, task="binary" if len(classes) == 2 else "multiclass", classes=classes)


def forest(**more: Any) -> Any:
    return ensemble.RandomForestClassifier(15, random_state=0, n_jobs=1, **more)


def columns(numbers: Any, words: Any, **more: Any) -> Any:
    return compose.ColumnTransformer([("n", numbers, [0, 1, 2, 3]), ("w", words, [4, 5])], **more)


def one_hot(**more: Any) -> Any:
    return preprocessing.OneHotEncoder(**{"handle_unknown": "ignore", **more})


def made(*steps: Any) -> Any:
    return pipeline.make_pipeline(*steps)


FILLED = pipeline.make_pipeline(impute.SimpleImputer(strategy="median"), preprocessing.StandardScaler())
LIGHT: Any = {"n_estimators": 15, "verbose": -1, "num_threads": 1, "min_child_samples": 5}

NUMBERS_ONLY: dict[str, tuple[Any, Any]] = {
    "standard": (made(preprocessing.StandardScaler(), forest()), TWO),
    "minmax": (made(preprocessing.MinMaxScaler(), ensemble.GradientBoostingClassifier(n_estimators=10)), THREE),
    "minmax, clipped": (made(preprocessing.MinMaxScaler(clip=True), tree.DecisionTreeClassifier()), TWO),
    "robust, regression": (made(preprocessing.RobustScaler(), ensemble.ExtraTreesRegressor(10, n_jobs=1)), AMOUNT),
    "power": (made(preprocessing.PowerTransformer(), forest()), TWO),
    "quantiles": (made(preprocessing.QuantileTransformer(n_quantiles=50), forest()), TWO),
    "bins": (
        made(preprocessing.KBinsDiscretizer(5, encode="ordinal", quantile_method="averaged_inverted_cdf"), forest()), TWO,
    ),
    "own": (made(Clip(), SignedLog(), preprocessing.MaxAbsScaler(), forest()), TWO),
    "chosen": (
        made(preprocessing.StandardScaler(), feature_selection.SelectKBest(feature_selection.f_classif, k=2), forest()), TWO,
    ),
    "union": (
        made(pipeline.make_union(preprocessing.StandardScaler(), SignedLog(), "passthrough"), forest()), TWO,
    ),
    "lines": (made(preprocessing.StandardScaler(), linear_model.LogisticRegression()), TWO),
    "lines, three": (made(preprocessing.MinMaxScaler(), linear_model.LogisticRegression()), THREE),
    "bare lines": (linear_model.Ridge(), AMOUNT),
    "lines, exponential": (made(preprocessing.StandardScaler(), linear_model.PoissonRegressor()), AMOUNT),
    "calibrated": (calibration.CalibratedClassifierCV(made(preprocessing.StandardScaler(), forest()), cv=3), TWO),
    "calibrated by steps": (
        made(
            preprocessing.StandardScaler(),
            calibration.CalibratedClassifierCV(
                ensemble.GradientBoostingClassifier(n_estimators=10), cv=3, method="isotonic"
            ),
        ),
        TWO,
    ),
    "calibrated booster": (calibration.CalibratedClassifierCV(lightgbm.LGBMClassifier(**LIGHT), cv=2), TWO),
    "calibrated lines": (
        calibration.CalibratedClassifierCV(made(preprocessing.StandardScaler(), linear_model.LogisticRegression()), cv=3),
        TWO,
    ),
}  # fmt: skip
GAPS: dict[str, tuple[Any, Any]] = {
    "filled": (made(impute.SimpleImputer(), preprocessing.StandardScaler(), forest()), TWO),
    "filled and marked": (made(impute.SimpleImputer(add_indicator=True), forest()), TWO),
    "scaled, gaps left": (
        made(preprocessing.StandardScaler(), ensemble.HistGradientBoostingClassifier(max_iter=10)), TWO,
    ),
    "scaled, gaps left to a forest": (made(preprocessing.StandardScaler(), forest()), TWO),
    "filled lines": (made(FILLED, linear_model.LogisticRegression()), TWO),
    "XGBoost": (made(preprocessing.RobustScaler(), xgboost.XGBClassifier(n_estimators=10, n_jobs=1)), TWO),
}  # fmt: skip
WITH_WORDS: dict[str, tuple[Any, Any]] = {
    "forest": (made(columns(FILLED, one_hot()), forest()), TWO),
    "forest, dense": (made(columns(FILLED, one_hot(sparse_output=False)), forest()), THREE),
    "boosted": (made(columns(FILLED, one_hot()), ensemble.GradientBoostingRegressor(n_estimators=10)), AMOUNT),
    "histogram": (
        made(columns("passthrough", one_hot(sparse_output=False)), ensemble.HistGradientBoostingClassifier(max_iter=10)), TWO,
    ),
    "LightGBM": (made(columns("passthrough", one_hot()), lightgbm.LGBMClassifier(**LIGHT)), THREE),
    "XGBoost": (made(columns("passthrough", one_hot()), xgboost.XGBClassifier(n_estimators=10, n_jobs=1)), TWO),
    "XGBoost, sparse": (
        made(columns(FILLED, one_hot(), sparse_threshold=1.0), xgboost.XGBClassifier(n_estimators=10, n_jobs=1)), TWO,
    ),
    "one dropped": (made(columns(FILLED, one_hot(drop="first", handle_unknown="error")), forest()), TWO),
    "rare together": (made(columns(FILLED, one_hot(min_frequency=20, handle_unknown="infrequent_if_exist")), forest()), TWO),
    "numbered": (
        made(
            columns(
                FILLED, preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
            ),
            forest(),
        ),
        TWO,
    ),
    "by target": (made(columns(FILLED, preprocessing.TargetEncoder(random_state=0)), forest()), TWO),
    "lines": (made(columns(FILLED, one_hot()), linear_model.LogisticRegression()), TWO),
    "lines, three": (made(columns(FILLED, one_hot()), linear_model.LogisticRegression()), THREE),
    "lines, a number": (made(columns(FILLED, one_hot()), linear_model.Ridge()), AMOUNT),
    "scaled after": (made(columns(FILLED, one_hot()), preprocessing.MaxAbsScaler(), forest()), TWO),
    "words filled": (
        made(columns(FILLED, made(impute.SimpleImputer(strategy="most_frequent"), one_hot())), forest()), TWO,
    ),
    "numbers as categories": (
        made(
            compose.ColumnTransformer([("c", one_hot(), [3, 4]), ("n", FILLED, [0, 1])], sparse_threshold=0),
            forest(),
        ),
        TWO,
    ),
}  # fmt: skip


def _compiled(model: Any, rows: Any, y: Any, inputs: tuple[FeatureSpec, ...], folder: Path) -> tuple[Any, Any]:
    """The compiled and the native form, after both answered alike on probes from the thresholds and on the rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skops.io.dump(model.fit(rows, y), folder / "m.skops")
    found = trees_compile.compiled(folder / "m.skops", "sklearn", _like(inputs, y), folder / "m.npz")
    assert found.passed
    native = plugins.load("runtime", "sklearn")(folder / "m.skops", _like(inputs, y))
    quick = flat.opened(folder / "m.npz")
    _alike(native, quick, rows[:150])
    for row in range(5):
        _alike(native, quick, rows[row : row + 1])
    return native, quick


def _alike(native: Any, quick: Any, rows: Any) -> None:
    a, b = native.predict(rows), quick.predict(rows)
    if a.probabilities is None:
        np.testing.assert_allclose(b.predictions, a.predictions, rtol=2e-6)
        return
    np.testing.assert_allclose(b.probabilities, a.probabilities, atol=2e-6)
    assert (a.predictions == b.predictions).all()


@pytest.mark.parametrize("name", NUMBERS_ONLY)
def test_what_stands_before_numbers_is_compiled(name: str, tmp_path: Path) -> None:
    model, y = NUMBERS_ONLY[name]
    _, quick = _compiled(model, NUMBERS, y, NUMERIC.inputs, tmp_path)
    assert isinstance(quick, FlatRuntime if "line" in name or "calibrated" in name else TreesRuntime)


@pytest.mark.parametrize("name", GAPS)
def test_gaps_are_filled_and_marked_alike(name: str, tmp_path: Path) -> None:
    model, y = GAPS[name]
    _compiled(model, HOLES, y, GAPPED, tmp_path)


@pytest.mark.parametrize("name", WITH_WORDS)
def test_words_are_looked_up_alike(name: str, tmp_path: Path) -> None:
    model, y = WITH_WORDS[name]
    _, quick = _compiled(model, MIXED, y, ALL, tmp_path)
    assert isinstance(quick, FlatRuntime)


def test_a_word_that_the_model_refuses_is_named(tmp_path: Path) -> None:
    model = made(columns(FILLED, one_hot(handle_unknown="error")), forest())
    _, quick = _compiled(model, MIXED, TWO, ALL, tmp_path)
    rows = MIXED[:3].copy()
    rows[2, 4] = "pink"
    for batch, row in ((rows, 2), (rows[2:], 0)):
        with pytest.raises(Unfit, match=f"Row {row}: the model refuses the feature 'colour', which is 'pink'"):
            quick.predict(batch)


def test_columns_picked_by_name_are_compiled(tmp_path: Path) -> None:
    table = pd.DataFrame(HOLES, columns=[f"x{i}" for i in range(4)]).assign(colour=WORDS[:, 0], letter=WORDS[:, 1])
    picked = compose.ColumnTransformer([("n", FILLED, ["x0", "x3"]), ("w", one_hot(), ["letter"])])
    model = made(picked, forest()).fit(table, TWO)
    skops.io.dump(model, tmp_path / "m.skops")
    assert trees_compile.compiled(tmp_path / "m.skops", "sklearn", _like(ALL, TWO), tmp_path / "m.npz").passed
    found = flat.opened(tmp_path / "m.npz").predict(MIXED).probabilities
    np.testing.assert_allclose(found, model.predict_proba(table), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=8),
    st.booleans(),
)
def test_a_scaled_threshold_is_moved_to_the_last_number_that_stays_left(
    mean: float, scale: float, thresholds: list[float], single: bool
) -> None:
    """Beside every threshold the compiled tree answers as scaling and then comparing does, to the last bit."""

    class Scaler:
        def through(self, _: Any, rows: Any) -> Any:
            return (rows - mean) / scale, False

        signature = Signature(inputs=(FeatureSpec(name="x"),), task="regression")

    from modelyard.engines.sklearn_flat import _Asked

    kept = np.unique(np.array(thresholds))
    found = _Asked(Scaler(), ()).edges({0: 0}, {0: kept}, single=single)[0]

    def left(x: Any) -> Any:
        seen = (x - mean) / scale
        return (seen.astype(np.float32) if single else seen) <= kept

    finite = np.isfinite(found)
    assert left(np.where(finite, found, -1.7e308))[finite].all()
    assert not left(np.nextafter(found, np.inf))[finite].any()


def test_what_mixes_inputs_says_so(tmp_path: Path) -> None:
    for step, told in (
        (preprocessing.PolynomialFeatures(), "PolynomialFeatures comes before"),
        (impute.KNNImputer(), "KNNImputer comes before"),
    ):
        skops.io.dump(made(step, forest()).fit(NUMBERS, TWO), tmp_path / "m.skops")
        with pytest.raises(Invalid, match=told):
            trees_compile.compiled(tmp_path / "m.skops", "sklearn", NUMERIC, tmp_path / "m.npz")


def test_a_forged_file_is_refused(tmp_path: Path) -> None:
    model, y = WITH_WORDS["lines"]
    _compiled(model, MIXED, y, ALL, tmp_path)
    with np.load(tmp_path / "m.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, value in (
        ("weights", arrays["weights"][:-1]),
        ("table0", arrays["table0"][:-1]),
        ("about", arrays["about"][:-1]),
        ("base", np.zeros(3)),
    ):
        np.savez(tmp_path / "forged.npz", **{**arrays, name: value})
        with pytest.raises(Damaged):
            flat.opened(tmp_path / "forged.npz")
