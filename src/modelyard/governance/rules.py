"""What events and statements amount to for a control. Pure: everything that is known comes in as arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from modelyard.core.canonical import digest
from modelyard.core.events import Event
from modelyard.core.evidence import Evidence, EvidenceStatus
from modelyard.core.instants import Instant
from modelyard.governance.controls import Control, Framework, Need
from modelyard.governance.values import Attestation, Node

MET, UNMET, NOT_APPLICABLE = "met", "unmet", "not applicable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known about a model version: events about it and its lineage, events of the whole yard,
    what went into it, and the newest statement on each control."""

    model_events: Sequence[Event]
    yard_events: Sequence[Event]
    upstream: Sequence[Node]
    attestations: Mapping[str, Attestation]


def evidence_table(framework: Framework, facts: Facts, now: Instant) -> tuple[Evidence, ...]:
    """The evidence for every control of a framework, in the framework's order."""
    exempt = exemption(framework, facts)
    return tuple(exempt_row(control, exempt) or evidence(control, facts, now) for control in framework.controls)


def evidence(control: Control, facts: Facts, now: Instant) -> Evidence:
    """The support of one control. A person's 'no' outweighs proof; proof outweighs a person's 'yes'."""
    stated = facts.attestations.get(control.id)
    current = stated if stated is not None and holds(stated, now) else None
    if current is not None and current.says != MET:
        return _stated(control, current)
    proof = [matching(need, facts, now) for need in control.needs]
    if control.needs and all(proof):
        return _proved(control, [event for events in proof for event in events])
    if current is not None:
        return _stated(control, current)
    told = [matching(need, facts, now, reported=True) for need in control.needs]
    if control.needs and all(told):
        return _reported(control, [event for events in told for event in events])
    return _missing(control, [n.says for n, events in zip(control.needs, told, strict=True) if not events], stated)


def holds(stated: Attestation, now: Instant) -> bool:
    """Whether a statement has not expired."""
    return stated.expires is None or stated.expires > now


def matching(need: Need, facts: Facts, now: Instant, *, reported: bool = False) -> list[Event]:
    """The newest event that meets the need (one for each upstream thing where `every` asks so), or none.

    An event that someone reported, as against a change that modelyard made, counts only where `reported` says so.
    """
    pool = facts.model_events if need.scope == "model" else facts.yard_events
    fit = [e for e in pool if fits(need, e, now) and (reported or e.details.get("reported") is not True)]
    fit.sort(key=lambda event: (event.occurred_at, event.position or 0))
    if not need.every:
        return fit[-1:]
    newest = {event.resource_id: event for event in fit if event.resource_type == need.every}
    wanted = [node.name for node in facts.upstream if node.kind == need.every]
    return [newest[name] for name in wanted] if wanted and all(name in newest for name in wanted) else []


def fits(need: Need, event: Event, now: Instant) -> bool:
    """Whether one event is of the kind, age and content that the need names."""
    if event.event_type not in need.events or event.occurred_at > now:
        return False
    if need.max_age_days is not None and now - event.occurred_at > timedelta(days=need.max_age_days):
        return False
    if any(event.details.get(name) in (None, "") for name in need.present):
        return False
    return all(event.details.get(name) == value for name, value in need.where.items())


def exemption(framework: Framework, facts: Facts) -> tuple[str, Event] | None:
    """Why the whole framework does not apply: every dataset in the lineage was registered without such data."""
    datasets = [node for node in facts.upstream if node.kind == "dataset"]
    if not framework.data_flag or not datasets:
        return None
    if any(node.details.get(framework.data_flag) is not False for node in datasets):
        return None
    names = ", ".join(node.name for node in datasets)
    told = [
        e for e in facts.model_events if e.resource_type == "dataset" and e.details.get(framework.data_flag) is False
    ]
    return (
        (f"Every dataset of the model ({names}) is registered with {framework.data_flag} = false.", told[-1])
        if told
        else None
    )


def exempt_row(control: Control, exempt: tuple[str, Event] | None) -> Evidence | None:
    """The row of a control whose framework does not apply; None where it does."""
    if exempt is None:
        return None
    reason, event = exempt
    return Evidence(
        control=control.id,
        status=EvidenceStatus.NOT_APPLICABLE,
        statement=reason,
        event_id=event.event_id,
        digest=digest(event),
        person=event.actor,
        at=event.occurred_at,
    )


def score(rows: Sequence[Evidence]) -> float | None:
    """The percentage of applicable controls that are proved or attested; None where none applies."""
    applicable = [row for row in rows if row.status is not EvidenceStatus.NOT_APPLICABLE]
    backed = [row for row in applicable if row.status is not EvidenceStatus.MISSING]
    return 100.0 * len(backed) / len(applicable) if applicable else None


def _proved(control: Control, proof: Sequence[Event]) -> Evidence:
    newest = max(proof, key=lambda event: (event.occurred_at, event.position or 0))
    others = [event.event_id for event in proof if event.event_id != newest.event_id]
    also = f" Also: {', '.join(others)}." if others else ""
    return Evidence(
        control=control.id,
        status=EvidenceStatus.PROVED,
        statement=control.claim + also,
        event_id=newest.event_id,
        digest=digest(newest),
        person=newest.actor,
        at=newest.occurred_at,
    )


def _reported(control: Control, told: Sequence[Event]) -> Evidence:
    """Support by events of which one or more were only reported: a person's word."""
    newest = max((e for e in told if e.details.get("reported") is True), key=lambda event: event.occurred_at)
    return Evidence(
        control=control.id,
        status=EvidenceStatus.ATTESTED,
        statement=f"{control.claim} Reported by {newest.actor}, not done by modelyard.",
        event_id=newest.event_id,
        digest=digest(newest),
        person=newest.actor,
        at=newest.occurred_at,
    )


def _stated(control: Control, stated: Attestation) -> Evidence:
    status = {
        MET: EvidenceStatus.ATTESTED,
        UNMET: EvidenceStatus.MISSING,
        NOT_APPLICABLE: EvidenceStatus.NOT_APPLICABLE,
    }[stated.says]
    said = f"Stated not to be met: {stated.statement}" if stated.says == UNMET else stated.statement
    return Evidence(
        control=control.id,
        status=status,
        statement=said,
        event_id=stated.event_id,
        person=stated.attested_by,
        at=stated.attested_at,
        expires=stated.expires,
    )


def _missing(control: Control, lacking: Sequence[str], expired: Attestation | None) -> Evidence:
    parts = [f"No record of {'; nor of '.join(lacking)}."] if lacking else []
    if expired is not None and expired.expires is not None:
        parts.append(f"The statement by {expired.attested_by} expired on {expired.expires:%Y-%m-%d}.")
    parts.append(f"A person may state: {control.ask}")
    return Evidence(control=control.id, status=EvidenceStatus.MISSING, statement=" ".join(parts))
