"""Runs, logged and read through a server, are those of the yard behind it."""

import math

from modelyard.tracking import DatasetInput, Metric, ModelMetric, Run
from modelyard.tracking.values import Dataset


def test_a_run_that_is_logged_remotely_is_the_one_that_is_kept(connect, embedded, tmp_path):
    remote, local = connect("ana").tracking, embedded.tracking
    experiment = remote.create_experiment("remote", tags={"team": "risk"})
    assert experiment == local.get_experiment_by_name("remote")
    run = remote.create_run(experiment.experiment_id, name="first")
    assert isinstance(run, Run)
    assert run.user_id == "ana@example.com"
    model = remote.create_logged_model(experiment.experiment_id, name="trees", source_run_id=run.run_id)
    remote.log_batch(
        run.run_id,
        metrics=[("auc", 0.5, 1, 0), ("auc", 0.75, 2, 1)],
        params={"depth": "6"},
        model_metrics=[ModelMetric(model_id=model.model_id, key="auc", value=0.75, timestamp=2, step=1)],
    )
    remote.log_metric(run.run_id, "auc", 0.8, step=2, timestamp=3)
    census = Dataset(name="census", digest="d", source_type="local", source="x")
    remote.log_inputs(run.run_id, datasets=[DatasetInput(dataset=census)])
    (tmp_path / "notes.txt").write_text("good")
    remote.log_artifact(run.run_id, tmp_path / "notes.txt")
    assert local.files.open(f"{experiment.experiment_id}/{run.run_id}/artifacts/notes.txt").read() == b"good"
    remote.download_artifact(run.run_id, "notes.txt", tmp_path / "copy.txt")
    assert (tmp_path / "copy.txt").read_text() == "good"
    assert remote.end_run(run.run_id) == local.get_run(run.run_id)
    assert remote.metric_history(run.run_id, "auc").items[-1] == Metric("auc", 0.8, 3, 2)
    found = remote.search_runs([experiment.experiment_id], filter="metrics.auc > 0.7", order_by=["metrics.auc DESC"])
    assert found == local.search_runs(
        [experiment.experiment_id], filter="metrics.auc > 0.7", order_by=["metrics.auc DESC"]
    )
    assert remote.search_logged_models([experiment.experiment_id]).items[0].metrics[0].value == 0.75
    assert remote.digest_run(run.run_id) == local.digest_run(run.run_id)
    assert remote.sample_history([run.run_id], "auc", most=2)[run.run_id][-1].value == 0.8


def test_what_is_no_number_comes_back_as_such(connect, embedded):
    run = embedded.tracking.create_run("0")
    embedded.tracking.log_metric(run.run_id, "loss", math.nan)
    remote = connect("vic").tracking
    assert math.isnan(remote.get_run(run.run_id).metrics["loss"])
    assert math.isnan(remote.search_runs(["0"], filter="metrics.loss != 1").items[0].metrics["loss"])
