"""Run by MLflow's own Python: one of everything, in the store that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import math

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput, Metric, Param, RunTag
from sklearn.linear_model import LogisticRegression

client = MlflowClient()
experiment = client.create_experiment("fraud / Größe", tags={"team": "risk", "mlflow.note.content": "a\nb: c"})
mlflow.set_experiment(experiment_id=experiment)

parent = client.create_run(experiment, run_name="parent", tags={"mlflow.user": "zoe", "grüße": "😀\n\t'\"→"})
child = client.create_run(
    experiment, run_name="child", tags={"mlflow.parentRunId": parent.info.run_id, "mlflow.user": "rex"}
)
points = [Metric("loss", 1 / (step + 1), 1_700_000_000_000 + step, step) for step in range(2_500)]
for start in range(0, 2_500, 1_000):
    client.log_batch(child.info.run_id, metrics=points[start : start + 1_000])
odd = [math.nan, 0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308]
client.log_batch(
    child.info.run_id,
    metrics=[Metric("val/odd one", value, 1_700_000_000_000, step) for step, value in enumerate(odd)]
    + [
        Metric("only nan", math.nan, 5, 0),
        Metric("again", 2.0, 7, 3),
        Metric("again", 1.0, 8, 3),
        Metric("back", 1.0, 9, -4),
    ],
    params=[Param("a/b c", "x: 1\n'q' # no comment"), Param("empty", ""), Param("long", "y" * 5_000)],
    tags=[RunTag("team.name", "risk")],
)
census = Dataset(
    "census", "9f2c", "local", '{"uri": "census.parquet"}', schema='{"mlflow_colspec": []}', profile='{"n": 3}'
)
client.log_inputs(child.info.run_id, [DatasetInput(census, [InputTag("mlflow.data.context", "training")])])
client.log_inputs(parent.info.run_id, [DatasetInput(census, [])])
client.log_text(child.info.run_id, "hello", "notes/über uns.txt")
client.log_text(child.info.run_id, "", "empty.txt")
client.log_dict(child.info.run_id, {"a": 1}, "deep/er/a.json")
client.set_terminated(child.info.run_id, "FAILED", end_time=1_800_000_000_000)
client.set_terminated(parent.info.run_id)

x = np.random.default_rng(0).normal(size=(60, 2))
with mlflow.start_run(run_name="trained", tags={"mlflow.source.git.commit": "4f1d09c"}) as run:
    fitted = LogisticRegression().fit(x, x[:, 0] > 0)
    info = mlflow.sklearn.log_model(
        fitted,
        name="model",
        signature=mlflow.models.infer_signature(x, fitted.predict(x)),
        pip_requirements=["scikit-learn"],
        params={"C": "1.0"},
    )
    mlflow.log_metric("auc", 0.9, step=2, model_id=info.model_id)
    mlflow.set_logged_model_tags(info.model_id, {"kind": "trees é"})
client.log_inputs(parent.info.run_id, models=[LoggedModelInput(info.model_id)])
running = client.create_run(experiment, run_name="running", start_time=1_700_000_000_000)
client.log_metric(running.info.run_id, "loss", 0.5, timestamp=1, step=0)
gone = client.create_run(experiment, run_name="deleted")
client.log_param(gone.info.run_id, "kept", "yes")
client.delete_run(gone.info.run_id)

dropped = client.create_experiment("dropped", tags={"why": "old"})
client.create_run(dropped, run_name="in a deleted experiment")
client.delete_experiment(dropped)
client.create_run("0", run_name="in the default experiment")

client.create_registered_model("fraud", tags={"owner": "zoe"}, description="finds fräud")
for number in range(1, 5):
    client.create_model_version(
        "fraud",
        f"models:/{info.model_id}",
        run.info.run_id,
        tags={"n": str(number)},
        description=f"the {number}th",
        model_id=info.model_id,
    )
client.delete_model_version("fraud", "2")
client.set_registered_model_alias("fraud", "challenger", "3")
client.set_registered_model_alias("fraud", "champion", "4")
client.transition_model_version_stage("fraud", "4", "Production")
client.transition_model_version_stage("fraud", "1", "Archived")
client.create_registered_model("without versions")
client.create_registered_model("a copy")
client.copy_model_version("models:/fraud/3", "a copy")
