"""Run by MLflow's own Python: all that its client sees at MLFLOW_TRACKING_URI, as JSON; NaN is a word, so that it equals itself."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType

client = MlflowClient()


def value(number: float) -> float | str:
    return "NaN" if math.isnan(number) else (number + 0.0).hex()  # SQLite keeps no sign of zero


def entity(run: object) -> dict[str, object]:
    info, data = run.info, run.data
    keys = ("run_id", "experiment_id", "run_name", "user_id", "status", "start_time", "end_time", "lifecycle_stage")
    histories = {
        key: sorted(str((m.timestamp, m.step, value(m.value))) for m in client.get_metric_history(info.run_id, key))
        for key in data.metrics
    }
    return {
        **{key: getattr(info, key) for key in keys},
        "params": data.params,
        "tags": data.tags,
        "latest": {key: value(number) for key, number in data.metrics.items()},
        "histories": histories,
        "datasets": [
            [d.dataset.to_dictionary(), {tag.key: tag.value for tag in d.tags}] for d in run.inputs.dataset_inputs
        ],
        "models_used": sorted(m.model_id for m in run.inputs.model_inputs or []),
        "models_made": sorted([m.model_id, m.step] for m in (run.outputs.model_outputs if run.outputs else [])),
        "files": files(f"runs:/{info.run_id}/") if info.lifecycle_stage == "active" else {},
    }


def files(uri: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        if uri.startswith("runs:") and not client.list_artifacts(uri.split("/")[1]):
            return {}
        got = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        return {
            file.relative_to(got).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(got.rglob("*"))
            if file.is_file() and file.name != "registered_model_meta"
        }


def logged(model: object) -> dict[str, object]:
    keys = (
        "model_id", "experiment_id", "name", "source_run_id", "status", "model_type", "creation_timestamp",
        "last_updated_timestamp", "tags", "params",
    )  # fmt: skip
    found = {key: str(getattr(model, key) or "") for key in keys}
    metrics = sorted(str((m.key, value(m.value), m.step, m.timestamp, m.run_id)) for m in model.metrics or [])
    found |= {"tags": dict(model.tags or {}), "params": dict(model.params or {})}
    return {**found, "metrics": metrics, "files": files(model.artifact_location)}


def version(one: object) -> dict[str, object]:
    keys = ("name", "description", "run_id", "tags", "current_stage", "status")
    loaded = f"models:/{one.name}/{one.version}"
    known = mlflow.models.get_model_info(loaded).signature if "model" in sys.argv else None
    return {
        "version": int(one.version),
        "aliases": sorted(one.aliases),
        **{key: getattr(one, key) for key in keys},
        "signature": str(known),
    }


experiments = client.search_experiments(ViewType.ALL)
ids = [one.experiment_id for one in experiments]
runs = client.search_runs(ids, run_view_type=ViewType.ALL, max_results=5000)
print(
    json.dumps(
        {
            "experiments": {
                one.experiment_id: [one.name, one.tags, one.lifecycle_stage, one.creation_time] for one in experiments
            },
            "runs": {run.info.run_id: entity(client.get_run(run.info.run_id)) for run in runs},
            "logged": {one.model_id: logged(one) for one in client.search_logged_models(ids)},
            "models": {
                one.name: [one.description or "", one.tags, {a: int(v) for a, v in one.aliases.items()}]
                for one in client.search_registered_models()
            },
            "versions": sorted(
                (version(client.get_model_version(one.name, one.version)) for one in client.search_model_versions()),
                key=lambda one: (one["name"], one["version"]),
            ),
        }
    )
)
