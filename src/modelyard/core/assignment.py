"""Where a unit stands between 0 and 1: the one definition for experiments, canaries and the serving processes."""

from __future__ import annotations

import hashlib


def unit_hash(salt: str, unit: str) -> int:
    """The first 64 bits of SHA-256 of `salt:unit`, big-endian: the same in every language.

    >>> unit_hash("test_1", "user-0") >> 48
    34911
    """
    digest = hashlib.sha256(f"{salt}:{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def position(hashed: int) -> float:
    """A 64-bit hash as a place in [0, 1), over 2**64: ranges of it are shares, to one part in 2**53.

    >>> position(1 << 63)
    0.5
    """
    return (hashed >> 11) / (1 << 53)  # 53 bits: the float is exact and below 1
