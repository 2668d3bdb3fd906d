"""Runs: create, nest, update, end, delete, restore."""

from __future__ import annotations

import re

import mlflow


def create_and_read(scene):
    client = scene.client
    number = scene.experiment()
    run = client.create_run(
        number, start_time=1_700_000_000_001, tags={"a": "1", "mlflow.source.name": "job.py"}, run_name="first"
    )
    scene.tell("created", run.to_dictionary())
    scene.tell("read", client.get_run(run.info.run_id).to_dictionary())
    scene.tell("start", run.info.start_time == 1_700_000_000_001)


def chosen_name(scene):
    run = scene.client.create_run(scene.experiment())
    scene.tell("words and a number", bool(re.fullmatch(r"[a-z]+-[a-z]+-\d+", run.info.run_name)))
    scene.tell("tag", run.data.tags["mlflow.runName"] == run.info.run_name)


def name_by_tag(scene):
    number = scene.experiment()
    run = scene.client.create_run(number, tags={"mlflow.runName": "tagged"})
    scene.tell("name", run.info.run_name)
    scene.fails("two names", scene.client.create_run, number, tags={"mlflow.runName": "a"}, run_name="b")


def update(scene):
    client = scene.client
    run = client.create_run(scene.experiment(), run_name="before").info.run_id
    client.update_run(run, status="FAILED", name="after")
    scene.tell("updated", client.get_run(run).to_dictionary())
    client.set_tag(run, "mlflow.runName", "by tag")
    scene.tell("renamed by tag", client.get_run(run).info.run_name)
    client.set_terminated(run, "KILLED", end_time=1_700_000_000_999)
    ended = client.get_run(run).info
    scene.tell("ended", [ended.status, ended.end_time == 1_700_000_000_999])
    client.set_terminated(run)
    scene.tell("finished", client.get_run(run).info.status)


def delete_and_restore(scene):
    client = scene.client
    run = client.create_run(scene.experiment(), run_name="r").info.run_id
    client.delete_run(run)
    scene.tell("deleted", client.get_run(run).info.lifecycle_stage)
    scene.fails("metric", client.log_metric, run, "a", 1.0)
    scene.fails("param", client.log_param, run, "a", 1)
    scene.fails("tag", client.set_tag, run, "a", "1")
    scene.fails("delete tag", client.delete_tag, run, "mlflow.runName")
    scene.fails("update", client.update_run, run, status="FINISHED")
    scene.fails("batch", client.log_batch, run, params=[mlflow.entities.Param("a", "1")])
    client.delete_run(run)
    client.restore_run(run)
    scene.tell("restored", client.get_run(run).info.lifecycle_stage)
    client.restore_run(run)


def unknown(scene):
    client, none = scene.client, "0" * 32
    for label, call in {
        "get": lambda: client.get_run(none),
        "delete": lambda: client.delete_run(none),
        "restore": lambda: client.restore_run(none),
        "update": lambda: client.update_run(none, "FINISHED"),
        "metric": lambda: client.log_metric(none, "a", 1),
        "param": lambda: client.log_param(none, "a", 1),
        "tag": lambda: client.set_tag(none, "a", 1),
        "delete tag": lambda: client.delete_tag(none, "a"),
        "history": lambda: client.get_metric_history(none, "a"),
        "files": lambda: client.list_artifacts(none),
        "batch": lambda: client.log_batch(none, tags=[mlflow.entities.RunTag("a", "1")]),
        "odd id": lambda: client.get_run("no such run"),
        "experiment": lambda: client.create_run("424242"),
    }.items():
        scene.fails(label, call)


def nested(scene):
    mlflow.set_experiment(scene.unique("nested"))
    with mlflow.start_run(run_name="parent") as parent:
        mlflow.log_param("depth", 1)
        with mlflow.start_run(run_name="child", nested=True) as child:
            mlflow.log_param("depth", 2)
            mlflow.log_metric("loss", 0.5)
    scene.known("experiment", parent.info.experiment_id)
    read = scene.client.get_run(child.info.run_id)
    scene.tell("parent's tag", read.data.tags["mlflow.parentRunId"] == parent.info.run_id)
    scene.tell("parent", scene.client.get_parent_run(child.info.run_id).info.run_name)
    scene.tell("no parent", scene.client.get_parent_run(parent.info.run_id))
    found = mlflow.search_runs(
        [parent.info.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'", output_format="list"
    )
    scene.tell("children", [one.info.run_name for one in found])
    scene.tell("ended", [scene.client.get_run(one.info.run_id).info.status for one in (parent, child)])


def fluent_failure(scene):
    mlflow.set_experiment(scene.unique("failing"))
    try:
        with mlflow.start_run(run_name="fails", description="what it is", tags={"x": "y"}) as run:
            raise ValueError("on purpose")
    except ValueError:
        pass
    read = scene.client.get_run(run.info.run_id)
    scene.tell("status", read.info.status)
    scene.tell("description", read.data.tags["mlflow.note.content"])
    with mlflow.start_run(run_id=run.info.run_id):
        mlflow.log_metric("again", 1)
    scene.tell("resumed", scene.client.get_run(run.info.run_id).info.status)
    mlflow.delete_run(run.info.run_id)
    scene.fails("resume deleted", mlflow.start_run, run_id=run.info.run_id)
    scene.tell("no active run", mlflow.active_run())


def last_active(scene):
    mlflow.set_experiment(scene.unique("last"))
    with mlflow.start_run(run_name="one") as run:
        mlflow.log_params({"a": 1, "b": "two", "c": None, "d": 1.5, "e": [1, 2]})
        mlflow.log_metrics({"m": 1, "n": 2.5}, step=3)
        mlflow.set_tags({"t": 1})
        mlflow.log_param("single", True)
    scene.tell("last", mlflow.last_active_run().info.run_id == run.info.run_id)
    data = mlflow.get_run(run.info.run_id).data
    scene.tell("params", data.params)
    scene.tell("metrics", data.metrics)
