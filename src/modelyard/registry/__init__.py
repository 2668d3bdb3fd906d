"""The model registry: versions, stages, aliases, tags, search, approvals, comparison, lineage."""

from modelyard.core.models import ModelStage, ModelVersion, References, RegisteredModel
from modelyard.registry.breaking import BreakGlass, ReviewStatus
from modelyard.registry.comparison import ScoreComparison, Scores, VersionComparison
from modelyard.registry.policy import PolicyStatus, PromotionCheck, PromotionPolicy
from modelyard.registry.rules import Approval, Comment, PromotionRequest, RequestStatus, Requirement
from modelyard.registry.service import ModelRegistry

__all__ = [
    "Approval",
    "BreakGlass",
    "Comment",
    "ModelRegistry",
    "ModelStage",
    "ModelVersion",
    "PolicyStatus",
    "PromotionCheck",
    "PromotionPolicy",
    "PromotionRequest",
    "References",
    "RegisteredModel",
    "RequestStatus",
    "Requirement",
    "ReviewStatus",
    "ScoreComparison",
    "Scores",
    "VersionComparison",
]
