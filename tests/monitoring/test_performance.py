"""Performance with labels against scikit-learn, without labels against the truth that was held back."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from modelyard.core import plugins
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.instants import EPOCH, FixedClock
from modelyard.core.work import Store
from modelyard.monitoring import LoggedPrediction, MLMonitor, tally


def logged(monitor, clock, truths, predictions, probabilities=None, **options):
    probabilities = [None] * len(predictions) if probabilities is None else probabilities
    monitor.log_predictions(
        LoggedPrediction(
            request_id=f"{clock.now()}-{i}", at=clock.now(), prediction=p, outcome=t, probability=c, **options
        )
        for i, (t, p, c) in enumerate(zip(truths, predictions, probabilities, strict=True))
    )


@pytest.fixture(params=["memory", "store"])
def watched(request, tmp_path):
    clock = FixedClock(EPOCH + timedelta(days=20_000))
    return MLMonitor("credit", "v1.0.0", tmp_path if request.param == "store" else None, clock=clock), clock


def test_metrics_agree_with_scikit_learn(watched):
    monitor, clock = watched
    rng = np.random.default_rng(0)
    chance = np.round(rng.random(600), 3) + 0.0005
    truth = (rng.random(600) < chance).astype(int)
    said = (chance > 0.4).astype(int)
    logged(monitor, clock, truth.tolist(), said.tolist(), np.minimum(chance, 1).tolist())
    found = monitor.get_performance_metrics(5)
    assert found.prediction_count == found.labelled_count == 600
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, said))
    assert found.precision == pytest.approx(metrics.precision_score(truth, said))
    assert found.recall == pytest.approx(metrics.recall_score(truth, said))
    assert found.f1 == pytest.approx(metrics.f1_score(truth, said))
    assert found.auc == pytest.approx(metrics.roc_auc_score(truth, chance), abs=1e-3)
    interval = found.measurements["accuracy"]
    assert interval.low < found.accuracy < interval.high


def test_classes_in_words_are_averaged_and_numbers_have_an_error(watched):
    monitor, clock = watched
    truth, said = ["a", "b", "c", "a", "b"], ["a", "b", "a", "a", "c"]
    logged(monitor, clock, truth, said)
    found = monitor.get_performance_metrics(5)
    assert found.recall == pytest.approx(metrics.recall_score(truth, said, average="macro"))
    assert found.rmse is None
    clock.advance(3600)
    logged(monitor, clock, [1.5, 2.5, 9.0], [1.0, 3.25, 7.5])
    found = monitor.get_performance_metrics(5)
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error([1.5, 2.5, 9.0], [1.0, 3.25, 7.5]))
    assert found.accuracy is None


def test_only_the_window_counts_and_failures_are_told_apart(watched):
    monitor, clock = watched
    logged(monitor, clock, [1, 1], [1, 0], latency_ms=5.0)
    clock.advance(3600)
    logged(monitor, clock, [None] * 4, [None] * 4, failed=True)
    logged(monitor, clock, [0], [0], latency_ms=100.0)
    recent, all_of_it = monitor.get_performance_metrics(10), monitor.get_performance_metrics(120)
    assert (recent.prediction_count, all_of_it.prediction_count) == (4, 6)  # the same id is not counted twice
    assert recent.error_rate == 1.0
    assert all_of_it.accuracy == 0.5


def test_an_outcome_joins_its_prediction_once(watched):
    monitor, clock = watched
    request = asyncio.run(monitor.log_prediction({"a": 1.0}, np.int64(1), latency_ms=3, probability=0.8))
    assert monitor.get_performance_metrics().accuracy is None
    clock.advance(1800)
    monitor.record_outcome(request, 1)
    monitor.record_outcome(request, np.int64(1))
    found = monitor.get_performance_metrics(60)
    assert (found.labelled_count, found.accuracy) == (1, 1.0)
    with pytest.raises(Conflict, match="already"):
        monitor.record_outcome(request, 0)
    with pytest.raises(NotFound, match="Log the prediction first"):
        monitor.record_outcome("req_nobody", 0)


def test_predictions_logged_at_the_same_time_are_all_counted(watched):
    monitor, _ = watched

    async def many():
        return await asyncio.gather(*(monitor.log_prediction({"a": i}, i % 2, i % 2, 5.0) for i in range(60)))

    assert len(set(asyncio.run(many()))) == 60
    found = monitor.get_performance_metrics()
    assert (found.prediction_count, found.accuracy) == (60, 1.0)
    assert found.latency_p95 == pytest.approx(5.0, rel=0.01)


def test_the_logged_rows_can_be_checked_without_a_table(watched):
    monitor, _ = watched
    rng = np.random.default_rng(0)
    monitor.set_reference_data({"a": rng.normal(size=500)})
    with pytest.raises(Invalid, match="logged no predictions"):
        asyncio.run(monitor.check_drift())
    for value in rng.normal(3, 1, 60):
        asyncio.run(monitor.log_prediction({"a": value}, 1))
    assert [alert.feature_name for alert in asyncio.run(monitor.check_drift())] == ["a"]


entries = st.builds(
    LoggedPrediction,
    request_id=st.text(max_size=3),
    at=st.just(EPOCH),
    prediction=st.sampled_from([0, 1, "yes", 2.5, None]),
    outcome=st.sampled_from([0, 1, "yes", 2.5, None]),
    probability=st.none() | st.floats(0, 1),
    latency_ms=st.none() | st.floats(0, 1e6),
    failed=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(entries, max_size=5), max_size=4))
def test_tallies_add_up_and_survive_storage_and_every_metric_answers(parts):
    total, whole = tally.Tally(), tally.Tally()
    for part in parts:
        one = tally.Tally()
        for entry in part:
            one.add(entry)
            whole.add(entry)
        total += tally.read(tally.written(one))
    assert total == whole
    for name in plugins.names("performance"):
        assert plugins.load("performance", name)(whole).name == name


def truth_and_chance(rng, rows, centre):
    x = rng.normal(centre, 1, rows)
    chance = 1 / (1 + np.exp(-1.5 * x))
    return x, chance, (rng.random(rows) < chance).astype(int)


def test_performance_is_estimated_without_labels_and_says_what_it_cannot_see():
    clock = FixedClock(EPOCH)
    monitor = MLMonitor("credit", "v1.0.0", clock=clock)
    rng = np.random.default_rng(1)
    x, chance, truth = truth_and_chance(rng, 20_000, 0.0)
    crooked = chance**2  # a model that is not calibrated
    said = (crooked > 0.3).astype(int)
    monitor.set_reference_data({"x": x}, predictions=said, ground_truth=truth, probabilities=crooked)
    _, chance, truth = truth_and_chance(rng, 20_000, 1.0)
    said = (chance**2 > 0.3).astype(int)
    logged(monitor, clock, [None] * 20_000, said.tolist(), (chance**2).tolist())
    found = monitor.estimated_performance()
    assert found["accuracy"].value == pytest.approx(metrics.accuracy_score(truth, said), abs=0.01)
    assert found["f1"].value == pytest.approx(metrics.f1_score(truth, said), abs=0.01)
    assert found["recall"].value == pytest.approx(metrics.recall_score(truth, said), abs=0.01)
    assert found["auc"].value == pytest.approx(metrics.roc_auc_score(truth, chance), abs=0.015)
    assert "cannot see concept drift" in found["accuracy"].note


def test_a_drop_in_performance_is_measured_against_the_labelled_reference(watched):
    monitor, clock = watched
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 2000)
    right = np.where(rng.random(2000) < 0.9, truth, 1 - truth)
    monitor.set_reference_data({"x": rng.normal(size=2000)}, predictions=right, ground_truth=truth)
    worse = np.where(rng.random(500) < 0.8, truth[:500], 1 - truth[:500])
    logged(monitor, clock, truth[:500].tolist(), worse.tolist())
    change = {m.name: m for m in monitor.check_performance()}["accuracy_change"]
    assert change.low < -0.1 < change.high < 0
    assert change.p_value < 1e-6
    board = monitor.get_monitoring_dashboard()
    assert board["components"]["quality"] == pytest.approx(0.89, abs=0.04)
    assert 0 <= board["health_score"] <= 100


def test_residuals_that_moved_are_seen():
    clock = FixedClock(EPOCH)
    monitor = MLMonitor("price", "v1.0.0", clock=clock)
    rng = np.random.default_rng(3)
    truth = rng.normal(size=1000)
    monitor.set_reference_data({"x": truth}, predictions=truth + 0.1 * rng.normal(size=1000), ground_truth=truth)
    logged(monitor, clock, truth[:300].tolist(), (truth[:300] + 0.05).tolist())
    changes = {m.name: m for m in monitor.check_performance()}
    assert changes["residual_change"].low < 0.05 < changes["residual_change"].high
    assert changes["residual_change"].p_value < 1e-9


def test_a_dashboard_of_nothing_says_so_and_bad_arguments_are_refused(watched):
    monitor, _ = watched
    board = monitor.get_monitoring_dashboard()
    assert board["health_score"] is None
    assert board["components"] == {}
    with pytest.raises(Invalid, match="window"):
        monitor.get_performance_metrics(0)
    with pytest.raises(Invalid, match="no probability"):
        asyncio.run(monitor.log_prediction({}, 1, probability=1.2))
    with pytest.raises(Invalid, match="predictions has 2 values for 3 rows"):
        monitor.set_reference_data({"x": [1.0, 2.0, 3.0]}, predictions=[1, 0])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(entries, st.sampled_from([0, 1, "yes", 0.1, 1e300, -1e300])), max_size=6))
def test_an_outcome_taken_out_leaves_the_tally_that_never_had_it(pairs):
    corrected, straight = tally.Tally(), tally.Tally()
    for entry, outcome in pairs:
        corrected.add(entry)
        straight.add(replace(entry, outcome=outcome))
    for entry, outcome in reversed(pairs):
        if entry.outcome is not None:
            corrected.settle(entry, entry.outcome, -1)
        corrected.settle(entry, outcome)
    assert corrected == straight
    assert tally.read(tally.written(corrected)) == straight


def test_a_corrected_outcome_is_counted_as_if_it_had_been_told_so_at_once(watched, tmp_path):
    monitor, _ = watched
    for number in range(4):
        asyncio.run(monitor.log_prediction({"x": 1.0}, 1, request_id=f"r{number}", ground_truth=1 if number else None))
    monitor.correct_outcome("r1", 0, reason="charged back", user="ana")
    monitor.correct_outcome("r1", 0, reason="told again")
    assert monitor.get_performance_metrics(5).accuracy == pytest.approx(2 / 3)
    with pytest.raises(NotFound, match="has logged no request 'r9'"):
        monitor.correct_outcome("r9", 0, reason="?")
    with pytest.raises(Conflict, match="no outcome that could be corrected"):
        monitor.correct_outcome("r0", 0, reason="?")
    with pytest.raises(Invalid, match="needs a reason"):
        monitor.correct_outcome("r1", 0, reason=" ")
    if (tmp_path / "modelyard.db").exists():
        with Store.at(tmp_path).reading() as rows:
            (told,) = rows.all("SELECT actor, details FROM events WHERE event_type = 'outcome_corrected'")
        said = json.loads(told["details"])
        assert (told["actor"], said["before"], said["after"], said["reason"]) == ("ana", 1, 0, "charged back")
