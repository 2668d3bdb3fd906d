"""Rollouts: a bad version is taken back in seconds with a proof, a good one is never taken back by chance."""

from modelyard.deployment.rollouts import (
    Deployment,
    DeploymentStatus,
    DeploymentStrategy,
    HistoryEntry,
    PerformanceMetrics,
    RollbackConfig,
    ShadowDeployment,
)
from modelyard.deployment.service import DeploymentManager

__all__ = [
    "Deployment",
    "DeploymentManager",
    "DeploymentStatus",
    "DeploymentStrategy",
    "HistoryEntry",
    "PerformanceMetrics",
    "RollbackConfig",
    "ShadowDeployment",
]
