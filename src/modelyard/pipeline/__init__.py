"""Training: ten stages from a table to a model package whose every form answers alike."""

from modelyard.pipeline.config import PipelineConfig
from modelyard.pipeline.results import Finding, PipelineResult, PipelineStage, PipelineStatus, RunRecord, Trial
from modelyard.pipeline.service import Pipelines
from modelyard.pipeline.training import MLPipeline

__all__ = [
    "Finding",
    "MLPipeline",
    "PipelineConfig",
    "PipelineResult",
    "PipelineStage",
    "PipelineStatus",
    "Pipelines",
    "RunRecord",
    "Trial",
]
