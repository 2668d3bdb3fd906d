"""MLflow's JSON as our values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelyard.portable.mlflow.values import FoundModel, FoundVersion
from modelyard.tracking import (
    Dataset,
    DatasetInput,
    Experiment,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOutput,
    Run,
    RunStatus,
)

Sent = Mapping[str, Any]
RUN_STATUS: Mapping[Any, str] = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
MODEL_STATUS: dict[Any, LoggedModelStatus] = {
    1: LoggedModelStatus.PENDING,
    2: LoggedModelStatus.READY,
    3: LoggedModelStatus.FAILED,
    "LOGGED_MODEL_PENDING": LoggedModelStatus.PENDING,
    "LOGGED_MODEL_READY": LoggedModelStatus.READY,
    "LOGGED_MODEL_UPLOAD_FAILED": LoggedModelStatus.FAILED,
}


def entries(sent: Iterable[Sent] | None) -> dict[str, str]:
    """Keys and values of a list of objects."""
    return {str(one["key"]): str(one.get("value", "")) for one in sent or ()}


def experiment(sent: Sent) -> Experiment:
    """An experiment."""
    created = int(sent.get("creation_time") or 0)
    return Experiment(
        experiment_id=str(sent["experiment_id"]),
        name=str(sent["name"]),
        artifact_location=str(sent.get("artifact_location") or ""),
        lifecycle_stage=Lifecycle(sent.get("lifecycle_stage") or "active"),
        creation_time=created,
        last_update_time=int(sent.get("last_update_time") or created),
        tags=entries(sent.get("tags")),
    )


def run(sent: Sent) -> Run:
    """A run with what it logged, of each metric the latest value."""
    info, data = sent["info"], sent.get("data") or {}
    inputs, outputs = sent.get("inputs") or {}, sent.get("outputs") or {}
    return run_of(
        info,
        params=entries(data.get("params")),
        tags=entries(data.get("tags")),
        latest_metrics=tuple(metric(one) for one in data.get("metrics") or ()),
        datasets=tuple(dataset_input(one) for one in inputs.get("dataset_inputs") or ()),
        model_inputs=tuple(one["model_id"] for one in inputs.get("model_inputs") or ()),
        model_outputs=tuple(
            ModelOutput(model_id=one["model_id"], step=int(one.get("step") or 0))
            for one in outputs.get("model_outputs") or ()
        ),
    )


def run_of(info: Sent, *, tags: Mapping[str, str], **logged: Any) -> Run:
    """A run of what it is and what it logged. Who ran it is the tag mlflow.user, or what the store says."""
    status, ended = info.get("status") or "RUNNING", info.get("end_time")
    return Run(
        run_id=str(info.get("run_id") or info.get("run_uuid") or ""),
        experiment_id=str(info["experiment_id"]),
        name=str(info.get("run_name") or tags.get("mlflow.runName", "")),
        user_id=str(tags.get("mlflow.user") or info.get("user_id") or ""),
        status=RunStatus(RUN_STATUS.get(status, status)),
        start_time=int(info.get("start_time") or 0),
        end_time=None if ended in (None, "") else int(ended),
        lifecycle_stage=Lifecycle(info.get("lifecycle_stage") or "active"),
        artifact_uri=str(info.get("artifact_uri") or ""),
        tags=tags,
        **logged,
    )


def metric(sent: Sent) -> Metric:
    """One value of a metric; numbers that JSON has not are words."""
    return Metric(
        str(sent["key"]), float(sent.get("value", 0.0)), int(sent.get("timestamp") or 0), int(sent.get("step") or 0)
    )


def dataset_input(sent: Sent) -> DatasetInput:
    """A dataset as a run used it."""
    return DatasetInput(dataset=dataset(sent["dataset"]), tags=entries(sent.get("tags")))


def dataset(sent: Sent) -> Dataset:
    """A dataset."""
    texts = {name: str(sent.get(name) or "") for name in ("name", "digest", "source_type", "source")}
    return Dataset(**texts, schema=sent.get("schema"), profile=sent.get("profile"))


def logged_model(sent: Sent) -> LoggedModel:
    """A logged model with what was measured on it."""
    info, data = sent["info"], sent.get("data") or {}
    return logged_model_of(
        {
            **info,
            "artifact_location": info.get("artifact_uri"),
            "creation_timestamp": info.get("creation_timestamp_ms"),
            "last_updated_timestamp": info.get("last_updated_timestamp_ms"),
        },
        tags=entries(info.get("tags")),
        params=entries(data.get("params")),
        metrics=tuple(
            ModelMetric(
                model_id=str(info["model_id"]),
                key=str(one["key"]),
                value=float(one.get("value", 0.0)),
                timestamp=int(one.get("timestamp") or 0),
                step=int(one.get("step") or 0),
                run_id=str(one.get("run_id") or ""),
                dataset_name=one.get("dataset_name") or None,
                dataset_digest=one.get("dataset_digest") or None,
            )
            for one in data.get("metrics") or ()
        ),
    )


def logged_model_of(info: Sent, **more: Any) -> LoggedModel:
    """A logged model of what it is and what belongs to it."""
    created = int(info.get("creation_timestamp") or 0)
    return LoggedModel(
        model_id=str(info["model_id"]),
        experiment_id=str(info["experiment_id"]),
        name=str(info.get("name") or ""),
        source_run_id=info.get("source_run_id") or None,
        model_type=info.get("model_type") or None,
        status=MODEL_STATUS.get(info.get("status"), LoggedModelStatus.PENDING),
        lifecycle_stage=Lifecycle(info.get("lifecycle_stage") or "active"),
        artifact_location=str(info.get("artifact_location") or ""),
        creation_time=created,
        last_update_time=int(info.get("last_updated_timestamp") or created),
        **more,
    )


def registered_model(sent: Sent) -> FoundModel:
    """A registered model."""
    return FoundModel(
        name=str(sent["name"]),
        description=str(sent.get("description") or ""),
        tags=entries(sent.get("tags")),
        aliases={str(one["alias"]): int(one["version"]) for one in sent.get("aliases") or ()},
    )


def version(sent: Sent) -> FoundVersion:
    """A version."""
    return version_of(sent, entries(sent.get("tags")))


def version_of(info: Sent, tags: Mapping[str, str]) -> FoundVersion:
    """A version of what it is and its tags."""
    return FoundVersion(
        name=str(info["name"]),
        number=int(info["version"]),
        stage=str(info.get("current_stage") or "None"),
        description=str(info.get("description") or ""),
        source=str(info.get("source") or ""),
        run_id=str(info.get("run_id") or ""),
        model_id=str(info.get("model_id") or ""),
        run_link=str(info.get("run_link") or ""),
        created=int(info.get("creation_timestamp") or info.get("creation_time") or 0),
        tags=tags,
    )
