"""A tamper-evident log of everything that happened: append, query, report, prove, verify, keep and forget."""

from modelyard.audit.proofs import ProvedEvent, check_proof
from modelyard.audit.rules import AuditReport, Verification
from modelyard.audit.service import AuditLogger
from modelyard.audit.tables import is_held
from modelyard.core.events import Event, EventSeverity, EventType

__all__ = [
    "AuditLogger",
    "AuditReport",
    "Event",
    "EventSeverity",
    "EventType",
    "ProvedEvent",
    "Verification",
    "check_proof",
    "is_held",
]
