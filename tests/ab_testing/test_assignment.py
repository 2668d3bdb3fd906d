"""Who gets which variant: the same for ever, evenly, whatever else is assigned, and never away from a treatment."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from itertools import combinations, pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from modelyard.ab_testing import ABTest, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.assignment import place, takes_part, variant_at
from modelyard.ab_testing.experiments import Held

SHARES = st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3)


def plan(shares, **options):
    names = ["control", *(f"treatment_{number}" for number in range(len(shares)))]
    parts = [1 - sum(shares), *shares]
    variants = tuple(Variant(name=n, model="m:v1", share=s) for n, s in zip(names, parts, strict=True))
    given_ = {"strategy": TrafficSplitStrategy.HASH_BASED, "status": TestStatus.RUNNING, **options}
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return ABTest(test_id="t", name="t", description="", variants=variants, created_by="me", created_at=at, **given_)


def test_variants_are_frozen_too():
    """A unit of a running test must never change its variant, in whichever language it is computed."""
    test = plan([0.25, 0.25])
    units = ["user-0", "user-1", "Grüße", "你好", "a b", "\u00e9", "e\u0301"]
    found = [variant_at(test, place("test_1", unit)) for unit in units]
    told = [int(hashlib.sha256(f"test_1:{unit}".encode()).hexdigest()[:16], 16) / 2**64 for unit in units]
    assert found == ["treatment_0" if x < 0.25 else "treatment_1" if x < 0.5 else "control" for x in told]
    assert found[:2] == ["control", "treatment_0"]


def test_whatever_is_assigned_by_another_name_is_assigned_independently():
    """Two tests, a group and a holdout, pair by pair: chi square over ten by ten cells; seeded by the names themselves."""
    salts = ["test_a", "test_b", "test_b1", "group:checkout", "holdout:2026"]
    units = [f"user-{number}" for number in range(20_000)]
    places = [np.array([place(salt, unit) for unit in units]) for salt in salts]
    found = [scipy.stats.kstest(one, "uniform").pvalue for one in places]
    for first, second in combinations(places, 2):
        found.append(scipy.stats.chi2_contingency(np.histogram2d(first, second, bins=10)[0]).pvalue)
    assert min(found) > 0.01 / len(found)


@given(SHARES, st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_of_several_treatments_moves_units_out_of_the_control_only(shares, position, a, b):
    early, late = sorted((a, b))
    test = plan(shares)
    before, after = (variant_at(test, position, ramped) for ramped in (early, late))
    assert before in ("control", after)


@given(SHARES, st.text(max_size=20))
def test_every_unit_has_one_variant_and_each_range_is_as_wide_as_its_share(shares, unit):
    test = plan(shares)
    assert variant_at(test, place("t", unit)) in test.shares
    edges = np.cumsum([0.0, *shares])
    for number, (low, high) in enumerate(pairwise(edges)):
        assert variant_at(test, (low + high) / 2) == f"treatment_{number}"


@pytest.mark.parametrize("unit", ["", "u" * 1_000_000, "a\x00b", "\ud800", "😀"])
def test_odd_units_are_assigned_as_all_others(unit):
    test = plan([0.5], holdouts=(Held(name="none", share=1e-9),))
    assert takes_part(test, unit)
    assert variant_at(test, place("t", unit)) == variant_at(test, place("t", unit))
