"""What a training run gives: its stages, findings, trials, metrics and files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

from modelyard.core.instants import Instant
from modelyard.core.models import Parity, Signature


class PipelineStatus(Enum):
    """Where a run stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class PipelineStage(Enum):
    """The ten stages, in their order."""

    DATA_LOADING = "data_loading"
    DATA_VALIDATION = "data_validation"
    FEATURE_ENGINEERING = "feature_engineering"
    DATA_SPLITTING = "data_splitting"
    HYPERPARAMETER_TUNING = "hyperparameter_tuning"
    MODEL_TRAINING = "model_training"
    MODEL_VALIDATION = "model_validation"
    MODEL_TESTING = "model_testing"
    MODEL_EXPORT = "model_export"
    DEPLOYMENT_PREP = "deployment_prep"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the data or the training that a person should know."""

    kind: str  # missing_values, constant, duplicates, leakage, identifier, imbalance, ...
    severity: Literal["info", "warning"]
    message: str
    column: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One set of parameters and what cross-validation on the training part made of it."""

    number: int
    params: Mapping[str, Any]
    seed: int
    value: float | None  # of the tuning metric; None if the learner refused the parameters
    seconds: float
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """A finished run. `metrics` has test_, validation_ and cv_ scores (cv_NAME_std is their spread over the folds);
    `artifacts` maps model (the package folder), onnx, native and report to paths; `timings` stages to seconds."""

    run_id: str
    name: str
    status: PipelineStatus
    metrics: Mapping[str, float]
    stages_completed: tuple[PipelineStage, ...]
    artifacts: Mapping[str, str]
    timings: Mapping[str, float]
    best_params: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    findings: tuple[Finding, ...] = ()
    parity: Parity | None = None
    signature: Signature | None = None
    started_at: Instant
    completed_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A run as the store knows it, whatever became of it."""

    run_id: str
    name: str
    status: PipelineStatus
    created_by: str
    started_at: Instant
    completed_at: Instant | None
    data_source: str
    data_digest: str
    model_type: str
    model_class: str
    config: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_params: Mapping[str, Any] = field(default_factory=dict)
    artifacts: Mapping[str, str] = field(default_factory=dict)
    failed_stage: str = ""
    error: str = ""
