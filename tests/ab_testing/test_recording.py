"""Recording: nothing that was acknowledged is lost, nothing counts twice, and every sum is exact, however it came about."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager, remembered, results, store
from modelyard.ab_testing.journal import BETWEEN, key, record
from modelyard.ab_testing.tally import Tally
from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, NotFound, Unavailable
from modelyard.core.events import EventType
from modelyard.core.work import Store, event_from_row
from modelyard.stats.sketch import bucket, histogram
from modelyard.storage.sqlite import SqliteDatabase

FORK = multiprocessing.get_context("fork")
METRICS = [
    {"name": "spent", "kind": "mean", "covariate": "before"},
    {"name": "rate", "numerator": "spent", "denominator": "results"},
    {"name": "slow", "numerator": "latency", "quantile": 0.9},
]


@pytest.fixture
def manager(tmp_path):
    return ABTestManager(tmp_path / "yard")


def running(manager, **options):
    models = {"control_variant": "fraud:v1.0.0", "treatment_variant": "fraud:v2.0.0"}
    return manager.start_test(manager.create_test("T", **{"strategy": "random", **models, **options}).test_id)


def tallied(manager, test, variant="control"):
    """What the database holds once everything has been folded."""
    manager._recorder.fold()
    with manager.store.reading() as rows:
        return store.arm_tally(rows, test.test_id, variant)


def units_of(manager, test, names=("u1", "u2", "ü3")):
    """What the database holds of units, by their own names."""
    name_of = {key(test.test_id, name): name for name in names}
    with manager.store.reading() as rows:
        found = remembered.units(rows, test.test_id)
    return sorted(
        ({**row, "unit": name_of[row["unit"]]} for row in found), key=lambda row: (row["variant"], row["unit"])
    )


COLUMNS = [*METRICS[:2], {"name": "grouped", "numerator": "spent", "kind": "mean", "strata": "before"}]
NUMBERS = st.floats(-1e12, 1e12) | st.sampled_from([0.1, 1e-300, 1e16, -1e16, 5e-324])
RESULTS = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(["control", "treatment"]),
        "success": st.booleans(),
        "latency": st.none() | st.floats(0, 1e6),
        "unit_id": st.none() | st.sampled_from(["u1", "u2", "ü3"]),
        "custom_metrics": st.none() | st.dictionaries(st.sampled_from(["spent", "before", "other"]), NUMBERS),
    }
)
ONCE = settings(max_examples=12, deadline=None)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One yard for all examples of a property: each example is a test of its own in it."""
    return ABTestManager(tmp_path_factory.mktemp("shared"))


PLANS = st.sampled_from([None, METRICS, COLUMNS])


@given(results=st.lists(RESULTS, max_size=30), order=st.randoms(), planned=PLANS)
@ONCE
def test_shards_in_any_order_and_number_give_the_same_sums_and_these_are_exact(shared, results, order, planned):
    found = []
    for way in ("one by one", "at once", "in shards"):
        test = running(shared, metrics=planned)
        mixed = order.sample(results, len(results))
        if way == "at once":
            shared.record_many(test.test_id, mixed)
        for place, one in enumerate(mixed if way != "at once" else []):
            shared.record_request(test.test_id, **one)
            if way == "in shards" and place % 7 == 0:
                shared._recorder.fold()
        arms = {name: tallied(shared, test, name).plain() for name in test.shares}
        found.append((arms, units_of(shared, test)))
    assert found[0] == found[1] == found[2]
    if not planned:
        for name, arm in found[0][0].items():
            told = [
                one["custom_metrics"]["other"]
                for one in results
                if one["variant"] == name and one["custom_metrics"] and "other" in one["custom_metrics"]
            ]
            if told:
                sums = arm["metrics"]["other"]
                assert Fraction(int(sums["totals"][0], 16), 2 ** sums["power"]) == sum(map(Fraction, told))


@given(
    results=st.lists(st.tuples(RESULTS, st.sampled_from(["keep", "correct", "withdraw"]), RESULTS), max_size=12),
    planned=PLANS,
)
@ONCE
def test_corrected_results_count_as_if_they_had_been_told_so_at_once(shared, results, planned):
    """Units whose covariate is corrected are told it by one result: of several, the largest that was ever told stays."""
    corrected, straight = (running(shared, metrics=planned) for _ in range(2))
    for number, (one, what, other) in enumerate(results):
        for given_ in (one, other):
            (given_["custom_metrics"] or {}).pop("before", None)
        shared.record_request(corrected.test_id, **one, result_id=f"r{number}")
        truth = {
            **one,
            "success": other["success"],
            "latency": one["latency"] if other["latency"] is None else other["latency"],
            "custom_metrics": {**(one["custom_metrics"] or {}), **(other["custom_metrics"] or {})},
        }
        if what != "withdraw":
            shared.record_request(straight.test_id, **(truth if what == "correct" else one), result_id=f"r{number}")
    for number, (_, what, other) in enumerate(results):
        if what == "correct":
            given_ = {name: other[name] for name in ("success", "latency", "custom_metrics")}
            shared.correct_result(corrected.test_id, f"r{number}", **given_, reason="charged back")
        elif what == "withdraw":
            shared.withdraw_result(corrected.test_id, f"r{number}", reason="a test order")
    for name in corrected.shares:
        left, right = (tallied(shared, test, name).plain() for test in (corrected, straight))
        assert {**left, "corrected": 0} == right
    assert units_of(shared, corrected) == units_of(shared, straight)


@given(results=st.lists(RESULTS, max_size=30), cut=st.integers(0, 30))
@ONCE
def test_columns_say_what_units_one_by_one_say(shared, results, cut):
    """A plan without quantiles over units is counted column by column, one with them unit by unit: by other code."""
    tests = [running(shared, metrics=[*COLUMNS, *more]) for more in ([], METRICS[2:])]
    for part in (results[:cut], results[cut:]):
        for test in tests:
            shared.record_many(test.test_id, part)
            shared._recorder.fold()
    for name in ("control", "treatment"):
        columns, units = (tallied(shared, test, name).plain() for test in tests)
        assert columns == {**units, "histograms": {k: v for k, v in units["histograms"].items() if "\x1f" not in k}}
    columns, units = (units_of(shared, test) for test in tests)
    for one in units:
        told = {k: v for k, v in json.loads(one["sums"]).items() if k != "spots"}
        one["sums"] = dumps(told)
    assert columns == units


@given(st.lists(st.floats(0, 1e12) | st.integers(0, 3000).map(lambda i: (1.01 / 0.99) ** i), max_size=50))
def test_many_values_fall_into_the_same_buckets_as_one_by_one(values):
    one_by_one = {}
    for value in values:
        one_by_one[bucket(value)] = one_by_one.get(bucket(value), 0) + 1
    assert histogram(values) == one_by_one


# what a killed process leaves behind


def _steps(folder, test_id, pipe, kill_at):
    """Record and fold while every call of every function is counted; at one of them the process is killed."""
    seen = 0

    def step(*_):
        nonlocal seen
        seen += 1
        if seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    mine = ABTestManager(folder)
    mine.record_request(test_id, "control", success=True)
    pipe.send(1)
    sys.setprofile(step)
    for part in range(4):
        mine.record_request(test_id, "control", success=True, latency=0.1)
        pipe.send(1)
        mine.record_many(
            test_id, [{"variant": "control", "success": True}, {"variant": "control", "success": False, "unit_id": "u"}]
        )
        pipe.send(2)
        if part % 2:
            mine._recorder.fold()
    mine.close()
    sys.setprofile(None)
    pipe.send(("steps", seen))


def test_a_kill_between_any_two_steps_loses_nothing_acknowledged_and_counts_nothing_twice(tmp_path):
    manager = ABTestManager(tmp_path)
    random, total = np.random.default_rng(5), 0
    for attempt in range(25):
        test = running(manager)
        kill_at = int(random.integers(1, total)) if total else 0
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=_steps, args=(tmp_path, test.test_id, theirs, kill_at))
        child.start()
        theirs.close()
        told = []
        while True:
            try:
                told.append(ours.recv())
            except EOFError:
                break
        child.join()
        ended = child.exitcode == 0  # later runs take a few steps less: what was read once is remembered
        total = max(total, told.pop()[1]) if ended else total
        acknowledged = sum(told)
        under_way = acknowledged % 3  # 1, then 2, then 1 and so on are told: of a call, all counts or nothing
        for _ in range(2):
            counted = tallied(manager, test).requests
            assert counted - acknowledged in ((0,) if ended else (0, under_way)), (attempt, kill_at)
    assert not list((tmp_path / "ab_testing").glob("*.journal"))


def test_of_a_call_that_was_cut_short_nothing_counts(tmp_path, manager):
    test = running(manager)
    manager.record_many(test.test_id, [{"variant": "control", "success": True}] * 3)
    (path,) = (tmp_path / "yard" / "ab_testing").glob("*.journal")
    whole = path.read_bytes()
    with path.open("ab") as torn:  # all but the last byte of a call's results
        torn.write(BETWEEN.join([whole[:-1], record(test.test_id, "control", 0, True, unit=key(test.test_id, "u"))]))
    assert tallied(manager, test).requests == 3


def test_a_full_disk_refuses_the_result_and_keeps_the_others(tmp_path, manager):
    test = running(manager)

    def fill(pipe):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
        kept = 0
        for _ in range(100):
            try:
                manager.record_request(test.test_id, "control", success=True, latency=0.1)
                kept += 1
            except Unavailable:
                manager.store.close()
        pipe.send(kept)
        pipe.recv()
        os._exit(0)

    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=fill, args=(theirs,))
    child.start()
    kept = ours.recv()
    assert 0 < kept < 100
    assert tallied(manager, test).requests == kept
    ours.send("enough")
    child.join()
    assert tallied(manager, test).requests == kept


class Leaving:
    """A database that can go away."""

    def __init__(self, database):
        self.database, self.url, self.scrub, self.close = database, database.url, database.scrub, database.close
        self.away = False

    def write(self):
        return self._reached().write()

    def read(self):
        return self._reached().read()

    def _reached(self):
        if self.away:
            raise Unavailable("The database cannot be reached. Start it.")
        return self.database


def test_results_are_taken_while_the_database_is_away_and_folded_when_it_is_back(tmp_path, monkeypatch):
    database = Leaving(SqliteDatabase(tmp_path))
    manager = ABTestManager(Store(database, tmp_path))
    test, draft = running(manager), running(manager)
    manager.record_request(test.test_id, "control", success=True)
    monkeypatch.setattr(results, "REMEMBERED", -1.0)  # so that each call asks the database
    monkeypatch.setattr(results, "AWAY", -1.0)
    database.away = True
    manager.record_many(test.test_id, [{"variant": "control", "success": True}] * 10_000)  # more than are kept unfolded
    manager.record_request(test.test_id, "control", success=True, unit_id="u")
    for refused in (lambda: manager.record_request(draft.test_id, "control", success=True), manager._recorder.fold):
        with pytest.raises(Unavailable):
            refused()
    database.away = False
    assert tallied(manager, test).requests == 10_002


def test_lines_that_a_disk_has_damaged_are_set_aside_and_the_others_count(tmp_path, manager):
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True, result_id="r1")
    (path,) = (tmp_path / "yard" / "ab_testing").glob("*.journal")
    good = record(test.test_id, "control", 0, False) + b"\n"
    bad = [
        b"\0" * 40 + good,
        record("test_0", "control", 0, True) + b"\n",
        b"\xff" + good,
        good.replace(b"\t1\t", b"\t1\tzz"),
    ]
    with path.open("ab") as file:
        file.write(b"".join(line + good for line in bad))
    manager.record_request(test.test_id, "control", success=True, unit_id="u")
    found = tallied(manager, test)
    assert (found.requests, found.successes) == (6, 2)
    assert path.with_suffix(".damaged").read_bytes() == b"".join(bad)


def test_a_process_that_was_forked_while_a_result_was_recorded_can_record(manager):
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True)
    with manager._recorder._mutex:  # as if another thread were in the midst of it
        child = FORK.Process(target=lambda: manager.record_request(test.test_id, "control", success=True))
        child.start()
    child.join(120)
    assert child.exitcode == 0
    assert tallied(manager, test).requests == 2


# corrections


def test_a_correction_is_an_event_with_what_was_said_before_and_why(manager):
    test = running(manager)
    manager.record_request(
        test.test_id, "control", success=True, latency=0.2, result_id="r", custom_metrics={"paid": 9.5}
    )
    found = manager.correct_result(test.test_id, "r", success=False, reason="charged back", user="ana")
    assert (found.before["success"], found.after["success"], found.after["custom_metrics"]) == (
        True,
        False,
        {"paid": 9.5},
    )
    manager.correct_result(
        test.test_id, "r", success=False, reason="told again"
    )  # changes nothing, so there is no event
    manager.stop_test(test.test_id)
    manager.withdraw_result(test.test_id, "r", reason="a test order", user="ben")
    with manager.store.reading() as rows:
        told = [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]
    told = [one for one in told if one.event_type is EventType.AB_RESULTS_CORRECTED]
    assert [(one.actor, one.details["reason"]) for one in told] == [("ana", "charged back"), ("ben", "a test order")]
    assert told[1].details["results"][0]["after"] is None
    assert tallied(manager, test).plain() == {**Tally().plain(), "corrected": 2}
    with pytest.raises(Conflict, match="withdrawn"):
        manager.correct_result(test.test_id, "r", success=True, reason="after all")
    manager_again = running(manager)
    with pytest.raises(NotFound, match="counted no result 'r'"):
        manager.correct_result(manager_again.test_id, "r", success=True, reason="?")


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"result_id": "q", "success": False, "reason": "x"}, NotFound),
        ({"success": False, "reason": " "}, Invalid),
        ({"reason": "x"}, Invalid),
        ({"latency": -1.0, "reason": "x"}, Invalid),
        ({"success": "no", "reason": "x"}, Invalid),
        ({"custom_metrics": {"latency": 1.0}, "reason": "x"}, Invalid),
    ],
)
def test_a_bad_correction_changes_nothing(manager, bad, error):
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True, result_id="r")
    before = tallied(manager, test).plain()
    with pytest.raises(error):
        manager.correct_result(test.test_id, **{"result_id": "r", **bad})
    assert tallied(manager, test).plain() == before


def test_a_corrected_covariate_takes_the_place_of_the_one_that_was_known(manager):
    test = running(manager, metrics=METRICS)
    for before, number in ((5.0, 1), (7.0, 2)):
        numbers = {"spent": 1.0, "before": before}
        manager.record_request(
            test.test_id, "control", success=True, unit_id="u", result_id=f"r{number}", custom_metrics=numbers
        )
    manager.correct_result(test.test_id, "r2", custom_metrics={"before": 6.0}, reason="was read off the wrong line")
    tallied(manager, test)
    with manager.store.reading() as rows:
        (unit,) = remembered.units(rows, test.test_id)
    assert json.loads(unit["sums"])["known"] == {"before": 6.0}


def test_settling_counts_what_is_new_and_corrects_what_says_otherwise(manager):
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True, result_id="old")
    rows = [{"variant": "control", "success": False, "result_id": name} for name in ("old", "new")]
    bad = [{"variant": "contrl", "success": True, "result_id": "bad"}]
    found = manager.settle_results(test.test_id, [*rows, *bad], reason="what turned out")
    assert (found.new, found.corrected, found.repeated, list(found.refused)) == (1, 1, 0, ["bad"])
    assert manager.settle_results(test.test_id, rows, reason="again").repeated == 2
    manager.stop_test(test.test_id)
    late = [{**rows[0], "success": True}, {**rows[1], "result_id": "late"}]
    found = manager.settle_results(test.test_id, late, reason="late")
    assert (found.new, found.corrected, list(found.refused)) == (0, 1, ["late"])
    assert (tallied(manager, test).requests, tallied(manager, test).successes) == (2, 1)


# bad input


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"success": "false"}, Invalid),
        ({"success": None}, Invalid),
        ({"latency": "fast"}, Invalid),
        ({"latency": -0.1}, Invalid),
        ({"latency": float("nan")}, Invalid),
        ({"latency": 10**400}, Invalid),
        ({"unit_id": ""}, Invalid),
        ({"unit_id": "u" * 513}, Invalid),
        ({"unit_id": "a\nb"}, Invalid),
        ({"unit_id": "\ud800"}, Invalid),
        ({"result_id": ""}, Invalid),
        ({"custom_metrics": {"x": 10**400}}, Invalid),
        ({"custom_metrics": {"\ud800": 1.0}}, Invalid),
        ({"custom_metrics": {1: 1.0}}, Invalid),
        ({"custom_metrics": {"x": True}}, Invalid),
        ({"custom_metrics": [1.0]}, Invalid),
        ({"unit_id": {"a": 1}}, Invalid),
        ({"unit_id": True}, Invalid),
        ({"variant": "contrl"}, NotFound),
        ({"variant": None}, NotFound),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_bad_results_are_refused_in_plain_words_and_count_nothing(manager, bad, error, many):
    test = running(manager)
    one = {"variant": "control", "success": True, **bad}
    told = [{"variant": "control", "success": True}, one] if many else [one]
    with pytest.raises(error, match=r"\."):
        manager.record_many(test.test_id, told) if many else manager.record_request(test.test_id, **one)
    assert tallied(manager, test).requests == 0


@pytest.mark.parametrize(
    "odd", [None, 7, "control", ["control", True], {}, {"variant": "control"}, {"success": True, "x": 1}]
)
def test_what_is_no_result_is_refused(manager, odd):
    test = running(manager)
    with pytest.raises(Invalid, match="A result needs variant and success"):
        manager.record_many(test.test_id, [odd])


def test_numpy_numbers_and_numbered_units_are_taken(manager):
    test = running(manager, strategy="hash_based")
    variant = manager.get_variant(test.test_id, 7)
    manager.record_request(
        test.test_id,
        variant,
        success=np.bool_(True),
        latency=np.float32(0.25),
        unit_id=7,
        custom_metrics={"n": np.int64(3)},
    )
    found = tallied(manager, test, variant)
    assert (found.successes, found.metrics["n"].totals[0]) == (1, 3)
    assert [row["unit"] for row in units_of(manager, test, ["7"])] == ["7"]
