"""Events: everything that changes is told once, in the transaction that changes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from modelyard.core.instants import Instant


class EventSeverity(Enum):
    """How much an event asks for attention."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    CRITICAL = "critical"


class EventType(Enum):
    """What happened, in the past tense."""

    # registry and artifacts
    ARTIFACT_STORED = "artifact_stored"
    ARTIFACT_QUARANTINED = "artifact_quarantined"
    ARTIFACT_REMOVED = "artifact_removed"
    MODEL_REGISTERED = "model_registered"
    MODEL_UPDATED = "model_updated"
    MODEL_DELETED = "model_deleted"
    ALIAS_SET = "alias_set"
    STAGE_CHANGED = "stage_changed"
    PROMOTION_REQUESTED = "promotion_requested"
    APPROVAL_GRANTED = "approval_granted"
    APPROVAL_REJECTED = "approval_rejected"
    APPROVAL_WITHDRAWN = "approval_withdrawn"
    # audit
    SECURITY_VIOLATION = "security_violation"
    DATA_ACCESSED = "data_accessed"
    CONFIGURATION_CHANGED = "configuration_changed"
    REPORT_GENERATED = "report_generated"
    TRAIL_EXPORTED = "trail_exported"
    # pipeline
    TRAINING_STARTED = "training_started"
    TRAINING_COMPLETED = "training_completed"
    TRAINING_FAILED = "training_failed"
    # features
    FEATURE_REGISTERED = "feature_registered"
    FEATURES_WRITTEN = "features_written"
    FEATURES_READ = "features_read"
    FEATURES_FORGOTTEN = "features_forgotten"
    # serving
    ENDPOINT_CREATED = "endpoint_created"
    ENDPOINT_REMOVED = "endpoint_removed"
    TRAFFIC_CHANGED = "traffic_changed"
    GUARD_TRIPPED = "guard_tripped"
    SCALED = "scaled"
    # deployment
    MODEL_DEPLOYED = "model_deployed"
    DEPLOYMENT_STARTED = "deployment_started"
    DEPLOYMENT_ADVANCED = "deployment_advanced"
    DEPLOYMENT_HELD = "deployment_held"
    DEPLOYMENT_COMPLETED = "deployment_completed"
    DEPLOYMENT_ROLLED_BACK = "deployment_rolled_back"
    DEPLOYMENT_ABORTED = "deployment_aborted"
    SHADOW_STARTED = "shadow_started"
    SHADOW_COMPARED = "shadow_compared"
    # experiments
    AB_TEST_CREATED = "ab_test_created"
    AB_TEST_STARTED = "ab_test_started"
    AB_TEST_ANALYZED = "ab_test_analyzed"
    AB_TEST_STOPPED = "ab_test_stopped"
    # monitoring
    DRIFT_CHECKED = "drift_checked"
    DRIFT_DETECTED = "drift_detected"
    PERFORMANCE_MEASURED = "performance_measured"
    PREDICTION_EXPLAINED = "prediction_explained"
    # governance
    DATASET_REGISTERED = "dataset_registered"
    LINEAGE_RECORDED = "lineage_recorded"
    BIAS_ASSESSED = "bias_assessed"
    COMPLIANCE_ASSESSED = "compliance_assessed"
    CONTROL_ATTESTED = "control_attested"
    # access
    TOKEN_CREATED = "token_created"
    TOKEN_REVOKED = "token_revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened: who did what to which thing, when, with the numbers.

    `position` orders events in the store; it is None until the event is written.
    """

    event_id: str
    event_type: EventType
    severity: EventSeverity
    actor: str
    resource_type: str
    resource_id: str
    occurred_at: Instant
    details: Mapping[str, Any] = field(default_factory=dict)
    position: int | None = None
