"""A model file whose types are all trusted, but whose indices lead outside its arrays, is refused before it answers."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import honest_models
import numpy as np
import pytest
import skops.io
from scipy import sparse
from sklearn import (
    calibration,
    cluster,
    compose,
    ensemble,
    linear_model,
    multiclass,
    neighbors,
    pipeline,
    preprocessing,
    svm,
    tree,
)  # fmt: skip
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import DistanceMetric

from modelyard.core.errors import Damaged, Invalid
from modelyard.engines.loading import load_model
from modelyard.engines.sklearn_bounds import refuse_out_of_bounds
from modelyard.engines.sklearn_files import TRUSTED

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4))
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
FAR = 1 << 40
FOREST = ensemble.RandomForestClassifier(3, max_depth=4)
SEARCH = neighbors.KNeighborsClassifier(algorithm="kd_tree", leaf_size=10)
BALL = neighbors.KNeighborsRegressor(algorithm="ball_tree", leaf_size=10)
BOOSTED = ensemble.GradientBoostingClassifier(n_estimators=2)
HIST = ensemble.HistGradientBoostingClassifier(max_iter=2)
ONE_HOT = compose.ColumnTransformer(
    [("c", preprocessing.OneHotEncoder(sparse_output=False, handle_unknown="ignore"), [0])], remainder="passthrough"
)


def _put(array: Any, place: Any, value: Any) -> None:
    array[place] = value


def _tree(forge: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda model: forge(model.estimators_[1].tree_)


def _shorter_tree(model: Any) -> None:
    """A tree that says it has no nodes."""
    model.estimators_[1].tree_.node_count = 0


def _searched(place: int, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    def forge(model: Any) -> None:
        state = list(model._tree.__getstate__())
        state[place] = change(state[place])
        model._tree.__setstate__(tuple(state))

    return forge


def _changed(place: Any, value: Any, field: str | None = None) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        copy = array.copy()
        (copy if field is None else copy[field])[place] = value
        return copy

    return change


def _weighted(_: Any) -> Any:
    return DistanceMetric.get_metric("minkowski", p=3, w=np.ones(2))


def _nodes(field: str, value: Any, categorical: int = 0) -> Callable[[Any], None]:
    def forge(model: Any) -> None:
        nodes = model._predictors[1][0].nodes
        nodes[field][0] = value
        nodes["is_categorical"][0] = categorical

    return forge


def _set(name: str, change: Callable[[Any], Any]) -> Callable[[Any], None]:
    return lambda model: setattr(model, name, change(getattr(model, name)))


def _fewer_columns(model: Any) -> None:
    model[0].named_transformers_["c"]._n_features_outs = [1]


def _mt19937(model: Any) -> None:
    numbers = np.random.RandomState(0)
    state = numbers.get_state(legacy=False)
    state["state"]["pos"] = 10**9
    numbers.set_state(state)
    model.random_state = numbers


# what is forged -> (estimator, how, what the refusal says); each file is written by skops and opened by load_model
FORGED: dict[str, tuple[Any, Callable[[Any], None], str]] = {
    "left child": (FOREST, _tree(lambda t: _put(t.children_left, 0, FAR)), "child beyond"),
    "right child": (FOREST, _tree(lambda t: _put(t.children_right, 0, t.node_count)), "child beyond"),
    "child before all nodes": (FOREST, _tree(lambda t: _put(t.children_left, 0, -FAR)), "child beyond"),
    "child that leads back": (FOREST, _tree(lambda t: _put(t.children_right, 0, 0)), "leads back"),
    "children shared": (FOREST, _tree(lambda t: _put(t.children_right, 0, t.children_left[0])), "more than one"),
    "feature": (FOREST, _tree(lambda t: _put(t.feature, 0, FAR)), "feature beyond its 4"),
    "negative feature": (FOREST, _tree(lambda t: _put(t.feature, 0, -3)), "feature beyond its 4"),
    "number of nodes": (FOREST, _shorter_tree, "0 nodes"),
    "depth": (FOREST, _tree(lambda t: setattr(t, "max_depth", 1)), "deeper"),
    "features of a tree": (FOREST, lambda m: setattr(m.estimators_[1], "n_features_in_", 9), "takes 9 features"),
    "tree": (FOREST, lambda m: setattr(m.estimators_[1], "tree_", None), "something else than a tree"),
    "lone tree": (tree.DecisionTreeRegressor(), lambda m: _put(m.tree_.feature, 0, 4), "tree_ splits on a feature"),
    "extra tree": (ensemble.ExtraTreesRegressor(3), _tree(lambda t: _put(t.feature, 0, FAR)), "feature beyond"),
    "isolation tree": (
        ensemble.IsolationForest(n_estimators=3), _tree(lambda t: _put(t.children_left, 0, FAR)), "child beyond",
    ),
    "tree of a stage": (BOOSTED, lambda m: _put(m.estimators_[1, 2].tree_.feature, 0, FAR), "feature beyond"),
    "stage without a tree": (BOOSTED, lambda m: _put(m.estimators_, (1, 1), m.init_), "something else than a fitted"),
    "more trees a stage": (
        BOOSTED, _set("estimators_", lambda a: np.hstack((a, a))), "6 trees a stage, but a first guess of shape",
    ),
    "wider tree of a stage": (
        BOOSTED, lambda m: setattr(m.estimators_[1, 1], "n_features_in_", 5), "different numbers of features",
    ),
    "narrower first guess": (
        BOOSTED, lambda m: setattr(m.init_, "class_prior_", m.init_.class_prior_[:2]), r"first guess of shape \(3, 2\)",
    ),
    "left of a histogram tree": (HIST, _nodes("left", 10**6), r"_predictors\[1\], which has a child"),
    "right of a histogram tree": (HIST, _nodes("right", 0), "leads back"),
    "feature of a histogram tree": (HIST, _nodes("feature_idx", FAR), "feature beyond its 4"),
    "bitset of a histogram tree": (HIST, _nodes("bitset_idx", 10**6, categorical=1), "categories beyond its 0"),
    "row number": (SEARCH, _searched(1, _changed(0, FAR)), "row beyond its 120"),
    "negative row number": (BALL, _searched(1, _changed(0, -1)), "row beyond its 120"),
    "end of a range": (SEARCH, _searched(2, _changed(1, FAR, "idx_end")), "ranges"),
    "start of a range": (BALL, _searched(2, _changed(2, -5, "idx_start")), "ranges"),
    "all rows": (SEARCH, _searched(2, _changed(0, 5000, "idx_end")), "does not begin with its 120"),
    "inner node for a leaf": (SEARCH, _searched(2, _changed(-1, 0, "is_leaf")), "child beyond its 15"),
    "fewer nodes": (SEARCH, _searched(2, lambda nodes: nodes[:3].copy()), "15 nodes, with 3 stored"),
    "fewer bounds": (BALL, _searched(3, lambda bounds: bounds[:, :1].copy()), "nodes, with"),
    "fewer rows": (SEARCH, _searched(0, lambda rows: rows[:9].copy()), "120 row numbers or weights of 9 rows"),
    "no distance": (SEARCH, _searched(11, lambda _: None), "measures by NoneType"),
    "fewer weights": (SEARCH, _searched(11, _weighted), "weights than one a feature"),
    "no leaf size": (SEARCH, _searched(4, lambda _: 0), "refers to"),
    "label": (
        neighbors.KNeighborsClassifier(algorithm="brute"), lambda m: _put(m._y, 0, 10**9), "label beyond its 3 classes",
    ),
    "fewer labels": (SEARCH, _set("_y", lambda y: y[:5]), "one for each of its 120 rows"),
    "narrower rows": (
        neighbors.KNeighborsClassifier(algorithm="brute"), _set("_fit_X", lambda x: x[:, :1].copy()), "rows of shape",
    ),
    "norms of the rows": (
        neighbors.KNeighborsClassifier(algorithm="brute"),
        lambda m: m.effective_metric_params_.update(Y_norm_squared=np.ones(1)), "parameters that are not supported",
    ),
    "support vectors of a class": (svm.SVC(), lambda m: _put(m._n_support, 0, 10**8), "support vectors"),
    "fewer coefficients": (svm.SVC(), _set("_dual_coef_", lambda a: a[:1].copy()), "coefficients"),
    "fewer intercepts": (svm.SVC(), _set("_intercept_", lambda a: a[:1].copy()), "intercepts"),
    "fewer support": (svm.SVC(), _set("support_", lambda a: np.tile(a, 99)), "numbers of support"),
    "narrower support vectors": (svm.SVR(), _set("support_vectors_", lambda a: a[:, :1].copy()), "vectors others"),
    "more support vectors": (svm.OneClassSVM(), _set("support_", lambda a: np.tile(a, 99)), "numbers of support"),
    "one class": (svm.SVR(), _set("_n_support", lambda a: a[:1].copy()), "numbers of support"),
    "kind of vector machine": (svm.SVR(), lambda m: setattr(m, "_impl", "c_svc"), "in the place of its class's own"),
    "narrower centers": (
        cluster.KMeans(3, n_init=1), _set("cluster_centers_", lambda a: a[:, :1].copy()), "centers others",
    ),
    "fewer columns": (pipeline.make_pipeline(ONE_HOT, linear_model.LogisticRegression()), _fewer_columns, "columns"),
    "place in random numbers": (linear_model.SGDClassifier(), _mt19937, "stands beyond its numbers"),
}  # fmt: skip


def _fitted(estimator: Any) -> Any:
    """A fitted copy, since forging changes arrays in place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = np.hstack((np.round(X[:, :1]), X[:, 1:])) if isinstance(estimator, pipeline.Pipeline) else X
        return pickle.loads(pickle.dumps(estimator)).fit(rows, Y)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_index_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    estimator, forge, told = FORGED[name]
    model = _fitted(estimator)
    skops.io.dump(model, tmp_path / "m.skops")
    load_model(tmp_path / "m.skops")
    forge(model)
    skops.io.dump(model, tmp_path / "m.skops")
    with pytest.raises(Damaged, match=told) as refused:
        load_model(tmp_path / "m.skops")
    assert "m.skops is refused: its " in str(refused.value)
    assert "export it to ONNX" in str(refused.value)


ASK = """
import sys, numpy as np, skops.io
model = skops.io.load(sys.argv[1], trusted={trusted})
print("opened", flush=True)
model.predict(np.random.default_rng(1).normal(size=(500, 4)))  # so that both children of every root are asked
"""


@pytest.mark.parametrize("name", ["left child", "row number"])
def test_without_the_check_such_a_file_ends_the_process_that_asks_it(name: str, tmp_path: Path) -> None:
    """Opening it does no harm, so that there is time to look."""
    estimator, forge, _ = FORGED[name]
    model = _fitted(estimator)
    forge(model)
    skops.io.dump(model, tmp_path / "m.skops")
    code = ASK.format(trusted=list(TRUSTED))
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.skops"], capture_output=True, text=True, check=False
    )
    assert ran.stdout == "opened\n"
    assert ran.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


NESTING = {
    "a pipeline": pipeline.make_pipeline(preprocessing.StandardScaler(), tree.DecisionTreeClassifier()),
    "bagging": ensemble.BaggingClassifier(tree.DecisionTreeClassifier(), 2),
    "boosting": ensemble.AdaBoostClassifier(tree.DecisionTreeClassifier(max_depth=2), n_estimators=2),
    "voting": ensemble.VotingClassifier([("a", tree.DecisionTreeClassifier())]),
    "stacking": ensemble.StackingClassifier([("a", tree.DecisionTreeClassifier())], linear_model.LogisticRegression()),
    "calibration": calibration.CalibratedClassifierCV(tree.DecisionTreeClassifier(), cv=2),
    "one class against the rest": multiclass.OneVsRestClassifier(tree.DecisionTreeClassifier()),
}


def _first_tree(model: Any) -> Any:
    """The first tree in an object's attributes, lists and dicts, found by another walk than the one under test."""
    found: list[Any] = []
    waiting = [model]
    while waiting:
        one = waiting.pop()
        if isinstance(one, tree.BaseDecisionTree) and hasattr(one, "tree_"):
            found.append(one.tree_)
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, (list, tuple)):
            waiting += one
        elif hasattr(one, "get_params"):
            waiting += vars(one).values()
        elif type(one).__name__ == "_CalibratedClassifier":
            waiting.append(one.estimator)
    return found[0]


@pytest.mark.parametrize("name", NESTING)
def test_a_forged_tree_is_found_wherever_it_lies(name: str) -> None:
    model = _fitted(NESTING[name])
    refuse_out_of_bounds(model, "m")
    inner = _first_tree(model)
    inner.feature[0] = FAR
    with pytest.raises(Damaged, match=r"its Tree at .*tree_ splits on a feature"):
        refuse_out_of_bounds(model, "m")


def test_forged_tables_that_only_a_pickle_can_hold_are_refused() -> None:
    matrix = linear_model.SGDClassifier().fit(X, Y).sparsify()
    refuse_out_of_bounds(matrix, "m")
    matrix.coef_.indices[0] = 10**8
    with pytest.raises(Damaged, match=r"csr_\w+ at coef_ is a sparse matrix whose indices"):
        refuse_out_of_bounds(matrix, "m")
    pointers = sparse.csr_array(np.eye(3))
    pointers.indptr[1] = 10**8
    with pytest.raises(Damaged, match="indices are not sound"):
        refuse_out_of_bounds([pointers], "m")
    coordinates = sparse.coo_array(np.eye(3))
    coordinates.coords[0][0] = -5
    with pytest.raises(Damaged, match="beyond its shape"):
        refuse_out_of_bounds({"a": coordinates}, "m")
    words = TfidfVectorizer().fit(["a word", "another word"])
    refuse_out_of_bounds(words, "m")
    words.vocabulary_["word"] = 10**8
    with pytest.raises(Damaged, match="word beyond its 2 columns"):
        refuse_out_of_bounds(words, "m")


def test_structures_that_nothing_checks_are_refused_with_what_to_do() -> None:
    with pytest.raises(Damaged, match="lies where nothing checks"):
        refuse_out_of_bounds([_fitted(FOREST).estimators_[0].tree_], "m")
    with pytest.raises(Invalid, match=r"splines.*_bsplines\.BSpline.*ONNX"):
        refuse_out_of_bounds(preprocessing.SplineTransformer().fit(X), "m")
    with pytest.raises(Invalid, match=r"its root is a zlib\.\w+.*ONNX"):
        refuse_out_of_bounds(zlib.decompressobj(), "m")
    with pytest.raises(Damaged, match=r"hold.* cannot be checked"):
        refuse_out_of_bounds(cluster.BisectingKMeans(2).fit(X), "m")


def test_an_attribute_cannot_stand_in_for_the_method_that_checks_rows() -> None:
    model = _fitted(FOREST)
    model.estimators_[0]._validate_X_predict = np.positive
    with pytest.raises(Damaged, match="'_validate_X_predict' in the place of its class's own"):
        refuse_out_of_bounds(model, "m")


def test_a_model_that_holds_itself_is_looked_at_once() -> None:
    model = _fitted(FOREST)
    model.me = [model, {"again": model}]
    refuse_out_of_bounds(model, "m")


def test_every_real_model_passes_and_answers_as_before(tmp_path: Path) -> None:
    """Also through a pickle, since more types are trusted there."""
    opened = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, estimator in honest_models.estimators().items():
            rows = honest_models.X[:, 0] if "Isotonic" in name else honest_models.X
            fitted = estimator.fit(rows, honest_models.Y)
            copy = pickle.loads(pickle.dumps(fitted))
            refuse_out_of_bounds(copy, name)
            skops.io.dump(fitted, tmp_path / "m.skops")
            if set(skops.io.get_untrusted_types(file=tmp_path / "m.skops")) <= set(TRUSTED) and "Isotonic" not in name:
                native = load_model(tmp_path / "m.skops").native
                ask = "predict" if hasattr(fitted, "predict") else "transform"
                assert np.array_equal(getattr(native, ask)(rows), getattr(fitted, ask)(rows)), name
                opened += 1
    assert opened >= 40
