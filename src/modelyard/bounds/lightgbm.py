"""LightGBM's text models: every line as SaveModelToString writes it, every index within its array.

Sources: LightGBM 4.7, src/boosting/gbdt_model_text.cpp, src/io/tree.cpp (Tree::Tree, Tree::ToString), include/LightGBM/
tree.h (NumericalDecision, CategoricalDecision, Predict). It reads numbers leniently and follows them without a look, so
only what its own writer writes is taken here: another reading of the same line is not possible.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard.bounds import OutOfBounds
from modelyard.bounds.trees import LEAF, Fault, fault, too_deep

Array = np.ndarray[Any, np.dtype[Any]]
Tree = dict[bytes, bytes]

HEADER = {
    b"version", b"num_class", b"num_tree_per_iteration", b"label_index", b"max_feature_idx", b"objective",
    b"feature_names", b"monotone_constraints", b"feature_infos", b"tree_sizes",
}  # fmt: skip
TREE = {
    b"Tree", b"num_leaves", b"num_cat", b"split_feature", b"split_gain", b"threshold", b"decision_type", b"left_child",
    b"right_child", b"leaf_value", b"leaf_weight", b"leaf_count", b"internal_value", b"internal_weight",
    b"internal_count", b"cat_boundaries", b"cat_threshold", b"is_linear", b"leaf_const", b"num_features",
    b"leaf_features", b"leaf_coeff", b"shrinkage",
}  # fmt: skip
NEEDED = {
    b"Tree",
    b"num_leaves",
    b"num_cat",
    b"leaf_value",
    b"split_feature",
    b"threshold",
    b"left_child",
    b"right_child",
}
LINEAR = (b"leaf_const", b"num_features", b"leaf_features", b"leaf_coeff")
MOST = 2**31 - 2
_WHOLE = re.compile(rb"-?[0-9]{1,10}")
_FIGURE = rb"-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|inf|nan)"
_FIGURES = re.compile(_FIGURE + rb"(?: " + _FIGURE + rb")*")
_RANGE = re.compile(rb"none|\[" + _FIGURE + rb":" + _FIGURE + rb"\]|-?[0-9]{1,10}(?::-?[0-9]{1,10})*")
_SETTING = re.compile(rb"\[[a-z_0-9]+: ?[^\n]*\]")
LEAF_FIGURES = (b"leaf_value", b"leaf_weight", b"leaf_count", b"leaf_const")
INNER_FIGURES = (b"threshold", b"split_gain", b"internal_value", b"internal_weight", b"internal_count")
_CLASSES = re.compile(rb"num_class:([0-9]{1,9})(?= |$)")
_OBJECTIVE = re.compile(rb"[a-z0-9_]+(?: [a-z0-9_]+(?::[-+0-9.a-z]+)?)*")
_MULTICLASS = (b"multiclass", b"softmax", b"multiclassova", b"multiclass_ova", b"ova", b"ovr")


def check(text: bytes) -> None:
    """OutOfBounds unless every tree of the model stays within its arrays, and the model within its trees.

    >>> check(model_file.read_bytes())
    >>> check(model_file.read_bytes().replace(b"left_child=", b"left_child=9"))
    Traceback (most recent call last):
    modelyard.bounds.OutOfBounds: its tree 0 has a child beyond its ... nodes and ... leaves
    """
    if not text.startswith(b"tree\n") or b"\x00" in text or b"\r" in text:
        raise OutOfBounds("it is no plain LightGBM text with line feeds alone. Copy it as binary, not as text")
    start, end = text.find(b"\nTree=") + 1, text.find(b"\nend of trees\n") + 1
    if not 0 < start < end:
        raise OutOfBounds("it holds no tree, or breaks off within them")
    header = _lines(text[5:start].rstrip(b"\n"), HEADER, "its head", bare=b"average_output")
    trees = [_lines(part, TREE, "a tree") for part in _parts(text[start:end])]
    _check_trees(header, trees, text, start, end)
    _check_settings(text[end:])
    _check_forest(_forest_of(trees), _number(header, b"max_feature_idx", 0, MOST) + 1)


def _parts(text: bytes) -> list[bytes]:
    """What lies between empty lines."""
    return [part.strip(b"\n") for part in text.split(b"\n\n") if part.strip(b"\n")]


def _lines(part: bytes, known: set[bytes], where: str, bare: bytes = b"") -> Tree:
    """The keys and values of a part's lines; a line of another kind, or a second of its key, is refused."""
    lines = part.split(b"\n")
    found = dict(line.split(b"=", 1) for line in lines if b"=" in line)
    others = len(lines) - len(found) - (bool(bare) and lines.count(bare))
    if others or not found.keys() <= known:
        odd = next(iter(found.keys() - known), b"a line that repeats or has no value")
        raise OutOfBounds(f"{where} has {odd[:40].decode('utf-8', 'replace')!r}, which LightGBM does not write there")
    return found


def _number(of: Tree, key: bytes, low: int, high: int) -> int:
    value = of.get(key, b"")
    if not _WHOLE.fullmatch(value) or not low <= int(value) <= high:
        raise OutOfBounds(f"its {key.decode()} is {value[:40].decode('utf-8', 'replace')!r}, where a count belongs")
    return int(value)


def _check_trees(header: Tree, trees: list[Tree], text: bytes, start: int, end: int) -> None:
    """The counts that the head gives: LightGBM divides by one, writes a row of another, and reads names by a third."""
    width = _number(header, b"max_feature_idx", 0, MOST) + 1
    for key in (b"feature_names", b"feature_infos"):
        if len(header.get(key, b"").split(b" ")) != width:
            raise OutOfBounds(f"its {key.decode()} are not the {width} of max_feature_idx")
    if not all(map(_RANGE.fullmatch, header[b"feature_infos"].split(b" "))):
        raise OutOfBounds("its feature_infos are written in an unknown way")
    classes = _number(header, b"num_class", 1, len(trees))
    if (
        _number({**{b"num_tree_per_iteration": b"%d" % classes}, **header}, b"num_tree_per_iteration", 1, MOST)
        != classes
    ):
        raise OutOfBounds(f"it has {classes} classes, and another number of trees an iteration")
    if len(trees) % classes:
        raise OutOfBounds(f"it has {len(trees)} trees, which are no whole iterations of {classes}")
    objective = header.get(b"objective", b"none")
    told = [int(count) for count in _CLASSES.findall(objective)]
    multiclass = objective.split(b" ")[0] in _MULTICLASS
    if not _OBJECTIVE.fullmatch(objective) or told != [classes] * (multiclass or bool(told)):
        raise OutOfBounds(f"its objective does not fit its {classes} classes")
    if b"shrinkage" in trees[0]:
        _check_figures(trees, b"shrinkage", np.ones(len(trees), dtype=np.int64))
    numbers = [tree.get(b"Tree") for tree in trees]
    if numbers != [b"%d" % number for number in range(len(trees))]:
        raise OutOfBounds("its trees are not numbered from 0 on")
    if b"tree_sizes" in header:
        _check_sizes(header[b"tree_sizes"], text, start, end)


def _check_settings(tail: bytes) -> None:
    """What follows the trees: importances, the settings of the training, and categories of a data frame."""
    _, begins, rest = tail.partition(b"\nparameters:\n")
    settings, ends, _ = rest.partition(b"\nend of parameters\n")
    if not begins or not ends or not all(_SETTING.fullmatch(line) for line in settings.split(b"\n") if line):
        raise OutOfBounds("its parameters break off, or are written in an unknown way")


def _check_sizes(told: bytes, text: bytes, start: int, end: int) -> None:
    """LightGBM begins to read each tree where the sizes of those before it end."""
    begins, at = [], start
    while 0 < at < end:
        begins.append(at)
        at = text.find(b"\nTree=", at, end) + 1
    sizes = [after - before for before, after in zip(begins, [*begins[1:], end], strict=True)]
    if told != b" ".join(b"%d" % size for size in sizes):
        raise OutOfBounds("its tree_sizes are not the sizes of its trees. Save it again, and do not edit it")


@dataclass(frozen=True, slots=True)
class _Forest:
    trees: list[Tree]
    leaves: Array
    categories: Array
    linear: list[int]  # the trees with linear models in their leaves


def _forest_of(trees: list[Tree]) -> _Forest:
    for number, tree in enumerate(trees):
        if not tree.keys() >= NEEDED:
            raise OutOfBounds(f"its tree {number} lacks {min(NEEDED - tree.keys()).decode()}")
        if tree.get(b"is_linear", b"0") not in (b"0", b"1"):
            raise OutOfBounds(f"its tree {number} does not say plainly whether it is linear")
    leaves = [_number(tree, b"num_leaves", 1, MOST) for tree in trees]
    categories = [_number(tree, b"num_cat", 0, MOST) for tree in trees]
    linear = [number for number, tree in enumerate(trees) if tree.get(b"is_linear") == b"1"]
    return _Forest(trees, np.array(leaves), np.array(categories), linear)


def _row(trees: list[Tree], key: bytes, lengths: Array) -> Array:
    """The whole numbers of a line of every tree, one tree after the other; each must have so many."""
    values = [tree.get(key, b"") for tree in trees]
    counts = np.array([value.count(b" ") + 1 if value else 0 for value in values])
    bad = np.flatnonzero(counts != lengths)
    if len(bad):
        _refuse(Fault(int(bad[0]), f"has {counts[bad[0]]} numbers in {key.decode()}, not {lengths[bad[0]]}"))
    joined = b" ".join(value for value in values if value)
    return _whole_numbers(joined, key)


def _whole_numbers(row: bytes, key: bytes) -> Array:
    """The numbers between single spaces, which LightGBM's own reading cannot count otherwise."""
    if row and not _is_written(row, _WHOLE_PAIRS):
        raise OutOfBounds(f"its {key.decode()} is not written in whole numbers")
    return np.fromstring(row, dtype=np.int64, sep=" ") if row else np.zeros(0, dtype=np.int64)


def _table(pairs: tuple[str, ...]) -> Array:
    """For each two characters that may follow each other, True at the place that they make together."""
    allowed = np.zeros(1 << 16, dtype=bool)
    for first, *others in (pair.replace("d", "0123456789").split("|") for pair in pairs):
        allowed[[(ord(one) << 8) + ord(two) for one in first for two in others[0]]] = True
    return allowed


_WHOLE_PAIRS = _table((" |d-", "-|d", "d|d "))
_FIGURE_PAIRS = _table((" |d-", "-+|d", "d|d .e", ".|d", "e|d-+"))


def _is_written(row: bytes, allowed: Array) -> bool:
    """True if each two neighbours of the row may stand so: numbers, and single spaces between them."""
    letters = np.frombuffer(b" %b " % row, dtype=np.uint8).astype(np.uint16)
    return bool(allowed[(letters[:-1] << 8) + letters[1:]].all())


def _check_figures(trees: list[Tree], key: bytes, lengths: Array) -> None:
    """LightGBM reads trees in parallel, where a figure that it cannot read ends the process."""
    told = [(number, tree[key]) for number, tree in enumerate(trees) if key in tree]
    for number, value in told:
        count = value.count(b" ") + 1 if value else 0
        if count != lengths[number] and not (count == 0 and key == b"leaf_weight" and lengths[number] == 1):
            _refuse(Fault(number, f"has {count} numbers in {key.decode()}, not {lengths[number]}"))
    joined = b" ".join(value for _, value in told if value)
    if joined and not _is_written(joined, _FIGURE_PAIRS) and not _FIGURES.fullmatch(joined):
        raise OutOfBounds(f"its {key.decode()} is not written in figures")


def _refuse(found: Fault | None) -> None:
    if found:
        raise OutOfBounds(f"its tree {found.tree} {found.why}")


def _check_forest(forest: _Forest, width: int) -> None:
    leaves, trees = forest.leaves, forest.trees
    inner = leaves - 1
    for keys, lengths in ((LEAF_FIGURES, leaves), (INNER_FIGURES, inner)):
        for key in keys:
            _check_figures(trees, key, lengths)
    owner = np.repeat(np.arange(len(leaves)), inner)
    features = _row(trees, b"split_feature", inner)
    _refuse(_first(owner, (features < 0) | (features >= width), lambda _: f"splits on a feature beyond its {width}"))
    _check_children(forest, owner)
    _check_categories(forest, owner)
    for number in forest.linear:
        _check_linear(trees[number], number, int(leaves[number]), width)


def _first(owner: Array, bad: Array, why: Callable[[int], str]) -> Fault | None:
    found = np.flatnonzero(bad)
    return Fault(int(owner[found[0]]), why(int(owner[found[0]]))) if len(found) else None


def _check_children(forest: _Forest, owner: Array) -> None:
    """A child from 0 on is an inner node, a negative one the leaf ~child: both numbered as one tree's nodes here."""
    leaves = forest.leaves
    inner, sizes = leaves - 1, 2 * leaves - 1
    starts = np.cumsum(sizes) - sizes
    places = np.arange(len(owner)) - (np.cumsum(inner) - inner)[owner] + starts[owner]
    sides = []
    for key in (b"left_child", b"right_child"):
        child = _row(forest.trees, key, inner)
        bad = (child >= inner[owner]) | (child < -leaves[owner])
        _refuse(_first(owner, bad, lambda at: f"has a child beyond its {inner[at]} nodes and {leaves[at]} leaves"))
        side = np.full(int(sizes.sum()), LEAF)
        side[places] = np.where(child >= 0, child, inner[owner] + ~child)
        sides.append(side)
    _refuse(fault(sizes, *sides) or too_deep(sizes, *sides))


def _check_categories(forest: _Forest, owner: Array) -> None:
    """A categorical split's threshold is the number of its bitset, whose words lie between two boundaries."""
    trees, inner = forest.trees, forest.leaves - 1
    told = [tree for tree in trees if b"decision_type" in tree]
    if len(told) != len(trees) and (told or forest.categories.any()):
        raise OutOfBounds("some of its trees do not say how they decide")
    kinds = _row(trees, b"decision_type", inner) if told else np.zeros(len(owner), dtype=np.int64)
    _refuse(_first(owner, (kinds < 0) | (kinds > 15), lambda _: "decides in an unknown way"))
    for number in np.unique(np.concatenate((owner[kinds % 2 == 1], np.flatnonzero(forest.categories)))):
        thresholds = trees[number].get(b"threshold", b"").split(b" ")
        sets = int(forest.categories[number])
        for split in np.flatnonzero(kinds[owner == number] % 2):
            if not re.fullmatch(rb"[0-9]{1,9}", thresholds[split]) or int(thresholds[split]) >= sets:
                _refuse(Fault(int(number), f"splits on a set of categories beyond its {sets}"))
        if sets:
            _check_bitsets(trees[number], int(number), sets)


def _check_bitsets(tree: Tree, number: int, sets: int) -> None:
    words = tree.get(b"cat_threshold", b"")
    count = words.count(b" ") + 1 if words else 0
    bounds = _row([tree], b"cat_boundaries", np.array([sets + 1]))
    if (
        not len(_whole_numbers(words, b"cat_threshold"))
        or bounds[0] != 0
        or bounds[-1] != count
        or (np.diff(bounds) < 0).any()
    ):
        _refuse(Fault(number, f"has sets of categories beyond its {count} words"))


def _check_linear(tree: Tree, number: int, leaves: int, width: int) -> None:
    """A leaf's linear model reads so many features and coefficients as it says."""
    if not tree.keys() >= set(LINEAR):
        _refuse(Fault(number, "is linear, but lacks what its leaves compute"))
    counts = _row([tree], b"num_features", np.array([leaves]))
    features, factors = tree[b"leaf_features"].split(), tree[b"leaf_coeff"].split()
    total = int(counts.sum()) if (counts >= 0).all() else -1
    if len(features) != total or len(factors) != total:
        _refuse(Fault(number, "has linear models of other lengths than it says"))
    if not all(map(_is_double, (*factors, *tree[b"leaf_const"].split(b" ")))):
        _refuse(Fault(number, "computes with a figure that no double holds"))
    if not all(re.fullmatch(rb"[0-9]{1,10}", one) and int(one) < width for one in features):
        _refuse(Fault(number, f"computes with a feature beyond its {width}"))


def _is_double(figure: bytes) -> bool:
    """False for what std::stod, which reads linear leaves alone, throws at: too large, or too near to zero."""
    if not re.fullmatch(_FIGURE, figure):
        return False
    value = abs(float(figure))
    if value == 0:
        return not figure.partition(b"e")[0].strip(b"-0.")
    return math.isnan(value) or (value >= sys.float_info.min and (value != math.inf or figure.endswith(b"inf")))
