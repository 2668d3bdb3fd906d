"""Experiments, runs and what they log."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.instants import EPOCH, FixedClock
from modelyard.tracking import (
    Dataset,
    DatasetInput,
    ExperimentTracker,
    ModelMetric,
    ModelOutput,
    ParameterChanged,
    RunStatus,
)


def events(tracker, run_id=None):
    with tracker.store.reading() as rows:
        found = rows.all("SELECT event_type, resource_id, actor, details FROM events ORDER BY position")
    return [
        (row["event_type"], json.loads(row["details"]), row["actor"])
        for row in found
        if run_id in (None, row["resource_id"])
    ]


def test_the_default_experiment_is_there_from_the_beginning(tracker):
    found = tracker.get_experiment("0")
    assert (found.name, found.lifecycle_stage.value, found.artifact_location) == (
        "Default",
        "active",
        "mlflow-artifacts:/0",
    )
    assert found.creation_time > 1_600_000_000_000
    assert events(tracker) == []


def test_experiments_get_increasing_numbers_and_unique_names(tracker):
    first, second = tracker.create_experiment("a"), tracker.create_experiment("b", artifact_location="s3://bucket/b")
    assert (first.experiment_id, second.experiment_id) == ("1", "2")
    assert tracker.create_run("2").artifact_uri.startswith("s3://bucket/b/")
    with pytest.raises(Conflict, match="already"):
        tracker.create_experiment("a")
    tracker.delete_experiment("1")
    with pytest.raises(Conflict, match="restore-experiment 1"):
        tracker.create_experiment("a")
    with pytest.raises(Conflict, match="'a'"):
        tracker.rename_experiment("2", "a")
    assert tracker.rename_experiment("2", "b").name == "b"
    assert tracker.create_experiment("c").experiment_id == "3"


def test_a_deleted_experiment_takes_its_runs_with_it_and_brings_them_back(tracker):
    experiment = tracker.create_experiment("a")
    run = tracker.create_run(experiment.experiment_id)
    tracker.delete_experiment("1")
    assert tracker.get_run(run.run_id).lifecycle_stage.value == "deleted"
    for refused in (
        lambda: tracker.create_run("1"),
        lambda: tracker.rename_experiment("1", "x"),
        lambda: tracker.set_experiment_tag("1", "k", "v"),
        lambda: tracker.delete_experiment("1"),
        lambda: tracker.log_metric(run.run_id, "auc", 1.0),
        lambda: tracker.update_run(run.run_id, status="FINISHED"),
        lambda: tracker.create_logged_model("1"),
    ):
        with pytest.raises(Conflict, match="restore"):
            refused()
    tracker.restore_experiment("1")
    assert tracker.get_run(run.run_id).lifecycle_stage.value == "active"
    with pytest.raises(Conflict, match="not deleted"):
        tracker.restore_experiment("1")


@pytest.mark.parametrize("name", ["", " ", "x" * 501, 7, None, "a\0b"])
def test_a_bad_name_of_an_experiment_is_refused(tracker, name):
    with pytest.raises(Invalid):
        tracker.create_experiment(name)


@pytest.mark.parametrize("experiment_id", ["-1", "1.5", "abc", "", "9" * 30, "٣", "1 OR 1=1"])
def test_a_bad_experiment_id_is_refused(tracker, experiment_id):
    with pytest.raises(Invalid, match="no experiment id"):
        tracker.get_experiment(experiment_id)
    with pytest.raises(NotFound):
        tracker.get_experiment("12345")
    with pytest.raises(NotFound, match="Did you mean Default"):
        tracker.get_experiment_by_name("Defalt")


def test_a_run_has_a_name_from_the_caller_the_tag_or_itself(tracker):
    assert tracker.create_run("0", name="one").tags["mlflow.runName"] == "one"
    assert tracker.create_run("0", tags={"mlflow.runName": "two"}).name == "two"
    made_up = tracker.create_run("0")
    assert made_up.name
    assert made_up.tags["mlflow.runName"] == made_up.name
    with pytest.raises(Invalid, match="Give one"):
        tracker.create_run("0", name="one", tags={"mlflow.runName": "two"})
    tracker.set_tag(made_up.run_id, "mlflow.runName", "renamed")
    assert tracker.get_run(made_up.run_id).name == "renamed"
    assert tracker.update_run(made_up.run_id, name="again").tags["mlflow.runName"] == "again"


def test_a_parameter_stays_as_it_was_first_logged(tracker):
    run = tracker.create_run("0")
    tracker.log_parameter(run.run_id, "depth", "6")
    tracker.log_parameter(run.run_id, "depth", "6")
    with pytest.raises(ParameterChanged, match="'6' and cannot become '7'") as told:
        tracker.log_batch(run.run_id, params={"lr": "0.1", "depth": "7"}, metrics=[("auc", 1.0, 0, 0)], tags={"t": "v"})
    assert (told.value.key, told.value.old, told.value.new) == ("depth", "6", "7")
    found = tracker.get_run(run.run_id)
    assert (found.params, found.metrics, "t" in found.tags) == ({"depth": "6"}, {}, False)


BAD_POINTS = [
    ("", 1.0, 0, 0),
    ("a//b", 1.0, 0, 0),
    ("../a", 1.0, 0, 0),
    ("/a", 1.0, 0, 0),
    ("a<b>", 1.0, 0, 0),
    ("a\ud800", 1.0, 0, 0),
    ("a\n", 1.0, 0, 0),
    ("x" * 251, 1.0, 0, 0),
    (None, 1.0, 0, 0),
    ("a", "1.0", 0, 0),
    ("a", None, 0, 0),
    ("a", True, 0, 0),
    ("a", 10**400, 0, 0),
    ("a", 1.0, -1, 0),
    ("a", 1.0, 0.5, 0),
    ("a", 1.0, 2**63, 0),
    ("a", 1.0, 0, 2**63),
    ("a", 1.0, 0, -(2**63) - 1),
    ("a", 1.0, 0, None),
    ("a", 1.0, 0),
    ([], 1.0, 0, 0),
    7,
]


@pytest.mark.parametrize("point", BAD_POINTS, ids=repr)
def test_one_bad_metric_refuses_the_whole_batch(shared, point):
    run = shared.create_run("0")
    with pytest.raises(Invalid):
        shared.log_batch(run.run_id, metrics=[("good", 1.0, 0, 0), point], params={"p": "1"})
    found = shared.get_run(run.run_id)
    assert (found.metrics, found.params) == ({}, {})


@pytest.mark.parametrize(
    ("params", "tags"),
    [
        ({"a": "x" * 6001}, {}),
        ({"a": 1}, {}),
        ({"": "x"}, {}),
        ({}, {"t": "x" * 8001}),
        ({}, {"../t": "x"}),
        ({}, {"t": "\0"}),
    ],
)
def test_bad_parameters_and_tags_are_refused(shared, params, tags):
    run = shared.create_run("0")
    with pytest.raises(Invalid):
        shared.log_batch(run.run_id, params=params, tags=tags)


NUMBERS = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.25, 3.0, math.inf, math.nan]) | st.floats(width=32)
POINTS = st.lists(st.tuples(st.sampled_from(["a", "b"]), NUMBERS, st.integers(0, 3), st.integers(-2, 2)), max_size=20)


def counted(value):
    return 0.0 if math.isnan(value) else value


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(POINTS, max_size=4), limit=st.integers(1, 5), most=st.integers(1, 6))
def test_histories_and_latest_values_are_those_of_a_plain_reading(shared, batches, limit, most):
    run = shared.create_run("0")
    for batch in batches:
        shared.log_batch(run.run_id, metrics=batch)
    logged = [point for batch in batches for point in batch]
    found = shared.get_run(run.run_id)
    for key in ("a", "b"):
        mine = [(t, s, counted(v), math.isnan(v)) for k, v, t, s in logged if k == key]
        distinct = sorted(set(mine))
        history, token = [], ""
        while True:
            page = shared.metric_history(run.run_id, key, limit=limit, page_token=token)
            history += page.items
            token = page.next_page_token
            if not token:
                break
        assert [(m.timestamp, m.step, counted(m.value), math.isnan(m.value)) for m in history] == distinct
        latest = [m for m in found.latest_metrics if m.key == key]
        if not mine:
            assert latest == []
            continue
        top = max((s, t, v) for t, s, v, _ in mine)
        assert [(m.step, m.timestamp, counted(m.value)) for m in latest] == [top]
        by_step = sorted((s, t, v, n) for t, s, v, n in distinct)
        sample = shared.sample_history([run.run_id], key, most=most)[run.run_id]
        got = [(m.step, m.timestamp, counted(m.value), math.isnan(m.value)) for m in sample]
        assert len(got) == min(most, len(by_step))
        assert got == sorted(set(got))
        assert set(got) <= set(by_step)
        assert got[-1] == by_step[-1]
        assert most == 1 or got[0] == by_step[0]


def test_a_sample_keeps_to_its_steps_and_spreads_evenly(tracker):
    run = tracker.create_run("0")
    tracker.log_batch(run.run_id, metrics=[("loss", float(step), step, step) for step in range(100)])
    steps = [
        m.step for m in tracker.sample_history([run.run_id], "loss", most=5, first_step=10, last_step=59)[run.run_id]
    ]
    assert steps == [10, 20, 30, 40, 59]
    assert tracker.sample_history([run.run_id], "none")[run.run_id] == []
    with pytest.raises(NotFound):
        tracker.sample_history([run.run_id, "nobody"], "loss")


def test_equal_values_are_kept_once(tracker):
    run = tracker.create_run("0")
    for _ in range(2):
        tracker.log_batch(run.run_id, metrics=[("a", math.nan, 1, 1), ("a", math.nan, 1, 1), ("a", 0.0, 1, 1)])
    assert len(tracker.metric_history(run.run_id, "a").items) == 2


def test_the_log_tells_of_runs_and_binds_the_record_of_an_ended_one(tracker):
    run = tracker.create_run("0", name="one", user="ana", tags={"mlflow.parentRunId": "f" * 32})
    tracker.log_metric(run.run_id, "auc", math.inf, user="ana")
    tracker.log_parameter(run.run_id, "depth", "6", user="ana")
    tracker.set_tag(run.run_id, "team", "risk", user="ana")
    tracker.update_run(run.run_id, name="two", user="ana")
    assert [kind for kind, *_ in events(tracker)] == ["run_started"]
    assert events(tracker)[0][1]["parent_run_id"] == "f" * 32
    tracker.end_run(run.run_id, user="ana")
    kind, details, actor = events(tracker)[-1]
    assert (kind, actor, details["status"]) == ("run_ended", "ana", "FINISHED")
    assert details["digest"] == tracker.digest_run(run.run_id)
    for change in (
        lambda: tracker.log_metric(run.run_id, "auc", 1.0, step=1),
        lambda: tracker.set_tag(run.run_id, "team", "core"),
        lambda: tracker.set_tag(run.run_id, "mlflow.runName", "three"),
        lambda: tracker.delete_tag(run.run_id, "team"),
        lambda: tracker.log_parameter(run.run_id, "lr", "1"),
        lambda: tracker.update_run(run.run_id, status=RunStatus.FAILED),
        lambda: tracker.log_outputs(run.run_id, [ModelOutput(model_id="m-1")]),
        lambda: tracker.log_inputs(run.run_id, models=["m-2"]),
    ):
        before = len(events(tracker))
        change()
        told = events(tracker)[before:]
        assert [kind for kind, *_ in told] == ["run_amended"]
        assert told[0][1]["digest"] == tracker.digest_run(run.run_id) != details["digest"]
        details = told[0][1]
    tracker.update_run(run.run_id, status="RUNNING")
    assert events(tracker)[-1][0] == "run_started"
    assert events(tracker)[-1][1]["resumed"]


def test_a_record_that_was_changed_behind_the_logs_back_has_another_digest(tracker):
    run = tracker.create_run("0")
    tracker.log_batch(run.run_id, metrics=[("auc", 0.7, 1, 1)], params={"depth": "6"}, tags={"team": "risk"})
    tracker.end_run(run.run_id)
    bound = events(tracker)[-1][1]["digest"]
    for sql in (
        "UPDATE run_latest_metrics SET value = 0.9",
        "UPDATE run_params SET value = '7'",
        "UPDATE run_tags SET value = 'x' WHERE key = 'team'",
        "UPDATE runs SET status = 'FAILED'",
    ):
        with pytest.raises(ZeroDivisionError), tracker.store.work() as work:  # noqa: PT012
            work.rows.run(sql)
            assert tracker.digest_run(run.run_id) != bound
            raise ZeroDivisionError
    assert tracker.digest_run(run.run_id) == bound


def test_every_change_of_experiments_and_logged_models_is_told(tracker):
    tracker.create_experiment("a", user="ana")
    tracker.rename_experiment("1", "b")
    tracker.set_experiment_tag("1", "k", "v")
    tracker.delete_experiment_tag("1", "k")
    tracker.delete_experiment("1")
    tracker.restore_experiment("1")
    run = tracker.create_run("1")
    tracker.delete_run(run.run_id)
    tracker.delete_run(run.run_id)
    tracker.restore_run(run.run_id)
    model = tracker.create_logged_model("1", source_run_id=run.run_id)
    tracker.finalize_logged_model(model.model_id, "READY")
    tracker.delete_logged_model(model.model_id)
    assert [kind for kind, *_ in events(tracker)] == [
        "experiment_created",
        "experiment_updated",
        "experiment_updated",
        "experiment_updated",
        "experiment_deleted",
        "experiment_restored",
        "run_started",
        "run_deleted",
        "run_restored",
        "logged_model_created",
        "logged_model_finalized",
        "logged_model_deleted",
    ]


def test_tags_that_are_not_there_cannot_be_deleted(tracker):
    run = tracker.create_run("0", tags={"team": "risk"})
    model = tracker.create_logged_model("0", tags={"team": "risk"})
    for refused in (
        lambda: tracker.delete_tag(run.run_id, "tema"),
        lambda: tracker.delete_logged_model_tag(model.model_id, "tema"),
    ):
        with pytest.raises(NotFound, match="Did you mean team"):
            refused()
    with pytest.raises(NotFound):
        tracker.delete_experiment_tag("0", "none")


def test_times_may_be_any_whole_milliseconds(tmp_path):
    tracker = ExperimentTracker(tmp_path, clock=FixedClock(EPOCH))
    run = tracker.create_run("0", start_time=-(2**62))
    assert run.start_time == -(2**62)
    assert tracker.create_run("0").start_time == 0
    assert tracker.update_run(run.run_id, end_time=2**62).end_time == 2**62
    for wrong in (2**63, 1.5, "now", True):
        with pytest.raises(Invalid, match="milliseconds"):
            tracker.create_run("0", start_time=wrong)


def test_a_dataset_is_kept_once_and_its_first_words_stay(tracker):
    run = tracker.create_run("0")
    first = Dataset(name="census", digest="d", source_type="local", source="a", schema="{}", profile=None)
    again = Dataset(name="census", digest="d", source_type="local", source="b")
    tracker.log_inputs(run.run_id, datasets=[DatasetInput(dataset=first, tags={"b": "2", "a": "1"})])
    tracker.log_inputs(run.run_id, datasets=[DatasetInput(dataset=again, tags={"c": "3"})], models=["m-1", "m-1"])
    found = tracker.get_run(run.run_id)
    assert found.datasets == (DatasetInput(dataset=first, tags={"b": "2", "a": "1"}),)
    assert list(found.datasets[0].tags) == ["b", "a"]
    assert found.model_inputs == ("m-1",)
    for wrong in (
        Dataset(name="", digest="d", source_type="local", source="a"),
        Dataset(name="x", digest="d" * 37, source_type="local", source="a"),
        Dataset(name="x", digest="d", source_type="local", source="a" * 65_536),
    ):
        with pytest.raises(Invalid):
            tracker.log_inputs(run.run_id, datasets=[DatasetInput(dataset=wrong)])


def test_metrics_of_models_are_kept_with_the_model(tracker):
    run = tracker.create_run("0")
    model = tracker.create_logged_model("0", source_run_id=run.run_id)
    metric = ModelMetric(model_id=model.model_id, key="auc", value=math.inf, timestamp=1, step=2, dataset_name="census")
    tracker.log_batch(run.run_id, model_metrics=[metric, metric])
    (found,) = tracker.get_logged_model(model.model_id).metrics
    assert (found.key, found.value, found.run_id, found.dataset_name) == ("auc", math.inf, run.run_id, "census")
    assert tracker.get_run(run.run_id).metrics == {}
    with pytest.raises(NotFound, match="m-unknown"):
        tracker.log_batch(
            run.run_id, model_metrics=[ModelMetric(model_id="m-unknown", key="auc", value=1.0, timestamp=1, step=2)]
        )


def test_a_logged_model_that_is_gone_is_gone(tracker):
    model = tracker.create_logged_model("0", name="trees", params={"depth": "6"})
    with pytest.raises(Conflict, match="stays"):
        tracker.log_model_parameters(model.model_id, {"depth": "7"})
    for wrong in ("a/b", "a:b", 'a"b', "a.b", "a%b"):
        with pytest.raises(Invalid, match="logged model"):
            tracker.create_logged_model("0", name=wrong)
    tracker.delete_logged_model(model.model_id)
    for refused in (tracker.get_logged_model, tracker.delete_logged_model):
        with pytest.raises(NotFound):
            refused(model.model_id)
    with pytest.raises(Invalid, match="Did you mean READY"):
        tracker.finalize_logged_model(tracker.create_logged_model("0").model_id, "READ")
