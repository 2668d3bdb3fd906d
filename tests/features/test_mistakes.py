"""What callers of the feature store get wrong is named before anything is kept, and what they may well write is understood."""

from datetime import UTC, datetime

import pandas as pd
import pytest

from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.features import FeatureStore, FeatureType, FeatureValue

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    store = FeatureStore(tmp_path)
    store.define_feature("amount", "card", FeatureType.FLOAT, ttl=86400)
    return store


def row(**more):
    return {"card": "c1", "event_timestamp": "2026-01-01", "amount": 9.5, **more}


def test_a_type_may_be_written_as_its_name_in_a_change_too(store):
    assert store.update_feature("amount", feature_type="string").feature_type is FeatureType.STRING
    with pytest.raises(Invalid, match="Did you mean float"):
        store.update_feature("amount", feature_type="flot")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ttl": "1d"}, "ttl of card:hour is '1d'"),
        ({"ttl": True}, "ttl of card:hour is True"),
        ({"tags": ["x"]}, "tags of card:hour"),
        ({"tags": {"pii": 1}}, "tags of card:hour"),
        ({"owner": None}, "owner of card:hour is None"),
    ],
)
def test_a_definition_that_says_what_cannot_be_is_refused(store, given, said):
    with pytest.raises(Invalid, match=said):
        store.define_feature("hour", "card", FeatureType.INT, **given)
    assert len(store.list_features()) == 1


def test_a_definition_is_answered_as_it_was_given_however_often_it_is(store):
    again = store.define_feature("amount", "card", FeatureType.FLOAT, ttl=86400)
    assert repr(again) == repr(store.get_feature("amount")) == repr(FeatureStore(store.store).get_feature("amount"))
    assert type(again.ttl) is float


def test_a_feature_alone_is_not_taken_apart_into_its_letters(store):
    with pytest.raises(Invalid, match=r"Pass \['amount'\]"):
        store.register_group("inputs", "card", "amount")


def test_a_misspelt_kind_of_entity_is_named(store):
    with pytest.raises(NotFound, match=r"no entity type 'crd'\. Did you mean card"):
        store.write_rows("crd", [row()])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"id": "c1", "event_timestamp": "2026-01-01", "amount": 1.0}, "no column 'card'"),
        (
            {"card": "c1", "timestamp": "2026-01-01", "amount": 1.0},
            "no column 'event_timestamp'. Did you mean timestamp",
        ),
    ],
)
def test_a_column_that_is_missing_is_named_before_one_that_is_too_many(store, wrong, said):
    with pytest.raises(Invalid, match=said):
        store.write_rows("card", [wrong])


def test_what_is_no_time_is_told_in_a_line(store):
    with pytest.raises(Invalid, match="yesterday") as refused:
        store.write_rows("card", [row(event_timestamp="yesterday")])
    assert "\n" not in str(refused.value)
    assert "pandas" not in str(refused.value)


def test_values_are_named_as_they_were_given(store):
    with pytest.raises(Invalid, match="and True is a bool"):
        store.write_rows("card", [row(amount=True)])
    store.define_feature("kind", "card", FeatureType.STRING)
    with pytest.raises(Invalid, match="and 5 is a int"):
        store.write_rows("card", [row(kind=5)])


def test_one_value_alone_is_no_list(store):
    with pytest.raises(Invalid, match="list"):
        store.write_online_features(FeatureValue(feature="amount", entity_id="c1", value=1.0, timestamp=START))


@pytest.mark.parametrize("name", ["training.xlsx", "training", "training.pkl"])
def test_a_history_is_written_as_what_its_name_says_or_not_at_all(store, tmp_path, name):
    (tmp_path / "spine.csv").write_text("card,event_timestamp\nc1,2026-01-02\n")
    with pytest.raises(Invalid, match="ending"):
        store.export_history(tmp_path / "spine.csv", ["amount"], tmp_path / name)
    assert not (tmp_path / name).exists()
    with store.store.reading() as rows:
        assert not rows.all("SELECT 1 FROM events WHERE event_type = 'features_read'")


@pytest.mark.parametrize("name", ["training.csv", "training.parquet", "training.json", "training.jsonl"])
def test_a_history_comes_back_from_every_kind_of_file_that_is_read(store, tmp_path, name):
    store.write_rows("card", [row()])
    pd.DataFrame({"card": ["c1"], "event_timestamp": ["2026-01-01T12:00:00Z"]}).to_csv(tmp_path / "s.csv", index=False)
    assert store.export_history(tmp_path / "s.csv", ["amount"], tmp_path / name) == 1
    assert store.export_history(tmp_path / name, ["card:amount"], tmp_path / "again.csv") == 1
    assert pd.read_csv(tmp_path / "again.csv")["card:amount"].tolist() == [9.5]


def test_a_change_of_the_time_to_live_is_told_in_seconds(store):
    store.update_feature("amount", ttl=60)
    with pytest.raises(Conflict, match=r"from 86400\.0 to 60\.0"):
        store.get_online_features(["c1"], ["amount@1"])
