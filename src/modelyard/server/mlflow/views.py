"""Our values as MLflow's protobuf messages in JSON: what is not set is left out, times are whole milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.core.instants import Instant, micros
from modelyard.core.models import ModelStage, ModelVersion, RegisteredModel
from modelyard.portable.mlflow.admitting import OURS
from modelyard.registry.checks import split_tag
from modelyard.tracking import Dataset, DatasetInput, Experiment, FileEntry, LoggedModel, Metric, ModelMetric, Run
from modelyard.webhooks import Webhook
from modelyard.webhooks.mlflow import is_mlflow

View = dict[str, Any]
STAGES: Mapping[ModelStage, str] = {
    ModelStage.DEVELOPMENT: "None",
    ModelStage.STAGING: "Staging",
    ModelStage.PRODUCTION: "Production",
    ModelStage.ARCHIVED: "Archived",
}


def entries(values: Mapping[str, str]) -> list[View]:
    """Keys and values as a list of objects."""
    return [{"key": key, "value": value} for key, value in values.items()]


def value(number: float) -> float | str:
    """A number as protobuf writes it in JSON, where NaN and the infinities are words."""
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def finite(number: float) -> float:
    """The number as MLflow's SQL store gives it back: an infinity becomes the largest number."""
    if math.isinf(number):
        return math.copysign(1.7976931348623157e308, number)
    return number


def millis(moment: Instant) -> int:
    """Whole milliseconds from 1970 to the moment."""
    return micros(moment) // 1000


def experiment(found: Experiment) -> View:
    """An experiment."""
    return {
        "experiment_id": found.experiment_id,
        "name": found.name,
        "artifact_location": found.artifact_location,
        "lifecycle_stage": found.lifecycle_stage.value,
        "last_update_time": found.last_update_time,
        "creation_time": found.creation_time,
        **({"tags": entries(found.tags)} if found.tags else {}),
    }


def metric(found: Metric) -> View:
    """One value of a metric."""
    return {
        "key": found.key,
        "value": value(finite(found.value)),
        "timestamp": found.timestamp,
        "step": found.step,
    }


def run_info(found: Run) -> View:
    """What a run is, without what it logged."""
    return {
        "run_uuid": found.run_id,
        "experiment_id": found.experiment_id,
        "run_name": found.name,
        "user_id": found.user_id,
        "status": found.status.value,
        "start_time": found.start_time,
        **({} if found.end_time is None else {"end_time": found.end_time}),
        "artifact_uri": found.artifact_uri,
        "lifecycle_stage": found.lifecycle_stage.value,
        "run_id": found.run_id,
    }


def run(found: Run) -> View:
    """A run with all that it logged."""
    outputs: View = {}
    if found.model_outputs:
        outputs["model_outputs"] = [{"model_id": one.model_id, "step": one.step} for one in found.model_outputs]
    return new_run(found) | {"outputs": outputs}


def new_run(found: Run) -> View:
    """A run as it is answered when it is made: without outputs, not even none."""
    data: View = {}
    if found.latest_metrics:
        data["metrics"] = [metric(one) for one in found.latest_metrics]
    if found.params:
        data["params"] = entries(found.params)
    if found.tags:
        data["tags"] = entries(found.tags)
    inputs: View = {}
    if found.datasets:
        inputs["dataset_inputs"] = [dataset_input(one) for one in found.datasets]
    if found.model_inputs:
        inputs["model_inputs"] = [{"model_id": one} for one in found.model_inputs]
    return {"info": run_info(found), "data": data, "inputs": inputs}


def dataset_input(used: DatasetInput) -> View:
    """A dataset as a run used it."""
    told: View = {"dataset": dataset(used.dataset)}
    return ({"tags": entries(used.tags)} if used.tags else {}) | told


def dataset(found: Dataset) -> View:
    """A dataset."""
    told = {
        "name": found.name,
        "digest": found.digest,
        "source_type": found.source_type,
        "source": found.source,
        "schema": found.schema,
        "profile": found.profile,
    }
    return {key: text for key, text in told.items() if text is not None}


def file(found: FileEntry, path: str) -> View:
    """A file or a folder under a path of the caller's; MLflow tells no size of an empty file."""
    return {"path": path, "is_dir": found.is_dir, **({"file_size": found.size} if found.size else {})}


def logged_model(found: LoggedModel) -> View:
    """A logged model."""
    return {
        "info": {
            "model_id": found.model_id,
            "experiment_id": found.experiment_id,
            "name": found.name,
            "creation_timestamp_ms": found.creation_time,
            "last_updated_timestamp_ms": found.last_update_time,
            "artifact_uri": found.artifact_location,
            "status": f"LOGGED_MODEL_{found.status.value}"
            if found.status.value != "FAILED"
            else "LOGGED_MODEL_UPLOAD_FAILED",
            "model_type": found.model_type or "",
            "source_run_id": found.source_run_id or "",
            "tags": entries(found.tags),
        },
        "data": {"params": entries(found.params), "metrics": [model_metric(one) for one in found.metrics]},
    }


def model_metric(found: ModelMetric) -> View:
    """A value measured on a logged model."""
    told: View = {
        "key": found.key,
        "value": value(finite(found.value)),
        "timestamp": found.timestamp,
        "step": found.step,
        "model_id": found.model_id,
        "run_id": found.run_id,
    }
    if found.dataset_name:
        told |= {"dataset_name": found.dataset_name}
    if found.dataset_digest:
        told |= {"dataset_digest": found.dataset_digest}
    return told


def tags(given: Iterable[str]) -> list[View]:
    """The registry's tags, `label` or `key=value`, as keys and values."""
    return [{"key": key, "value": text or ""} for key, text in map(split_tag, given)]


def version(found: ModelVersion) -> View:
    """A version of a model."""
    told = version_of_model(found)
    return told | {"aliases": list(found.aliases)} if found.aliases else told


def version_of_model(found: ModelVersion) -> View:
    """A version as it is told with its model, whose aliases are told there."""
    more: Mapping[str, Any] = found.metadata.get(OURS) or {}
    findings = more.get("findings")
    told: View = {
        "name": found.name,
        "version": str(found.number),
        "creation_timestamp": millis(found.created_at),
        "last_updated_timestamp": millis(found.updated_at),
        "user_id": "",
        "current_stage": STAGES[found.stage],
        "description": found.description,
        "source": found.source,
        "run_id": found.run_id,
        "status": "FAILED_REGISTRATION" if findings else "READY",
        "run_link": more.get("run_link", ""),
    }
    if findings:
        told["status_message"] = QUARANTINED.format(why="; ".join(findings)[:1000])
    if more.get("model_id"):
        told["model_id"] = more["model_id"]
    if found.tags:
        told["tags"] = tags(found.tags)
    return told


QUARANTINED = (
    "The model is in quarantine, since it may run code when it is loaded: {why}. It is kept, and handed to nobody. "
    "Log it as ONNX, skops, safetensors or its framework's own text or JSON, and register that."
)


def registered_model(found: RegisteredModel, numbers: Mapping[str, int], latest: Iterable[ModelVersion]) -> View:
    """A model; `numbers` are those of the versions that its aliases point at, `latest` the newest version in each stage."""
    told: View = {
        "name": found.name,
        "creation_timestamp": millis(found.created_at),
        "last_updated_timestamp": millis(found.updated_at),
        "description": found.description,
    }
    versions = [version_of_model(one) for one in latest]
    if versions:
        told["latest_versions"] = versions
    if found.tags:
        told["tags"] = tags(found.tags)
    if numbers:
        told["aliases"] = [{"alias": alias, "version": str(number)} for alias, number in numbers.items()]
    return told


def webhook(found: Webhook) -> View:
    """A webhook, never with its secret, and with those of its events that have a name in MLflow."""
    return {
        "webhook_id": found.webhook_id,
        "name": found.name,
        "url": found.url,
        "events": [event(one) for one in found.events if is_mlflow(one)],
        **({"description": found.description} if found.description else {}),
        "status": found.status.value.upper(),
        "creation_timestamp": millis(found.created_at),
        "last_updated_timestamp": millis(found.updated_at),
    }


def event(name: str) -> View:
    """An event that a webhook hears, as its two words."""
    entity, _, action = name.partition(".")
    return {"entity": entity.upper(), "action": action.upper()}
