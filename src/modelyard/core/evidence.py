"""Evidence: what a claim about a model rests on, by digest, so anyone can recompute it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelyard.core.instants import Instant


class EvidenceStatus(Enum):
    """How well a control is supported. There is no 'compliant': that is for a person to say."""

    PROVED = "proved"
    ATTESTED = "attested"
    MISSING = "missing"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The support of one control: its status, the event or record it points at, and that record's digest."""

    control: str
    status: EvidenceStatus
    statement: str = ""
    event_id: str | None = None
    digest: str | None = None
    person: str | None = None
    at: Instant | None = None
    expires: Instant | None = None
