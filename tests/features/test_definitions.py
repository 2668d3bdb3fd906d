"""Definitions: versions, groups, what is refused, and what each change tells."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.features import Feature, FeatureStore, FeatureType, FeatureValue


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path)


def feature(name="amount", entity_type="card", kind=FeatureType.FLOAT, **more) -> Feature:
    return Feature(name=name, entity_type=entity_type, feature_type=kind, **more)


def told(store: FeatureStore) -> list[tuple[str, str]]:
    with store.store.reading() as rows:
        found = rows.all("SELECT event_type, resource_id FROM events ORDER BY position")
    return [(row["event_type"], row["resource_id"]) for row in found]


def test_registering_the_same_definition_again_changes_nothing(store):
    first = store.register_feature(feature(tags={"team": "fraud"}, ttl=60))
    assert store.register_feature(feature(tags={"team": "fraud"}, ttl=60)) == first
    assert told(store) == [("feature_registered", "card:amount")]


def test_a_change_is_a_new_version_and_the_old_ones_stay_readable(store):
    store.register_feature(feature(ttl=60))
    store.update_feature("amount", ttl=5, created_by="ann")
    store.update_feature("card:amount", ttl=-1, tags={"a": "b"})
    assert store.update_feature("amount", tags={"a": "b"}).version == 3
    assert [store.get_feature(f"amount@{n}").ttl for n in (1, 2, 3)] == [60, 5, None]
    assert store.list_features() == [store.get_feature("amount")]
    assert told(store) == [("feature_registered", "card:amount")] * 3


def test_the_type_may_change_only_while_no_values_are_stored(store):
    store.register_feature(feature())
    assert store.update_feature("amount", feature_type=FeatureType.INT).feature_type is FeatureType.INT
    store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-01", "amount": 3}])
    with pytest.raises(Conflict, match="stored int values, which cannot become string"):
        store.update_feature("amount", feature_type=FeatureType.STRING)


def test_misspelt_names_are_answered_with_the_nearest(store):
    store.register_feature(feature("transaction_amount"))
    for call in (
        lambda: store.get_feature("transacton_amount"),
        lambda: store.get_online_features(["c"], ["transacton_amount"]),
        lambda: store.compute_feature_statistics("transacton_amount"),
        lambda: store.register_group("g", "card", ["transacton_amount"]),
        lambda: store.materialize(["transacton_amount"]),
        lambda: store.update_feature("transacton_amount", ttl=3),
    ):
        with pytest.raises(NotFound, match="Did you mean transaction_amount"):
            call()
    with pytest.raises(NotFound, match="Did you mean card:transaction_amount"):
        store.get_feature("car:transaction_amount")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "../etc"},
        {"name": ""},
        {"name": "a@1"},
        {"name": "card"},
        {"name": "event_timestamp"},
        {"entity_type": "a/b"},
        {"ttl": -1.0},
        {"ttl": float("nan")},
        {"kind": "float"},
    ],
)
def test_a_definition_that_cannot_work_is_refused(store, wrong):
    with pytest.raises(Invalid):
        store.register_feature(feature(**wrong))
    assert store.list_features() == []


def test_names_that_differ_only_in_case_are_refused(store):
    """SQL engines read column names without regard to case."""
    store.register_feature(feature("amount"))
    with pytest.raises(Conflict, match="differs only in case"):
        store.register_feature(feature("Amount"))
    store.register_feature(feature("Amount", entity_type="shop"))


def test_a_group_stands_for_its_features_and_has_versions(store):
    for name in ("a", "b"):
        store.register_feature(feature(name))
    assert store.register_group("inputs", "card", ["b", "a", "b"]).features == ("b", "a")
    assert store.register_group("inputs", "card", ["b", "a"]).version == 1
    store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-01", "a": 1, "b": 2}])
    assert store.get_online_features(["c"], ["inputs"]).rows() == [{"b": 2.0, "a": 1.0}]
    assert store.register_group("inputs", "card", ["a"]).version == 2
    assert store.get_online_features(["c"], ["inputs"]).rows() == [{"a": 1.0}]
    assert [group.features for group in store.list_groups()] == [("a",)]
    with pytest.raises(Conflict, match="feature is called"):
        store.register_group("a", "card", ["a"])
    with pytest.raises(Conflict, match="group is called"):
        store.register_feature(feature("inputs"))
    with pytest.raises(Invalid, match="no features"):
        store.register_group("empty", "card", [])


def test_one_request_is_about_one_kind_of_entity_online(store):
    store.register_feature(feature("a"))
    store.register_feature(feature("b", entity_type="shop"))
    with pytest.raises(Invalid, match="belong to card and shop"):
        store.get_online_features(["x"], ["a", "b"])
    for nothing in ([], "a"):
        with pytest.raises(Invalid):
            store.get_online_features(["x"], nothing)
    with pytest.raises(Invalid, match="list of ids"):
        store.get_online_features("x", ["a"])
    assert store.get_online_features([], ["a"]).to_dict() == {"card": [], "a": []}


def test_another_process_sees_a_change_at_its_next_read(store, tmp_path):
    """Two stores on one folder hold their own plans, as two processes do."""
    store.register_feature(feature("a"))
    store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-01", "a": 1}])
    other = FeatureStore(tmp_path)
    assert other.get_online_features(["c"], ["a"]).rows() == [{"a": 1.0}]
    store.register_feature(feature("b"))
    store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-02", "a": 5, "b": 2}])
    assert other.get_online_features(["c"], ["a"]).rows() == [{"a": 5.0}]
    store.update_feature("a", ttl=0)
    assert other.get_online_features(["c"], ["a"]).rows() == [{"a": None}]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FeatureType.FLOAT, "1.5"),
        (FeatureType.FLOAT, True),
        (FeatureType.INT, 2**63),
        (FeatureType.INT, 0.5),
        (FeatureType.INT, float("inf")),
        (FeatureType.INT, True),
        (FeatureType.BOOL, 2),
        (FeatureType.BOOL, "true"),
        (FeatureType.STRING, 1),
        (FeatureType.STRING, b"x"),
        (FeatureType.FLOAT, [1.0]),
    ],
)
def test_a_value_of_another_type_is_refused_and_nothing_is_written(store, kind, wrong):
    store.register_feature(feature(kind=kind))
    store.register_feature(feature("fine"))
    rows = [{"card": "c", "event_timestamp": "2026-01-01", "fine": 1.0, "amount": wrong}]
    with pytest.raises(Invalid, match="card:amount"):
        store.write_rows("card", rows)
    assert store.compute_feature_statistics("fine").count == 0


def test_text_that_is_no_unicode_is_refused(store):
    store.register_feature(feature(kind=FeatureType.STRING))
    with pytest.raises(Invalid):
        store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-01", "amount": "\ud800"}])
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for entity, text in (("c", "\ud800"), ("\ud800", "fine")):
        with pytest.raises(Invalid):
            store.write_online_features([FeatureValue(feature="amount", entity_id=entity, value=text, timestamp=at)])
    with pytest.raises(Invalid):
        store.get_online_features(["\ud800"], ["amount"])


@pytest.mark.parametrize("table", [{"card": ["a"], "event_timestamp": []}, 7, "card", [1, 2]])
def test_what_is_no_table_is_refused(store, table):
    store.register_feature(feature())
    with pytest.raises((Invalid, NotFound)):
        store.write_features(table, entity_type="card")


def test_two_columns_of_one_name_are_refused(store):
    store.register_feature(feature())
    frame = pd.DataFrame([["c", "2026-01-01", 1.0, 2.0]], columns=["card", "event_timestamp", "amount", "amount"])
    with pytest.raises(Invalid, match="two columns called 'amount'"):
        store.write_features(frame)


@pytest.mark.parametrize(
    "rows",
    [
        [{"event_timestamp": "2026-01-01", "amount": 1}],
        [{"card": "c", "amount": 1}],
        [{"card": "c", "event_timestamp": "yesterday", "amount": 1}],
        [{"card": "c", "event_timestamp": None, "amount": 1}],
        [{"card": "c", "event_timestamp": "2026-01-01"}],
        [{"card": True, "event_timestamp": "2026-01-01", "amount": 1}],
        [{"card": 0.5, "event_timestamp": "2026-01-01", "amount": 1}],
    ],
)
def test_a_table_that_lacks_something_is_refused(store, rows):
    store.register_feature(feature())
    with pytest.raises(Invalid):
        store.write_rows("card", rows)


def test_a_misspelt_column_is_answered_with_the_nearest_feature(store):
    store.register_feature(feature("amount"))
    with pytest.raises(NotFound, match="Did you mean amount"):
        store.write_rows("card", [{"card": "c", "event_timestamp": "2026-01-01", "amout": 1}])


def test_nothing_written_is_nothing_done(store):
    store.register_feature(feature())
    assert store.write_rows("card", []).rows == 0
    assert store.write_online_features([]).segments == 0
    assert told(store) == [("feature_registered", "card:amount")]
