"""XGBoost's models, as JSON or UBJSON: every index within its array, every array as long as its tree.

Sources: XGBoost 3.2, src/tree/tree_model.cc (LoadModelImpl, LoadCategoricalSplit), src/tree/multi_target_tree_model.cc,
src/gbm/gbtree_model.cc, src/gbm/gblinear_model.h, src/learner.cc (LoadModel), src/data/cat_container.cc, and
src/predictor/predict_fn.h: it goes to the left child or to the node behind that, whatever the right child is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard.bounds import OutOfBounds
from modelyard.bounds.documents import Row, integers, read
from modelyard.bounds.trees import LEAF, Fault, fault, too_deep

Array = np.ndarray[Any, np.dtype[Any]]
Object = dict[str, Any]

FEATURES = 1 << 26
OUTPUTS = 1 << 16
CATEGORIES = 1 << 24  # the largest category that a float32 tells from its neighbours, and XGBoost takes
BITSET_WORDS = 1 << 27  # half a gigabyte of bitsets, however small the file that asks for them
ROOTS = (-1, 2**31 - 1)  # how the parent of a root is written
DELETED = (2**31 - 1, 2**32 - 1)  # the feature of a node that pruning took away
NODE_ROWS = ("left_children", "right_children", "parents", "split_indices", "split_conditions", "default_left",
             "loss_changes", "sum_hessian")  # fmt: skip
_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")


def check(data: bytes) -> None:
    """OutOfBounds unless every tree of a saved model stays within its arrays, and the model within its trees."""
    _check_model(read(data))


def check_snapshot(data: bytes) -> None:
    """The same for what a pickled or skops booster holds: a model, and the configuration that it was trained with."""
    document = read(data)
    model, config = _object(document, "Model", "learner"), _object(document, "Config", "learner")
    _check_model(_object(document, "Model"))
    for part in ("gradient_booster", "objective"):
        if _object(config, part).get("name") != _object(model, part).get("name"):
            raise OutOfBounds(f"its configuration has another {part} than its model")
    _check_objective(_object(config, "objective"), _params(model).classes)


def _object(document: Object, *path: str) -> Object:
    found: Any = document
    for number, name in enumerate(path, 1):
        found = found.get(name)
        if not isinstance(found, dict):
            raise OutOfBounds(f"it lacks {'.'.join(path[:number])}")
    return found if isinstance(found, dict) else {}


def _whole(params: Object, name: str, low: int, high: int, default: str | None = None) -> int:
    """A parameter, which XGBoost writes as text."""
    value = params.get(name, default)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,10}", value) or not low <= int(value) <= high:
        raise OutOfBounds(f"its {name} is {str(value)[:40]!r}, where a count from {low} on belongs")
    return int(value)


def _row(of: Object, name: str) -> Any:
    """A row of numbers, however it is written."""
    value = of.get(name)
    if not isinstance(value, (list, Row, np.ndarray)):
        raise OutOfBounds(f"it lacks the row {name}")
    return value


@dataclass(frozen=True, slots=True)
class _Params:
    features: int
    classes: int
    outputs: int


def _params(learner: Object) -> _Params:
    params = _object(learner, "learner_model_param")
    classes = _whole(params, "num_class", 0, OUTPUTS)
    targets = _whole(params, "num_target", 1, OUTPUTS, default="1")
    if classes > 1 and targets > 1:
        raise OutOfBounds("it has several classes and several targets")
    found = _Params(_whole(params, "num_feature", 1, FEATURES), classes, max(classes, targets, 1))
    start = params.get("base_score")
    scores = str(start).removeprefix("[").removesuffix("]").split(",")
    if not isinstance(start, str) or not all(map(_NUMBER.fullmatch, scores)) or len(scores) not in (1, found.outputs):
        raise OutOfBounds(f"its base_score is not one number, nor one for each of {found.outputs} outputs")
    return found


def _check_model(document: Object) -> None:
    learner = _object(document, "learner")
    params = _params(learner)
    _check_objective(_object(learner, "objective"), params.classes)
    for name in ("feature_names", "feature_types"):
        if name in learner and len(_row(learner, name)) not in (0, params.features):
            raise OutOfBounds(f"its {name} are not the {params.features} of num_feature")
    booster = _object(learner, "gradient_booster")
    kind = booster.get("name")
    if kind == "gblinear":
        if len(_row(_object(booster, "model"), "weights")) != (params.features + 1) * params.outputs:
            raise OutOfBounds(f"it has not one weight for each of {params.features} features and each output")
    elif kind == "dart":
        model = _object(booster, "gbtree", "model")
        if len(_row(booster, "weight_drop")) != len(_trees(model)):
            raise OutOfBounds("it has not one weight for each tree")
        _check_trees(model, params)
    elif kind == "gbtree":
        _check_trees(_object(booster, "model"), params)
    else:
        raise OutOfBounds(f"its booster {str(kind)[:40]!r} is unknown")


def _check_objective(objective: Object, classes: int) -> None:
    """The softmax objectives divide a row of answers by a number of classes of their own."""
    told = [_object(objective, "softmax_multiclass_param")] if str(objective.get("name")).startswith("multi:") else []
    if told and _whole(told[0], "num_class", 1, OUTPUTS) != classes:
        raise OutOfBounds(f"its objective does not fit its {classes} classes")


def _trees(model: Object) -> list[Object]:
    trees = model.get("trees")
    if not isinstance(trees, list) or not all(isinstance(tree, dict) for tree in trees):
        raise OutOfBounds("it lacks trees")
    return trees


def _check_trees(model: Object, params: _Params) -> None:
    """The forest as a whole: as many trees as it says, each for an output that there is, in rounds that follow on."""
    trees, told = _trees(model), _object(model, "gbtree_model_param")
    count = len(trees)
    _whole(told, "num_parallel_tree", 1, 2**31 - 1, default="1")
    if _whole(told, "num_trees", 0, 2**31 - 1) != count or [tree.get("id") for tree in trees] != list(range(count)):
        raise OutOfBounds(f"it has {count} trees, and numbers them otherwise")
    outputs = integers([_row(model, "tree_info")])
    if len(outputs) != count or ((outputs < 0) | (outputs >= params.outputs)).any():
        raise OutOfBounds(f"a tree of it answers for an output beyond its {params.outputs}")
    dropped = _row(model, "weight_drop") if "weight_drop" in model else ()  # XGBoost 3.4: dropout without a dart
    if len(dropped) not in (0, count):
        raise OutOfBounds("it has not one weight for each tree")
    if "iteration_indptr" in model:
        rounds = integers([_row(model, "iteration_indptr")])
        if not len(rounds) or rounds[0] != 0 or rounds[-1] != count or (np.diff(rounds) < 0).any():
            raise OutOfBounds(f"its rounds are not those of its {count} trees")
    elif not count:  # XGBoost derives the rounds of an old model from its trees
        raise OutOfBounds("it holds no tree")
    if "cats" in model:
        _check_encodings(_object(model, "cats"), params.features)
    if count:
        _check_forest(trees, params, outputs)


def _check_forest(trees: list[Object], params: _Params, outputs: Array) -> None:
    told = [_object(tree, "tree_param") for tree in trees]
    sizes = np.array([_whole(one, "num_nodes", 1, 2**31 - 1) for one in told])
    vectors = {_whole(one, "size_leaf_vector", 0, OUTPUTS, default="1") for one in told}
    for name in NODE_ROWS:
        _refuse(_unequal([len(_row(tree, name)) for tree in trees], sizes, name))
    left, right = (integers([tree[name] for tree in trees]) for name in ("left_children", "right_children"))
    owner = np.repeat(np.arange(len(sizes)), sizes)
    inner = left != LEAF
    features = integers([tree["split_indices"] for tree in trees])
    beyond = inner & ((features < 0) | (features >= params.features))
    _refuse(_first(owner, beyond, f"splits on a feature beyond its {params.features}"))
    if vectors <= {0, 1}:
        _refuse(_unequal([len(_row(tree, "base_weights")) for tree in trees], sizes, "base_weights"))
        _refuse(_first(owner, ~inner & (right != LEAF), "has a node with one child"))
        spare = np.isin(features, DELETED) & ~inner
    else:
        _check_vectors(trees, vectors, params, outputs)
        _check_leaves(trees, owner, inner, right)
        right = np.where(inner, right, LEAF)
        spare = np.zeros(len(left), dtype=bool)
    _refuse(_first(owner, inner & (right != left + 1), "has a right child that is not behind the left one"))
    _refuse(fault(sizes, left, right, spare) or too_deep(sizes, left, right))
    _check_parents(trees, sizes, left, owner)
    _check_categories(trees, sizes)


def _refuse(found: Fault | None) -> None:
    if found:
        raise OutOfBounds(f"its tree {found.tree} {found.why}")


def _first(owner: Array, bad: Array, why: str) -> Fault | None:
    found = np.flatnonzero(bad)
    return Fault(int(owner[found[0]]), why) if len(found) else None


def _unequal(lengths: list[int], sizes: Array, name: str) -> Fault | None:
    bad = np.flatnonzero(np.array(lengths) != sizes)
    return Fault(int(bad[0]), f"has {lengths[bad[0]]} numbers in {name}, not {sizes[bad[0]]}") if len(bad) else None


def _check_vectors(trees: list[Object], vectors: set[int], params: _Params, outputs: Array) -> None:
    """Trees whose leaves hold one number for each output."""
    if vectors != {params.outputs} or outputs.any():
        raise OutOfBounds(f"its leaves have other lengths than its {params.outputs} outputs")
    for number, tree in enumerate(trees):
        weights, nodes = len(_row(tree, "base_weights")), len(tree["left_children"])
        if not weights or weights % nodes or weights > nodes * params.outputs:
            _refuse(Fault(number, f"has {weights} weights for its {nodes} nodes"))


def _check_leaves(trees: list[Object], owner: Array, inner: Array, right: Array) -> None:
    """A leaf's right child is the number of its vector, of which there is one for each leaf."""
    width = int(_object(trees[0], "tree_param")["size_leaf_vector"])
    leaves = np.bincount(owner[~inner], minlength=len(trees))
    _refuse(_unequal([len(_row(tree, "leaf_weights")) for tree in trees], leaves * width, "leaf_weights"))
    beyond = ~inner & ((right < 0) | (right >= leaves[owner]))
    _refuse(_first(owner, beyond, "has a leaf without a vector"))


def _check_parents(trees: list[Object], sizes: Array, left: Array, owner: Array) -> None:
    """The loader itself follows each node's parent, also a deleted node's."""
    parents = integers([tree["parents"] for tree in trees])
    starts = np.cumsum(sizes) - sizes
    roots = np.isin(parents[starts], ROOTS)
    within = (parents >= 0) & (parents < sizes[owner])
    within[starts] = roots
    _refuse(_first(owner, ~within, "has a parent beyond its nodes"))
    inner = np.flatnonzero(left != LEAF)
    base = starts[owner[inner]]
    for side in (0, 1):
        wrong = parents[base + left[inner] + side] != inner - base
        _refuse(_first(owner[inner], wrong, "has a node that names another parent than its own"))


def _check_categories(trees: list[Object], sizes: Array) -> None:
    """Categorical nodes are named in order, each with where its categories begin and how many they are."""
    typed = [tree for tree in trees if "split_type" in tree]
    if len(typed) != len(trees):
        if typed:
            raise OutOfBounds("some of its trees do not say how they split")
        return
    _refuse(_unequal([len(_row(tree, "split_type")) for tree in trees], sizes, "split_type"))
    kinds = integers([tree["split_type"] for tree in trees])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    _refuse(_first(owner, (kinds < 0) | (kinds > 1), "splits in an unknown way"))
    words = 0
    starts = np.cumsum(sizes) - sizes
    for number, tree in enumerate(trees):
        nodes = np.flatnonzero(kinds[starts[number] : starts[number] + sizes[number]])
        words += _bitset_words(tree, number, nodes)
    if words > BITSET_WORDS:
        raise OutOfBounds("its sets of categories would fill the memory")


def _bitset_words(tree: Object, number: int, nodes: Array) -> int:
    rows = [_row(tree, f"categories{part}") for part in ("", "_nodes", "_segments", "_sizes")]
    if not len(nodes) and not any(map(len, rows)):
        return 0
    categories, named, begins, counts = (integers([row]) for row in rows)
    fits = np.array_equal(named, nodes) and len(begins) == len(counts) == len(nodes) and (counts > 0).all()
    if not fits or not np.array_equal(begins, np.cumsum(counts) - counts) or counts.sum() != len(categories):
        _refuse(Fault(number, "has sets of categories that are not those of its nodes"))
    if ((categories < 0) | (categories >= CATEGORIES)).any():
        _refuse(Fault(number, f"splits on a category beyond {CATEGORIES:,}"))
    return int((np.maximum.reduceat(categories, begins) // 32 + 1).sum())


def _check_encodings(cats: Object, features: int) -> None:
    """The names of categories by feature, as a data frame had them (src/data/cat_container.cc)."""
    columns = cats.get("enc")
    if not isinstance(columns, list) or len(columns) not in (0, features):
        raise OutOfBounds("its categories have other names than one row a feature")
    counts = [_encoded(column) for column in columns]
    bounds, order = integers([_row(cats, "feature_segments")]), integers([_row(cats, "sorted_idx")])
    wanted = np.cumsum([0, *counts]) if columns else np.zeros(0, dtype=np.int64)
    if not np.array_equal(bounds, wanted) or len(order) not in (0, sum(counts)):
        raise OutOfBounds("its categories have other names than it says")
    limits = np.repeat(np.array(counts, dtype=np.int64), counts) if len(order) else order
    if ((order < 0) | (order >= limits)).any():
        raise OutOfBounds("its categories are sorted beyond their names")


def _encoded(column: Any) -> int:
    """The number of names of one feature."""
    if not isinstance(column, dict):
        raise OutOfBounds("the names of its categories are written in an unknown way")
    values = _row(column, "values")
    if "offsets" not in column:
        return len(values)
    offsets = integers([_row(column, "offsets")])
    if not len(offsets) and not len(values):  # a feature without categories
        return 0
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != len(values) or (np.diff(offsets) < 0).any():
        raise OutOfBounds("the names of its categories lie beyond their text")
    return len(offsets) - 1
