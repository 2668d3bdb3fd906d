"""Boosters as their libraries write them pass; one index that leads elsewhere is refused, wherever it lies."""

from __future__ import annotations

import copy
import io
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import honest_boosters as honest
import lightgbm
import numpy as np
import pytest
import skops.io
import xgboost
from fuzzing_boosters import resized

from modelyard.artifacts.admission import inspect
from modelyard.artifacts.inspection import Malformed
from modelyard.bounds import OutOfBounds
from modelyard.bounds import lightgbm as lightgbm_bounds
from modelyard.bounds import xgboost as xgboost_bounds
from modelyard.bounds.trees import DEEPEST, LEAF, fault, too_deep
from modelyard.core.errors import Damaged, Invalid
from modelyard.engines.loading import load_model

Document = dict[str, Any]


def test_every_lightgbm_that_it_writes_itself_passes() -> None:
    for name, booster in honest.lightgbms():
        text = booster.model_to_string()
        lightgbm_bounds.check(text.encode())
        lightgbm_bounds.check(lightgbm.Booster(model_str=text).model_to_string().encode())
        assert inspect(io.BytesIO(text.encode()), len(text.encode())).format == "lightgbm", name


def test_every_xgboost_that_it_writes_itself_passes() -> None:
    for name, booster in honest.xgboosts():
        for form in ("json", "ubj"):
            data = bytes(booster.save_raw(form))
            xgboost_bounds.check(data)
            assert inspect(io.BytesIO(data), len(data)).format == f"xgboost-{form}", name
        xgboost_bounds.check_snapshot(bytes(booster.__getstate__()["handle"]))
        xgboost_bounds.check(json.dumps(json.loads(booster.save_raw("json")), indent=1).encode())


def test_a_model_that_was_stopped_continued_updated_cut_and_refitted_passes() -> None:
    data = xgboost.DMatrix(honest.FULL, honest.NUMBER)
    first = xgboost.train({"nthread": 1}, data, 3)
    longer = xgboost.train({"nthread": 1}, data, 2, xgb_model=first)
    updated = {"nthread": 1, "process_type": "update", "updater": "refresh,prune", "gamma": 5}
    for booster in (longer, longer[1:4], xgboost.train(updated, data, 5, xgb_model=longer)):
        xgboost_bounds.check(bytes(booster.save_raw("ubj")))
    params = {"objective": "regression", "verbose": -1, "num_threads": 1}
    one = lightgbm.train(params, lightgbm.Dataset(honest.X, honest.NUMBER, free_raw_data=False), 3)
    two = lightgbm.train(params, lightgbm.Dataset(honest.X, honest.NUMBER), 2, init_model=one)
    two.set_leaf_output(0, 0, 1.5)
    for booster in (two, two.refit(honest.FULL, honest.NUMBER), two.shuffle_models()):
        lightgbm_bounds.check(booster.model_to_string().encode())
    lightgbm_bounds.check(two.model_to_string(num_iteration=2).encode())


def _lightgbm(name: str) -> str:
    params, target, kept = honest.LIGHTGBM[name]
    settings = {
        "verbose": -1,
        "num_threads": 1,
        "min_data_in_leaf": 5,
        "num_leaves": 5,
        "min_data_per_group": 5,
        **params,
    }
    text: str = lightgbm.train(settings, lightgbm.Dataset(honest.X, target, **kept), 2).model_to_string()
    return text


def _line(pattern: str, replacement: str) -> Callable[[str], str]:
    """The first line that begins so, changed."""
    return lambda text: re.sub(f"^{pattern}", replacement, text, count=1, flags=re.MULTILINE)


def _put(key: str, value: str) -> Callable[[str], str]:
    """The first number of the first line with that key becomes another."""
    return _line(rf"{key}=[^ \n]*", f"{key}={value}")


def _beyond_all_sets(text: str) -> str:
    return _line(r"(decision_type)=\d+", r"\1=1")(_put("threshold", "99")(text))


LIGHTGBM_FORGED: dict[str, tuple[str, Callable[[str], str], str]] = {
    "left child": ("binary", _put("left_child", "99999999"), "child beyond its 4 nodes and 5 leaves"),
    "right child": ("binary", _put("right_child", "4"), "child beyond"),
    "leaf": ("binary", _put("left_child", "-6"), "child beyond"),
    "child that leads back": ("binary", _put("left_child", "0"), "leads back"),
    "leaf of two nodes": ("binary", _line("left_child=.*", "left_child=-1 -1 -1 -1"), "more than one"),
    "feature": ("binary", _put("split_feature", "4"), "feature beyond its 4"),
    "negative feature": ("binary", _put("split_feature", "-1"), "feature beyond its 4"),
    "leaves": ("binary", _put("num_leaves", "2147483647"), "num_leaves"),
    "no leaf": ("binary", _put("num_leaves", "0"), "num_leaves"),
    "trees an iteration": ("binary", _put("num_tree_per_iteration", "0"), "num_tree_per_iteration"),
    "classes": ("binary", _put("num_class", "2"), "2 classes"),
    "classes of the objective": ("multiclass", lambda t: t.replace("num_class:3", "num_class:999999", 1), "objective"),
    "features": ("binary", _put("max_feature_idx", "1"), "feature_names"),
    "set of categories": ("categories", _beyond_all_sets, "categories beyond"),
    "bounds of categories": ("categories", _line(r"(cat_boundaries=0) \d+", r"\1 99999"), "categories beyond its"),
    "feature of a leaf": ("linear", _line(r"(leaf_features=\s*)\d", r"\g<1>77"), "numbers|beyond its 4"),
    "features of a leaf": ("linear", _put("num_features", "99"), "other lengths"),
    "figure beyond a double": ("linear", _put("leaf_const", "1e999"), "no double holds"),
    "figure below a double": ("linear", _put("leaf_const", "1e-999"), "no double holds"),
    "lack of a row": ("trees of one leaf", _line("threshold=\n", ""), "lacks threshold"),
    "size of a tree": ("binary", _put("tree_sizes", "1"), "tree_sizes"),
    "figure": ("binary", _put("leaf_value", "0x1"), "leaf_value is not written in figures"),
    "leaf without a value": ("binary", _line("(leaf_value=.*) .*$", r"\1"), "numbers in leaf_value"),
    "range of a feature": ("binary", _put("feature_infos", "["), "feature_infos"),
    "setting": ("binary", lambda t: t.replace("[boosting: gbdt]", "[boosting"), "parameters"),
    "second line of a key": ("binary", lambda t: t.replace("num_cat=0", "num_cat=0\nnum_cat=0", 1), "does not write there"),
    "carriage return": ("binary", lambda t: t.replace("\n", "\r\n"), "line feeds alone"),
    "joined numbers": ("binary", _line("(right_child=-?[0-9]+) ", r"\1"), "numbers in right_child|whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIGHTGBM_FORGED)
def test_a_forged_lightgbm_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    model, forge, told = LIGHTGBM_FORGED[name]
    text = forge(_lightgbm(model))
    data = (text if name in ("size of a tree", "carriage return") else resized(text)).encode()
    with pytest.raises(OutOfBounds, match=told):
        lightgbm_bounds.check(data)
    with pytest.raises(Malformed, match=told):
        inspect(io.BytesIO(data), len(data))
    (tmp_path / "m.txt").write_bytes(data)
    with pytest.raises(Damaged, match=told):
        load_model(tmp_path / "m.txt")


def _xgboost(name: str) -> Document:
    params, target, kept = honest.XGBOOST[name]
    data = xgboost.DMatrix(honest.FULL, target, **kept)
    found: Document = json.loads(xgboost.train({"nthread": 1, "max_depth": 3, **params}, data, 2).save_raw("json"))
    return found


def _in_tree(key: str, place: int, value: Any) -> Callable[[Document], None]:
    def forge(document: Document) -> None:
        document["learner"]["gradient_booster"]["model"]["trees"][0][key][place] = value

    return forge


def _at(path: str, value: Any) -> Callable[[Document], None]:
    """The value at a path from the learner on; a number in the path is a place in a list."""

    def forge(document: Document) -> None:
        inner: Any = document["learner"]
        *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in above:
            inner = inner[part]
        inner[last] = value

    return forge


MODEL, TREE = "gradient_booster.model", "gradient_booster.model.trees.0"
XGBOOST_FORGED: dict[str, tuple[str, Callable[[Document], None], str]] = {
    "left child": ("binary:logistic", _in_tree("left_children", 0, 99999999), "behind the left one"),
    "right child": ("binary:logistic", _in_tree("right_children", 0, 99999999), "behind the left one"),
    "feature": ("binary:logistic", _in_tree("split_indices", 0, 4), "feature beyond its 4"),
    "negative feature": ("binary:logistic", _in_tree("split_indices", 0, -7), "feature beyond its 4"),
    "parent": ("binary:logistic", _in_tree("parents", 1, 10**9), "parent beyond"),
    "other parent": ("binary:logistic", _in_tree("parents", 1, 2), "another parent"),
    "fraction": ("binary:logistic", _in_tree("left_children", 0, 1.5), "something else"),
    "number of nodes": ("binary:logistic", _at(f"{TREE}.tree_param.num_nodes", "1"), "numbers in left_children, not 1"),
    "number of a tree": ("binary:logistic", _at(f"{TREE}.id", 1), "numbers them otherwise"),
    "trees": ("binary:logistic", _at(f"{MODEL}.gbtree_model_param.num_trees", "9"), "2 trees, and numbers them"),
    "parallel trees": ("binary:logistic", _at(f"{MODEL}.gbtree_model_param.num_parallel_tree", "0"), "num_parallel_tree"),
    "output of a tree": ("multi:softprob", _at(f"{MODEL}.tree_info.0", 3), "output beyond its 3"),
    "rounds": ("binary:logistic", _at(f"{MODEL}.iteration_indptr", []), "rounds"),
    "round": ("binary:logistic", _at(f"{MODEL}.iteration_indptr.1", 99), "rounds"),
    "features": ("binary:logistic", _at("learner_model_param.num_feature", "0"), "num_feature"),
    "classes": ("multi:softprob", _at("learner_model_param.num_class", "2"), "2 classes|2 outputs"),
    "classes of the objective": ("multi:softprob", _at("objective.softmax_multiclass_param.num_class", "0"), "num_class"),
    "first guess": ("multi:softprob", _at("learner_model_param.base_score", "[1,2]"), "base_score"),
    "booster": ("binary:logistic", _at("gradient_booster.name", "gbother"), "unknown"),
    "weights of features": ("linear", _at(f"{MODEL}.weights", [1.0]), "one weight"),
    "weights of trees": ("dart", _at("gradient_booster.weight_drop", [1.0]), "one weight for each tree"),
    "weights of trees without a dart": ("binary:logistic", _at(f"{MODEL}.weight_drop", [1.0]), "one weight for each tree"),
    "length of a leaf": ("vectors", _at(f"{TREE}.tree_param.size_leaf_vector", "3"), "other lengths than its 2"),
    "vector of a leaf": ("vectors", _in_tree("right_children", -1, 10**6), "without a vector"),
    "vectors of a leaf": ("vectors", _at(f"{TREE}.leaf_weights", []), "numbers in leaf_weights"),
    "category": ("categories", _in_tree("categories", 0, 2**30), "category beyond|not those of its nodes"),
    "begin of categories": ("categories", _in_tree("categories_segments", 0, 10**9), "not those of its nodes"),
    "number of categories": ("categories", _in_tree("categories_sizes", 0, 10**9), "not those of its nodes"),
    "node of categories": ("categories", _at(f"{TREE}.categories_nodes", []), "not those of its nodes"),
    "names": ("names", _at("feature_names", ["a"]), "feature_names"),
    "base score of letters": ("binary:logistic", _at("learner_model_param.base_score", "[[[["), "base_score"),
}  # fmt: skip


@pytest.mark.parametrize("name", XGBOOST_FORGED)
@pytest.mark.filterwarnings("ignore:.*gblinear.*")
def test_a_forged_xgboost_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    model, forge, told = XGBOOST_FORGED[name]
    document = _xgboost(model)
    forge(document)
    data = json.dumps(document).encode()
    with pytest.raises(OutOfBounds, match=told):
        xgboost_bounds.check(data)
    with pytest.raises(Malformed, match=told):
        inspect(io.BytesIO(data), len(data))
    (tmp_path / "m.json").write_bytes(data)
    with pytest.raises(Damaged, match=told):
        load_model(tmp_path / "m.json")


def test_a_forged_child_is_refused_in_the_binary_form_and_in_a_snapshot() -> None:
    booster = xgboost.train({"nthread": 1, "max_depth": 2}, xgboost.DMatrix(honest.FULL, honest.YES), 1)
    for check, data in (
        (xgboost_bounds.check, bytes(booster.save_raw("ubj"))),
        (xgboost_bounds.check_snapshot, bytes(booster.__getstate__()["handle"])),
    ):
        place = data.index(b"left_children[$l#L") + len(b"left_children[$l#L") + 8
        forged = data[:place] + (10**8).to_bytes(4, "big") + data[place + 4 :]
        with pytest.raises(OutOfBounds, match="behind the left one"):
            check(forged)
        for cut in (1, 7, len(data) // 2, len(data) - 1):
            with pytest.raises(OutOfBounds):
                check(data[:cut])
        with pytest.raises(OutOfBounds, match="follow"):
            check(data + b"}")


def test_what_two_readers_of_json_would_take_for_two_things_is_refused() -> None:
    text = json.dumps(_xgboost("binary:logistic"))
    for forged, told in (
        (text.replace('"left_children"', '"left_childre\\u006e"', 1), "escapes"),
        (text.replace('"tree_info"', '"tree_info": [0], "tree_info"', 1), "repeats"),
        (text + "{}", "no JSON"),
        (text.encode("utf-16").decode("latin-1"), "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('{"learner":' * 100_000, "no JSON"),
    ):
        with pytest.raises(OutOfBounds, match=told):
            xgboost_bounds.check(forged.encode("latin-1"))


def test_a_model_without_its_first_lines_is_a_model_all_the_same() -> None:
    """LightGBM asks for `tree` alone, XGBoost for no version."""
    document = _xgboost("binary:logistic")
    del document["version"]
    _in_tree("split_indices", 0, 99)(document)
    for data in (json.dumps(document).encode(), b"tree\nnum_class=1\n", b"tree\r\nversion=v4\r\n"):
        with pytest.raises(Malformed):
            inspect(io.BytesIO(data), len(data))


def _forged(booster: Any) -> Any:
    """A copy whose pickle and skops file hold a forged child."""

    class Forged(type(booster)):  # type: ignore[misc]
        def __getstate__(self) -> Any:
            state = super().__getstate__()
            if isinstance(state.get("_handle"), str):
                return {**state, "_handle": resized(_put("left_child", "99999999")(state["_handle"]))}
            mark = b"left_children[$l#L"
            place = state["handle"].index(mark) + len(mark) + 8
            state["handle"][place : place + 4] = (10**8).to_bytes(4, "big")
            return state

    Forged.__name__, Forged.__qualname__, Forged.__module__ = "Booster", "Booster", type(booster).__module__
    made = copy.copy(booster)
    made.__class__ = Forged
    return made


@pytest.mark.parametrize("library", ["lightgbm", "xgboost"])
def test_a_forged_booster_within_skops_or_a_pickle_is_refused_before_its_library_reads_it(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {
        "lightgbm": lambda: lightgbm.LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1),
        "xgboost": lambda: xgboost.XGBClassifier(n_estimators=2, n_jobs=1),
    }[library]()
    model = made.fit(honest.FULL, honest.YES)
    for data in (skops.io.dumps(model), *(pickle.dumps(model, protocol) for protocol in range(2, 6))):
        assert not inspect(io.BytesIO(data), len(data)).unsafe
    forged = _forged(model._Booster)
    model._Booster = forged
    module = sys.modules[type(forged).__module__]
    monkeypatch.setattr(module, "Booster", type(forged))
    files = [skops.io.dumps(model), *(pickle.dumps(model, protocol) for protocol in range(2, 6))]
    monkeypatch.undo()
    for data in files:
        with pytest.raises(Malformed, match=r"child beyond|behind the left one"):
            inspect(io.BytesIO(data), len(data))
    (tmp_path / "m.skops").write_bytes(files[0])
    with pytest.raises((Damaged, Invalid), match=r"child beyond|behind the left one"):
        load_model(tmp_path / "m.skops")


def test_a_booster_whose_bytes_are_changed_after_they_were_looked_at_is_quarantined() -> None:
    """SETITEM works on a bytearray too: the unpickler asks any object to set an item."""
    model = xgboost.train({"nthread": 1}, xgboost.DMatrix(honest.FULL, honest.YES), 1)
    data = pickle.dumps(model, 5)
    assert not inspect(io.BytesIO(data), len(data)).unsafe
    changed = data[: data.rindex(b"sb.")] + b"K\x05K\x00ssb."  # key 5, value 0, set in the bytearray, then as before
    assert inspect(io.BytesIO(changed), len(changed)).unsafe


def test_trees_are_sound_if_every_node_is_one_nodes_child() -> None:
    whole = np.array([3, 1, 5])
    left = np.array([1, LEAF, LEAF, LEAF, 1, LEAF, 3, LEAF, LEAF])
    right = np.array([2, LEAF, LEAF, LEAF, 2, LEAF, 4, LEAF, LEAF])
    assert fault(whole, left, right) is None
    assert too_deep(whole, left, right) is None
    left[6], right[6] = LEAF, LEAF
    found = fault(whole, left, right)
    assert found is not None
    assert found.tree == 2
    assert "no node" in found.why
    assert fault(whole, left, right, np.array([False] * 7 + [True] * 2)) is None


def test_a_tree_like_a_chain_is_too_deep_for_what_descends_by_recursion() -> None:
    inner = np.arange(DEEPEST + 1)
    sizes = np.array([1, 2 * len(inner) + 1])
    left, right = (np.full(sizes.sum(), LEAF) for _ in range(2))
    left[1 + 2 * inner], right[1 + 2 * inner] = 2 * inner + 1, 2 * inner + 2
    assert fault(sizes, left, right) is None
    found = too_deep(sizes, left, right)
    assert found is not None
    assert found.tree == 1


@pytest.mark.parametrize(("library", "seed"), [("lightgbm", 1), ("lightgbm", 2), ("xgboost", 1), ("xgboost", 2)])
def test_what_the_check_lets_through_of_many_forgeries_ends_no_process(library: str, seed: int) -> None:
    fuzzing = Path(__file__).with_name("fuzzing_boosters.py")
    ran = subprocess.run(
        [sys.executable, fuzzing, library, str(seed), "120"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    asked, refused = (int(number) for number in ran.stdout.split())
    assert asked > 5
    assert refused > 50
