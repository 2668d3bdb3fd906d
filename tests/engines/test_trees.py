"""Compiled trees answer as the library that made them does; what is more than trees says so; forged arrays are refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import ensemble, neighbors, pipeline, preprocessing, tree

from modelyard.core import plugins
from modelyard.core.errors import Damaged, Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.engines import onnx_export, trees_compile
from modelyard.engines.answers import likeliest
from modelyard.engines.trees import LEAF, NODE, Ensemble, Tree, TreesRuntime, forest, joined, packed, save

RNG = np.random.default_rng(3)
X = RNG.normal(size=(600, 5))
X[:, 3] = np.round(X[:, 3])
HOLES = np.where(RNG.random(X.shape) < 0.15, np.nan, X)
TWO = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(int)
THREE = TWO + (X[:, 3] > 0.4)
NUMBER = np.exp(X[:, 0]) + np.abs(X[:, 1])

SKLEARN = {
    "forest": (ensemble.RandomForestClassifier(20, random_state=0), X, TWO),
    "forest, three classes": (ensemble.RandomForestClassifier(20, random_state=0), X, THREE),
    "forest, missing values": (ensemble.RandomForestClassifier(20, random_state=0), HOLES, TWO),
    "forest, a number": (ensemble.RandomForestRegressor(20, random_state=0), X, NUMBER),
    "extra trees": (ensemble.ExtraTreesClassifier(20, random_state=0), X, THREE),
    "one tree": (tree.DecisionTreeClassifier(max_depth=5, random_state=0), X, TWO),
    "one tree, a number": (tree.DecisionTreeRegressor(random_state=0), HOLES, NUMBER),
    "a stump of one leaf": (tree.DecisionTreeRegressor(min_samples_leaf=500), X, NUMBER),
    "boosted": (ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0), X, TWO),
    "boosted, three classes": (ensemble.GradientBoostingClassifier(n_estimators=10, random_state=0), X, THREE),
    "boosted, exponential": (
        ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=20, random_state=0), X, TWO,
    ),
    "boosted from zero": (ensemble.GradientBoostingRegressor(init="zero", n_estimators=20, random_state=0), X, NUMBER),
    "boosted, huber": (ensemble.GradientBoostingRegressor(loss="huber", n_estimators=20, random_state=0), X, NUMBER),
    "histogram": (ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0), HOLES, TWO),
    "histogram, three classes": (ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0), X, THREE),
    "histogram, poisson": (
        ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0), HOLES, NUMBER,
    ),
    "LightGBM in a pipeline": (
        pipeline.make_pipeline(lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, num_threads=1)), HOLES, THREE,
    ),
    "XGBoost in a pipeline": (
        pipeline.make_pipeline("passthrough", xgboost.XGBClassifier(n_estimators=20, n_jobs=1)), HOLES, TWO,
    ),
}  # fmt: skip
LIGHTGBM: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "binary": ({"objective": "binary"}, HOLES, TWO),
    "binary, steep": ({"objective": "binary", "sigmoid": 2.5}, X, TWO),
    "cross entropy": ({"objective": "cross_entropy"}, X, TWO),
    "multiclass": ({"objective": "multiclass", "num_class": 3}, HOLES, THREE),
    "one against all": ({"objective": "multiclassova", "num_class": 3}, X, THREE),
    "regression": ({"objective": "regression"}, HOLES, NUMBER),
    "l1": ({"objective": "regression_l1"}, X, NUMBER),
    "quantile": ({"objective": "quantile", "alpha": 0.9}, X, NUMBER),
    "poisson": ({"objective": "poisson"}, HOLES, NUMBER),
    "tweedie": ({"objective": "tweedie"}, X, NUMBER),
    "dart": ({"objective": "binary", "boosting": "dart"}, X, TWO),
    "forest": (
        {"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}, X, NUMBER,
    ),
    "no missing values": ({"objective": "binary", "use_missing": False}, HOLES, TWO),
    "monotone": ({"objective": "regression", "monotone_constraints": [1, 0, 0, 0, 0]}, X, NUMBER),
}  # fmt: skip
XGBOOST: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "binary": ({"objective": "binary:logistic"}, HOLES, TWO),
    "binary, base": ({"objective": "binary:logistic", "base_score": 0.2}, X, TWO),
    "multiclass": ({"objective": "multi:softprob", "num_class": 3}, HOLES, THREE),
    "regression": ({"objective": "reg:squarederror"}, HOLES, NUMBER),
    "logistic": ({"objective": "reg:logistic"}, X, TWO),
    "absolute": ({"objective": "reg:absoluteerror"}, X, NUMBER),
    "poisson": ({"objective": "count:poisson"}, HOLES, NUMBER),
    "gamma": ({"objective": "reg:gamma"}, X, NUMBER),
    "tweedie": ({"objective": "reg:tweedie"}, X, NUMBER),
    "dart": ({"objective": "binary:logistic", "booster": "dart", "rate_drop": 0.3, "verbosity": 0}, X, TWO),
    "forest": (
        {"objective": "reg:squarederror", "num_parallel_tree": 4, "subsample": 0.7, "learning_rate": 1.0}, X, NUMBER,
    ),
}  # fmt: skip


def _inputs(width: int = 5) -> tuple[FeatureSpec, ...]:
    return tuple(FeatureSpec(name=f"x{i}", nullable=True) for i in range(width))


def _signature(y: Any) -> Signature:
    if y is NUMBER:
        return Signature(inputs=_inputs(), task="regression")
    classes = tuple(range(len(np.unique(y))))
    return Signature(inputs=_inputs(), task="binary" if len(classes) == 2 else "multiclass", classes=classes)


def _same(path: Path, framework: str, signature: Signature, rows: Any) -> TreesRuntime:
    """The compiled form, after it answered as the library does: on probes from its thresholds, and on these rows."""
    target = path.with_suffix(".npz")
    found = trees_compile.compiled(path, framework, signature, target)
    assert found.passed
    assert found.rows == 2 * trees_compile.ROWS
    native, quick = plugins.load("runtime", framework)(path, signature), TreesRuntime(target)
    a, b = native.predict(rows), quick.predict(rows)
    if a.probabilities is None:
        np.testing.assert_allclose(b.predictions, a.predictions, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_allclose(b.probabilities, a.probabilities, atol=2e-6)
        assert (a.predictions == b.predictions).all()
    return quick


def _fitted(estimator: Any, rows: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(rows, y)


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learns_trees_answer_the_same(name: str, tmp_path: Path) -> None:
    estimator, rows, y = SKLEARN[name]
    skops.io.dump(_fitted(estimator, rows, y), tmp_path / "m.skops")
    probe = rows[:200] if np.isnan(rows).any() or "histogram" in name or "XG" in name or "Light" in name else X[:200]
    signature = _signature(y)
    if not np.isnan(rows).any():
        plain = tuple(FeatureSpec(name=spec.name) for spec in signature.inputs)
        signature = Signature(inputs=plain, task=signature.task, classes=signature.classes)
    _same(tmp_path / "m.skops", "sklearn", signature, probe)


@pytest.mark.parametrize("name", LIGHTGBM)
def test_lightgbms_trees_answer_the_same(name: str, tmp_path: Path) -> None:
    params, rows, y = LIGHTGBM[name]
    booster = lightgbm.train({"verbose": -1, "num_threads": 1, **params}, lightgbm.Dataset(rows, y), 15)
    booster.save_model(tmp_path / "m.txt")
    _same(tmp_path / "m.txt", "lightgbm", _signature(y), HOLES)


@pytest.mark.parametrize("name", XGBOOST)
@pytest.mark.parametrize("ending", ["json", "ubj"])
def test_xgboosts_trees_answer_the_same(name: str, ending: str, tmp_path: Path) -> None:
    params, rows, y = XGBOOST[name]
    booster = xgboost.train({"nthread": 1, **params}, xgboost.DMatrix(rows, y), 15)
    path = tmp_path / f"m.{ending}"
    booster.save_model(path)
    signature = _signature(NUMBER if params["objective"].startswith(("reg", "count")) else y)
    _same(path, "xgboost", signature, HOLES)


def test_early_stopping_keeps_the_rounds_that_the_library_asks(tmp_path: Path) -> None:
    """XGBoost's booster asks all rounds, its scikit-learn class and LightGBM those up to the best."""
    rows, y = RNG.normal(size=(200, 5)), RNG.integers(0, 2, 200)
    booster = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(X, TWO), 60,
        evals=[(xgboost.DMatrix(rows, y), "noise")], early_stopping_rounds=3, verbose_eval=False,
    )  # fmt: skip
    booster.save_model(tmp_path / "m.json")
    _same(tmp_path / "m.json", "xgboost", _signature(TWO), HOLES)
    estimator = xgboost.XGBClassifier(n_estimators=60, early_stopping_rounds=3, n_jobs=1)
    skops.io.dump(estimator.fit(X, TWO, eval_set=[(rows, y)], verbose=False), tmp_path / "m.skops")
    _same(tmp_path / "m.skops", "sklearn", _signature(TWO), HOLES)
    light = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(X, TWO), 60,
        valid_sets=[lightgbm.Dataset(rows, y)], callbacks=[lightgbm.early_stopping(3, verbose=False)],
    )  # fmt: skip
    light.save_model(tmp_path / "m.txt")
    _same(tmp_path / "m.txt", "lightgbm", _signature(TWO), HOLES)


@pytest.mark.parametrize(
    "name", ["forest", "forest, three classes", "boosted", "boosted, three classes", "one tree, a number"]
)
def test_trees_in_a_graph_answer_the_same(name: str, tmp_path: Path) -> None:
    estimator, _, y = SKLEARN[name]
    model = pipeline.make_pipeline(_fitted(estimator, X, y))
    signature = _signature(y)
    onnx_export.export(model, signature, tmp_path / "m.onnx")
    _same(tmp_path / "m.onnx", "onnx", signature, X)


MORE = {
    "mixed": (pipeline.make_pipeline(preprocessing.PolynomialFeatures(), tree.DecisionTreeClassifier()), "Polynomial"),
    "neighbours": (neighbors.KNeighborsClassifier(), "KNeighborsClassifier is no ensemble"),
    "reweighted": (ensemble.AdaBoostClassifier(n_estimators=3), "AdaBoostClassifier is no ensemble"),
}  # fmt: skip


@pytest.mark.parametrize("name", MORE)
def test_what_is_more_than_trees_says_so(name: str, tmp_path: Path) -> None:
    estimator, told = MORE[name]
    skops.io.dump(_fitted(estimator, X, TWO), tmp_path / "m.skops")
    plain = Signature(inputs=tuple(FeatureSpec(name=f"x{i}") for i in range(5)), task="binary", classes=(0, 1))
    with pytest.raises(Invalid, match=told):
        trees_compile.compiled(tmp_path / "m.skops", "sklearn", plain, tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.skops"]


def test_boosters_that_split_otherwise_say_so(tmp_path: Path) -> None:
    kinds = RNG.integers(0, 6, 600)
    few = {"objective": "binary", "verbose": -1, "num_threads": 1, "min_data_per_group": 1}
    data = lightgbm.Dataset(kinds[:, None], np.isin(kinds, (2, 5)).astype(int), categorical_feature=[0])
    lightgbm.train(few, data, 5).save_model(tmp_path / "categories.txt")
    lightgbm.train({**few, "linear_tree": True}, lightgbm.Dataset(X, TWO), 5).save_model(tmp_path / "linear.txt")
    gone = np.where(RNG.random(600) < 0.4, 0.0, RNG.uniform(1, 3, 600))  # what is missing behaves as the greatest do
    data = lightgbm.Dataset(gone[:, None], ((gone == 0) | (gone > 2)).astype(int))
    lightgbm.train({**few, "zero_as_missing": True}, data, 5).save_model(tmp_path / "zeros.txt")
    for words, width in (("categories", 1), ("linear", 5), ("zeros", 1)):
        signature = Signature(inputs=_inputs(width), task="binary", classes=(0, 1))
        with pytest.raises(Invalid, match=words):
            trees_compile.compiled(tmp_path / f"{words}.txt", "lightgbm", signature, tmp_path / "m.npz")
    linear = {"objective": "reg:squarederror", "booster": "gblinear", "nthread": 1}
    xgboost.train(linear, xgboost.DMatrix(X, NUMBER), 5).save_model(tmp_path / "m.json")
    with pytest.raises(Invalid, match="gblinear"):
        trees_compile.compiled(tmp_path / "m.json", "xgboost", _signature(NUMBER), tmp_path / "m.npz")


# 0.1 and its like lie between two single numbers, the last ones beyond all of them
CUTS = np.array([-1.0, 0.0, 0.1, -0.1, 0.5, 1.0, 1e-46, -1e-46, 1e300, -1e300])
SINGLE = np.array([-2.0, -1.0, -0.0, 0.5, 1.0, 1e-45, -1e-45, 3e38, np.inf, -np.inf, 0.1, -0.1], np.float32)
NEAR = np.concatenate([SINGLE, np.nextafter(SINGLE, np.float32(np.inf)), np.nextafter(SINGLE, np.float32(-np.inf))])


@st.composite
def grown(draw: st.DrawFn) -> Tree:
    """A random tree, its nodes in a random order."""
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    left, right, leaves = [LEAF], [LEAF], [0]
    for pick in numbers.random(draw(st.integers(0, 90))):
        at = leaves.pop(int(pick * len(leaves)))
        left[at], right[at] = len(left), len(left) + 1
        leaves += [len(left), len(left) + 1]
        left += [LEAF, LEAF]
        right += [LEAF, LEAF]
    count = len(left)
    place = np.concatenate([[0], 1 + numbers.permutation(count - 1)])  # the root stays first
    order = np.argsort(place)
    moved = [np.array([LEAF if c == LEAF else place[c] for c in side])[order] for side in (left, right)]
    return Tree(
        feature=numbers.integers(0, 3, count),
        threshold=numbers.choice(CUTS, count),
        left=moved[0],
        right=moved[1],
        missing_left=numbers.random(count) < 0.5,
        values=numbers.normal(size=(count, 2)),
    )


def _walked(trees: list[Tree], row: Any) -> Any:
    """The sums of one row, the slow way."""
    total = np.zeros(2)
    for one in trees:
        at = 0
        while one.left[at] != LEAF:
            seen = row[one.feature[at]]
            left = one.missing_left[at] if np.isnan(seen) else seen <= one.threshold[at]
            at = one.left[at] if left else one.right[at]
        total += one.values[at]
    return total


@settings(max_examples=80, deadline=None)
@given(st.lists(grown(), min_size=1, max_size=20), st.integers(1, 300), st.sampled_from(["single", "double", "holes"]))
def test_the_kernel_walks_as_a_person_would(trees: list[Tree], count: int, kind: str) -> None:
    """Rows of single precision go another way than others, rows with missing values a third."""
    numbers = np.random.default_rng(count)
    rows = numbers.choice(NEAR.astype(float) if kind == "single" else np.concatenate([CUTS, NEAR]), (count, 3))
    if kind == "holes":
        rows[numbers.random(rows.shape) < 0.2] = np.nan
    made = forest(
        packed(joined(trees, base=np.zeros(2), link="identity", single=False)), width=3, link="identity", single=False
    )
    out = np.empty((count, 2))
    made.predict(rows, out, np.empty(count, np.int64))
    np.testing.assert_allclose(out, [_walked(trees, row) for row in rows], atol=1e-12)
    one = np.empty((1, 2))
    for i in range(min(count, 40)):
        made.predict(rows[i : i + 1], one, np.empty(1, np.int64))
        assert (one == out[i : i + 1]).all()


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_a_batch_of_any_size_answers_as_its_rows_do_alone(outputs: int) -> None:
    numbers = np.random.default_rng(outputs)
    x = numbers.normal(size=(400, 3)).astype(np.float32)
    grown = ensemble.RandomForestRegressor(7, max_depth=8, random_state=0).fit(
        x, numbers.normal(size=(400, outputs)).squeeze()
    )
    trees = [
        Tree(
            feature=np.maximum(one.tree_.feature, 0),
            threshold=one.tree_.threshold,
            left=one.tree_.children_left,
            right=one.tree_.children_right,
            missing_left=np.zeros(one.tree_.node_count, bool),
            values=one.tree_.value[:, :, 0],
        )
        for one in grown.estimators_
    ]
    made = forest(
        packed(joined(trees, base=np.zeros(outputs), link="identity", single=True)),
        width=3,
        link="identity",
        single=True,
    )
    rows = numbers.normal(size=(300, 3))
    alone, likely = np.empty((300, outputs)), np.empty(300, np.int64)
    for i in range(300):
        made.predict(rows[i : i + 1], alone[i : i + 1], likely[i : i + 1])
    np.testing.assert_allclose(alone, np.reshape(7 * grown.predict(rows), alone.shape), atol=1e-12)
    for count in (*range(20, 140), 255, 256, 257, 300):
        out = np.full((count, outputs), np.nan)
        made.predict(rows[:count], out, likely[:count])
        assert (out == alone[:count]).all()


def test_a_tree_wider_than_a_short_node_can_say_answers_the_same() -> None:
    """A left child may lie more than 2^20 nodes on."""
    levels = 21
    count = 2 ** (levels + 1) - 1
    inner = np.arange(count) < 2**levels - 1
    at = np.arange(count)
    one = Tree(
        feature=np.zeros(count, np.int64),
        threshold=np.where(inner, 0.5, 0.0),
        left=np.where(inner, 2 * at + 1, LEAF),
        right=np.where(inner, 2 * at + 2, LEAF),
        missing_left=np.zeros(count, bool),
        values=at.astype(float),
    )
    made = forest(
        packed(joined([one], base=np.zeros(1), link="identity", single=True)), width=1, link="identity", single=True
    )
    out = np.empty((64, 1))
    made.predict(np.tile([[0.0], [1.0]], (32, 1)), out, np.empty(64, np.int64))
    assert (out[:, 0] == np.tile([2**levels - 1, count - 1], 32)).all()


ONE = Tree(
    feature=np.array([1, 0, 0]), threshold=np.array([0.5, 0, 0]), left=np.array([1, LEAF, LEAF]),
    right=np.array([2, LEAF, LEAF]), missing_left=np.array([True, False, False]), values=np.array([0.0, 1.0, 2.0]),
)  # fmt: skip


def _arrays() -> dict[str, Any]:
    return packed(joined([ONE, ONE], base=np.zeros(1), link="identity", single=False))


FORGED: dict[str, Any] = {
    "child beyond": ("nodes", 0, "left", 5),
    "child itself": ("nodes", 0, "left", 0),
    "child behind": ("nodes", 3, "left", 1),
    "child negative": ("nodes", 0, "left", -7),
    "feature beyond": ("nodes", 0, "feature", 2),
    "leaf with a way on": ("nodes", 1, "threshold", 0.5),
    "leaf that a missing value leaves": ("nodes", 1, "feature", 0),
    "threshold that is no number": ("nodes", 0, "threshold", np.nan),
    "leaf without values": ("leaves", 1, None, 9),
    "leaf before all values": ("leaves", 1, None, -1),
    "root beyond": ("roots", 1, None, 6),
    "root before all": ("roots", 0, None, -1),
    "depth too small": ("depths", 0, None, 0),
    "depth too large": ("depths", 1, None, 1 << 30),
    "depths out of order": ("depths", 0, None, 2),
}


@pytest.mark.parametrize("name", FORGED)
def test_an_array_that_leads_outside_is_refused_before_anything_is_asked(name: str) -> None:
    array, place, field, value = FORGED[name]
    arrays = _arrays()
    (arrays[array] if field is None else arrays[array][field])[place] = value
    with pytest.raises(Damaged, match="Compile the model again"):
        forest(arrays, width=2, link="identity", single=False)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_forged_arrays_lead_the_kernel_outside(data: st.DataObject) -> None:
    """Whatever is taken can be asked: were it not so, the process would end."""
    arrays = _arrays()
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(arrays)))
        array = arrays[name]
        if data.draw(st.booleans()) and len(array) > 1:
            arrays[name] = array[: data.draw(st.integers(0, len(array)))]
            continue
        field = data.draw(st.sampled_from(NODE.names)) if array.dtype == NODE else None
        values = array if field is None else array[field]
        if len(values):
            small = st.integers(0, 7) if values.dtype.kind == "u" else st.integers(-3, 7)
            values[data.draw(st.integers(0, len(values) - 1))] = data.draw(small | st.just(2**31 - 1))
    try:
        made = forest(arrays, width=2, link="identity", single=False)
    except Damaged:
        return
    rows = np.array([[0.0, 0.0], [9.0, 9.0], [np.nan, np.nan], [np.inf, -np.inf]] * 5)
    made.predict(rows, np.empty((20, made.columns)), np.empty(20, np.int64))
    made.predict(np.tile(rows[[0, 1, 3]], (30, 1)), np.empty((90, made.columns)), np.empty(90, np.int64))


def test_nodes_that_form_no_trees_are_refused() -> None:
    made = joined([ONE], base=np.zeros(1), link="identity", single=False)
    for left, right in (
        ([1, 0, LEAF], [2, 2, LEAF]),
        ([1, LEAF, LEAF], [1, LEAF, LEAF]),
        ([1, LEAF, LEAF], [9, LEAF, LEAF]),
    ):
        forged = Ensemble(
            **{**{n: getattr(made, n) for n in Ensemble.__slots__}, "left": np.array(left), "right": np.array(right)}
        )
        with pytest.raises(Invalid, match="Export the model again"):
            packed(forged)


def test_a_place_for_answers_of_another_size_or_type_is_refused() -> None:
    made = forest(_arrays(), width=2, link="identity", single=False)
    for rows, out, likely in (((3, 2), (2, 1), 3), ((3, 3), (3, 1), 3), ((3, 2), (3, 2), 3), ((3, 2), (3, 1), 2)):
        with pytest.raises(ValueError, match="another size"):
            made.predict(np.zeros(rows), np.zeros(out), np.zeros(likely, np.int64))
    frozen = np.zeros((1, 1))
    frozen.flags.writeable = False
    for parts in (
        (np.zeros((1, 2)), frozen, np.zeros(1, np.int64)),
        (np.zeros((1, 2), np.int64), np.zeros((1, 1)), np.zeros(1, np.int64)),
        (np.zeros((1, 2)), np.zeros((1, 1)), np.zeros(1)),
        (np.zeros((2, 4))[:, ::2], np.zeros((2, 1)), np.zeros(2, np.int64)),
    ):
        with pytest.raises((BufferError, ValueError)):
            made.predict(*parts)
    made.predict(np.zeros((0, 2)), np.zeros((0, 1)), np.zeros(0, np.int64))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5000004, 0.5000012, 1.0, np.nan]), min_size=3, max_size=3)))
def test_the_likeliest_class_is_chosen_as_everywhere(answers: list[list[float]]) -> None:
    """Each row is led to a leaf of its own, which holds these numbers."""
    count = len(answers) + 1
    chain = np.arange(2 * count - 1)
    inner = chain < count - 1
    grown = Tree(
        feature=chain * 0,
        threshold=chain + 0.5,
        left=np.where(inner, count - 1 + chain, LEAF),
        right=np.where(inner, np.where(chain == count - 2, 2 * count - 2, chain + 1), LEAF),
        missing_left=chain < 0,
        values=np.concatenate([np.zeros((count - 1, 3)), np.array([*answers, [0, 0, 1]])]),
    )
    made = forest(
        packed(joined([grown], base=np.zeros(3), link="identity", single=False)), width=1, link="identity", single=False
    )
    out, likely = np.empty((count, 3)), np.empty(count, np.int64)
    made.predict(np.arange(count, dtype=float)[:, None], out, likely)
    np.testing.assert_array_equal(out[:-1], np.array(answers).reshape(-1, 3))
    fine = ~np.isnan(out).any(axis=1)
    assert (likely[fine] == likeliest(out[fine])).all()
    assert ((likely >= 0) & (likely < 3)).all()


def test_a_compiled_file_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "m.npz"
    signature = Signature(inputs=_inputs(2), task="regression")
    save(path, joined([ONE], base=np.zeros(1), link="identity", single=False), signature)
    assert TreesRuntime(path).predict(np.array([[0.0, 0.0], [0.0, 1.0]])).predictions.tolist() == [1.0, 2.0]
    with pytest.raises(Damaged, match="gives 1 numbers a row"):
        TreesRuntime(path, Signature(inputs=_inputs(2), task="binary", classes=(0, 1)))
    whole = path.read_bytes()
    for content in (
        b"",
        b"PK\x03\x04",
        whole[:-40],
        whole.replace(b"identity", b"identitx"),
        whole[:200] + whole[208:],
    ):
        path.write_bytes(content)
        with pytest.raises(Damaged, match="again"):
            TreesRuntime(path)


def test_rows_may_lie_in_memory_as_they_like(tmp_path: Path) -> None:
    signature = Signature(inputs=_inputs(2), task="regression", classes=())
    save(tmp_path / "m.npz", joined([ONE], base=np.zeros(1), link="identity", single=True), signature)
    runtime = TreesRuntime(tmp_path / "m.npz")
    rows = np.array([[0.0, 0.0], [0.0, 9.0], [9.0, 0.0]])
    for told in (rows, np.asfortranarray(rows), np.repeat(rows, 2, axis=1)[:, ::2], rows.astype(np.float32)):
        assert runtime.predict(told).predictions.tolist() == [1.0, 2.0, 1.0]
    with pytest.raises(ValueError, match="another size"):
        runtime.predict(rows[:, :1])
