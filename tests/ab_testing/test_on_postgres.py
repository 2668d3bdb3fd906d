"""The same experiments on PostgreSQL, and what many processes do to them at once on either database."""

import multiprocessing

import pytest

from modelyard.ab_testing import ABTestManager, store
from modelyard.core.errors import Conflict
from modelyard.core.work import Store

FORK = multiprocessing.get_context("fork")
MODELS = {"control_variant": "fraud:v1.0.0", "treatment_variant": "fraud:v2.0.0"}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def opened(request, tmp_path):
    """Opens the same yard, in whichever process."""
    if request.param == "sqlite":
        return lambda: ABTestManager(tmp_path)
    url = request.getfixturevalue("postgres_url")
    return lambda: ABTestManager(Store.at(url, files=tmp_path))


def at_once(count, work):
    """What each of several processes answered, all begun together."""
    start, answers = FORK.Barrier(count), FORK.SimpleQueue()

    def one(number):
        start.wait()
        try:
            answers.put(work(number))
        except BaseException as error:
            answers.put(error)
            raise

    children = [FORK.Process(target=one, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    found = [answers.get() for _ in children]
    for child in children:
        child.join()
    assert not [one for one in found if isinstance(one, BaseException)]
    return found


def refused(call, *args):
    try:
        call(*args)
    except Conflict:
        return True
    return False


def test_processes_that_start_tests_of_one_group_at_once_never_share_a_unit(opened):
    manager = opened()
    for _ in range(3):
        tests = [
            manager.create_test("T", **MODELS, exclusive_group="checkout", group_share=0.4).test_id for _ in range(3)
        ]
        manager.store.close()
        assert sorted(at_once(3, lambda n, tests=tests: refused(opened().start_test, tests[n]))) == [False, False, True]
        began = [one for one in manager.list_tests() if one.status.value == "running"]
        assert sorted(one.group_start for one in began) == [0.0, 0.4]
        for one in began:
            manager.stop_test(one.test_id)


def test_of_processes_that_begin_one_holdout_at_once_one_does_and_a_test_started_then_knows_it(opened):
    manager = opened()
    tests = [manager.create_test("T", **MODELS).test_id for _ in range(3)]
    manager.store.close()

    def both(number):
        mine = opened()
        failed = refused(mine.hold_out, "2026", 0.1)
        return failed, [held.name for held in mine.start_test(tests[number]).holdouts]

    found = at_once(3, both)
    assert sorted(failed for failed, _ in found) == [False, True, True]
    assert [names for _, names in found] == [["2026"]] * 3


def test_processes_that_record_correct_and_analyse_at_once_count_every_result_once(opened):
    manager = opened()
    test = manager.create_test("T", **MODELS, strategy="random")
    manager.start_test(test.test_id)
    manager.store.close()

    def work(number):
        mine = opened()
        for part in range(3):
            alone = [{"variant": "control", "success": True, "latency": 0.1}] * 3000
            shared = [
                {"variant": "control", "success": True, "unit_id": f"u{part}", "result_id": f"r{n}"} for n in range(9)
            ]
            mine.record_many(test.test_id, alone + shared)
            mine.analyze_test(test.test_id)
            mine.correct_result(test.test_id, f"r{3 * number + part}", success=False, reason="charged back")
        mine.close()

    at_once(3, work)
    manager.analyze_test(test.test_id)
    with manager.store.reading() as rows:
        found = store.arm_tally(rows, test.test_id, "control")
    assert (found.requests, found.successes, found.corrected) == (3 * 3 * 3000 + 9, 3 * 3 * 3000, 9)


@pytest.mark.postgres
def test_an_experiment_runs_from_plan_to_conclusion(postgres_url, tmp_path):
    manager = ABTestManager(Store.at(postgres_url, files=tmp_path))
    test = manager.create_test(
        "New model",
        control_variant="fraud:v1.0.0",
        treatment_variant="fraud:v2.0.0",
        planned_units=400,
        exclusive_group="g",
    )
    manager.start_test(test.test_id)
    users = [f"u{i}" for i in range(200)]
    for part in range(2):
        for user in users:
            variant = manager.get_variant(test.test_id, user)
            manager.record_request(
                test.test_id, variant, success=part == 0 or variant == "treatment", unit_id=user, latency=0.1
            )
        found = manager.analyze_test(test.test_id)
    assert found["control"]["units"] + found["treatment"]["units"] == 200
    assert found["control"]["success_rate"] == 0.5
    for _ in range(2):
        manager.record_counts(test.test_id, "control", source="web", generation=1, requests=200, errors=100)
    found = manager.analyze_test(test.test_id)
    assert found["control"]["requests"] + found["treatment"]["requests"] == 600
    assert found["statistically_significant"]
    assert manager.conclude_test(test.test_id, winner="treatment").winner == "treatment"
    assert len(manager.list_tests(status="concluded")) == 1
    manager.close()
