"""The tree against RFC 6962's own recursive definitions and against its published vectors."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.audit import merkle

LEAVES = [merkle.leaf_hash(str(i).encode()) for i in range(300)]

# The eight test leaves and the roots over the first n of them, as published with Certificate Transparency's reference code.
PUBLISHED_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
PUBLISHED_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def root(leaves: list[bytes]) -> bytes:
    """MTH, as RFC 6962 section 2.1 writes it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = split(len(leaves))
    return merkle.node_hash(root(leaves[:k]), root(leaves[k:]))


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH, as RFC 6962 section 2.1.1 writes it."""
    if len(leaves) <= 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), root(leaves[k:])]
    return [*path(m - k, leaves[k:]), root(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF, as RFC 6962 section 2.1.2 writes it."""
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), root(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), root(leaves[:k])]


def split(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def stored(leaves: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """(hashes in the order of their numbers, peaks' hashes) after appending the leaves one by one."""
    frontier: list[bytes] = []
    hashes: list[bytes] = []
    for size, leaf in enumerate(leaves):
        hashes += merkle.append(frontier, size, leaf)
    return hashes, frontier


HASHES, _ = stored(LEAVES)


def fetch(subtrees: list[merkle.Subtree]) -> list[bytes]:
    return [HASHES[merkle.number(level, index)] for level, index in subtrees]


def test_roots_are_the_published_ones() -> None:
    leaves = [merkle.leaf_hash(bytes.fromhex(text)) for text in PUBLISHED_LEAVES]
    for size, expected in enumerate(PUBLISHED_ROOTS, start=1):
        assert merkle.fold(stored(leaves[:size])[1]).hex() == expected


@pytest.mark.parametrize("size", range(68))
def test_the_root_is_the_one_of_the_recursive_definition(size: int) -> None:
    _, frontier = stored(LEAVES[:size])
    assert merkle.fold(frontier) == root(LEAVES[:size])
    assert frontier == fetch(merkle.peaks(size))


def test_numbers_follow_the_order_of_appending_without_a_gap() -> None:
    size, expected = 300, []
    for leaf in range(size):
        level, index = 0, leaf
        expected.append((level, index))
        while index & 1:
            level, index = level + 1, index >> 1
            expected.append((level, index))
    assert [merkle.number(*subtree) for subtree in expected] == list(range(len(expected)))


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n - 1), st.just(n))))
@settings(max_examples=150, deadline=None)
def test_an_inclusion_proof_is_the_rfcs_and_is_accepted(case: tuple[int, int]) -> None:
    index, size = case
    proof = merkle.inclusion_proof(index, size, fetch)
    assert proof == path(index, LEAVES[:size])
    assert merkle.verify_inclusion(LEAVES[index], index, size, proof, root(LEAVES[:size]))


@given(st.integers(0, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(max_examples=150, deadline=None)
def test_a_consistency_proof_is_the_rfcs_and_is_accepted(case: tuple[int, int]) -> None:
    old, new = case
    proof = merkle.consistency_proof(old, new, fetch)
    assert proof == ([] if old == 0 else subproof(old, LEAVES[:new], True))
    assert merkle.verify_consistency(old, new, root(LEAVES[:old]), root(LEAVES[:new]), proof)


def forged(proof: list[bytes], rng: random.Random) -> list[bytes]:
    """The proof with one thing wrong."""
    bad = list(proof)
    kind = rng.choice(["flip", "drop", "add", "swap", "short"]) if bad else "add"
    at = rng.randrange(len(bad)) if bad else 0
    if kind == "flip":
        bad[at] = bytes([bad[at][0] ^ 1 << rng.randrange(8)]) + bad[at][1:]
    elif kind == "drop":
        del bad[at]
    elif kind == "add":
        bad.insert(at, rng.choice(LEAVES))
    elif kind == "short":
        bad[at] = bad[at][:-1]
    else:
        bad.reverse()
    return bad


def test_no_forged_proof_is_accepted() -> None:
    rng = random.Random(1)
    for _ in range(1_500):
        size = rng.randint(1, 300)
        index, old = rng.randrange(size), rng.randint(1, size)
        top = root(LEAVES[:size]) if rng.random() < 0.05 else merkle.fold(fetch(merkle.peaks(size)))
        proof = merkle.inclusion_proof(index, size, fetch)
        bad = forged(proof, rng)
        assert bad == proof or not merkle.verify_inclusion(LEAVES[index], index, size, bad, top)
        other = rng.randrange(size)
        assert other == index or not merkle.verify_inclusion(LEAVES[index], other, size, proof, top)
        assert not merkle.verify_inclusion(LEAVES[index], index, size, proof, LEAVES[0]) or size == 1
        before = merkle.fold(fetch(merkle.peaks(old)))
        consistent = merkle.consistency_proof(old, size, fetch)
        bad = forged(consistent, rng)
        assert bad == consistent or not merkle.verify_consistency(old, size, before, top, bad)
        assert not merkle.verify_consistency(old, size, LEAVES[299], top, consistent)


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0)])
def test_what_lies_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        merkle.inclusion_proof(index, size, fetch)
    assert not merkle.verify_inclusion(LEAVES[0], index, size, [], LEAVES[0])
    with pytest.raises(ValueError, match="cannot begin"):
        merkle.consistency_proof(4, 3, fetch)
    assert not merkle.verify_consistency(4, 3, LEAVES[0], LEAVES[0], [])


def test_a_proof_at_a_million_leaves_is_at_most_672_bytes() -> None:
    size = 1_000_000
    asked = []

    def counted(subtrees: list[merkle.Subtree]) -> list[bytes]:
        asked.append(len(subtrees))
        return [b"\0" * 32] * len(subtrees)

    for index in (0, 524_288, 999_999, 123_456):
        assert 32 * len(merkle.inclusion_proof(index, size, counted)) <= 672
        assert 32 * len(merkle.consistency_proof(index + 1, size, counted)) <= 672
    assert max(asked) <= 64
