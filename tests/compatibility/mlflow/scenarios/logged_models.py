"""Logged models, the models of runs in MLflow 3."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelStatus, Metric


def create_and_read(scene):
    client, number = scene.client, scene.experiment()
    run = client.create_run(number, run_name="r").info.run_id
    model = client.create_logged_model(
        number, name="m", source_run_id=run, tags={"a": "1"}, params={"depth": "3"}, model_type="agent"
    )
    scene.tell("created", model)
    scene.tell("read", client.get_logged_model(model.model_id))
    scene.tell("ready", client.finalize_logged_model(model.model_id, LoggedModelStatus.READY))
    other = client.create_logged_model(number, name="other")
    scene.tell("failed", client.finalize_logged_model(other.model_id, "FAILED").status)
    scene.tell("own name", bool(client.create_logged_model(number).name))


def tags_and_params(scene):
    client, number = scene.client, scene.experiment()
    model = client.create_logged_model(number, name="m").model_id
    client.set_logged_model_tags(model, {"a": "1", "b": "2"})
    client.set_logged_model_tags(model, {"a": "3"})
    scene.tell("tags", client.get_logged_model(model).tags)
    client.delete_logged_model_tag(model, "a")
    scene.fails("no such tag", client.delete_logged_model_tag, model, "nothing")
    client.log_model_params(model, {"x": "1", "y": "2"})
    read = client.get_logged_model(model)
    scene.tell("left", [read.tags, read.params])


def metrics(scene):
    client, number = scene.client, scene.experiment()
    run = client.create_run(number, run_name="r").info.run_id
    model = client.create_logged_model(number, name="m", source_run_id=run).model_id
    client.log_metric(run, "auc", 0.9, timestamp=1, step=1, model_id=model, dataset_name="cards", dataset_digest="d1")
    client.log_metric(run, "auc", 0.95, timestamp=2, step=2, model_id=model)
    client.log_batch(run, metrics=[Metric("loss", 0.5, 3, 3, model_id=model)])
    read = client.get_logged_model(model).metrics
    scene.tell(
        "metrics",
        sorted(([m.key, m.value, m.step, m.dataset_name, m.dataset_digest, m.run_id == run] for m in read), key=str),
    )
    scene.tell("run's own", client.get_run(run).data.metrics)


def delete(scene):
    client, number = scene.client, scene.experiment()
    model = client.create_logged_model(number, name="m").model_id
    client.delete_logged_model(model)
    scene.fails("gone", client.get_logged_model, model)
    scene.tell("not found", client.search_logged_models([number]))
    scene.fails("unknown", client.get_logged_model, "m-" + "0" * 32)
    scene.fails("delete unknown", client.delete_logged_model, "m-" + "0" * 32)
    scene.fails("finalise unknown", client.finalize_logged_model, "m-" + "0" * 32, "READY")


def refused(scene):
    client, number = scene.client, scene.experiment()
    for place, name in enumerate(("a/b", "a:b", "a.b", "a%b", "a'b")):
        scene.fails(f"name {place}", client.create_logged_model, number, name=name)
    scene.fails("unknown experiment", client.create_logged_model, "31415926", name="m")


def search(scene):
    client, number = scene.client, scene.experiment()
    run = client.create_run(number, run_name="r").info.run_id
    for place, name in enumerate(("alpha", "beta", "gamma", "delta")):
        model = client.create_logged_model(
            number,
            name=name,
            tags={"even": str(place % 2 == 0)},
            params={"depth": str(place)},
            source_run_id=run if place else None,
        )
        client.log_metric(
            run,
            "auc",
            place / 10,
            timestamp=1,
            step=1,
            model_id=model.model_id,
            dataset_name="cards" if place < 2 else "loans",
            dataset_digest="d",
        )
        if place != 3:
            client.finalize_logged_model(model.model_id, "READY")
    for text in (
        "",
        "name = 'alpha'",
        "name LIKE '%lt%'",
        "attributes.name != 'alpha'",
        "metrics.auc > 0.15",
        "metrics.auc <= 0.1",
        "params.depth = '2'",
        "tags.even = 'True'",
        "status = 'READY'",
        f"source_run_id = '{run}'",
        "metrics.auc > 0 AND tags.even = 'True'",
        "params.`depth` != '2'",
        "creation_timestamp > 0",
    ):
        found = client.search_logged_models(
            [number], text or None, order_by=[{"field_name": "name", "ascending": True}]
        )
        scene.tell(text, [model.name for model in found])
    for order in (
        {"field_name": "metrics.auc", "ascending": False},
        {"field_name": "metrics.auc"},
        {"field_name": "name", "ascending": False},
        {"field_name": "metrics.auc", "ascending": True, "dataset_name": "loans"},
    ):
        scene.tell(str(order), [model.name for model in client.search_logged_models([number], order_by=[order])])
    scene.tell(
        "on cards",
        sorted(model.name for model in client.search_logged_models([number], datasets=[{"dataset_name": "cards"}])),
    )
    scene.tell(
        "on cards by metric",
        sorted(
            m.name
            for m in client.search_logged_models(
                [number], "metrics.auc > 0.05", datasets=[{"dataset_name": "cards", "dataset_digest": "d"}]
            )
        ),
    )
    first = client.search_logged_models([number], max_results=3, order_by=[{"field_name": "name"}])
    second = client.search_logged_models(
        [number], max_results=3, order_by=[{"field_name": "name"}], page_token=first.token
    )
    scene.tell("pages", [[model.name for model in page] for page in (first, second)])
    for text in ("nonsense", "size = 3", "metrics.auc = 'x'", "params.depth = 3", "name = 'a' OR name = 'b'"):
        scene.fails_by_code(text, client.search_logged_models, [number], text)
    scene.fails("order", client.search_logged_models, [number], order_by=[{"field_name": "params.depth"}])
    scene.fails_by_code("token of another", client.search_logged_models, [number], "name = 'x'", page_token=first.token)


def files(scene):
    client, number = scene.client, scene.experiment()
    model = client.create_logged_model(number, name="m")
    (scene.folder / "tree" / "deep").mkdir(parents=True)
    (scene.folder / "tree" / "a.txt").write_text("alpha")
    (scene.folder / "tree" / "deep" / "b.txt").write_text("beta")
    client.log_model_artifacts(model.model_id, str(scene.folder / "tree"))
    client.log_model_artifact(model.model_id, str(scene.folder / "tree" / "a.txt"))
    scene.tell("files", [[f.path, f.is_dir, f.file_size] for f in client.list_logged_model_artifacts(model.model_id)])
    scene.tell("in a folder", [f.path for f in client.list_logged_model_artifacts(model.model_id, "deep")])
    place = mlflow.artifacts.download_artifacts(f"models:/{model.model_id}", dst_path=str(scene.folder / "down"))
    scene.tell("down", (Path(place) / "deep" / "b.txt").read_text())


def fluent(scene):
    mlflow.set_experiment(scene.unique("fluent"))
    model = mlflow.initialize_logged_model(name="m", tags={"t": "1"})
    scene.known("experiment", model.experiment_id)
    mlflow.set_logged_model_tags(model.model_id, {"u": "2"})
    mlflow.log_model_params({"p": "1"}, model_id=model.model_id)
    mlflow.finalize_logged_model(model.model_id, "READY")
    scene.tell("model", mlflow.get_logged_model(model.model_id))
    found = mlflow.search_logged_models(experiment_ids=[model.experiment_id], output_format="list")
    scene.tell("found", [one.name for one in found])
    external = mlflow.create_external_model(name="outside", params={"x": "1"})
    scene.tell("external", [external.status, external.tags.get("mlflow.model.isExternal")])
