"""Profiles: counts are exact, merge exactly, survive storage, and refuse what does not fit."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.monitoring.profile import aligned, columns_of, packed, profile, reference_profile, unpacked


def table(rows, seed):
    rng = np.random.default_rng(seed)
    return columns_of(
        pd.DataFrame(
            {
                "amount": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(size=rows)),
                "zeros": np.where(rng.random(rows) < 0.6, 0, rng.integers(0, 1000, rows)),
                "city": rng.choice(["Bern", "Rome", None, "Oslo"], rows),
                "grade": rng.integers(1, 5, rows),
                "id": [f"id{i}" for i in rng.integers(0, 10**6, rows)],
                "ok": rng.random(rows) < 0.3,
            }
        )
    )


def same(first, second):
    assert first.rows == second.rows
    for name, column in first.columns.items():
        other = second.columns[name]
        assert (column.counts == other.counts).all(), name
        assert column.missing == other.missing
        assert column.new == other.new
        np.testing.assert_allclose(column.sums, other.sums, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=4), st.integers(0, 1000))
def test_profiles_of_parts_add_up_to_the_profile_of_the_whole(sizes, seed):
    reference = reference_profile(table(3000, 1))
    parts = [table(size, seed + i) for i, size in enumerate(sizes)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    merged = profile(reference, parts[0])
    for part in parts[1:]:
        merged = profile(reference, part) + merged
    same(merged, profile(reference, whole))


def test_a_reference_counted_again_on_its_own_bins_is_itself():
    columns = table(5000, 2)
    reference = reference_profile(columns)
    same(reference, profile(reference, columns))


def test_bins_hold_the_values_between_their_ends():
    values = np.random.default_rng(0).normal(size=5000)
    column = reference_profile({"x": values}).columns["x"]
    edges = np.concatenate([[-np.inf], column.shape.edges, [np.inf]])
    expected = [((values > low) & (values <= high)).sum() for low, high in pairwise(edges)]
    assert column.counts.tolist() == expected
    assert column.sums.sum() == pytest.approx(values.sum())


def test_a_profile_survives_storage():
    reference = reference_profile(table(2500, 3))
    same(reference, unpacked(packed(reference)))
    later = profile(unpacked(packed(reference)), table(100, 4))
    same(later, unpacked(packed(later)))


def test_new_levels_are_counted_one_by_one():
    reference = reference_profile({"city": np.array(["Bern"] * 50 + ["Rome"] * 50, dtype=object)})
    now = profile(reference, {"city": np.array(["Oslo", "Oslo", "Riga", None], dtype=object)}).columns["city"]
    assert now.new == {"Oslo": 2, "Riga": 1}
    first, second = aligned(reference.columns["city"], now)
    assert first.sum() == 100
    assert sorted(second.tolist()) == [0, 0, 0, 1, 1, 2]


def test_whole_numbers_floats_and_bools_are_the_same_levels():
    reference = reference_profile({"k": np.array([0, 1, 1, 0])})
    for values in (np.array([1.0, 0.0]), np.array([True, False]), np.array([1, 0], dtype=object)):
        assert profile(reference, {"k": values}).columns["k"].new == {}


def test_infinite_values_count_as_missing():
    reference = reference_profile({"x": np.arange(100.0)})
    now = profile(reference, {"x": np.array([1.0, np.inf, -np.inf, np.nan])}).columns["x"]
    assert (now.missing, now.rows) == (3, 4)


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"x": np.arange(9.0), "why": np.arange(9)}, "'why' is not in the reference"),
        ({}, "'x' of the reference is not in the table"),
        ({"x": np.array(["old", "young"], dtype=object)}, "holds 'old'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name(columns, told):
    reference = reference_profile({"x": np.arange(100.0)})
    with pytest.raises(Invalid, match=told):
        profile(reference, columns)


@pytest.mark.parametrize("values", [np.full(5, np.nan), np.array([None, None], dtype=object)])
def test_a_reference_column_without_values_is_refused(values):
    with pytest.raises(Invalid, match="has no value"):
        reference_profile({"x": values})


@pytest.mark.parametrize("empty", [pd.DataFrame(), pd.DataFrame({"x": []}), [], {}])
def test_an_empty_table_is_refused(empty):
    with pytest.raises(Invalid, match="no rows"):
        columns_of(empty)
