"""When a tree's children lead through it and nowhere else: one notion for every library's trees.

A forest is given as the number of nodes of each tree, and for every node of one tree after the other the numbers of its
children within its tree; a leaf has LEAF in both places.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

LEAF = -1
# TreeSHAP descends by recursion and keeps the square of the depth in numbers (Lundberg et al. 2018, algorithm 2)
DEEPEST = 2048


class Fault(NamedTuple):
    """What is wrong, and with which tree."""

    tree: int
    why: str


def fault(sizes: Array, left: Array, right: Array, spare: Array | None = None) -> Fault | None:
    """Why some child leads astray; None where every node but a root, and but those in `spare`, is one node's child.

    Children come behind their parents, as every trainer numbers them, so that no path leads back.

    >>> whole, leaf = np.array([3]), LEAF
    >>> fault(whole, np.array([1, leaf, leaf]), np.array([2, leaf, leaf]))
    >>> fault(whole, np.array([1, leaf, leaf]), np.array([9, leaf, leaf])).why
    'has a child beyond its 3 nodes, or one that leads back'
    """
    starts, inner = _starts(sizes), np.flatnonzero(left != LEAF)
    trees = np.repeat(np.arange(len(sizes)), sizes)
    base = starts[trees[inner]]
    for children in (left[inner], right[inner]):
        bad = np.flatnonzero((children <= inner - base) | (children >= sizes[trees[inner]]))
        if len(bad):
            at = int(trees[inner[bad[0]]])
            return Fault(at, f"has a child beyond its {sizes[at]} nodes, or one that leads back")
    met = np.bincount(np.concatenate((left[inner] + base, right[inner] + base, starts)), minlength=len(left))
    wanted = 1 if spare is None else np.where(spare, 0, 1)
    bad = np.flatnonzero(met != wanted)
    return Fault(int(trees[bad[0]]), "has a node that no node, or more than one, leads to") if len(bad) else None


def too_deep(sizes: Array, left: Array, right: Array) -> Fault | None:
    """The first tree of a sound forest that is deeper than DEEPEST; None if none is."""
    starts = _starts(sizes)
    base = np.repeat(starts, sizes)
    level = starts
    for _ in range(DEEPEST + 1):
        level = level[left[level] != LEAF]
        if not len(level):
            return None
        level = np.concatenate((left[level], right[level])) + np.tile(base[level], 2)
    at = int(np.searchsorted(starts, level[0], side="right")) - 1
    return Fault(at, f"is more than {DEEPEST:,} levels deep")


def _starts(sizes: Array) -> Array:
    return np.cumsum(sizes) - sizes
