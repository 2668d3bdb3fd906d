"""What tracking keeps: experiments, runs, metrics, datasets and logged models.

Times are whole milliseconds since 1970, and statuses are written in capitals: both are what tracking clients send, compare
and search for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PARENT_RUN = "mlflow.parentRunId"  # the tag that makes a run a part of another
RUN_NAME = "mlflow.runName"
DATASET_CONTEXT = "mlflow.data.context"

Point = tuple[str, float, int, int]  # (key, value, timestamp, step)


class Lifecycle(Enum):
    """Whether a thing is in use, or deleted and can be restored."""

    ACTIVE = "active"
    DELETED = "deleted"


class View(Enum):
    """Which things a search looks at."""

    ACTIVE = "active"
    DELETED = "deleted"
    ALL = "all"


class RunStatus(Enum):
    """Where a run stands."""

    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self in (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)


class LoggedModelStatus(Enum):
    """Whether a logged model's files are there."""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """Runs that belong together. The id is a number, written as text."""

    experiment_id: str
    name: str
    artifact_location: str
    lifecycle_stage: Lifecycle
    creation_time: int
    last_update_time: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metric:
    """One value of a metric; it may be infinite or not a number."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Data that a run used. Name and digest tell datasets of an experiment apart."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInput:
    """A dataset as a run used it; the tag mlflow.data.context says what for."""

    dataset: Dataset
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """A logged model that a run made at a step."""

    model_id: str
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One training run: what it was given, what it measured, how it ended.

    `latest_metrics` has the newest value of each metric: the one with the highest step, then time, then value.
    """

    run_id: str
    experiment_id: str
    name: str
    user_id: str
    status: RunStatus
    start_time: int
    end_time: int | None
    lifecycle_stage: Lifecycle
    artifact_uri: str
    latest_metrics: tuple[Metric, ...] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[DatasetInput, ...] = ()
    model_inputs: tuple[str, ...] = ()
    model_outputs: tuple[ModelOutput, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """The newest value of each metric by its key."""
        return {metric.key: metric.value for metric in self.latest_metrics}

    @property
    def parent_run_id(self) -> str | None:
        """The run that this one is a part of."""
        return self.tags.get(PARENT_RUN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetric:
    """A value measured on a logged model by a run, perhaps on a dataset."""

    model_id: str
    key: str
    value: float
    timestamp: int
    step: int
    run_id: str = ""
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedModel:
    """A model as a run wrote it down, before anybody registers it."""

    model_id: str
    experiment_id: str
    name: str
    source_run_id: str | None
    model_type: str | None
    status: LoggedModelStatus
    lifecycle_stage: Lifecycle
    artifact_location: str
    creation_time: int
    last_update_time: int
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[ModelMetric, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFilter:
    """Only metrics measured on this dataset count."""

    name: str
    digest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOrder:
    """One key that logged models are ordered by: an attribute or metrics.KEY, if need be as measured on a dataset."""

    field: str
    descending: bool = False
    dataset: DatasetFilter | None = None
