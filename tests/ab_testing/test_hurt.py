"""What is done to recording: many processes at once, some of them killed, files that are cut, and values of every kind."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from modelyard.ab_testing import ABTestManager, portable, store
from modelyard.ab_testing.journal import key
from modelyard.core.errors import Damaged, Invalid, NotFound, Unavailable
from modelyard.core.instants import FixedClock

FORK = multiprocessing.get_context("fork")
ONE = {"variant": "control", "success": True}
METRICS = [
    {"name": "spent", "kind": "mean", "covariate": "before"},
    {"name": "q", "numerator": "spent", "quantile": 0.5},
]


@pytest.fixture
def manager(tmp_path):
    return ABTestManager(tmp_path)


def running(manager, **options):
    models = {"control_variant": "fraud:v1.0.0", "treatment_variant": "fraud:v2.0.0"}
    return manager.start_test(manager.create_test("T", **{"strategy": "random", **models, **options}).test_id).test_id


def tallied(manager, test_id, variant="control"):
    manager._recorder.fold()
    with manager.store.reading() as rows:
        return store.arm_tally(rows, test_id, variant).plain()


def journal_of(manager):
    (path,) = (manager.store.folder / "ab_testing").glob("*.journal")
    return path


def told(number):
    """The same result whoever tells it."""
    numbers = {"spent": number / 7, "before": float(number % 5)}
    return {
        "variant": ("control", "treatment")[number % 2],
        "success": number % 3 > 0,
        "latency": 0.01 * number,
        "unit_id": f"u{number % 8}",
        "result_id": f"r{number}",
        "custom_metrics": numbers if number % 4 else None,
    }


@pytest.mark.parametrize("metrics", [METRICS[:1], METRICS])
def test_eight_processes_that_tell_the_same_results_at_once_count_each_once_though_some_are_killed(tmp_path, metrics):
    manager = ABTestManager(tmp_path)
    shared, alone = (running(manager, metrics=metrics) for _ in range(2))
    manager.store.close()

    def tell(which):
        mine, order = ABTestManager(tmp_path), random.Random(which).sample(range(60), 60)
        for at in range(0, 60, 6):
            if at == 30 and which < 3:
                os.kill(os.getpid(), signal.SIGKILL)
            for number in order[at : at + 3]:
                mine.record_request(shared, **told(number))
            mine.record_many(shared, [told(number) for number in order[at + 3 : at + 6]])
            if at % 18 == which:
                mine._recorder.fold()

    children = [FORK.Process(target=tell, args=(which,)) for which in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [-signal.SIGKILL] * 3 + [0] * 5
    manager.record_many(alone, [told(number) for number in range(60)])
    for variant in ("control", "treatment"):
        assert tallied(manager, shared, variant) == tallied(manager, alone, variant)
    assert not list((tmp_path / "ab_testing").iterdir())


def test_a_disk_that_fills_while_results_are_folded_loses_none_that_was_acknowledged(tmp_path):
    """The journal still takes results when the database takes no more; then neither does."""
    manager = ABTestManager(tmp_path)
    test_id = running(manager)
    manager.store.close()
    ours, theirs = FORK.Pipe()

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))
        mine, kept = ABTestManager(tmp_path), 0
        try:
            while True:
                results = [{**ONE, "unit_id": f"u{n % 3000}", "result_id": f"r{kept + n}"} for n in range(2048)]
                kept += mine.record_many(test_id, results)
        except Unavailable:
            theirs.send(kept)
            os._exit(0)

    child = FORK.Process(target=fill)
    child.start()
    theirs.close()
    kept = ours.recv()
    child.join()
    found = tallied(manager, test_id)
    assert kept > 2048
    assert (found["requests"], found["units"]) == (kept, min(kept, 2048))


@pytest.mark.parametrize("keep", [lambda size: size - 10, lambda _: 0])
def test_results_after_a_cut_in_a_living_processs_journal_count(tmp_path, manager, keep):
    """The line that was cut is lost, as somebody wished; those that come after it are not, whatever was folded before."""
    test_id = running(manager)
    for number in range(3):
        manager.record_request(test_id, **ONE, unit_id=f"u{number}")
    folded = tallied(ABTestManager(tmp_path), test_id)["requests"]
    manager.record_request(test_id, **ONE, unit_id="u3")
    path = journal_of(manager)
    os.truncate(path, keep(path.stat().st_size))
    for number in range(4, 7):
        manager.record_request(test_id, **ONE, unit_id=f"u{number}")
    assert (folded, tallied(manager, test_id)["requests"]) == (3, 6)


def test_results_after_the_removal_of_a_journal_go_to_another_one_as_soon_as_it_is_noticed(manager, caplog):
    test_id = running(manager)
    manager.record_request(test_id, **ONE)
    journal_of(manager).unlink()
    manager._recorder.fold_own()
    manager.record_request(test_id, **ONE)
    assert tallied(manager, test_id)["requests"] == 1
    assert "was removed" in caplog.text


NEVER = [
    float("nan"),
    float("inf"),
    True,
    np.bool_(True),
    10**400,
    -(10**5000),
    Decimal("NaN"),
    Decimal("sNaN"),
    "1",
    b"1",
]
NEVER += [np.float64("nan"), np.array([1.0, 2.0]), np.array(1.0), 1j, [], {}, object()]


@pytest.mark.parametrize("many", [False, True])
def test_what_is_no_number_is_refused_wherever_a_number_is_told(manager, many):
    test_id = running(manager, metrics=METRICS)
    for odd in NEVER:
        for result in ({"latency": odd}, {"custom_metrics": {"x": odd}}, {"custom_metrics": {"spent": odd}}):
            with pytest.raises(Invalid, match=r"\."):
                manager.record_many(test_id, [{**ONE, **result}]) if many else manager.record_request(
                    test_id, **ONE, **result
                )
    assert tallied(manager, test_id)["requests"] == 0


@pytest.mark.parametrize("many", [False, True])
def test_what_names_nothing_is_refused_as_a_unit_an_id_or_an_arm(manager, many):
    test_id = running(manager)
    names = [
        True,
        np.bool_(True),
        1.5,
        10**5000,
        np.array(1.0),
        np.array([1, 2]),
        "u" * 10_240,
        "\ud800",
        "a\x1fb",
        "",
        b"u",
    ]
    for odd in names:
        for name in ("unit_id", "result_id", "variant", "success"):
            result = {**ONE, name: odd}
            if name == "success" and (odd is True or isinstance(odd, np.bool_)):
                continue
            with pytest.raises((Invalid, NotFound), match=r"\."):
                manager.record_many(test_id, [result]) if many else manager.record_request(test_id, **result)
    assert tallied(manager, test_id)["requests"] == 0


def test_numbers_of_other_libraries_and_units_by_number_are_taken_exactly(manager):
    test_id = running(manager)
    for odd in (np.float32(0.25), np.int64(3), Decimal("1.5"), Fraction(1, 4), 7, 5e-324, -0.0):
        manager.record_request(test_id, **ONE, latency=abs(odd), unit_id=np.int64(7), custom_metrics={"x": odd})
        manager.record_many(test_id, [{**ONE, "unit_id": np.str_("7"), "custom_metrics": {"x": odd}}])
    found = tallied(manager, test_id)
    total = Fraction(int(found["metrics"]["x"]["totals"][0], 16), 2 ** found["metrics"]["x"]["power"])
    assert (found["units"], total) == (1, 2 * (12 + Fraction(5e-324)))


def test_a_clock_that_goes_back_changes_nothing_that_was_recorded(tmp_path):
    clock = FixedClock(datetime(2026, 6, 1, tzinfo=UTC))
    manager = ABTestManager(tmp_path, clock=clock)
    test_id = running(manager, strategy="ramp", ramp_seconds=100.0)
    arm = manager.get_variant(test_id, "u")
    manager.record_request(test_id, variant=arm, success=True, unit_id="u")
    clock.advance(-30 * 86_400)
    assert manager.get_variant(test_id, "u") == arm == "control"
    manager.record_request(test_id, variant=arm, success=True, unit_id="u")
    assert manager.analyze_test(test_id)[arm]["requests"] == 2


@pytest.mark.parametrize("metrics", [METRICS[:1], METRICS])
def test_documents_hold_all_that_is_remembered_of_units_and_results(tmp_path, metrics):
    """Corrected ones, withdrawn ones and those without a unit; what is written anew can be corrected as before."""
    old, new = ABTestManager(tmp_path / "old"), ABTestManager(tmp_path / "new")
    test_id = running(old, metrics=metrics)
    for number in range(20):
        old.record_request(test_id, **{**told(number), "unit_id": None if number == 4 else f"u{number % 8}"})
    old.correct_result(test_id, "r3", success=True, reason="x")
    old.withdraw_result(test_id, "r5", reason="x")
    with old.store.reading() as rows:
        (document,) = portable.KIND.every(rows)
    with new.store.work() as work:
        portable.KIND.write(work, document)
    with new.store.reading() as rows:
        assert list(portable.KIND.every(rows)) == [document]
    assert (len(document["results"]), {one["result_id"] for one in document["results"]} >= {key(test_id, "r5")}) == (
        20,
        True,
    )
    for manager in (old, new):
        manager.correct_result(test_id, "r7", success=True, custom_metrics={"spent": 9.0}, reason="x")
        manager.record_request(test_id, **told(7))
        manager.record_request(test_id, **told(21))
    for variant in ("control", "treatment"):
        assert tallied(old, test_id, variant) == tallied(new, test_id, variant)
    for part in ("units", "results"):
        for name in ("unit", "result_id", "sums"):
            if name in document[part][0]:
                bad = {**document, part: [{**document[part][0], name: "zz"}]}
                with pytest.raises(Damaged), ABTestManager(tmp_path / f"{part}{name}").store.work() as work:
                    portable.KIND.write(work, bad)
