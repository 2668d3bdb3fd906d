"""Versions: create, describe, tag, search, copy, delete."""

from __future__ import annotations

import json

import mlflow


def _model(scene, name="model"):
    return scene.client.create_registered_model(scene.unique(name)).name


def create_and_read(scene):
    client, name = scene.client, _model(scene)
    made = client.create_model_version(
        name, "s3://bucket/model", tags={"a": "1"}, description="what it is", run_link="https://example.org/run"
    )
    scene.tell("created", made)
    scene.tell("read", client.get_model_version(name, "1"))
    scene.tell("by number", client.get_model_version(name, 1).version)
    scene.tell("second", client.create_model_version(name, "s3://bucket/model2").version)
    scene.tell("model", client.get_registered_model(name))
    scene.tell("uri", client.get_model_version_download_uri(name, "2"))
    scene.tell("stages", client.get_model_version_stages(name, "1"))


def of_a_run(scene):
    client, name = scene.client, _model(scene)
    run = client.create_run(scene.experiment(), run_name="r").info
    client.log_text(run.run_id, "weights: 1\n", "model/weights.yaml")
    made = client.create_model_version(name, f"{run.artifact_uri}/model", run.run_id)
    scene.tell("created", made)
    scene.tell("uri", client.get_model_version_download_uri(name, made.version))
    by_run = client.create_model_version(name, f"runs:/{run.run_id}/model", run.run_id)
    scene.tell("by run", by_run)
    scene.tell("found", [one.version for one in client.search_model_versions(f"run_id = '{run.run_id}'")])


def refused(scene):
    client, name = scene.client, _model(scene)
    run = client.create_run(scene.experiment(), run_name="r").info
    scene.fails("unknown model", client.create_model_version, scene.unique("none"), "s3://b/m")
    scene.fails_by_code("host", client.create_model_version, name, "http://x/../../etc")
    for place, source in enumerate(
        (
            "",
            "/etc/passwd",
            "file:///etc/passwd",
            "mlflow-artifacts:/../../etc",
            "mlflow-artifacts:/1/abc/artifacts/model",
            "runs:/abc/model",
            "s3://b/../../x",
            "//proc/self/root",
            "mlflow-artifacts:/%2e%2e/x",
            "models:/m-123",
            "models:/nothing/1",
        )
    ):
        scene.fails(f"source {place}", client.create_model_version, name, source)
    scene.fails("other run", client.create_model_version, name, "runs:/abc/model", run.run_id)
    scene.fails("unknown version", client.get_model_version, name, "7")
    scene.fails("no number", client.get_model_version, name, "first")
    scene.fails("update unknown", client.update_model_version, name, "7", "d")
    scene.fails("delete unknown", client.delete_model_version, name, "7")
    scene.fails("tag unknown", client.set_model_version_tag, name, "7", "a", "b")
    scene.fails("uri of unknown", client.get_model_version_download_uri, name, "7")
    client.create_model_version(name, "s3://b/m")
    scene.fails("bad tag", client.set_model_version_tag, name, "1", "a#b", "v")
    scene.fails("long tag", client.set_model_version_tag, name, "1", "k" * 251, "v")


def describe(scene):
    client, name = scene.client, _model(scene)
    client.create_model_version(name, "s3://b/m", description="one")
    scene.tell("described", client.update_model_version(name, "1", "two"))
    scene.tell("read", client.get_model_version(name, "1").description)


def tags(scene):
    client, name = scene.client, _model(scene)
    client.create_model_version(name, "s3://b/m")
    client.set_model_version_tag(name, "1", "a", "1")
    client.set_model_version_tag(name, "1", "a", "2")
    client.set_model_version_tag(name, "1", "b", "true")
    scene.tell("set", client.get_model_version(name, "1").tags)
    client.delete_model_version_tag(name, "1", "a")
    client.delete_model_version_tag(name, "1", "nothing")
    scene.tell("deleted", client.get_model_version(name, "1").tags)


def delete(scene):
    client, name = scene.client, _model(scene)
    for place in range(3):
        client.create_model_version(name, f"s3://b/{place}")
    client.set_registered_model_alias(name, "candidate", "3")
    client.delete_model_version(name, "3")
    scene.fails("gone", client.get_model_version, name, "3")
    scene.fails("again", client.delete_model_version, name, "3")
    scene.fails("its alias", client.get_model_version_by_alias, name, "candidate")
    scene.tell("latest", [one.version for one in client.get_latest_versions(name)])
    scene.tell("number goes on", client.create_model_version(name, "s3://b/4").version)
    scene.tell("found", [one.version for one in client.search_model_versions(f"name = '{name}'")])


def search(scene):
    client, name, other = scene.client, _model(scene), _model(scene, "other")
    for place in range(12):
        client.create_model_version(name, f"s3://bucket/{place}", tags={"even": str(place % 2 == 0)})
    client.create_model_version(other, "s3://bucket/other", tags={"even": "True"})
    mine = f"name = '{name}'"
    for text in (
        mine,
        f"name LIKE '{scene.unique('')}%'",
        f"name ILIKE '{scene.unique('MOD')}%'",
        f"{mine} AND tags.even = 'True'",
        "source_path = 's3://bucket/3'",
        f"{mine} AND version_number > 9",
        f"{mine} AND version_number <= 2",
        f"{mine} and tags.even != 'True' and version_number < 5",
        f"name IN ('{name}', '{other}') AND version_number = 1",
        f"{mine} AND version_number = '4'",
    ):
        found = client.search_model_versions(text, order_by=["name ASC", "version_number ASC"])
        scene.tell(text, [[one.name, one.version] for one in found])
    for keys in (
        ["version_number DESC"],
        ["version_number ASC"],
        ["creation_timestamp ASC", "version_number DESC"],
        ["name DESC"],
    ):
        scene.tell(str(keys), [one.version for one in client.search_model_versions(mine, order_by=keys)][:3])
    first = client.search_model_versions(mine, max_results=5, order_by=["version_number"])
    second = client.search_model_versions(mine, max_results=5, order_by=["version_number"], page_token=first.token)
    scene.tell("pages", [[one.version for one in page] for page in (first, second)])
    for text in (
        "size > 3",
        "version_number > 1.5",
        "tags.even > 'x'",
        "name",
        "name = 'x' OR name = 'y'",
        "source_path IN ('x')",
        "version_number LIKE '1'",
    ):
        scene.fails_by_code(text, client.search_model_versions, text)
    scene.fails_by_code("order", client.search_model_versions, order_by=["size"])
    scene.fails("too many", client.search_model_versions, max_results=200_001)
    scene.fails("none", client.search_model_versions, max_results=0)


def copy(scene):
    client, name, target = scene.client, _model(scene), scene.unique("copy")
    client.create_model_version(name, "s3://bucket/model", tags={"a": "1"}, description="d")
    made = client.copy_model_version(f"models:/{name}/1", target)
    scene.tell("copied", made)
    scene.tell("uri", client.get_model_version_download_uri(target, "1"))
    scene.tell("again", client.copy_model_version(f"models:/{name}/1", target).version)
    client.set_registered_model_alias(name, "best", "1")
    scene.tell("by alias", client.copy_model_version(f"models:/{name}@best", target).source)
    scene.fails("unknown", client.copy_model_version, f"models:/{name}/9", target)
    scene.fails("no version", client.copy_model_version, f"runs:/{'0' * 32}/m", target)


def fluent(scene):
    mlflow.set_experiment(scene.unique("fluent"))
    (scene.folder / "a.yaml").write_text("a: 1\n")
    with mlflow.start_run(run_name="r") as run:
        model = mlflow.initialize_logged_model(name="m")
        scene.client.log_model_artifact(model.model_id, "a.yaml")
        mlflow.finalize_logged_model(model.model_id, "READY")
    scene.known("experiment", run.info.experiment_id)
    made = mlflow.register_model(f"models:/{model.model_id}", scene.unique("m"), tags={"k": "v"})
    scene.tell("made", made)
    again = mlflow.register_model(f"models:/{model.model_id}", scene.unique("m"))
    scene.tell("next", again.version)
    scene.tell("told of", json.loads(scene.client.get_logged_model(model.model_id).tags["mlflow.modelVersions"]))
    found = mlflow.search_model_versions(filter_string=f"name = '{scene.unique('m')}'")
    scene.tell("found", [one.version for one in found])
    mlflow.set_model_version_tag(scene.unique("m"), version="1", key="x", value="y")
    scene.tell("tags", scene.client.get_model_version(scene.unique("m"), "1").tags)
