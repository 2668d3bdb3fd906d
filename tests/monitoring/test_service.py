"""Stored monitors: what is written is found again by another process, and every change is an event."""

from __future__ import annotations

import asyncio
import gc
import threading

import numpy as np
import pandas as pd
import pytest

from modelyard.core import plugins
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.work import Store, event_from_row
from modelyard.monitoring import MLMonitor, Monitors

MODEL = "credit:v1.0.0"


def files(folder, rows=400):
    rng = np.random.default_rng(2)
    for name, scale in (("train", 1.0), ("today", 1.0), ("broken", 12.0)):
        frame = pd.DataFrame({"age": rng.gamma(9, 4, rows) * scale, "city": rng.choice(["Bern", "Rome"], rows)})
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


def events(store):
    with store.reading() as rows:
        return [event_from_row(row) for row in rows.all("SELECT * FROM events ORDER BY position")]


def test_a_check_finds_keeps_and_tells_of_drift(tmp_path):
    files(tmp_path)
    Monitors(tmp_path / "yard").set_reference(MODEL, tmp_path / "train.csv")
    monitors = Monitors(tmp_path / "yard")
    assert monitors.check(MODEL, tmp_path / "today.csv").alerts == ()
    report = monitors.check(MODEL, str(tmp_path / "broken.csv"))
    again = Monitors(tmp_path / "yard")
    assert again.alerts(MODEL) == list(report.alerts)
    assert again.dashboard(MODEL)["drifted"] == ["age"]
    assert again.dashboard(MODEL)["health_score"] < 60
    assert again.list_monitors() == [MODEL]
    told = [event for event in events(monitors.store) if event.event_type is not EventType.CONFIGURATION_CHANGED]
    assert [event.event_type.value for event in told] == ["drift_checked", "drift_checked", "drift_detected"]
    assert {(event.resource_type, event.resource_id) for event in told} == {("model", MODEL)}
    assert told[-1].details["alerts"][0]["feature"] == "age"
    assert "unit error" in told[-1].details["alerts"][0]["message"]


def test_a_monitor_on_a_folder_and_the_service_share_one_store(tmp_path):
    monitor = MLMonitor("credit", "v1.0.0", tmp_path)
    monitor.set_reference_data({"age": np.arange(100.0)}, predictions=[1] * 100, ground_truth=[1] * 100)
    asyncio.run(monitor.log_prediction({"age": 3.0}, 1, 1, 4.0, request_id="r1"))
    monitors = Monitors(Store.at(tmp_path))
    assert monitors.performance(MODEL).accuracy == 1.0
    assert monitors.check_performance(MODEL)[0]["name"] == "accuracy_change"
    assert monitors.dashboard(MODEL)["components"]["quality"] == 1.0
    del monitor
    gc.collect()
    assert monitors.performance(MODEL).prediction_count == 1


def test_explaining_is_told_without_the_row(tmp_path, small_model):
    monitors = Monitors(tmp_path)
    found = monitors.explain("demo:v1.0.0", small_model, {"a": 123.456, "b": 0.0, "c": 0.0})
    assert set(found["feature_importance"]) == {"a", "b", "c"}
    (event,) = events(monitors.store)
    assert event.event_type is EventType.PREDICTION_EXPLAINED
    assert "123.456" not in str(event.details)


def test_predictions_logged_from_many_threads_are_each_counted_once(tmp_path):
    def work():
        monitor = MLMonitor("credit", "v1.0.0", tmp_path)
        for i in range(10):
            asyncio.run(monitor.log_prediction({"age": 1.0}, 1, 1, request_id=f"r{i}"))

    MLMonitor("credit", "v1.0.0", tmp_path)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Monitors(tmp_path).performance(MODEL).prediction_count == 10


def test_versions_do_not_mix(tmp_path):
    files(tmp_path)
    monitors = Monitors(tmp_path / "yard")
    monitors.set_reference(MODEL, tmp_path / "train.csv")
    with pytest.raises(Conflict, match=r"credit:v2.0.0 has no reference"):
        monitors.check("credit:v2.0.0", tmp_path / "today.csv")


def test_wrong_names_and_files_say_what_to_do(tmp_path):
    monitors = Monitors(tmp_path)
    with pytest.raises(Invalid, match="name:version"):
        monitors.check("credit", tmp_path / "today.csv")
    with pytest.raises(NotFound, match="Check the path"):
        monitors.set_reference(MODEL, tmp_path / "nothing.csv")
    with pytest.raises(NotFound, match="Did you mean wasserstein"):
        plugins.load("drift", "wassertein")
    with pytest.raises(NotFound, match="logged no request"):
        monitors.record_outcome(MODEL, "r9", 1)


def test_old_predictions_are_forgotten_and_their_counts_stay(tmp_path):
    from datetime import timedelta

    from modelyard.core.instants import EPOCH, FixedClock

    clock = FixedClock(EPOCH + timedelta(days=20_000))
    monitor = MLMonitor("credit", "v1.0.0", tmp_path, clock=clock)
    asyncio.run(monitor.log_prediction({"age": 1.0}, 1, 1, request_id="old"))
    clock.advance(40 * 86_400)
    asyncio.run(monitor.log_prediction({"age": 1.0}, 1, 1, request_id="new"))
    with pytest.raises(NotFound):
        monitor.record_outcome("old", 1)
    assert monitor.get_performance_metrics(60 * 24 * 50).prediction_count == 2


def test_logging_a_file_refuses_what_it_cannot_read_and_writes_nothing(tmp_path):
    monitors = Monitors(tmp_path / "yard")
    for text, told in (
        ("age,predicton\n1,1\n", "Did you mean predicton"),
        ("age,prediction,probability\n1,1,0.5\n1,1,7\n", "no probability"),
        ("age,prediction,at\n1,1,yesterday\n", "no time"),
    ):
        (tmp_path / "answers.csv").write_text(text)
        with pytest.raises(Invalid, match=told):
            monitors.log(MODEL, tmp_path / "answers.csv")
    assert monitors.performance(MODEL).prediction_count == 0


def test_a_labelled_reference_file_calibrates_and_compares(tmp_path):
    rng = np.random.default_rng(0)
    chance = rng.random(3000)
    truth = (rng.random(3000) < chance).astype(int)
    frame = pd.DataFrame({"x": rng.normal(size=3000), "prediction": chance > 0.5, "probability": chance})
    frame.assign(prediction=frame.prediction.astype(int), outcome=truth).to_csv(tmp_path / "train.csv", index=False)
    frame.assign(prediction=frame.prediction.astype(int)).to_csv(tmp_path / "live.csv", index=False)
    monitors = Monitors(tmp_path / "yard")
    columns = {"prediction_column": "prediction", "outcome_column": "outcome", "probability_column": "probability"}
    assert monitors.set_reference(MODEL, tmp_path / "train.csv", **columns).columns == ("x",)
    assert monitors.log(MODEL, tmp_path / "live.csv") == 3000
    right = ((chance > 0.5) == truth).mean()
    assert monitors.estimate(MODEL)["accuracy"].value == pytest.approx(right, abs=0.01)
