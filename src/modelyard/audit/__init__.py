"""A tamper-evident log of everything that happened: append, query, report, prove, verify."""

from modelyard.audit.notes import ProvedEvent, check_proof
from modelyard.audit.rules import AuditReport, Verification
from modelyard.audit.service import AuditLogger
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
]
