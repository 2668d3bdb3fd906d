"""The RFC 6962 Merkle tree: append, root, inclusion and consistency proofs, and their verifiers.

A log of n leaves is kept as its complete subtrees. Subtree (level, index) covers the leaves index * 2^level up to
(index + 1) * 2^level. A tree's *peaks* are its largest complete subtrees from left to right, one for each 1 in n's
binary form; they are all that an append needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

HASH_BYTES = 32
_sha256 = hashlib.sha256  # asked for a million times
EMPTY_ROOT = _sha256(b"").digest()

Subtree = tuple[int, int]  # (level, index)
Fetch = Callable[[Sequence[Subtree]], Sequence[bytes]]


def leaf_hash(data: bytes) -> bytes:
    """The hash of a leaf (RFC 6962, 2.1): the prefix keeps a leaf from being passed off as a node."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two subtrees (RFC 6962, 2.1)."""
    return _sha256(b"\x01" + left + right).digest()


def peaks(size: int) -> list[Subtree]:
    """The complete subtrees that a tree of `size` leaves consists of, from left to right.

    >>> peaks(11)
    [(3, 0), (1, 4), (0, 10)]
    """
    return [(level, (size >> level) - 1) for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1]


def number(level: int, index: int) -> int:
    """Where a subtree's hash stands among all hashes in the order in which they become known.

    Leaf k is preceded by the 2k - popcount(k) hashes of the complete subtrees of k leaves; the subtrees that leaf k
    completes follow it, lowest first.

    >>> [number(0, 0), number(0, 1), number(1, 0), number(0, 2)]
    [0, 1, 2, 3]
    """
    last = ((index + 1) << level) - 1
    return 2 * last - last.bit_count() + level


def append(frontier: list[bytes], size: int, leaf: bytes) -> list[bytes]:
    """Add a leaf hash to the peaks' hashes in place; returns the hashes that became known, in the order of `number`.

    >>> frontier = []
    >>> [len(append(frontier, size, leaf_hash(b""))) for size in range(4)]
    [1, 2, 1, 3]
    """
    known = [leaf]
    while size & 1:
        leaf = node_hash(frontier.pop(), leaf)
        known.append(leaf)
        size >>= 1
    frontier.append(leaf)
    return known


def levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes of a complete tree over 2^k leaf hashes, lowest level first.

    >>> [len(level) for level in levels([leaf_hash(b"")] * 8)]
    [8, 4, 2, 1]
    """
    sha, found = hashlib.sha256, [list(leaves)]
    while len(found[-1]) > 1:
        below = iter(found[-1])
        found.append([sha(b"\x01" + left + right).digest() for left, right in zip(below, below, strict=True)])
    return found


def in_order(tree: Sequence[Sequence[bytes]]) -> bytes:
    """The hashes of a complete tree, given by levels, in the order of `number`.

    >>> in_order([[b"a", b"b", b"c", b"d"], [b"AB", b"CD"], [b"R"]])
    b'abABcdCDR'
    """
    flat = [value for level in tree for value in level]
    return b"".join([flat[place] for place in _places(len(tree))])


@cache
def _places(height: int) -> list[int]:
    """Where each hash of a complete tree of so many levels, in the order of `number`, stands when they are by levels."""
    starts = [(1 << height) - (1 << height - level) for level in range(height)]
    subtrees = [(level, index) for level in range(height) for index in range(1 << height - 1 - level)]
    return [starts[level] + index for level, index in sorted(subtrees, key=lambda subtree: number(*subtree))]


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over peaks' hashes: from the right, as RFC 6962 splits at the largest power of two.

    >>> fold([]) == EMPTY_ROOT
    True
    """
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = node_hash(left, root)
    return root


def inclusion_proof(index: int, size: int, fetch: Fetch) -> list[bytes]:
    """The audit path of a leaf (RFC 6962, 2.1.1). `fetch` gives the hashes of complete subtrees.

    >>> inclusion_proof(0, 1, lambda subtrees: [])
    []
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    tops = peaks(size)
    at = next(n for n, (level, top) in enumerate(tops) if index >> level == top)
    beside = [(level, (index >> level) ^ 1) for level in range(tops[at][0])]
    found = list(fetch([*beside, *tops[:at], *tops[at + 1 :]]))
    within, left, right = found[: len(beside)], found[len(beside) : len(beside) + at], found[len(beside) + at :]
    return within + ([fold(right)] if right else []) + left[::-1]


def consistency_proof(old: int, new: int, fetch: Fetch) -> list[bytes]:
    """The proof that the tree of `new` leaves begins with the tree of `old` leaves (RFC 6962, 2.1.2).

    >>> consistency_proof(4, 4, lambda subtrees: [])
    []
    """
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves cannot begin with {old}")
    if old == 0:
        return []  # every tree begins with the empty one
    ranges, low, high, whole = [], 0, new, True
    while high != old:
        middle = low + _split(high - low)
        if old <= middle:
            ranges.append((middle, high))
            high = middle
        else:
            ranges.append((low, middle))
            low, whole = middle, False
    if not whole:
        ranges.append((low, high))
    return _hashes_of(ranges[::-1], fetch)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """True if the proof shows that the leaf hash stands at the index of the tree (RFC 9162, 2.1.3.2).

    >>> verify_inclusion(leaf_hash(b"a"), 0, 1, [], leaf_hash(b"a"))
    True
    """
    if not 0 <= index < size or not {HASH_BYTES}.issuperset(map(len, proof)):
        return False
    at, last, found, sha = index, size - 1, leaf, _sha256
    for item in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = sha(b"\x01" + item + found).digest()  # node_hash, whose call would cost a third of it
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = sha(b"\x01" + found + item).digest()
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """True if the proof shows that the new tree begins with the old one (RFC 9162, 2.1.4.2).

    >>> verify_consistency(0, 5, EMPTY_ROOT, b"any", [])
    True
    """
    if not 0 <= old <= new or any(len(item) != HASH_BYTES for item in proof):
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old_found = new_found = path[0]
    for item in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            old_found, new_found = node_hash(item, old_found), node_hash(item, new_found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new_found = node_hash(new_found, item)
        at, last = at >> 1, last >> 1
    return last == 0 and old_found == old_root and new_found == new_root


def _split(count: int) -> int:
    """The largest power of two below count."""
    return 1 << (count - 1).bit_length() - 1


def _hashes_of(ranges: Sequence[tuple[int, int]], fetch: Fetch) -> list[bytes]:
    """The hashes of leaf ranges, each one aligned as RFC 6962 splits them, with a single fetch."""
    parts = [[(level, index + (low >> level)) for level, index in peaks(high - low)] for low, high in ranges]
    hashes = iter(fetch([subtree for part in parts for subtree in part]))
    return [fold([next(hashes) for _ in part]) for part in parts]
