"""Experiment tracking: experiments, runs, metrics, parameters, tags, datasets, logged models and the files of runs."""

from modelyard.tracking.active import ActiveRun
from modelyard.tracking.files import ArtifactFiles, FileEntry
from modelyard.tracking.following import Training
from modelyard.tracking.recording import ParameterChanged
from modelyard.tracking.service import ExperimentTracker
from modelyard.tracking.values import (
    Dataset,
    DatasetFilter,
    DatasetInput,
    Experiment,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOrder,
    ModelOutput,
    Run,
    RunStatus,
    View,
)

__all__ = [
    "ActiveRun",
    "ArtifactFiles",
    "Dataset",
    "DatasetFilter",
    "DatasetInput",
    "Experiment",
    "ExperimentTracker",
    "FileEntry",
    "Lifecycle",
    "LoggedModel",
    "LoggedModelStatus",
    "Metric",
    "ModelMetric",
    "ModelOrder",
    "ModelOutput",
    "ParameterChanged",
    "Run",
    "RunStatus",
    "Training",
    "View",
]
