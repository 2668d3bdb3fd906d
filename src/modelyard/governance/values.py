"""What governance returns: bias reports, control evidence, compliance reports and lineage, all frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from modelyard.core.errors import Invalid, nearest
from modelyard.core.evidence import Evidence
from modelyard.core.instants import Instant
from modelyard.core.refs import Resource


class ComplianceFramework(Enum):
    """The regulations and criteria whose controls ship as data."""

    GDPR = "gdpr"
    EU_AI_ACT = "eu_ai_act"
    CCPA = "ccpa"
    HIPAA = "hipaa"
    SOC2 = "soc2"

    @classmethod
    def parse(cls, text: ComplianceFramework | str) -> ComplianceFramework:
        """The framework that a name spells; Invalid with the nearest known ones for anything else."""
        if isinstance(text, ComplianceFramework):
            return text
        name = str(text).strip().lower().replace("-", "_").replace(" ", "_")
        known = [member.value for member in cls]
        if name not in known:
            raise Invalid(f"{text!r} is no compliance framework. {nearest(name, known)}")
        return cls(name)


class BiasType(Enum):
    """What is compared between groups."""

    STATISTICAL_PARITY = "statistical_parity"
    DISPARATE_IMPACT = "disparate_impact"
    EQUAL_OPPORTUNITY = "equal_opportunity"
    EQUALIZED_ODDS = "equalized_odds"
    PREDICTIVE_PARITY = "predictive_parity"
    ACCURACY_PARITY = "accuracy_parity"


class BiasVerdict(Enum):
    """What the interval says about the threshold."""

    BIASED = "biased"  # the whole interval lies beyond the threshold
    WITHIN = "within threshold"  # the whole interval lies inside it
    UNCLEAR = "not enough evidence"  # the threshold lies in the interval
    UNDEFINED = "undefined"  # a rate that is compared does not exist


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRates:
    """One group's counts and rates; a rate is None where nothing could be counted for it."""

    group: str
    n: int
    positives: int
    selected: int
    selection_rate: float | None
    tpr: float | None
    fpr: float | None
    ppv: float | None
    accuracy: float | None
    left_out: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasReport:
    """One fairness measure over one attribute: its value, its interval, and what that says about the threshold.

    `bias_score` is the largest difference between two groups' rates, or for disparate impact the smallest ratio;
    it is None where it is undefined, and `reason` says why. `interval` covers the true value with `confidence`.
    """

    bias_type: BiasType
    attribute: str
    is_biased: bool
    verdict: BiasVerdict
    bias_score: float | None
    interval: tuple[float, float] | None
    threshold: float
    reason: str
    groups: tuple[GroupRates, ...]
    n: int
    confidence: float
    method: str
    report_id: str = ""
    model: str = ""
    assessed_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComplianceReport:
    """How much of one framework's controls has evidence for one model version.

    `compliance_score` is the percentage of applicable controls that are proved or attested, None where none applies.
    It measures the evidence in the store; whether the law is met is for a person to say.
    """

    assessment_id: str
    model: str
    framework: ComplianceFramework
    compliance_score: float | None
    requirements_passed: tuple[str, ...]
    requirements_failed: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    model_metadata: Mapping[str, Any] = field(default_factory=dict)
    assessed_at: Instant | None = None
    assessed_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """What a named person states about one control, until when."""

    model: str
    framework: str
    control: str
    says: str  # met | unmet | not applicable
    statement: str
    attested_by: str
    attested_at: Instant
    expires: Instant | None
    event_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A thing in the lineage graph; `id` is `kind:name`, and `model:name:version` for a model version."""

    id: str
    kind: str
    name: str
    version: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    created_at: Instant | None = None

    @property
    def reference(self) -> str:
        """`name:version` of a model version, the name of anything else."""
        return f"{self.name}:{self.version}" if self.kind == "model" else self.name

    @property
    def resource(self) -> Resource:
        """What an event about it names."""
        return Resource(self.kind, self.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`source` went into `target`; `relation` says how."""

    source: str
    target: str
    relation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """One node of a lineage tree. A node met a second time is `repeated` and not unfolded again; nor is one that is `cut`,
    a hundred steps away: its edges are in the tree's `edges`."""

    node: Node
    relation: str
    branches: tuple[Branch, ...] = ()
    repeated: bool = False
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageTree:
    """Everything that went into a model version, and everything made from it."""

    model: Node
    upstream: tuple[Branch, ...]
    downstream: tuple[Branch, ...]
    edges: tuple[Edge, ...]
