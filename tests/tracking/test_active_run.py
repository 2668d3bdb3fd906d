"""Runs as `with` blocks."""

import gc
import subprocess
import sys
import threading

import pytest

from modelyard import Yard
from modelyard.core.errors import Conflict, Invalid
from modelyard.tracking import ExperimentTracker


def status(tracker, run):
    return tracker.get_run(run.run_id).status.value


def test_a_block_that_ends_well_finishes_its_run_with_every_metric(tmp_path):
    with Yard(tmp_path) as yard:
        with yard.tracking.run("fraud", tags={"team": "risk"}) as run:
            run.log_params({"depth": 6, "lr": 0.1, "why": None})
            for step in range(2500):
                run.log_metric("loss", 1 / (step + 1), step=step)
        found = yard.tracking.get_run(run.run_id)
        assert found.status.value == "FINISHED"
        assert found.params == {"depth": "6", "lr": "0.1", "why": "None"}
        assert len(yard.tracking.metric_history(run.run_id, "loss", limit=5000).items) == 2500
        assert yard.tracking.get_experiment(found.experiment_id).name == "fraud"
        with yard.tracking.run("fraud") as again:
            assert again.experiment_id == run.experiment_id


def test_an_error_fails_the_run_and_an_interrupt_kills_it(tracker):
    with pytest.raises(ZeroDivisionError), tracker.run("a") as run:  # noqa: PT012
        run.log_metric("loss", 1.0)
        1 / 0
    assert status(tracker, run) == "FAILED"
    assert tracker.get_run(run.run_id).tags["error.type"] == "ZeroDivisionError"
    assert tracker.get_run(run.run_id).metrics == {"loss": 1.0}
    with pytest.raises(KeyboardInterrupt), tracker.run("a") as run:
        raise KeyboardInterrupt
    assert status(tracker, run) == "KILLED"
    for code, ended in ((0, "FINISHED"), (None, "FINISHED"), (3, "FAILED")):
        with pytest.raises(SystemExit), tracker.run("a") as run:
            sys.exit(code)
        assert status(tracker, run) == ended


def test_nested_runs_know_their_parent(tracker):
    with tracker.run("a") as outer, outer.nested("fold") as inner:
        inner.log_metric("auc", 1.0)
    assert tracker.get_run(inner.run_id).parent_run_id == outer.run_id
    found = tracker.search_runs([outer.experiment_id], filter=f"tags.mlflow.parentRunId = '{outer.run_id}'")
    assert [run.name for run in found.items] == ["fold"]


def test_a_wrong_metric_is_told_where_it_was_logged(tracker):
    with tracker.run("a") as run:
        with pytest.raises(Invalid, match="the value 'high'"):
            run.log_metric("auc", "high")
        with pytest.raises(Invalid, match="no name"):
            run.log_metric("../auc", 1.0)
        run.log_metric("auc", 1.0)
    assert tracker.get_run(run.run_id).metrics == {"auc": 1.0}


def test_a_dropped_run_loses_no_metric(tracker):
    run = tracker.run("a")
    run.log_metric("auc", 0.5)
    run_id = run.run_id
    del run
    gc.collect()
    assert tracker.get_run(run_id).metrics == {"auc": 0.5}
    assert tracker.get_run(run_id).status.value == "RUNNING"


def test_an_interpreter_that_ends_writes_what_waits(tmp_path):
    script = (
        "import sys; from modelyard.tracking import ExperimentTracker\n"
        "run = ExperimentTracker(sys.argv[1]).run('a')\n"
        "run.log_metrics({'a': 1.0, 'b': 2.0})\n"
        "print(run.run_id)"
    )
    run_id = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    assert run_id.stderr == ""
    assert ExperimentTracker(tmp_path).get_run(run_id.stdout.strip()).metrics == {"a": 1.0, "b": 2.0}


def test_metrics_are_stored_without_a_flush_soon(tracker):
    run = tracker.run("a")
    run.log_metric("auc", 0.5)
    timer = run._buffer._timer
    timer.join(120)
    assert tracker.get_run(run.run_id).metrics == {"auc": 0.5}


def test_many_threads_log_into_one_run(tracker):
    with tracker.run("a") as run:

        def log(thread):
            for step in range(700):
                run.log_metric(f"m{thread}", step * 1.0, step=step)

        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for number in range(4):
        assert len(tracker.metric_history(run.run_id, f"m{number}", limit=5000).items) == 700


def test_what_cannot_be_written_waits_and_is_told(tracker):
    run = tracker.run("a")
    run.log_metric("auc", 0.5)
    tracker.delete_run(run.run_id)
    with pytest.raises(Conflict, match="deleted"):
        run.flush()
    tracker.restore_run(run.run_id)
    run.end()
    assert tracker.get_run(run.run_id).metrics == {"auc": 0.5}


def test_an_ended_run_can_be_resumed(tracker):
    with tracker.run("a") as run:
        run.log_metric("auc", 0.5)
    with tracker.resume(run.run_id) as again:
        assert status(tracker, again) == "RUNNING"
        again.log_metric("auc", 0.6, step=1)
    assert tracker.get_run(run.run_id).metrics == {"auc": 0.6}


def test_files_texts_datasets_and_models_are_logged_with_the_run(tracker, tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    (tmp_path / "model.txt").write_text("tree")
    with tracker.run("a") as run:
        run.log_text("# notes", "about/notes.md")
        run.log_artifact(tmp_path / "data.csv")
        run.log_dataset("sales", tmp_path / "data.csv")
        model = run.log_model(tmp_path / "model.txt", name="trees", params={"depth": 6})
        with pytest.raises(Invalid):
            run.log_model(tmp_path / "nothing")
    assert [one.path for one in tracker.list_artifacts(run.run_id)] == ["about", "data.csv"]
    found = tracker.get_run(run.run_id)
    assert found.datasets[0].dataset.name == "sales"
    assert [made.model_id for made in found.model_outputs] == [model.model_id]
    assert (model.status.value, model.params) == ("READY", {"depth": "6"})
    assert tracker.files.open(f"{found.experiment_id}/models/{model.model_id}/artifacts/model.txt").read() == b"tree"
    statuses = [one.status.value for one in tracker.search_logged_models([found.experiment_id]).items]
    assert sorted(statuses) == ["FAILED", "READY"]
