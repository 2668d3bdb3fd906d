"""Statistics of stored values, against NumPy."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from modelyard.features import Feature, FeatureStore, FeatureType

START = datetime(2026, 1, 1, tzinfo=UTC)


def stored(tmp_path, kind: FeatureType, values: list, *, repeat: int = 1) -> FeatureStore:
    store = FeatureStore(tmp_path)
    store.register_feature(Feature(name="x", entity_type="card", feature_type=kind))
    times = [START + timedelta(hours=n) for n in range(len(values))]
    for _ in range(repeat):
        store.write_features({"card": [str(n % 3) for n in range(len(values))], "event_timestamp": times, "x": values})
    return store


@pytest.mark.parametrize("repeat", [1, 3])
def test_numbers_are_as_numpy_has_them(tmp_path, repeat):
    """Rows written again count once."""
    values = np.random.default_rng(0).normal(5, 3, 500)
    found = stored(
        tmp_path, FeatureType.FLOAT, [*values, None, float("inf")], repeat=repeat
    ).compute_feature_statistics("x")
    assert (found.count, found.nulls, found.infinite, found.distinct, found.entities) == (501, 1, 1, 501, 3)
    assert found.mean == pytest.approx(values.mean())
    assert found.std == pytest.approx(values.std(ddof=1))
    assert (found.min, found.max) == (values.min(), values.max())
    for name, q in (("p1", 0.01), ("p50", 0.5), ("p95", 0.95)):
        assert found.quantiles[name] == pytest.approx(np.quantile(values, q))
    counts, edges = np.histogram(values, bins=20)
    assert found.edges == pytest.approx(edges.tolist())
    assert list(found.counts) == counts.tolist()
    assert (found.first_event, found.last_event) == (START, START + timedelta(hours=501))


def test_a_single_value_has_no_deviation_and_one_bin(tmp_path):
    found = stored(tmp_path, FeatureType.INT, [7]).compute_feature_statistics("x")
    assert (found.count, found.mean, found.std, found.counts, found.edges) == (1, 7.0, None, (1,), (7.0, 7.0))


def test_bools_count_as_zero_and_one(tmp_path):
    found = stored(tmp_path, FeatureType.BOOL, [True, False, True, None]).compute_feature_statistics("x")
    assert (found.count, found.nulls, found.distinct, found.mean) == (3, 1, 2, pytest.approx(2 / 3))


def test_text_has_its_most_frequent_values(tmp_path):
    found = stored(tmp_path, FeatureType.STRING, ["b", "a", "b", None, "é"]).compute_feature_statistics("x")
    assert (found.count, found.nulls, found.distinct, found.mean) == (4, 1, 3, None)
    assert list(found.top.items()) == [("b", 2), ("a", 1), ("é", 1)]


@pytest.mark.parametrize("values", [[], [None, None], [float("inf"), float("-inf")]])
def test_without_finite_values_there_is_nothing_to_tell(tmp_path, values):
    store = stored(tmp_path, FeatureType.FLOAT, values)
    found = store.compute_feature_statistics("x")
    assert (found.mean, found.std, found.counts, found.quantiles) == (None, None, (), {})
    assert found.nulls + found.count == len(values)


def test_extreme_numbers_do_not_break_the_histogram(tmp_path):
    found = stored(tmp_path, FeatureType.FLOAT, [-1.7e308, 1.7e308, 0.0, 5e-324]).compute_feature_statistics("x")
    assert sum(found.counts) == 4
    assert found.mean == pytest.approx(0)
    assert (found.min, found.max) == (-1.7e308, 1.7e308)
