"""Governance: bias with intervals, compliance evidence from events, lineage."""

from modelyard.governance.service import GovernanceManager
from modelyard.governance.values import (
    Attestation,
    BiasReport,
    BiasType,
    BiasVerdict,
    ComplianceFramework,
    ComplianceReport,
    LineageTree,
)

__all__ = [
    "Attestation",
    "BiasReport",
    "BiasType",
    "BiasVerdict",
    "ComplianceFramework",
    "ComplianceReport",
    "GovernanceManager",
    "LineageTree",
]
