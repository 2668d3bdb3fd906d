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
    REGISTERED_MODEL_CREATED = "registered_model_created"
    REGISTERED_MODEL_UPDATED = "registered_model_updated"
    REGISTERED_MODEL_DELETED = "registered_model_deleted"
    ALIAS_SET = "alias_set"
    STAGE_CHANGED = "stage_changed"
    PROMOTION_REQUESTED = "promotion_requested"
    PROMOTION_COMMENTED = "promotion_commented"
    APPROVAL_GRANTED = "approval_granted"
    APPROVAL_REJECTED = "approval_rejected"
    APPROVAL_WITHDRAWN = "approval_withdrawn"
    REQUEST_EXPIRED = "request_expired"
    POLICY_PROPOSED = "policy_proposed"
    POLICY_AGREED = "policy_agreed"
    POLICY_APPROVED = "policy_approved"
    POLICY_REJECTED = "policy_rejected"
    BREAK_GLASS_USED = "break_glass_used"
    BREAK_GLASS_REVIEWED = "break_glass_reviewed"
    ARTIFACT_RELEASED = "artifact_released"  # approved for loading in a sandbox
    ARTIFACT_SIGNED = "artifact_signed"
    ARTIFACT_LOADED = "artifact_loaded"  # in a sandbox
    # audit
    SECURITY_VIOLATION = "security_violation"
    DATA_ACCESSED = "data_accessed"
    CONFIGURATION_CHANGED = "configuration_changed"
    REPORT_GENERATED = "report_generated"
    TRAIL_EXPORTED = "trail_exported"
    CHECKPOINT_COPIED = "checkpoint_copied"
    KEY_ROTATED = "key_rotated"
    HOLD_PLACED = "hold_placed"
    HOLD_LIFTED = "hold_lifted"
    EVENTS_EXPIRED = "events_expired"
    SUBJECT_ERASED = "subject_erased"
    # the yard as a whole
    YARD_EXPORTED = "yard_exported"
    YARD_IMPORTED = "yard_imported"
    # tracking
    EXPERIMENT_CREATED = "experiment_created"
    EXPERIMENT_UPDATED = "experiment_updated"
    EXPERIMENT_DELETED = "experiment_deleted"
    EXPERIMENT_RESTORED = "experiment_restored"
    RUN_STARTED = "run_started"
    RUN_ENDED = "run_ended"
    RUN_AMENDED = "run_amended"  # the record of an ended run changed
    RUN_DELETED = "run_deleted"
    RUN_RESTORED = "run_restored"
    RUN_REMOVED = "run_removed"  # for good
    RUN_FILES_REMOVED = "run_files_removed"
    LOGGED_MODEL_CREATED = "logged_model_created"
    LOGGED_MODEL_FINALIZED = "logged_model_finalized"
    LOGGED_MODEL_DELETED = "logged_model_deleted"
    LOGGED_MODEL_REMOVED = "logged_model_removed"  # for good
    TRACKING_IMPORTED = "tracking_imported"
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
    MODEL_COMPILED = "model_compiled"
    TRAFFIC_CHANGED = "traffic_changed"
    GUARD_TRIPPED = "guard_tripped"
    SCALED = "scaled"
    WORKER_REPLACED = "worker_replaced"
    OUTCOMES_RECORDED = "outcomes_recorded"
    PAYLOADS_ERASED = "payloads_erased"
    BATCH_PREDICTED = "batch_predicted"
    # deployment
    MODEL_DEPLOYED = "model_deployed"
    DEPLOYMENT_STARTED = "deployment_started"
    DEPLOYMENT_ADVANCED = "deployment_advanced"
    DEPLOYMENT_CALIBRATED = "deployment_calibrated"  # what its baseline takes is frozen, or has moved and will be anew
    DEPLOYMENT_HELD = "deployment_held"
    DEPLOYMENT_AMENDED = "deployment_amended"  # its plan changed while it was under way
    DEPLOYMENT_COMPLETED = "deployment_completed"
    DEPLOYMENT_RELEASED = "deployment_released"  # the version before is kept in memory no longer
    DEPLOYMENT_ROLLED_BACK = "deployment_rolled_back"
    DEPLOYMENT_ABORTED = "deployment_aborted"
    SHADOW_STARTED = "shadow_started"
    SHADOW_COMPARED = "shadow_compared"
    # experiments
    AB_TEST_CREATED = "ab_test_created"
    AB_TEST_STARTED = "ab_test_started"
    AB_TEST_AMENDED = "ab_test_amended"  # what may change of its plan has changed
    AB_TEST_ROUTED = "ab_test_routed"  # carried out on an endpoint
    AB_TEST_ANALYZED = "ab_test_analyzed"
    AB_TEST_REALLOCATED = "ab_test_reallocated"  # the next round of Thompson sampling
    AB_TEST_STOPPED = "ab_test_stopped"
    AB_RESULTS_CORRECTED = "ab_results_corrected"
    AB_UNITS_FORGOTTEN = "ab_units_forgotten"
    AB_HOLDOUT_CREATED = "ab_holdout_created"
    AB_HOLDOUT_ENDED = "ab_holdout_ended"
    # monitoring
    DRIFT_CHECKED = "drift_checked"
    DRIFT_DETECTED = "drift_detected"
    OUTCOME_CORRECTED = "outcome_corrected"
    PREDICTIONS_FORGOTTEN = "predictions_forgotten"
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
    USER_CREATED = "user_created"
    USER_UPDATED = "user_updated"
    ROLE_GRANTED = "role_granted"
    ROLE_REVOKED = "role_revoked"
    LOGIN_FAILED = "login_failed"
    # marketplace
    LISTING_PUBLISHED = "listing_published"
    LISTING_WITHDRAWN = "listing_withdrawn"
    LISTING_RATED = "listing_rated"
    LISTING_FETCHED = "listing_fetched"
    ACCESS_REQUESTED = "access_requested"
    ACCESS_DECIDED = "access_decided"
    PUBLISHER_TRUSTED = "publisher_trusted"
    PUBLISHER_DISTRUSTED = "publisher_distrusted"
    # webhooks
    WEBHOOK_CREATED = "webhook_created"
    WEBHOOK_UPDATED = "webhook_updated"
    WEBHOOK_DELETED = "webhook_deleted"
    WEBHOOK_FAILED = "webhook_failed"


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
