"""Values as they were, and were known, at any moment: against a plain reference, and the twelve known traps one by one."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest

from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.instants import FixedClock
from modelyard.features import Feature, FeatureStore, FeatureType, FeatureValue

START = datetime(2026, 1, 1, tzinfo=UTC)
TTLS = {"for_ever": None, "at_once": 0.0, "one": 1.0, "ten": 10.0}


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@pytest.fixture
def store(tmp_path):
    return FeatureStore(tmp_path, clock=FixedClock(at(1_000_000)))


def feature(name: str, kind: FeatureType = FeatureType.FLOAT, entity_type: str = "card", **more) -> Feature:
    return Feature(name=name, entity_type=entity_type, feature_type=kind, **more)


def value(name: str, entity: str, seen: float, content, created: float | None = None) -> FeatureValue:
    return FeatureValue(
        feature=name,
        entity_id=entity,
        value=content,
        timestamp=at(seen),
        created_at=None if created is None else at(created),
    )


def history(store: FeatureStore, *labels: tuple[str | None, float], features=("amount",), **more) -> list:
    spine = pd.DataFrame({"card": [e for e, _ in labels], "event_timestamp": [at(s) for _, s in labels]})
    found = store.get_offline_features(spine, list(features), **more)
    assert len(found) == len(labels)
    return [None if pd.isna(x) else x for x in found[features[0]]]


def reference(rows: list[tuple], entity: str, moment: float, ttl: float | None, *, as_known: bool) -> float | None:
    """The answer by definition. A row is (entity, event, created, value); later rows were written later."""
    best = None
    for position, (who, event, created, content) in enumerate(rows):
        visible = who == entity and event <= moment and (created <= moment or not as_known)
        if visible and (best is None or (event, created, position) > best[0]):
            best = ((event, created, position), content)
    if best is None or (ttl is not None and moment - best[0][0] > ttl):
        return None
    return best[1]


@pytest.mark.parametrize("seed", range(8))
def test_every_label_gets_what_the_definition_says(store, seed):
    """Ties, late rows, rows created before their event, nulls, unknown entities, several writes, compaction, four ttls."""
    draw = random.Random(seed)
    for name, ttl in TTLS.items():
        store.register_feature(feature(name, ttl=ttl))
    people = [f"c{n}" for n in range(draw.choice([2, 12]))]
    rows = [
        (draw.choice(people), event, event + draw.choice([0, 0, 1, 5, 30, -4]), draw.choice([None, draw.random()]))
        for event in (draw.randrange(40) for _ in range(draw.choice([40, 200])))
    ]
    cuts = [0, *sorted(draw.sample(range(len(rows)), 4)), len(rows)]
    for start, end in pairwise(cuts):
        write(store, rows[start:end], single=draw.random() < 0.3)
        if draw.random() < 0.3:
            store.compact()
    labels = [(draw.choice([*people, "nobody"]), draw.randrange(-5, 60)) for _ in range(300)]
    for as_known in (True, False):
        spine = pd.DataFrame({"card": [e for e, _ in labels], "event_timestamp": [at(s) for _, s in labels]})
        found = store.get_offline_features(spine, list(TTLS), as_known=as_known)
        for name, ttl in TTLS.items():
            expected = [reference(rows, who, moment, ttl, as_known=as_known) for who, moment in labels]
            assert [None if math.isnan(x) else x for x in found[name]] == expected, (name, as_known)
    store.store.clock.advance(35 - 1_000_000)
    online = store.get_online_features([*people, "nobody"], list(TTLS)).to_dict()
    for name, ttl in TTLS.items():
        horizon = 10**9  # online is the newest whatever the clock; only the ttl looks at the clock
        newest = [reference(rows, who, horizon, None, as_known=False) for who in [*people, "nobody"]]
        last = {who: max((event for w, event, *_ in rows if w == who), default=None) for who in people}
        fresh = [ttl is None or last.get(who) is None or 35 - last[who] <= ttl for who in [*people, "nobody"]]
        assert online[name] == [x if keep else None for x, keep in zip(newest, fresh, strict=True)]


def write(store: FeatureStore, rows: list[tuple], *, single: bool) -> None:
    """The rows as one table, or as single values of each feature."""
    if single:
        store.write_online_features(value(n, who, e, content, c) for who, e, c, content in rows for n in TTLS)
        return
    frame = pd.DataFrame(
        {
            "card": [r[0] for r in rows],
            "event_timestamp": [at(r[1]) for r in rows],
            "arrived": [at(r[2]) for r in rows],
            **{name: pd.array([r[3] for r in rows], dtype="Float64") for name in TTLS},
        }
    )
    store.write_features(frame, entity_type="card", created_column="arrived")


def test_trap_1_an_event_at_the_very_label_time_counts(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 10, 1.0)])
    assert history(store, ("c", 10), ("c", 9.999999)) == [1.0, None]


def test_trap_2_of_rows_with_one_key_and_time_the_last_written_counts(store):
    store.register_feature(feature("amount"))
    for n in range(5):
        store.write_online_features([value("amount", "c", 10, float(n)), value("amount", "c", 10, n + 0.5)])
    assert history(store, ("c", 10), ("c", 11)) == [4.5, 4.5]
    assert store.get_online_features(["c"], ["amount"]).values["amount"] == [4.5]


def test_trap_2_holds_within_one_table(store):
    store.register_feature(feature("amount"))
    frame = {"card": ["c"] * 3, "event_timestamp": [at(1)] * 3, "amount": [3.0, 1.0, 2.0]}
    store.write_features(frame, features=["amount"])
    assert history(store, ("c", 1)) == [2.0]
    assert store.get_online_features(["c"], ["amount"]).values["amount"] == [2.0]


def test_trap_3_a_row_that_arrived_after_the_label_was_not_known_then(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 0, 5.0), value("amount", "c", 1, 5.5, created=100)])
    assert history(store, ("c", 2), ("c", 100)) == [5.0, 5.5]
    assert history(store, ("c", 2), ("c", 100), as_known=False) == [5.5, 5.5]


def test_trap_4_an_age_of_exactly_the_ttl_is_kept(store):
    store.register_feature(feature("amount", ttl=10))
    store.write_online_features([value("amount", "c", 0, 1.0)])
    assert history(store, ("c", 10), ("c", 10.000001)) == [1.0, None]


def test_trap_4_an_expired_row_hides_the_older_ones_too(store):
    """The newest row counts or none does: an older one is older still."""
    store.register_feature(feature("amount", ttl=0))
    store.write_online_features([value("amount", "c", 0, 1.0), value("amount", "c", 1, 2.0)])
    assert history(store, ("c", 0), ("c", 0.5), ("c", 1)) == [1.0, None, 2.0]


def test_trap_5_label_rows_come_back_one_for_one(store):
    store.register_feature(feature("amount", ttl=5))
    store.write_online_features([value("amount", "c", 0, 1.0)])
    spine = pd.DataFrame(
        {
            "label": range(6),
            "card": ["c", "c", "nobody", "c", None, "c"],
            "event_timestamp": [at(3), at(3), at(3), at(99), at(3), pd.NaT],
        },
        index=[7, 7, 3, 1, 0, 2],
    )
    found = store.get_offline_features(spine, ["amount"])
    pd.testing.assert_frame_equal(found[spine.columns], spine)
    assert [None if math.isnan(x) else x for x in found["amount"]] == [1.0, 1.0, None, None, None, None]


def test_trap_6_the_ttl_holds_online_as_it_does_offline(store):
    store.register_feature(feature("amount", ttl=10))
    store.store.clock.advance(-1_000_000)
    store.write_online_features([value("amount", "c", 0, 1.0)])
    for _ in range(12):
        now = (store.store.clock.now() - START).total_seconds()
        assert store.get_online_features(["c"], ["amount"]).values["amount"] == history(store, ("c", now))
        store.store.clock.advance(1)


def test_trap_7_an_older_row_never_overwrites_a_newer_one_online(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 10, 1.0)])
    assert store.write_online_features([value("amount", "c", 9, 2.0)]).online == 0
    assert store.materialize(up_to=at(9)) == 0
    assert store.get_online_features(["c"], ["amount"]).values["amount"] == [1.0]


def test_trap_7_at_one_event_time_the_later_arrival_stays(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 10, 1.0, created=50)])
    store.write_online_features([value("amount", "c", 10, 2.0, created=20)])
    assert store.get_online_features(["c"], ["amount"]).values["amount"] == [1.0] == history(store, ("c", 60))
    assert history(store, ("c", 30)) == [2.0]


ZONES = {
    "UTC text": ["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"],
    "offsets mixed": ["2026-03-29T01:30:00+01:00", "2026-03-29T03:30:00+02:00"],
    "naive and zoned mixed": [
        datetime(2026, 3, 29, 0, 30),
        datetime(2026, 3, 29, 3, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    ],
    "naive": pd.to_datetime(["2026-03-29 00:30", "2026-03-29 01:30"]),
    "a zone with daylight saving": pd.to_datetime(["2026-03-29 00:30", "2026-03-29 01:30"], utc=True).tz_convert(
        "Europe/Berlin"
    ),
    **{
        f"unit {unit}": np.array(["2026-03-29T00:30", "2026-03-29T01:30"], dtype=f"datetime64[{unit}]")
        for unit in ("s", "ms", "us", "ns")
    },
}


def test_trap_8_zones_daylight_saving_and_units_mean_one_moment(store):
    store.register_feature(feature("amount", ttl=0))
    for written, times in ZONES.items():
        store.write_features({"card": [written] * 2, "event_timestamp": times, "amount": [1.0, 2.0]})
    for asked, times in ZONES.items():
        for written in ZONES:
            found = store.get_offline_features({"card": [written] * 2, "event_timestamp": times}, ["amount"])
            assert found["amount"].tolist() == [1.0, 2.0], (asked, written)


def test_trap_8_moments_before_1970_are_rounded_down(store):
    store.register_feature(feature("amount", ttl=0))
    stamps = np.array([-1, -1001, -1999], dtype="datetime64[ns]")
    store.write_features({"card": ["a", "b", "c"], "event_timestamp": stamps, "amount": [1.0, 2.0, 3.0]})
    spine = {"card": ["a", "b", "c"], "event_timestamp": np.array([-1, -2, -2], dtype="datetime64[us]")}
    assert store.get_offline_features(spine, ["amount"])["amount"].tolist() == [1.0, 2.0, 3.0]


def test_trap_8_numbers_are_no_times(store):
    store.register_feature(feature("amount"))
    with pytest.raises(Invalid, match="numbers, not times"):
        store.write_features({"card": ["c"], "event_timestamp": [1_700_000_000], "amount": [1.0]})


def test_trap_9_null_is_a_value_that_hides_the_older_one(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 0, 1.0), value("amount", "c", 5, None)])
    assert history(store, ("c", 4), ("c", 5)) == [1.0, None]
    assert store.get_online_features(["c"], ["amount"]).values["amount"] == [None]


def test_trap_9_a_null_key_is_refused_in_a_write_and_answered_with_null_in_a_read(store):
    store.register_feature(feature("amount"))
    with pytest.raises(Invalid, match="null in row 1"):
        store.write_features({"card": ["c", None], "event_timestamp": [at(0)] * 2, "amount": [1.0, 2.0]})
    with pytest.raises(Invalid, match="no entity id"):
        store.write_online_features([value("amount", None, 0, 1.0)])
    assert store.get_online_features([None, float("nan")], ["amount"]).values["amount"] == [None, None]


EXACT = {
    FeatureType.FLOAT: [
        0.1 + 0.2,
        -0.0,
        5e-324,
        math.inf,
        -math.inf,
        1.7976931348623157e308,
        None,
        float(np.float32(0.1)),
    ],
    FeatureType.INT: [2**63 - 1, -(2**63), 2**53 + 1, 0, None, -1, 7, 8],
    FeatureType.BOOL: [True, False, None, True, False, None, True, False],
    FeatureType.STRING: ["", "é", "日本語", "a\nb", None, "null", "😀", 'it\'s "quoted"'],
}


@pytest.mark.parametrize("kind", FeatureType)
@pytest.mark.parametrize("way", ["values", "objects", "nullable"])
def test_trap_10_online_and_offline_values_are_the_same_bit_for_bit(store, kind, way):
    store.register_feature(feature("exact", kind))
    contents = EXACT[kind]
    keys = [f"c{n}" for n in range(len(contents))]
    if way == "values":
        store.write_online_features(value("exact", k, 0, x) for k, x in zip(keys, contents, strict=True))
    else:
        dtypes = {"float": "Float64", "int": "Int64", "bool": "boolean", "string": "str"}
        column = contents if way == "objects" else pd.array(contents, dtype=dtypes[kind.value])
        if way == "objects":
            column = pd.Series(contents, dtype=object)
        store.write_features(pd.DataFrame({"card": keys, "event_timestamp": at(0), "exact": column}))
    online = store.get_online_features(keys, ["exact"]).values["exact"]
    offline = history(store, *[(k, 1.0) for k in keys], features=("exact",))
    assert online == contents
    assert [type(x) for x in online] == [type(x) for x in contents]
    plain = [x.item() if isinstance(x, np.generic) else x for x in offline]
    assert plain == online
    if kind is FeatureType.FLOAT:
        assert [math.copysign(1, x) for x in plain if x is not None] == [
            math.copysign(1, x) for x in contents if x is not None
        ]


def test_trap_10_integers_that_pandas_made_floats_are_integers_again(store):
    store.register_feature(feature("n", FeatureType.INT))
    store.write_features({"card": ["a", "b"], "event_timestamp": [at(0)] * 2, "n": [3, None]})
    online = store.get_online_features(["a", "b"], ["n"]).values["n"]
    assert online == [3, None]
    assert type(online[0]) is int
    with pytest.raises(Invalid, match=r"3\.5 is none"):
        store.write_features({"card": ["a"], "event_timestamp": [at(0)], "n": [3.5]})


def test_trap_11_a_changed_definition_is_told_to_a_reader_that_named_its_version(store):
    store.register_feature(feature("amount", source="a", ttl=10))
    store.write_online_features([value("amount", "c", 0, 1.0)])
    trained = store.get_online_features(["c"], ["amount"]).versions
    assert trained == {"amount": 1}
    store.update_feature("amount", description="only words")
    assert store.get_online_features(["c"], ["amount@1"]).versions == {"amount": 1}
    store.update_feature("amount", source="b")
    for read in (
        lambda: store.get_online_features(["c"], ["amount@1"]),
        lambda: history(store, ("c", 0), features=("amount@1",)),
    ):
        with pytest.raises(Conflict, match="its source went from 'a' to 'b'"):
            read()
    assert history(store, ("c", 0), features=("amount",)) == [1.0]
    with pytest.raises(NotFound, match="versions 1 to 3"):
        store.get_online_features(["c"], ["amount@9"])


def test_trap_12_two_kinds_of_entity_may_have_features_of_one_name(store):
    store.register_feature(feature("amount"))
    store.register_feature(feature("amount", entity_type="shop"))
    store.write_online_features([value("card:amount", "x", 0, 1.0), value("shop:amount", "x", 0, 2.0)])
    with pytest.raises(Invalid, match="card:amount or shop:amount"):
        store.get_online_features(["x"], ["amount"])
    assert store.get_online_features(["x"], ["amount"], entity_type="shop").to_dict() == {
        "shop": ["x"],
        "amount": [2.0],
    }
    spine = {"card": ["x"], "shop": ["x"], "event_timestamp": [at(1)]}
    found = store.get_offline_features(spine, ["card:amount", "shop:amount"])
    assert found[["card:amount", "shop:amount"]].values.tolist() == [[1.0, 2.0]]
    with pytest.raises(Conflict, match="registered already, with another definition"):
        store.register_feature(feature("amount", source="another table"))


def test_one_feature_may_be_written_beside_others_and_alone(store):
    """Rows of different sets of features make one history of each feature."""
    for name in ("a", "b"):
        store.register_feature(feature(name))
    store.write_features({"card": ["c"], "event_timestamp": [at(0)], "a": [1.0], "b": [10.0]})
    store.write_online_features([value("a", "c", 5, 2.0)])
    assert history(store, ("c", 4), ("c", 6), features=("a", "b")) == [1.0, 2.0]
    assert store.get_online_features(["c"], ["a", "b"]).rows() == [{"a": 2.0, "b": 10.0}]
    store.write_features({"card": ["c"], "event_timestamp": [at(3)], "a": [9.0], "b": [11.0]})
    assert store.get_online_features(["c"], ["a", "b"]).rows() == [{"a": 2.0, "b": 11.0}]


def test_whole_numbers_and_their_text_are_one_entity(store):
    store.register_feature(feature("amount"))
    store.write_features({"card": np.array([7, 8]), "event_timestamp": [at(0)] * 2, "amount": [1.0, 2.0]})
    assert store.get_online_features([7, "8", 7.0, "07"], ["amount"]).values["amount"] == [1.0, 2.0, 1.0, None]
    spine = {"card": [8.0, None], "event_timestamp": [at(1)] * 2}
    assert store.get_offline_features(spine, ["amount"])["amount"].fillna(-1).tolist() == [2.0, -1.0]


def test_a_spine_without_the_needed_columns_is_told_so(store):
    store.register_feature(feature("amount"))
    with pytest.raises(Invalid, match=r"no column 'card'\. Did you mean cards"):
        store.get_offline_features({"cards": ["c"], "event_timestamp": [at(0)]}, ["amount"])
    with pytest.raises(Invalid, match="no column 'event_timestamp'"):
        store.get_offline_features({"card": ["c"], "timestamp": [at(0)]}, ["amount"])
    with pytest.raises(Conflict, match="has a column 'amount' already"):
        store.get_offline_features({"card": ["c"], "event_timestamp": [at(0)], "amount": [1]}, ["amount"])


def test_an_empty_spine_gives_an_empty_table(store):
    store.register_feature(feature("amount"))
    store.write_online_features([value("amount", "c", 0, 1.0)])
    spine = pd.DataFrame({"card": pd.Series([], dtype=str), "event_timestamp": pd.Series([], dtype="datetime64[us]")})
    assert list(store.get_offline_features(spine, ["amount"]).columns) == ["card", "event_timestamp", "amount"]
