"""Who gets which variant: ranges over the first 64 bits of SHA-256, so that any language assigns alike."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.ab_testing.experiments import ABTest
from modelyard.core.assignment import position, unit_hash
from modelyard.core.instants import Instant

GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: its multiples spread evenly (Knuth, TAOCP 3, 6.4)
_WHOLE = 1 << 64


def place(salt: str, unit: str) -> float:
    """Where a unit stands in [0, 1): the first 64 bits of SHA-256 of `salt:unit`, over 2**64.

    >>> place("test_1", "user-0")
    0.5327...
    """
    return position(unit_hash(salt, unit))


def even_place(counter: int, start: int) -> float:
    """The counter-th of evenly spread places in [0, 1), beginning at a start drawn once.

    >>> [round(even_place(i, 0), 3) for i in range(4)]
    [0.0, 0.618, 0.236, 0.854]
    """
    return ((start + counter * GOLDEN) % _WHOLE) / _WHOLE if counter or start else 0.0


def variant_at(test: ABTest, position: float, ramped: float = 1.0) -> str:
    """The variant whose range holds the position.

    Each treatment keeps the lower part `ramped` of its own range; what is not taken is the control's. So a ramp that
    grows never moves a unit out of a treatment.
    """
    start = 0.0
    for variant in test.treatments:
        if start <= position < start + variant.share * ramped:
            return variant.name
        start += variant.share
    return test.control.name


def ramped_at(test: ABTest, now: Instant) -> float:
    """The part of the treatments' shares that a ramp has reached, 0 to 1; it grows evenly from the start."""
    if not test.ramp_seconds or test.started_at is None:
        return 1.0
    return min(1.0, max(0.0, (now - test.started_at).total_seconds() / test.ramp_seconds))


def in_group_part(test: ABTest, unit: str) -> bool:
    """Whether the unit belongs to the test's part of its exclusive group; everyone does without a group."""
    if not test.exclusive_group:
        return True
    return test.group_start <= place(f"group:{test.exclusive_group}", unit) < test.group_start + test.group_share


def takes_part(test: ABTest, unit: str) -> bool:
    """Whether the test assigns the unit: it is in the test's part of its group and in no holdout."""
    if any(place(f"holdout:{held.name}", unit) < held.share for held in test.holdouts):
        return False
    return in_group_part(test, unit)


def within(shares: Mapping[str, float], position: float) -> str:
    """The name whose range holds the position, the ranges in the order of the names given."""
    start = 0.0
    for name, share in shares.items():
        start += share
        if position < start:
            return name
    return list(shares)[-1]
