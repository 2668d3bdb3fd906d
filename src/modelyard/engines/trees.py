"""Tree ensembles over flat arrays: the compiled form of forests and boosters, answered by a kernel of our own.

An `Ensemble` is what any library's trees come to; `packed` lays it out for the kernel; `TreesRuntime` answers with it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.packages import signature_of
from modelyard.core.ports import Output
from modelyard.engines._trees import Forest

Array = np.ndarray[Any, np.dtype[Any]]
# sums as they are; (1 - s, s); logistic (1 - p, p); logistic of each; softmax; exp: the order is the kernel's
Link = Literal["identity", "pair", "logistic_pair", "logistic", "softmax", "exponential"]

NODE = np.dtype([("threshold", "<f8"), ("left", "<i4"), ("feature", "<u4")])
MISSING_LEFT = np.uint32(1 << 31)
_ARRAYS: dict[str, Any] = {
    "nodes": NODE,
    "leaves": "<i4",
    "roots": "<i4",
    "depths": "<i4",
    "values": "<f8",
    "base": "<f8",
}
LEAF = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Trees as arrays over all their nodes (n,): a row goes left where its value is <= the threshold, and where it is
    missing and `missing_left`. `left` is -1 at a leaf, whose `values` (n, outputs) are added up from `base` (outputs,).

    `single` says that inputs are rounded to float32 first, as the library that made the trees does.
    """

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    values: Array
    roots: Array
    base: Array
    link: Link
    single: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One tree by itself, as an `Ensemble` has them; `values` (n,) are of the output `output`, or (n, outputs) of all."""

    feature: Array
    threshold: Array
    left: Array
    right: Array
    missing_left: Array
    values: Array
    output: int = 0


def joined(trees: Sequence[Tree], *, base: Array, link: Link, single: bool) -> Ensemble:
    """The trees as one ensemble; Invalid without any."""
    if not trees:
        raise Invalid("it has no trees")
    sizes = np.array([len(tree.feature) for tree in trees])
    starts = np.cumsum(sizes) - sizes
    values = np.zeros((int(sizes.sum()), len(base)))
    for tree, start in zip(trees, starts, strict=True):
        rows = values[start : start + len(tree.feature)]
        if tree.values.ndim == 2:
            rows += tree.values
        else:
            rows[:, tree.output] = tree.values
    children = {
        side: np.concatenate(
            [np.where(part == LEAF, LEAF, part + start) for part, start in zip(parts, starts, strict=True)]
        )
        for side, parts in (("left", [tree.left for tree in trees]), ("right", [tree.right for tree in trees]))
    }
    return Ensemble(
        feature=np.concatenate([tree.feature for tree in trees]).astype(np.int64),
        threshold=np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
        missing_left=np.concatenate([tree.missing_left for tree in trees]).astype(bool),
        values=values,
        roots=starts,
        base=base,
        link=link,
        single=single,
        **children,
    )


def packed(ensemble: Ensemble) -> dict[str, Array]:
    """The kernel's arrays: each tree's nodes together, level by level, children side by side, shallow trees first.

    Invalid where a node is reached twice or leads nowhere.
    """
    order, tree, depths = _walked(ensemble)
    rank = np.argsort(np.argsort(depths, kind="stable"), kind="stable")  # of each tree, by its depth
    order = order[np.argsort(rank[tree], kind="stable")]
    place = np.full(len(ensemble.feature), -1, np.int64)
    place[order] = np.arange(len(order))
    leaf = ensemble.left[order] == LEAF
    nodes = np.zeros(len(order), NODE)
    nodes["threshold"] = np.where(leaf, np.inf, ensemble.threshold[order])
    nodes["left"] = np.where(leaf, np.arange(len(order)), place[ensemble.left[order]])
    nodes["feature"] = np.where(leaf, 0, ensemble.feature[order]).astype(np.uint32)
    nodes["feature"] |= np.where(leaf | ensemble.missing_left[order], MISSING_LEFT, np.uint32(0))
    leaves = np.where(leaf, np.cumsum(leaf) - 1, 0).astype(np.int32)
    return {
        "nodes": nodes,
        "leaves": leaves,
        "roots": place[ensemble.roots][np.argsort(rank)].astype(np.int32),
        "depths": np.sort(depths).astype(np.int32),
        "values": np.ascontiguousarray(ensemble.values[order][leaf], dtype=np.float64),
        "base": np.asarray(ensemble.base, dtype=np.float64),
    }


def _walked(ensemble: Ensemble) -> tuple[Array, Array, Array]:
    """Every node level by level over all trees at once, the tree of each, and the depth of each tree."""
    count = len(ensemble.feature)
    at, tree = np.asarray(ensemble.roots, dtype=np.int64), np.arange(len(ensemble.roots))
    depths = np.zeros(len(tree), np.int64)
    nodes, trees, seen, level = [at], [tree], len(at), 0
    while True:
        inner = ensemble.left[at] != LEAF
        parents, tree = at[inner], np.repeat(tree[inner], 2)
        if not len(parents):
            break
        level += 1
        at = np.column_stack([ensemble.left[parents], ensemble.right[parents]]).ravel().astype(np.int64)
        seen += len(at)
        if seen > count or at.min() < 0 or at.max() >= count:
            raise Invalid("The trees' nodes do not lead to each other as in trees. Export the model again.")
        depths[tree] = level
        nodes.append(at)
        trees.append(tree)
    order = np.concatenate(nodes)
    if len(np.unique(order)) != len(order):
        raise Invalid("A node of the trees is reached twice. Export the model again.")
    return order, np.concatenate(trees), depths


def forest(arrays: dict[str, Array], *, width: int, link: Link, single: bool) -> Forest:
    """The kernel on these arrays; Damaged where something in them leads outside them."""
    try:
        nodes, leaves, roots, depths, values, base = (
            np.ascontiguousarray(arrays[name], dtype=kind) for name, kind in _ARRAYS.items()
        )
        return Forest(nodes, leaves, roots, depths, values, base, width, get_args(Link).index(link), single)
    except (ValueError, OverflowError) as error:
        raise Damaged(f"The trees are damaged: {error}. Compile the model again.") from error


def margins(ensemble: Ensemble, batch: Array) -> Array:
    """The sums (n, outputs) of a batch (n, inputs), from the base on, before they become answers."""
    out = np.empty((len(batch), len(ensemble.base)))
    made = forest(packed(ensemble), width=batch.shape[1], link="identity", single=ensemble.single)
    made.predict(np.ascontiguousarray(batch, dtype=np.float64), out, np.empty(len(batch), np.int64))
    return out


def save(path: Path, ensemble: Ensemble, signature: Signature) -> None:
    """Write the compiled form: a NumPy archive of the kernel's arrays, with the signature."""
    about = {"signature": signature, "link": ensemble.link, "single": ensemble.single, "format_version": 1}
    text = np.frombuffer(dumps(about).encode(), np.uint8)
    with path.open("wb") as stream:
        np.savez(stream, allow_pickle=False, about=text, **packed(ensemble))


class TreesRuntime:
    """Answers with a compiled tree ensemble: microseconds a row, one thread, no library behind it."""

    marked = False  # its calls need not be noted: it can neither end nor hang a process

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model file {path}. Check the path.")
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in _ARRAYS}
                about = json.loads(archive["about"].tobytes())
            self._signature = signature or signature_of(about["signature"])
            link, single = about["link"], bool(about["single"])
            if link not in get_args(Link):
                raise ValueError(f"unknown link {link!r}")
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise Damaged(
                f"{path} is no compiled model ({type(error).__name__}: {error}). Compile it again."
            ) from error
        self.native = None
        self._forest = forest(arrays, width=len(self._signature.inputs), link=link, single=single)
        self._columns = self._forest.columns
        self._classes = np.asarray(self._signature.classes)
        self._regression = self._signature.task == "regression"
        wanted = 1 if self._regression else len(self._signature.classes)
        if self._columns != wanted or not self._signature.numeric:
            raise Damaged(f"{path} gives {self._columns} numbers a row, its signature asks for {wanted}.")

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a batch of shape (n, inputs)."""
        count = len(batch)
        out, likely = np.empty((count, self._columns)), np.empty(count, np.int64)
        try:
            self._forest.predict(batch, out, likely)
        except (BufferError, ValueError):  # rows of another type, or that lie otherwise in memory
            self._forest.predict(np.ascontiguousarray(batch, dtype=np.float64), out, likely)
        if self._regression:
            return Output(predictions=out[:, 0])
        return Output(predictions=self._classes.take(likely), probabilities=out)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: the compiled form keeps no cover of its nodes."""
        raise Invalid("A compiled model has no contributions of its own. Load its model package, or use SHAP.")

    def unload(self) -> None:
        """Free the arrays."""
        del self._forest
