"""Files of runs through the server's proxy."""

from __future__ import annotations

import io
import json
from pathlib import Path

import mlflow


def _run(scene):
    return scene.client.create_run(scene.experiment(), run_name="run").info.run_id


def up_and_down(scene):
    client, run = scene.client, _run(scene)
    (scene.folder / "a.txt").write_text("alpha")
    client.log_artifact(run, str(scene.folder / "a.txt"))
    client.log_artifact(run, str(scene.folder / "a.txt"), "deep/er")
    tree = scene.folder / "tree"
    (tree / "x" / "y").mkdir(parents=True)
    (tree / "one.bin").write_bytes(bytes(range(256)))
    (tree / "x" / "y" / "two.txt").write_text("two")
    (tree / "empty.txt").write_text("")
    client.log_artifacts(run, str(tree), "tree")
    for path in (None, "deep", "deep/er", "tree", "tree/x", "a.txt", "nothing"):
        scene.tell(f"list {path}", [[f.path, f.is_dir, f.file_size] for f in client.list_artifacts(run, path)])
    target = scene.folder / "down"
    target.mkdir()
    client.download_artifacts(run, "", str(target))
    scene.tell(
        "all", {str(f.relative_to(target)): len(f.read_bytes()) for f in sorted(target.rglob("*")) if f.is_file()}
    )
    scene.tell("bytes", (target / "tree" / "one.bin").read_bytes() == bytes(range(256)))
    one = client.download_artifacts(run, "deep/er/a.txt", str(scene.folder))
    scene.tell("one", Path(one).read_text())
    scene.tell("folder", mlflow.artifacts.list_artifacts(run_id=run, artifact_path="tree") is not None)


def overwritten(scene):
    client, run = scene.client, _run(scene)
    client.log_text(run, "first", "a.txt")
    client.log_text(run, "second, and longer", "a.txt")
    scene.tell("text", mlflow.artifacts.load_text(f"runs:/{run}/a.txt"))
    scene.tell("size", [f.file_size for f in client.list_artifacts(run)])


def texts_and_objects(scene):
    client, run = scene.client, _run(scene)
    client.log_text(run, "ünïcödé ✓", "notes/a b ü.txt")
    client.log_dict(run, {"b": [1, 2], "a": {"x": None}}, "d.json")
    client.log_dict(run, {"b": [1, 2]}, "d.yaml")
    client.log_table(run, {"q": ["a", "b"], "n": [1, 2]}, "t.json")
    client.log_stream(run, io.BytesIO(b"streamed bytes"), "s.bin")
    scene.tell("text", mlflow.artifacts.load_text(f"runs:/{run}/notes/a b ü.txt"))
    scene.tell("json", mlflow.artifacts.load_dict(f"runs:/{run}/d.json"))
    scene.tell("yaml", mlflow.artifacts.load_text(f"runs:/{run}/d.yaml"))
    scene.tell(
        "table", client.load_table(scene.client.get_run(run).info.experiment_id, "t.json", [run]).to_dict("list")
    )
    scene.tell("stream", mlflow.artifacts.load_text(f"runs:/{run}/s.bin"))
    scene.tell("files", [f.path for f in client.list_artifacts(run)])
    scene.tell("tag", json.loads(client.get_run(run).data.tags["mlflow.loggedArtifacts"]))


def pictures(scene):
    import matplotlib.figure
    import numpy as np

    client, run = scene.client, _run(scene)
    figure = matplotlib.figure.Figure()
    figure.subplots().plot([1, 2])
    client.log_figure(run, figure, "f.png")
    client.log_image(run, np.zeros((4, 4, 3), dtype=np.uint8), "i.png")
    scene.tell("files", [f.path for f in client.list_artifacts(run)])


def locations(scene):
    client, run = scene.client, _run(scene)
    scene.tell("uri", client.get_run(run).info.artifact_uri)
    scene.tell("by function", mlflow.artifacts.download_artifacts.__name__)
    with mlflow.start_run(run_id=run):
        scene.tell("root", mlflow.get_artifact_uri())
        scene.tell("file", mlflow.get_artifact_uri("a/b.txt"))


def deleted(scene):
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client, run = scene.client, _run(scene)
    client.log_text(run, "x", "a/one.txt")
    client.log_text(run, "x", "a/two.txt")
    client.log_text(run, "x", "b.txt")
    files = get_artifact_repository(client.get_run(run).info.artifact_uri)
    files.delete_artifacts("a/one.txt")
    scene.tell("one less", [f.path for f in client.list_artifacts(run, "a")])
    files.delete_artifacts("a")
    scene.tell("no folder", [f.path for f in client.list_artifacts(run)])
    files.delete_artifacts("nothing/there")
    files.delete_artifacts()
    scene.tell("nothing", [f.path for f in client.list_artifacts(run)])


def refused(scene):
    client, run = scene.client, _run(scene)
    client.log_text(run, "x", "a.txt")
    scene.fails_by_code("missing", client.download_artifacts, run, "nothing.txt", str(scene.folder))
    for path in ("../x", "/etc/passwd", "a/../../x", "..", "a\\..\\b", "%2e%2e/x"):
        scene.fails_by_code(f"list {path}", client.list_artifacts, run, path)


def fluent(scene):
    mlflow.set_experiment(scene.unique("fluent"))
    (scene.folder / "f.txt").write_text("file")
    with mlflow.start_run(run_name="r") as run:
        mlflow.log_artifact("f.txt")
        mlflow.log_artifacts(".", "all")
        mlflow.log_text("t", "t.txt")
        mlflow.log_dict({"a": 1}, "d.json")
    files = mlflow.artifacts.list_artifacts(run_id=run.info.run_id)
    scene.tell("files", sorted([f.path, f.is_dir, f.file_size] for f in files))
    place = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="all", dst_path=str(scene.folder / "down")
    )
    scene.tell("down", (Path(place) / "f.txt").read_text())
    place = mlflow.artifacts.download_artifacts(artifact_uri=f"runs:/{run.info.run_id}/t.txt")
    scene.tell("by uri", Path(place).read_text())
