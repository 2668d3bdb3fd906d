"""The model registry: versions, stages, aliases, tags, search, approvals, comparison, lineage."""

from modelyard.core.models import ModelStage, ModelVersion, References, RegisteredModel
from modelyard.registry.rules import Approval, PromotionRequest, RequestStatus
from modelyard.registry.service import ModelRegistry

__all__ = [
    "Approval",
    "ModelRegistry",
    "ModelStage",
    "ModelVersion",
    "PromotionRequest",
    "References",
    "RegisteredModel",
    "RequestStatus",
]
