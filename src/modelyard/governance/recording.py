"""Writes inside an open transaction: edges, statements, bias reports and assessments, each with its event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.errors import Conflict, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.evidence import Evidence, EvidenceStatus
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import Instant, micros
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.governance import lineage, rules, store
from modelyard.governance.projection import parsed
from modelyard.governance.values import (
    Attestation,
    BiasReport,
    BiasType,
    BiasVerdict,
    ComplianceFramework,
    ComplianceReport,
    Edge,
    GroupRates,
    Node,
)


def reference(model: Node) -> str:
    """`name:version` of a model node."""
    return f"{model.name}:{model.version}"


def resource(node: Node) -> Resource:
    """What an event about a node names."""
    return Resource(node.kind, reference(node) if node.kind == "model" else node.name)


def checked_node(text: str) -> Node:
    """The node that an id names; Invalid unless it is spelt `kind:name` or `model:name:version`."""
    parts = text.split(":")
    whole = len(parts) == 3 if parts[0] == "model" else len(parts) >= 2
    if not whole or not all(parts):
        raise Invalid(
            f"{text!r} names no node. Write dataset:train_001, feature:amount or model:fraud_detector:v1.0.0."
        )
    for part in parts:
        checked_name(part, "node")
    return parsed(text)


def dataset(work: Work, name: str) -> Node:
    """The registered dataset; NotFound with the nearest known ones."""
    found = store.node_by_id(work.rows, f"dataset:{name}")
    if found is None:
        hint = nearest(name, store.names_of(work.rows, "dataset"))
        raise NotFound(f"There is no dataset {name!r}. {hint} Register it first with register_dataset.")
    return found


def link(work: Work, edge: Edge) -> None:
    """Add an edge; Conflict if it would close a cycle."""
    if lineage.closes_cycle(edge, store.downstream(work.rows, edge.target)[0]):
        raise Conflict(
            f"{edge.source} was itself made from {edge.target}, so it cannot have gone into it. Check the order."
        )
    store.put_edge(work.rows, edge, work.now)


def state(
    work: Work,
    model: Node,
    framework: ComplianceFramework,
    control: str,
    says: str,
    *,
    statement: str,
    attested_by: str,
    expires: Instant,
) -> Attestation:
    """Keep a person's statement about a control."""
    if not statement.strip() or not attested_by.strip():
        raise Invalid("A statement needs words and a name. Pass statement and attested_by.")
    if expires <= work.now:
        raise Invalid(f"The statement would have expired on {expires:%Y-%m-%d}. Pass a later date.")
    told = {
        "model": model.name,
        "version": model.version,
        "framework": framework.value,
        "control": control,
        "says": says,
        "statement": statement,
        "attested_by": attested_by,
        "expires": expires,
    }
    event = work.emit(EventType.CONTROL_ATTESTED, resource(model), told)
    stated = Attestation(
        model=reference(model),
        framework=framework.value,
        control=control,
        says=says,
        statement=statement,
        attested_by=attested_by,
        attested_at=work.now,
        expires=expires,
        event_id=event.event_id,
    )
    store.add_attestation(work.rows, stated)
    return stated


def keep_bias(work: Work, model: Node, found: Sequence[BiasReport]) -> list[BiasReport]:
    """Keep bias reports, with one event that has every verdict."""
    kept = [replace(r, report_id=new_id("bias"), model=reference(model), assessed_at=work.now) for r in found]
    rows = [
        {"report_id": r.report_id, "model": r.model, "assessed_at": micros(work.now), "report": dumps(r)} for r in kept
    ]
    store.add_bias(work.rows, rows)
    results = [
        {
            "report_id": r.report_id,
            "attribute": r.attribute,
            "bias_type": r.bias_type,
            "value": r.bias_score,
            "interval": r.interval,
            "threshold": r.threshold,
            "verdict": r.verdict,
        }
        for r in kept
    ]
    biased = any(r.verdict is BiasVerdict.BIASED for r in kept)
    work.emit(
        EventType.BIAS_ASSESSED,
        resource(model),
        {"model": model.name, "version": model.version, "n": kept[0].n, "biased": biased, "results": results},
        severity=EventSeverity.WARNING if biased else EventSeverity.INFO,
    )
    return kept


def keep_compliance(
    work: Work, model: Node, which: ComplianceFramework, evidence: Sequence[Evidence], metadata: Mapping[str, Any]
) -> ComplianceReport:
    """Keep an assessment of a framework's controls, with its event."""
    backed = (EvidenceStatus.PROVED, EvidenceStatus.ATTESTED)
    made = ComplianceReport(
        assessment_id=new_id("asm"),
        model=reference(model),
        framework=which,
        compliance_score=rules.score(evidence),
        requirements_passed=tuple(row.control for row in evidence if row.status in backed),
        requirements_failed=tuple(row.control for row in evidence if row.status is EvidenceStatus.MISSING),
        evidence=tuple(evidence),
        model_metadata=metadata,
        assessed_at=work.now,
        assessed_by=work.actor,
    )
    store.add_compliance(
        work.rows,
        {
            "assessment_id": made.assessment_id,
            "model": made.model,
            "framework": which.value,
            "assessed_at": micros(work.now),
            "report": dumps(made),
        },
    )
    counts = {status.value: sum(row.status is status for row in evidence) for status in EvidenceStatus}
    told = {"model": model.name, "version": model.version, "framework": which, "assessment_id": made.assessment_id}
    work.emit(
        EventType.COMPLIANCE_ASSESSED,
        resource(model),
        {**told, "score": made.compliance_score, "controls": counts, "failed": made.requirements_failed},
    )
    return made


def stored_bias(raw: Mapping[str, Any]) -> BiasReport:
    """The bias report that stored JSON holds."""
    plain = {
        key: value
        for key, value in raw.items()
        if key not in ("bias_type", "verdict", "interval", "groups", "assessed_at")
    }
    return BiasReport(
        **plain,
        bias_type=BiasType(raw["bias_type"]),
        verdict=BiasVerdict(raw["verdict"]),
        interval=None if raw["interval"] is None else (raw["interval"][0], raw["interval"][1]),
        groups=tuple(GroupRates(**group) for group in raw["groups"]),
        assessed_at=datetime.fromisoformat(raw["assessed_at"]),
    )
