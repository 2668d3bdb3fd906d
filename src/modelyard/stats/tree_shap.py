"""Exact Shapley values of tree ensembles, path-dependent (Lundberg et al. 2020, doi 10.1038/s42256-019-0138-9).

A leaf with value v is reached, when only the features in S are known, with weight prod(o_i, i in S) prod(z_i, i not in S)
over the d features of its path: o_i is 1 if the row satisfies every split on i, z_i the share of the training cover that
does. The Shapley weights are Beta integrals, so the leaf gives feature j

    v (o_j - z_j) * integral over t in [0, 1] of prod(z_i (1 - t) + o_i t, i != j),

the integral of a polynomial of degree d - 1: Gauss-Legendre quadrature on ceil(d / 2) points is exact, and all its terms
have one sign, so nothing cancels. (The same polynomial is behind Linear TreeSHAP, Yu et al. 2022, arXiv 2209.08192.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid

Array = np.ndarray[Any, np.dtype[Any]]
_CELLS = 1 << 20  # doubles in one working array: 8 MiB, which stays near the cache


@dataclass(frozen=True, slots=True)
class TreeArrays:
    """One tree as arrays over its nodes, as scikit-learn's `tree_` has them; node 0 is the root.

    A leaf has `children_left` -1. A row goes left where x[feature] <= threshold; a missing value (NaN) goes left where
    `missing_left` says so, and right without it. `value` is each node's scalar output, `cover` its weight of samples.
    """

    children_left: Array
    children_right: Array
    feature: Array
    threshold: Array
    value: Array
    cover: Array
    missing_left: Array | None = None


@dataclass(frozen=True, slots=True)
class _Paths:
    """The leaves whose paths meet d distinct features: arrays (d, leaves), and `value` (leaves,)."""

    feature: Array
    share: Array
    low: Array
    high: Array
    missing: Array
    value: Array


def tree_shap(trees: Sequence[TreeArrays], x: Array) -> tuple[Array, float]:
    """The Shapley values (n, F) of the sum of the trees at the rows x (n, F), and the base value.

    `base + values.sum(axis=1)` is the sum of the trees' outputs. To average a forest, divide both by the number of trees.
    scikit-learn compares float32 values: pass `x.astype(np.float32)` for its trees.

    >>> stump = TreeArrays(*(np.array(a) for a in
    ...     ([1, -1, -1], [2, -1, -1], [0, -2, -2], [0.5, 0, 0], [0.0, 1.0, 3.0], [4, 3, 1])))
    >>> values, base = tree_shap([stump], np.array([[0.0, 9.0], [1.0, 9.0]]))
    >>> base, values.tolist()
    (1.5, [[-0.5, 0.0], [1.5, 0.0]])
    """
    return TreeShap(trees).values(x)


class TreeShap:
    """An ensemble taken apart into leaves once, for many calls of `values`."""

    def __init__(self, trees: Sequence[TreeArrays]) -> None:
        self.base = 0.0
        self._paths: list[_Paths] = []
        self._features = 0
        if trees:
            self._take_apart(_joined(trees))

    def values(self, x: Array) -> tuple[Array, float]:
        """Shapley values (n, F) of the rows x (n, F), and the base value."""
        rows = np.asarray(x)
        if rows.ndim != 2 or rows.shape[1] < self._features:
            raise Invalid(
                f"Rows of shape {rows.shape} do not fit trees on {self._features} columns. Pass (n, columns)."
            )
        result = np.zeros(rows.shape)
        for paths in self._paths:
            for part, leaves in _blocks(len(rows), *paths.feature.shape):
                _add(result[part], paths, leaves, rows[part])
        return result, self.base

    def _take_apart(self, tree: tuple[Array, ...]) -> None:
        parent, is_left, feature, threshold, value, cover, missing_left, leaves = tree
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(cover[parent] > 0, cover / cover[parent], 0.0)
        at, leaf = leaves, np.arange(len(leaves))
        edges: list[tuple[Array, Array]] = []  # (leaf, node below the edge), one pair of arrays a level
        while True:
            inner = parent[at] >= 0
            at, leaf = at[inner], leaf[inner]
            if not len(at):
                break
            edges.append((leaf, at))
            at = parent[at]
        reach = np.ones(len(leaves))
        if edges:
            leaf, below = (np.concatenate(parts) for parts in zip(*edges, strict=True))
            np.multiply.at(reach, leaf, ratio[below])
            above = parent[below]
            self._features = int(feature[above].max()) + 1
            facts = (
                feature[above],
                ratio[below],
                np.where(is_left[below], -np.inf, threshold[above]),
                np.where(is_left[below], threshold[above], np.inf),
                missing_left[above] == is_left[below],
            )
            self._paths = list(_merged(leaf, facts, value[leaves]))
        self.base = float(reach @ value[leaves])


def _joined(trees: Sequence[TreeArrays]) -> tuple[Array, ...]:
    """All trees as one forest of nodes: parent, is_left, feature, threshold, value, cover, missing_left, leaves."""
    sizes = [len(tree.feature) for tree in trees]
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    total = int(sum(sizes))
    parent, is_left = np.full(total, -1), np.zeros(total, dtype=bool)
    leaves = []
    for tree, start in zip(trees, starts, strict=True):
        inner = np.flatnonzero(np.asarray(tree.children_left) >= 0)
        left, right = (np.asarray(c)[inner] + start for c in (tree.children_left, tree.children_right))
        parent[left], parent[right], is_left[left] = inner + start, inner + start, True
        leaves.append(np.flatnonzero(np.asarray(tree.children_left) < 0) + start)
    columns = (
        np.concatenate([np.asarray(getattr(tree, name)).reshape(-1) for tree in trees])
        for name in ("feature", "threshold", "value", "cover")
    )
    missing = [
        np.zeros(n) if tree.missing_left is None else tree.missing_left for tree, n in zip(trees, sizes, strict=True)
    ]
    feature, threshold, value, cover = columns
    return (
        parent,
        is_left,
        feature.astype(np.int64),
        threshold.astype(float),
        value.astype(float),
        cover.astype(float),
        np.concatenate(missing).astype(bool),
        np.concatenate(leaves),
    )


def _merged(leaf: Array, facts: tuple[Array, ...], value: Array) -> Iterator[_Paths]:
    """Edges merged to one entry for each (leaf, feature), in groups of leaves with equally many features.

    `facts` are arrays over edges: feature, share of the cover, lower bound, upper bound, whether a missing value passes.
    """
    order = np.lexsort((facts[0], leaf))
    leaf, (feature, share, low, high, missing) = leaf[order], (fact[order] for fact in facts)
    first = np.flatnonzero(np.r_[True, (leaf[1:] != leaf[:-1]) | (feature[1:] != feature[:-1])])
    share, low = np.multiply.reduceat(share, first), np.maximum.reduceat(low, first)
    high, missing = np.minimum.reduceat(high, first), np.logical_and.reduceat(missing, first)
    leaf, feature = leaf[first], feature[first]
    count = np.bincount(leaf, minlength=len(value))
    for d in np.unique(count[count > 0]):
        chosen = count[leaf] == d

        def table(fact: Array, chosen: Array = chosen, d: int = int(d)) -> Array:
            return np.ascontiguousarray(fact[chosen].reshape(-1, d).T)

        yield _Paths(table(feature), table(share), table(low), table(high), table(missing), value[count == d])


def _blocks(rows: int, d: int, leaves: int) -> Iterator[tuple[slice, slice]]:
    """Rows and leaves in blocks whose working array (d, points, rows, leaves) stays near `_CELLS`."""
    room = max(_CELLS // (d * ((d + 1) // 2)), 1)
    wide = min(leaves, room)
    deep = max(room // wide, 1)
    for row in range(0, rows, deep):
        for leaf in range(0, leaves, wide):
            yield slice(row, row + deep), slice(leaf, leaf + wide)


def _add(result: Array, paths: _Paths, leaves: slice, x: Array) -> None:
    """Add the Shapley values of these leaves at the rows x to the result, in place."""
    feature, share = paths.feature[:, leaves], paths.share[:, leaves]
    cells = x[:, feature].transpose(1, 0, 2)  # (d, rows, leaves)
    inside = (cells > paths.low[:, None, leaves]) & (cells <= paths.high[:, None, leaves])
    unknown = np.isnan(cells)
    if unknown.any():
        inside = np.where(unknown, paths.missing[:, None, leaves], inside)
    points, weights = np.polynomial.legendre.leggauss((len(feature) + 1) // 2)
    t = ((points + 1) / 2)[:, None, None]
    factors = share[:, None, None, :] * (1 - t) + inside[:, None] * t  # (d, points, rows, leaves)
    without = np.tensordot(weights / 2, _products_without_one(factors), axes=(0, 1))  # (d, rows, leaves)
    given = (inside - share[:, None, :]) * without * paths.value[leaves]
    rows, columns = result.shape
    index = np.arange(rows)[:, None] * columns + feature[:, None, :]
    result += np.bincount(index.ravel(), given.ravel(), minlength=rows * columns).reshape(rows, columns)


def _products_without_one(factors: Array) -> Array:
    """For each i, the product of all factors but the i-th, without dividing (a share may be zero)."""
    result = np.empty_like(factors)
    result[0] = 1.0
    for i in range(1, len(factors)):
        np.multiply(result[i - 1], factors[i - 1], out=result[i])
    after = np.ones_like(factors[0])
    for i in range(len(factors) - 2, -1, -1):
        after *= factors[i + 1]
        result[i] *= after
    return result
