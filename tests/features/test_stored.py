"""Online and offline stay in step: on every kind of store, with two writers, after kills and losses."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from modelyard.core.errors import Damaged, NotFound, Unavailable
from modelyard.core.instants import FixedClock
from modelyard.features import Feature, FeatureStore, FeatureType, FeatureValue

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ["a", "b"]


def defined(store: FeatureStore) -> FeatureStore:
    for name in NAMES:
        store.register_feature(Feature(name=name, entity_type="card", feature_type=FeatureType.FLOAT))
    return store


def table(n: int, day: int, people: int = 50) -> pd.DataFrame:
    draw = np.random.default_rng(n + day)
    return pd.DataFrame(
        {
            "card": draw.integers(0, people, n).astype(str),
            "event_timestamp": START + timedelta(days=day) + pd.to_timedelta(draw.integers(0, 10**6, n), unit="s"),
            "a": draw.normal(size=n),
            "b": draw.normal(size=n),
        }
    )


def online(store: FeatureStore, people: int = 50) -> dict:
    return store.get_online_features([str(n) for n in range(people)], NAMES).to_dict()


def offline(store: FeatureStore, people: int = 50) -> dict:
    """The same by a point-in-time read far in the future."""
    spine = {"card": [str(n) for n in range(people)], "event_timestamp": [START + timedelta(days=9999)] * people}
    frame = store.get_offline_features(spine, NAMES)
    return {"card": spine["card"], **{n: [None if pd.isna(x) else x for x in frame[n]] for n in NAMES}}


def segments(store: FeatureStore) -> list[str]:
    return list(store.store.blobs.keys("features/"))


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def store(request, tmp_path):
    """One feature store on each kind of online store."""
    if request.param == "redis":
        return defined(FeatureStore(tmp_path, online=request.getfixturevalue("redis_url")))
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        request.getfixturevalue("monkeypatch").chdir(tmp_path)
        return defined(FeatureStore(url))
    return defined(FeatureStore(tmp_path))


def test_online_is_what_a_read_of_the_history_gives(store):
    draw = random.Random(0)
    for day in (3, 1, 2):
        store.write_features(table(200, day))
        values = [
            FeatureValue(
                feature=draw.choice(NAMES),
                entity_id=draw.randrange(60),
                value=draw.random(),
                timestamp=START + timedelta(days=draw.randrange(20)),
            )
            for _ in range(20)
        ]
        store.write_online_features(values)
    assert online(store, 70) == offline(store, 70)


def test_materializing_again_changes_no_answer(store):
    store.write_features(table(100, 0))
    before = online(store)
    store.materialize()
    store.materialize(["a"], up_to=START + timedelta(days=3))
    assert online(store) == before


def test_a_program_that_starts_puts_in_what_the_online_store_lacks(tmp_path):
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(100, 0))
    before = online(store)
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    store.close()
    assert online(FeatureStore(tmp_path)) == before


def test_another_online_store_is_filled_when_it_is_first_used(tmp_path, redis_url):
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(100, 0))
    assert online(FeatureStore(tmp_path, online=redis_url)) == online(store)


def test_two_stores_on_one_redis_do_not_meet(tmp_path, redis_url):
    one, two = (defined(FeatureStore(tmp_path / n, online=redis_url)) for n in "xy")
    one.write_features(table(100, 0))
    assert set(online(two)["a"]) == {None}


def test_a_redis_that_cannot_be_reached_is_named_and_nothing_is_stored(tmp_path):
    defined(FeatureStore(tmp_path))
    store = FeatureStore(tmp_path, online="redis://127.0.0.1:9/0")
    with pytest.raises(Unavailable, match="Redis cannot be reached"):
        store.write_features(table(10, 0))
    assert segments(store) == []


def test_a_misspelt_kind_of_online_store_is_answered_with_the_nearest(tmp_path):
    store = FeatureStore(tmp_path, online="rediss2://x")
    with pytest.raises(NotFound, match="Did you mean rediss"):
        store.register_feature(Feature(name="a", entity_type="card", feature_type=FeatureType.INT))


def test_a_damaged_online_file_is_told_with_the_way_out(tmp_path):
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(100, 0))
    before = online(store)
    store.close()
    for file in tmp_path.glob("online.db*"):
        file.unlink()
    (tmp_path / "online.db").write_bytes(b"garbage" * 1000)
    again = FeatureStore(tmp_path)
    with pytest.raises(Damaged, match="Delete it: it is filled again"):
        online(again)
    (tmp_path / "online.db").unlink()
    assert online(again) == before


def test_a_segment_that_is_gone_or_garbage_is_told(tmp_path):
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(100, 0))
    file = store.store.blobs.path(segments(store)[0])
    file.chmod(0o600)
    file.write_bytes(b"PAR1garbagePAR1")
    with pytest.raises(Damaged, match="segment cannot be read"):
        offline(store)
    file.unlink()
    with pytest.raises(NotFound):
        offline(store)


WRITER = """
    import sys
    sys.path.insert(0, {tests!r})
    from test_stored import *
    store = FeatureStore({folder!r})
    {body}
"""


def process(folder, body: str) -> subprocess.Popen:
    code = textwrap.dedent(WRITER).format(tests=str(Path(__file__).parent), folder=str(folder), body=body)
    return subprocess.Popen([sys.executable, "-c", code])


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    store = defined(FeatureStore(tmp_path))
    writers = [
        process(tmp_path, f"for day in range({first}, {first + 6}): store.write_features(table(300, day))")
        for first in (0, 6)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    assert store.compute_feature_statistics("a").entities == 50
    with store.store.reading() as rows:
        assert rows.one("SELECT sum(rows) AS n FROM feature_segments")["n"] == 12 * 300
    assert online(store) == offline(store)


@pytest.mark.parametrize("moment", ["before_listing", "before_online"])
def test_a_writer_killed_in_the_middle_leaves_all_of_its_rows_or_none(tmp_path, moment):
    """Killed before its transaction commits: its file is an orphan that nobody sees. After: the next program completes it."""
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(50, 0))
    before = online(store)
    die = "import os, signal; die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)"
    where = {
        "before_listing": "import modelyard.features.store as sql; sql.insert_segment = die",
        "before_online": "store._stored.online; store._stored._put_batches = die",
    }[moment]
    killed = process(tmp_path, f"{die}; {where}; store.write_features(table(100, 30))")
    assert killed.wait(120) == -signal.SIGKILL
    assert len(segments(store)) == 2
    again = FeatureStore(tmp_path)
    assert online(again) == offline(again)
    assert (online(again) == before) == (moment == "before_listing")
    again.write_features(table(10, 40))
    assert len(segments(again)) == (2 if moment == "before_listing" else 3)
    assert online(again) == offline(again)


def test_compaction_changes_no_answer_and_old_files_go_after_an_hour(tmp_path):
    clock = FixedClock(START)
    store = defined(FeatureStore(tmp_path, clock=clock))
    for day in range(6):
        store.write_features(table(20, day % 3))
        if day == 2:
            store.write_online_features(
                [FeatureValue(feature="a", entity_id=n, value=1.0, timestamp=START) for n in range(9)]
            )
    before, statistics = offline(store), store.compute_feature_statistics("a")
    done = store.compact()
    assert (done.merged, done.into, done.removed) == (6, 2, 0)
    assert offline(store) == before
    assert online(store) == before
    after = store.compute_feature_statistics("a")  # sums may be taken in another order
    assert replace(after, mean=0, std=0) == replace(statistics, mean=0, std=0)
    assert (after.mean, after.std) == pytest.approx((statistics.mean, statistics.std))
    clock.advance(3601)
    assert store.compact().removed == 6
    assert len(segments(store)) == 3
    assert offline(store) == before == online(FeatureStore(tmp_path, clock=clock))


def test_many_small_writes_are_merged_on_the_way(tmp_path):
    store = defined(FeatureStore(tmp_path))
    for n in range(105):
        store.write_online_features(
            [FeatureValue(feature="a", entity_id=n % 7, value=float(n), timestamp=START + timedelta(seconds=n % 50))]
        )
    with store.store.reading() as rows:
        assert rows.one("SELECT count(*) AS n FROM feature_segments WHERE retired_at IS NULL")["n"] == 6
    assert online(store) == offline(store)
    assert store.compute_feature_statistics("a").count == 105


def test_a_forgotten_entity_leaves_nothing_behind(store):
    for day in range(3):
        store.write_features(table(60, day, people=5))
    store.write_online_features([FeatureValue(feature="a", entity_id="2", value=1.0, timestamp=START)])
    everyone = offline(store, 5)
    count = store.compute_feature_statistics("a").count
    removed = store.forget_entities("card", ["2", "nobody"])
    expected = {n: [None if i == 2 and n != "card" else x for i, x in enumerate(everyone[n])] for n in everyone}
    assert online(store, 5) == offline(store, 5) == expected
    assert store.compute_feature_statistics("a").count == count - removed
    assert store.compute_feature_statistics("a").entities == 4
    assert len(segments(store)) == 4
    store.materialize()
    assert online(store, 5) == expected
    assert store.forget_entities("card", ["2"]) == 0
    with pytest.raises(NotFound, match="Did you mean card"):
        store.forget_entities("cards", ["2"])


def test_a_write_tells_what_was_written_in_the_same_transaction(tmp_path):
    store = defined(FeatureStore(tmp_path))
    store.write_features(table(5, 0), user="ann")
    with store.store.reading() as rows:
        event = rows.one("SELECT actor, details FROM events WHERE event_type = 'features_written'")
    assert event["actor"] == "ann"
    assert '"rows":5' in event["details"]
    assert '"features":{"a":1,"b":1}' in event["details"]


def test_reading_a_history_is_told_with_the_versions_that_were_read(tmp_path):
    store = defined(FeatureStore(tmp_path))
    store.get_offline_features({"card": ["1"], "event_timestamp": [START]}, ["a"], user="ann")
    with store.store.reading() as rows:
        event = rows.one("SELECT actor, details FROM events WHERE event_type = 'features_read'")
    assert event["actor"] == "ann"
    assert '"features":{"a":1}' in event["details"]


def test_files_in_and_out_keep_the_rows_in_order(tmp_path):
    store = defined(FeatureStore(tmp_path / "store"))
    rows = table(40, 0)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert store.ingest(tmp_path / "rows.csv", "card").rows == 40
    spine = rows[["card", "event_timestamp"]].sample(frac=1, random_state=0)
    spine.to_csv(tmp_path / "spine.csv", index=False)
    assert store.export_history(tmp_path / "spine.csv", NAMES, tmp_path / "out" / "training.csv") == 40
    training = pd.read_csv(tmp_path / "out" / "training.csv")
    assert training["card"].astype(str).tolist() == spine["card"].tolist()
    assert training["a"].notna().all()
