"""Models logged, registered and loaded again with MLflow's own flavours."""

from __future__ import annotations

import mlflow
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X = np.random.default_rng(0).normal(size=(60, 3))
Y = (X[:, 0] > 0).astype(int)


def _logged(scene, model, **options):
    mlflow.set_experiment(scene.unique("flavors"))
    with mlflow.start_run(run_name="r") as run:
        info = mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"], **options)
    scene.known("experiment", run.info.experiment_id)
    return run, info


def log_register_and_load(scene):
    name, model = scene.unique("clf"), LogisticRegression().fit(X, Y)
    signature = mlflow.models.infer_signature(X, model.predict(X))
    run, info = _logged(scene, model, registered_model_name=name, signature=signature, input_example=X[:2])
    scene.tell("uri", info.model_uri)
    scene.tell("number", info.registered_model_version)
    version = scene.client.get_model_version(name, "1")
    scene.tell(
        "version",
        {
            "source": version.source,
            "run": version.run_id == run.info.run_id,
            "model": version.model_id == info.model_id,
            "status": version.status,
        },
    )
    scene.tell("model's tags", sorted(scene.client.get_logged_model(info.model_id).tags))
    scene.client.transition_model_version_stage(name, "1", "Production")
    scene.client.set_registered_model_alias(name, "champion", "1")
    for uri in (
        f"models:/{name}@champion",
        f"models:/{name}/1",
        f"models:/{name}/Production",
        f"models:/{name}/latest",
        info.model_uri,
        f"runs:/{run.info.run_id}/model",
    ):
        loaded = mlflow.pyfunc.load_model(uri)
        scene.tell(uri, bool((loaded.predict(X) == model.predict(X)).all()))
    scene.tell("native", type(mlflow.sklearn.load_model(f"models:/{name}@champion")).__name__)
    scene.tell("signature", mlflow.models.get_model_info(f"models:/{name}/1").signature.to_dict())


def second_version(scene):
    name = scene.unique("clf")
    _logged(scene, LogisticRegression(C=2.0).fit(X, Y), registered_model_name=name)
    _, info = _logged(
        scene, make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y), registered_model_name=name
    )
    scene.tell("number", info.registered_model_version)
    scene.tell("versions", [one.version for one in scene.client.search_model_versions(f"name = '{name}'")])
    scene.tell("latest", int(mlflow.pyfunc.load_model(f"models:/{name}/latest").predict(X).sum()) >= 0)


def register_later(scene):
    name = scene.unique("clf")
    run, info = _logged(scene, LogisticRegression().fit(X, Y))
    made = mlflow.register_model(info.model_uri, name)
    scene.tell(
        "of a logged model", [made.version, made.source, made.run_id == run.info.run_id, made.model_id == info.model_id]
    )
    made = mlflow.register_model(f"runs:/{run.info.run_id}/model", name)
    scene.tell("of a run", [made.version, made.source, made.run_id == run.info.run_id, made.model_id == info.model_id])
    scene.tell("answers", mlflow.sklearn.load_model(f"models:/{name}/2").predict(X[:3]).tolist())


def old_name_of_the_path(scene):
    mlflow.set_experiment(scene.unique("old"))
    with mlflow.start_run(run_name="r") as run:
        mlflow.sklearn.log_model(
            LogisticRegression().fit(X, Y), artifact_path="model", pip_requirements=["scikit-learn"]
        )
    loaded = mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model")
    scene.tell("answers", loaded.predict(X[:3]).tolist())


def metrics_of_models(scene):
    mlflow.set_experiment(scene.unique("scored"))
    with mlflow.start_run(run_name="r"):
        info = mlflow.sklearn.log_model(LogisticRegression().fit(X, Y), name="model", pip_requirements=["scikit-learn"])
        mlflow.log_metric("auc", 0.9, model_id=info.model_id)
        mlflow.log_metrics({"f1": 0.8}, model_id=info.model_id)
    read = mlflow.get_logged_model(info.model_id)
    scene.tell("metrics", sorted([one.key, one.value] for one in read.metrics))
    scene.tell("status", read.status)


def autolog(scene):
    mlflow.set_experiment(scene.unique("auto"))
    mlflow.sklearn.autolog(log_models=False, silent=True)
    try:
        with mlflow.start_run(run_name="r") as run:
            LogisticRegression(max_iter=50).fit(X, Y)
    finally:
        mlflow.sklearn.autolog(disable=True, silent=True)
    data = scene.client.get_run(run.info.run_id).data
    scene.tell("params", data.params.get("max_iter"))
    scene.tell("metrics", sorted(data.metrics))
