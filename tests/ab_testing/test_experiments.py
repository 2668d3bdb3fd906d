"""Experiments: assignment, recording that survives, and analyses that do not lie."""

import multiprocessing
import os
import signal
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager, TestStatus, TrafficSplitStrategy, assignment, rules, store
from modelyard.ab_testing.comparing import compared, rate_of
from modelyard.ab_testing.design import Look, ruler
from modelyard.ab_testing.experiments import ANY_GOAL, ABTest, Variant
from modelyard.ab_testing.journal import BETWEEN, key, parsed, record
from modelyard.ab_testing.metrics import BUILT_IN
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.work import event_from_row

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock():
    return FixedClock(START)


@pytest.fixture
def manager(tmp_path, clock):
    return ABTestManager(tmp_path / "yard", clock=clock)


def running(manager, **options):
    given = {"control_variant": "fraud:v1.0.0", "treatment_variant": "fraud:v2.0.0", **options}
    test = manager.create_test("New model", **given)
    manager.start_test(test.test_id)
    return manager.get_test(test.test_id)


def plan(split=0.5, **options):
    variants = (
        Variant(name="control", model="m:v1", share=1 - split),
        Variant(name="treatment", model="m:v2", share=split),
    )
    options = {"strategy": TrafficSplitStrategy.HASH_BASED, "status": TestStatus.RUNNING, **options}
    return ABTest(
        test_id="t", name="t", description="", variants=variants, created_by="me", created_at=START, **options
    )


def tally(successes, n):
    made = Tally()
    made.count(1, successes)
    made.count(0, n - successes)
    return made


# assignment


@pytest.mark.parametrize(
    ("salt", "unit", "digits"),
    [  # printf 'test_1:user-0' | sha256sum | cut -c1-16: the first 64 bits; they must never change
        ("test_1", "user-0", "885f0f2d75472914"),
        ("test_1", "user-1", "38099a18111e449f"),
        ("test_2", "user-0", "f8e1218a8e5b29d8"),
        ("", "", "e7ac0786668e0ff0"),
        ("salt", "Grüße", "07fd1e1793193f3a"),
    ],
)
def test_assignment_vectors_are_frozen(salt, unit, digits):
    assert assignment.place(salt, unit) == pytest.approx(int(digits, 16) / 2**64, abs=2**-53)


def test_places_are_even_and_two_tests_assign_independently():
    units = [f"user-{i}" for i in range(20_000)]
    first = np.array([assignment.place("test_a", unit) for unit in units])
    second = np.array([assignment.place("test_b", unit) for unit in units])
    assert scipy.stats.kstest(first, "uniform").pvalue > 0.001
    table = np.histogram2d(first, second, bins=10)[0]
    assert scipy.stats.chi2_contingency(table).pvalue > 0.001


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.floats(0, 1))
def test_a_ramp_that_grows_moves_nobody_out_of_a_treatment(position, a, b):
    early, late = sorted((a, b))
    test = plan(0.3)
    if assignment.variant_at(test, position, early) == "treatment":
        assert assignment.variant_at(test, position, late) == "treatment"


def test_percentage_is_exact_after_few_requests_and_random_in_the_long_run(manager):
    even = running(manager, strategy=TrafficSplitStrategy.PERCENTAGE, traffic_split=0.1)
    drawn = [manager.get_variant(even.test_id) for _ in range(1000)]
    assert abs(drawn.count("treatment") - 100) <= 2
    loose = running(manager, strategy=TrafficSplitStrategy.RANDOM, traffic_split=0.1)
    drawn = [manager.get_variant(loose.test_id) for _ in range(3000)]
    assert 200 < drawn.count("treatment") < 400


def test_a_ramp_reaches_its_share_over_time(manager, clock):
    test = running(manager, strategy="ramp", ramp_seconds=100.0, traffic_split=0.5)
    users = [f"u{i}" for i in range(2000)]
    shares = []
    for _ in range(3):
        shares.append(sum(manager.get_variant(test.test_id, user) == "treatment" for user in users) / 2000)
        clock.advance(50)
    assert shares == pytest.approx([0.0, 0.25, 0.5], abs=0.06)  # five standard errors: test ids are drawn


def test_tests_of_one_group_share_no_unit_and_the_rest_is_a_holdout(manager):
    tests = [running(manager, exclusive_group="checkout", group_share=0.4) for _ in range(2)]
    for user in (f"u{i}" for i in range(500)):
        met = [manager.get_variant(test.test_id, user) for test in tests]
        assert met.count(None) >= 1
    outside = [
        u for u in (f"u{i}" for i in range(500)) if all(manager.get_variant(t.test_id, u) is None for t in tests)
    ]
    assert 50 < len(outside) < 150
    with pytest.raises(Invalid, match="never assigned"):
        manager.record_request(tests[0].test_id, "control", success=True, unit_id=outside[0])
    with pytest.raises(Conflict, match="no room"):
        running(manager, exclusive_group="checkout", group_share=0.4)
    manager.stop_test(tests[0].test_id)
    assert running(manager, exclusive_group="checkout", group_share=0.4).group_start == 0.0


# recording


def test_results_outlive_a_killed_process_and_are_counted_once(tmp_path):
    manager = ABTestManager(tmp_path / "yard")
    test = running(manager)

    def record(pipe):
        mine = ABTestManager(tmp_path / "yard")
        for i in range(1000):
            mine.record_request(test.test_id, "control", success=i % 4 != 0, latency=0.01)
        pipe.send("done")
        os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=record, args=(theirs,))
    child.start()
    ours.recv()
    child.join()
    for _ in range(2):
        control = manager.analyze_test(test.test_id)["control"]
        assert (control["requests"], control["successes"]) == (1000, 750)
    assert list((tmp_path / "yard" / "ab_testing").glob("*.journal")) == []


def test_a_forked_child_and_many_threads_record_side_by_side(tmp_path):
    manager = ABTestManager(tmp_path / "yard")
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True)

    def work():
        for _ in range(300):
            manager.record_request(test.test_id, "control", success=True)
        manager.analyze_test(test.test_id)

    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child.join()
    assert child.exitcode == 0
    assert manager.analyze_test(test.test_id)["control"]["requests"] == 1 + 5 * 300


def test_recording_folds_by_itself_so_that_an_analysis_has_little_to_read(tmp_path):
    manager = ABTestManager(tmp_path / "yard")
    test = running(manager)
    manager.record_many(
        test.test_id, [{"variant": "control", "success": True, "latency": 0.01 * (i % 7)} for i in range(20_000)]
    )
    with manager.store.reading() as rows:
        assert store.arm_tally(rows, test.test_id, "control").requests == 20_000
    assert ABTestManager(tmp_path / "yard").analyze_test(test.test_id)["control"]["requests"] == 20_000


def test_a_torn_last_line_is_not_counted(tmp_path):
    manager = ABTestManager(tmp_path / "yard")
    test = running(manager)
    manager.record_request(test.test_id, "control", success=True)
    (journal,) = (tmp_path / "yard" / "ab_testing").glob("*.journal")
    with journal.open("ab") as torn:
        torn.write(record(test.test_id, "control", 0, True))
    assert manager.analyze_test(test.test_id)["control"]["requests"] == 1


PRINTED = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20)


@given(
    st.booleans(),
    st.none() | st.floats(0, 1e9),
    st.none() | PRINTED,
    st.none() | st.dictionaries(PRINTED.filter(lambda name: name not in BUILT_IN), st.floats(-1e50, 1e50), min_size=1),
)
def test_a_line_says_back_what_was_recorded(success, latency, unit, metrics):
    unit = key("t", unit) if unit else ""
    text = record("t", "control", 0, success, latency, unit=unit, metrics=metrics)
    assert b"\n" not in text
    assert BETWEEN not in text
    back = parsed(text.decode())
    assert (back.success, back.latency, back.unit, back.metrics) == (int(success), latency, unit, metrics or {})


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"latency": -0.1}, Invalid),
        ({"latency": float("nan")}, Invalid),
        ({"unit_id": "a\nb"}, Invalid),
        ({"custom_metrics": {"x": float("inf")}}, Invalid),
        ({"custom_metrics": {"x": "high"}}, Invalid),
        ({"custom_metrics": {"x": 1e60}}, Invalid),
        ({"custom_metrics": {"results": 1.0}}, Invalid),
        ({"result_id": "a\tb"}, Invalid),
        ({"variant": "contrl"}, NotFound),
    ],
)
def test_a_bad_result_is_refused_and_counts_nothing(manager, bad, error):
    test = running(manager)
    with pytest.raises(error):
        manager.record_request(test.test_id, **{"variant": "control", "success": True, **bad})
    assert manager.analyze_test(test.test_id)["control"]["requests"] == 0


def test_a_result_for_the_wrong_arm_or_a_test_that_does_not_run_is_refused(manager):
    test = running(manager)
    variant = manager.get_variant(test.test_id, "u1")
    other = "treatment" if variant == "control" else "control"
    with pytest.raises(Invalid, match="is assigned to"):
        manager.record_request(test.test_id, other, success=True, unit_id="u1")
    manager.stop_test(test.test_id)
    with pytest.raises(Conflict, match="stopped"):
        manager.record_request(test.test_id, "control", success=True)
    with pytest.raises(Conflict, match="cannot be started"):
        manager.start_test(test.test_id)
    assert manager.conclude_test(test.test_id, winner="treatment").winner == "treatment"
    assert manager.get_variant(test.test_id, "u1") == "treatment"
    with pytest.raises(NotFound, match="no test"):
        manager.get_test("test_0")


def test_serving_totals_are_taken_over_idempotently(manager):
    test = running(manager)
    for requests, errors in ((100, 3), (200, 5), (200, 5), (150, 4)):
        manager.record_counts(test.test_id, "control", source="web", generation=1, requests=requests, errors=errors)
    manager.record_counts(
        test.test_id, "control", source="web", generation=2, requests=50, errors=0, latency={"300": 50}
    )
    control = manager.analyze_test(test.test_id)["control"]
    assert (control["requests"], control["successes"]) == (250, 245)
    assert control["latency"]["p50"] is not None


@pytest.mark.parametrize(
    "bad",
    [
        {"traffic_split": 1.0},
        {"traffic_split": 0.0},
        {"traffic_split": [0.5, 0.5]},
        {"strategy": "ramp"},
        {"horizon": 0},
        {"planned_units": 1},
        {"control_variant": "fraud"},
        {"group_share": 0.5},
        {"treatment_variant": []},
        {"treatment_variant": ["a:v1", "b:v1"], "traffic_split": [0.6, 0.6]},
    ],
)
def test_an_impossible_plan_is_refused(manager, bad):
    with pytest.raises(Invalid):
        running(manager, **bad)
    assert manager.list_tests() == []


# analysis


RESULTS = st.lists(
    st.tuples(st.sampled_from(["control", "treatment"]), st.booleans(), st.floats(1e-6, 10), st.floats(-1e6, 1e6)),
    min_size=1,
    max_size=60,
)


@given(RESULTS, st.randoms())
@settings(max_examples=40)
def test_the_analysis_is_the_same_in_whatever_order_shards_are_merged(results, order):
    def counted(rows):
        arms = {"control": Tally(), "treatment": Tally()}
        for variant, success, latency, metric in rows:
            arms[variant].count_result(int(success), {"latency": latency, "m": metric})
            arms[variant].spot({"latency": latency, "m": metric})
        return arms

    whole = counted(results)
    shuffled = order.sample(results, len(results))
    merged = {"control": Tally(), "treatment": Tally()}
    for start in range(0, len(shuffled), 7):
        for variant, shard in counted(shuffled[start : start + 7]).items():
            merged[variant].merge(Tally.from_plain(shard.plain()))
    assert rules.analyze(plan(), merged) == rules.analyze(plan(), whole)


def test_several_requests_of_a_unit_widen_the_interval_as_the_delta_method_says():
    random_ = np.random.default_rng(0)
    made, sizes, good = Tally(), random_.integers(1, 10, 500), []
    for n in sizes:
        s = int(n) if random_.random() < 0.8 else 0  # a unit succeeds or fails as a whole
        made.count_unit(Unit(0, 0), Unit(int(n), s))
        good.append(s)
    found = rate_of(made)
    residual = np.array(good) - found.rate * sizes
    variance = (residual**2).sum() / sizes.sum() ** 2 * 500 / 499
    assert found.rate * (1 - found.rate) / found.n == pytest.approx(variance)
    assert found.design_effect > 4


def test_counting_a_unit_in_pieces_is_counting_it_at_once():
    pieces, once = Tally(), Tally()
    pieces.count_unit(Unit(0, 0), Unit(2, 1))
    pieces.count_unit(Unit(2, 1), Unit(5, 4))
    once.count_unit(Unit(0, 0), Unit(5, 4))
    assert pieces.plain() == once.plain()


def test_units_are_what_is_counted(manager):
    test = running(manager)
    users = [f"u{i}" for i in range(40)]
    for _ in range(5):
        for user in users:
            manager.record_request(test.test_id, manager.get_variant(test.test_id, user), success=True, unit_id=user)
        found = manager.analyze_test(test.test_id)
    assert found["control"]["units"] + found["treatment"]["units"] == 40
    assert found["control"]["requests"] + found["treatment"]["requests"] == 200


def _looks_at(random_, lift, design, looks=20, per_look=500):
    """Whether an experiment is called significant at any of its looks."""
    base, test = 0.1, plan(**design)
    arms, spent = {"control": Tally(), "treatment": Tally()}, []
    for _ in range(looks):
        for variant, rate in (("control", base), ("treatment", base * (1 + lift))):
            hits = int(random_.binomial(per_look, rate))
            arms[variant].count(1, hits)
            arms[variant].count(0, per_look - hits)
        held = ruler(test, sum(arm.units for arm in arms.values()), spent, 0.95)
        found = compared(ANY_GOAL, arms["control"], arms["treatment"], held)
        if held.counts:
            spent.append(Look(fraction=held.fraction, alpha=held.alpha))
        if found.beyond(held, held.each):
            return True
    return False


@pytest.mark.parametrize("design", [{"planned_units": 20_000}, {"horizon": 20_000}])
def test_twenty_looks_at_equal_arms_find_nothing_more_often_than_alpha(design):
    random_ = np.random.default_rng(8)
    false = np.mean([_looks_at(random_, 0.0, design) for _ in range(400)])
    assert false <= 0.05 + 2 * 0.011
    assert np.mean([_looks_at(random_, 0.25, design) for _ in range(60)]) > 0.9


def test_one_look_at_the_planned_sample_is_the_fixed_test(manager):
    found, look = rules.analyze(plan(planned_units=2000), {"control": tally(100, 1000), "treatment": tally(130, 1000)})
    assert found["design"] == "fixed"
    assert found["critical_z"] == pytest.approx(1.96, abs=1e-3)
    assert found["statistically_significant"] == (found["p_value"] < 0.05)
    assert look.fraction == 1.0


def test_a_look_too_near_the_last_is_not_spent_and_says_so():
    looks = [Look(fraction=0.5, alpha=0.05)]
    found, look = rules.analyze(
        plan(planned_units=2000), {"control": tally(1, 501), "treatment": tally(400, 501)}, looks
    )
    assert look is None
    assert not found["statistically_significant"]
    assert "the next look counts from 1,020 units" in found["method"]


@pytest.mark.parametrize(
    ("control", "treatment", "told"),
    [
        ((0, 0), (0, 0), "Not enough evidence: no results yet for control, treatment."),
        ((1, 1), (0, 1), "Not enough evidence yet after 2 units"),
        ((900, 1000), (980, 1000), "treatment succeeds more often (98.00% against 90.00%, +8.89%, between +"),
        ((980, 1000), (900, 1000), "treatment succeeds less often (90.00% against 98.00%, -8.16%, between -"),
        ((900, 1000), (2940, 3000), "Do not trust the difference"),
    ],
)
def test_the_conclusion_is_a_sentence_that_says_what_to_do(control, treatment, told):
    found, _ = rules.analyze(plan(), {"control": tally(*control), "treatment": tally(*treatment)})
    assert found["conclusion"].startswith(told)


def test_several_treatments_share_alpha_and_the_best_wins(manager):
    test = running(
        manager, treatment_variant=["fraud:v2.0.0", "fraud:v3.0.0"], traffic_split=[0.2, 0.3], strategy="random"
    )
    for variant, successes, n in (("control", 4500, 5000), ("treatment", 1800, 2000), ("treatment_2", 2900, 3000)):
        manager.record_many(test.test_id, [{"variant": variant, "success": i < successes} for i in range(n)])
    found = manager.analyze_test(test.test_id)
    assert found["winner"] == "treatment_2"
    assert not found["comparisons"]["treatment"]["statistically_significant"]
    assert found["statistically_significant"]


def test_custom_metrics_and_latency_are_compared_from_sums(manager):
    test, random_ = running(manager, strategy="random"), np.random.default_rng(3)
    a, b = random_.lognormal(-3, 0.5, 300), random_.lognormal(-3.1, 0.5, 300)
    for variant, values in (("control", a), ("treatment", b)):
        manager.record_many(
            test.test_id,
            [
                {"variant": variant, "success": True, "latency": x, "custom_metrics": {"score": x * 2, "one": x}}
                for x in values.tolist()
            ],
        )
    found = manager.analyze_test(test.test_id)
    expected = scipy.stats.ttest_ind(b, a, equal_var=False)
    assert found["latency"]["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["metrics"]["score"]["p_value_holm"] >= found["metrics"]["score"]["p_value"]
    assert found["control"]["latency"]["p95"] == pytest.approx(np.quantile(a, 0.95, method="lower"), rel=0.021)


def test_every_change_and_every_analysis_is_an_event(manager):
    test = running(manager)
    manager.analyze_test(test.test_id)
    manager.stop_test(test.test_id, reason="enough")
    with manager.store.reading() as rows:
        told = [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]
    assert [event.event_type for event in told] == [
        EventType.AB_TEST_CREATED,
        EventType.AB_TEST_STARTED,
        EventType.AB_TEST_ANALYZED,
        EventType.AB_TEST_STOPPED,
    ]
    assert told[-1].details["conclusion"] == "enough"


def test_the_area_loads_no_heavy_package():
    import subprocess
    import sys

    code = "import sys, modelyard.ab_testing, modelyard.deployment; assert not {'numpy', 'scipy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_many_processes_record_and_analyse_at_once_and_every_result_counts_once(tmp_path):
    """Journals are retired, folded and removed by whoever comes first."""
    manager = ABTestManager(tmp_path / "yard")
    test = running(manager)

    def work():
        mine = ABTestManager(tmp_path / "yard")
        for part in range(6):
            mine.record_many(test.test_id, [{"variant": "control", "success": True}] * 4000)
            if part % 2:
                mine.analyze_test(test.test_id)

    children = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert manager.analyze_test(test.test_id)["control"]["requests"] == 3 * 6 * 4000
    assert list((tmp_path / "yard" / "ab_testing").iterdir()) == []
