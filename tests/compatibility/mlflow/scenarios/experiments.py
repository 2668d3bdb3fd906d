"""Experiments: create, find, rename, tag, delete, restore, search."""

from __future__ import annotations

import mlflow
from mlflow.entities import ViewType


def create_and_read(scene):
    client = scene.client
    number = scene.experiment("one", tags={"team": "fraud", "mlflow.note.content": "a note"})
    scene.tell("by id", client.get_experiment(number))
    scene.tell("by name", client.get_experiment_by_name(scene.unique("one")))
    scene.tell("unknown name", client.get_experiment_by_name(scene.unique("none")))


def default_experiment(scene):
    scene.tell("default", scene.client.get_experiment("0"))


def own_artifact_location(scene):
    number = scene.experiment("placed", artifact_location="mlflow-artifacts:/elsewhere/deep")
    scene.tell("experiment", scene.client.get_experiment(number))
    run = scene.client.create_run(number, run_name="r")
    scene.tell("run", run.info)
    scene.client.log_text(run.info.run_id, "hello", "a.txt")
    scene.tell("files", scene.client.list_artifacts(run.info.run_id))


def rename(scene):
    number = scene.experiment("old")
    scene.client.rename_experiment(number, scene.unique("new"))
    scene.tell("renamed", scene.client.get_experiment(number).name)
    scene.fails("no name", scene.client.rename_experiment, number, "")
    scene.fails("unknown", scene.client.rename_experiment, "987654321", "x")


def tags(scene):
    number = scene.experiment()
    scene.client.set_experiment_tag(number, "team", "fraud")
    scene.client.set_experiment_tag(number, "team", "risk")
    scene.client.set_experiment_tag(number, "long", "x" * 5_000)
    scene.tell("set", scene.client.get_experiment(number).tags)
    scene.client.delete_experiment_tag(number, "long")
    scene.tell("deleted", scene.client.get_experiment(number).tags)
    scene.fails("unknown tag", scene.client.delete_experiment_tag, number, "nothing")
    scene.fails("long key", scene.client.set_experiment_tag, number, "k" * 251, "v")
    scene.fails("long value", scene.client.set_experiment_tag, number, "k", "v" * 20_001)
    scene.fails("bad key", scene.client.set_experiment_tag, number, "a#b", "v")
    scene.fails("climbing key", scene.client.set_experiment_tag, number, "../x", "v")


def delete_and_restore(scene):
    client = scene.client
    number = scene.experiment()
    run = client.create_run(number, run_name="r").info.run_id
    client.delete_experiment(number)
    scene.tell("deleted", client.get_experiment(number))
    scene.tell("its run", client.get_run(run).info.lifecycle_stage)
    scene.fails("run in it", client.create_run, number)
    scene.fails("tag on it", client.set_experiment_tag, number, "a", "b")
    scene.fails("rename it", client.rename_experiment, number, scene.unique("x"))
    scene.fails("again", client.delete_experiment, number)
    client.restore_experiment(number)
    scene.tell("restored", client.get_experiment(number).lifecycle_stage)
    scene.tell("its run is back", client.get_run(run).info.lifecycle_stage)
    scene.fails("restore again", client.restore_experiment, number)


def refused(scene):
    client = scene.client
    scene.experiment("taken")
    scene.fails_by_code("taken", client.create_experiment, scene.unique("taken"))
    scene.fails("empty", client.create_experiment, "")
    scene.fails("long", client.create_experiment, "n" * 501)
    scene.fails("unknown", client.get_experiment, "123456789")
    scene.fails("no number", client.get_experiment, "abc")
    scene.fails("delete unknown", client.delete_experiment, "123456789")
    scene.fails("location of a run", client.create_experiment, scene.unique("l"), "runs:/abc/x")
    scene.fails("bad tag", client.create_experiment, scene.unique("t"), tags={"a\tb": "c"})


def odd_names(scene):
    for place, name in enumerate(
        ("ünïcödé ✓", "with/slash", "with:colon", "a" * 500, "<img src=x onerror=1>", 'quote\'s "x"')
    ):
        number = (
            scene.experiment(name)[:500]
            if len(name) < 400
            else scene.known("experiment", scene.client.create_experiment(name))
        )
        scene.tell(f"name {place}", scene.client.get_experiment(number).name)


def search(scene):
    client = scene.client
    for name, team in (("alpha", "x"), ("Beta", "y"), ("gamma", "x"), ("delta", "z")):
        scene.experiment(name, tags={"team": team, "scene": "search"})
    gone = scene.experiment("gone", tags={"team": "x", "scene": "search"})
    client.delete_experiment(gone)
    ours = "tags.scene = 'search'"

    def found(label, **options):
        answer = client.search_experiments(
            filter_string=f"{ours} AND {options.pop('filter')}" if "filter" in options else ours, **options
        )
        scene.tell(label, [one.name for one in answer])

    found("active", order_by=["name ASC"])
    found("deleted", view_type=ViewType.DELETED_ONLY)
    found("all", view_type=ViewType.ALL, order_by=["name DESC"])
    found("equal", filter="tags.team = 'x'", order_by=["name"])
    found("unequal", filter="tags.team != 'x'", order_by=["name"])
    found("like", filter="name LIKE 'experiments-search-%a'", order_by=["name"])
    found("like minds case", filter="name LIKE '%BETA'")
    found("ilike", filter="name ILIKE '%BETA'")
    found("tag like", filter="tags.team LIKE 'x%'", order_by=["name"])
    found("tag is null", filter="tags.nothing IS NULL", order_by=["name"])
    found("tag is not null", filter="tags.team IS NOT NULL", order_by=["name"])
    found("name in attribute", filter="attribute.name = 'experiments-search-alpha'")
    found("created", filter="creation_time > 0", order_by=["name"])
    found("by two keys", order_by=["name DESC", "experiment_id"])
    first = client.search_experiments(filter_string=ours, max_results=2, order_by=["name"])
    scene.tell("page 1", [one.name for one in first])
    second = client.search_experiments(filter_string=ours, max_results=2, order_by=["name"], page_token=first.token)
    scene.tell("page 2", [[one.name for one in second], bool(second.token)])
    scene.fails_by_code("unknown attribute", client.search_experiments, filter_string="size > 3")
    scene.fails("unknown kind", client.search_experiments, filter_string="params.a = '1'")
    scene.fails_by_code("unquoted", client.search_experiments, filter_string="name = alpha beta")
    scene.fails_by_code("bad order", client.search_experiments, order_by=["size"])
    scene.fails("too many", client.search_experiments, max_results=50_001)
    scene.fails("none", client.search_experiments, max_results=0)


def fluent(scene):
    made = mlflow.set_experiment(scene.unique("fluent"))
    scene.known("experiment", made.experiment_id)
    scene.tell("made", made)
    again = mlflow.set_experiment(scene.unique("fluent"))
    scene.tell("same", again.experiment_id == made.experiment_id)
    mlflow.set_experiment_tags({"a": "1", "b": "2"})
    scene.tell("tags", mlflow.get_experiment(made.experiment_id).tags)
    scene.tell("by name", mlflow.get_experiment_by_name(scene.unique("fluent")).name)
    mlflow.delete_experiment(made.experiment_id)
    scene.fails("deleted", mlflow.set_experiment, scene.unique("fluent"))
    mlflow.set_experiment(experiment_id="0")
