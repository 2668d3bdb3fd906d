"""What a policy requires beyond metrics: each is answered from events or rows by one function. A closed table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from modelyard.core.events import EventType
from modelyard.core.models import ModelVersion
from modelyard.core.ports import Connection, Row
from modelyard.registry import store, store_models
from modelyard.registry.checks import canonical_version
from modelyard.registry.policy import (
    COMPLIANCE,
    REQUIREMENTS,
    PromotionPolicy,
    champion_requirements,
    metric_requirements,
)
from modelyard.registry.rules import CHAMPION, Requirement

LOOKED_AT = 500  # the newest events of a rollout's kinds that are searched for a shadow of the version


@dataclass(frozen=True)
class Subject:
    """The version that is asked about, and where the answers are."""

    rows: Connection
    model: ModelVersion

    @cached_property
    def since(self) -> int:
        """The position of the event by which these bytes got this name: older events are about another version of it."""
        return store.named_since(self.rows, self.model.name, spellings(self.model))


Check = Callable[[Subject, str], Requirement]


def evaluated(rows: Connection, policy: PromotionPolicy, model: ModelVersion) -> tuple[Requirement, ...]:
    """Everything that the policy asks of the version, as it stands now."""
    subject = Subject(rows, model)
    found = [stored_bytes(rows, model)] if policy.protected else []
    found += metric_requirements(policy, model)
    champion = _champion(rows, model) if policy.no_worse_than_champion else None
    found += champion_requirements(policy, model, champion)
    for name in policy.requires:
        found.append(CHECKS[name.partition(":")[0]](subject, name))
    if policy.min_shadow_agreement is not None:
        found.append(_shadow(subject, policy.min_shadow_agreement))
    return tuple(found)


def _champion(rows: Connection, model: ModelVersion) -> ModelVersion | None:
    """The champion, or the last one that is still there: to demote it first does not lower the bar."""
    present = store.by_alias(rows, model.name, CHAMPION)
    if present is not None:
        return present
    former = (store.version(rows, model.name, version) for version in store.former_champions(rows, model.name))
    return next((one for one in former if one is not None), None)


def stored_bytes(rows: Connection, model: ModelVersion) -> Requirement:
    """A protected stage is for bytes that an approval can be bound to and that load without running code."""
    row = _artifact(rows, model)
    if row is None:
        return Requirement(name="bytes", met=False, reason="its bytes are not stored here; register them")
    accepted = row["admission"] == "accepted"
    reason = "the bytes are stored and accepted" if accepted else "the bytes are in quarantine; convert the model"
    return Requirement(name="bytes", met=accepted, reason=reason, value=row["admission"], needed="accepted")


def _scan(subject: Subject, name: str) -> Requirement:
    row = _artifact(subject.rows, subject.model)
    newest = subject.rows.one("SELECT MAX(rules_version) AS newest FROM artifacts")
    if row is None or newest is None:
        return Requirement(name=name, met=False, reason="its bytes are not stored here")
    met = row["admission"] == "accepted" and row["rules_version"] == newest["newest"]
    reason = f"the bytes were {row['admission']} by version {row['rules_version']} of the admission rules"
    return Requirement(name=name, met=met, reason=reason, value=row["admission"], needed="accepted")


def _signature(subject: Subject, name: str) -> Requirement:
    told = _newest(subject.rows, EventType.ARTIFACT_SIGNED, "artifact", [subject.model.digest])
    if told is None:
        return Requirement(name=name, met=False, reason="nobody signed the bytes")
    return Requirement(name=name, met=True, reason=f"{told['actor']} signed the bytes", value=told["actor"])


def _bias(subject: Subject, name: str) -> Requirement:
    told = _newest_about(subject, EventType.BIAS_ASSESSED)
    if told is None:
        return Requirement(name=name, met=False, reason="there is no bias assessment of it")
    details = _details(told)
    met = details.get("biased") is False
    reason = f"the newest assessment, of {details.get('n')} rows, found {'no bias' if met else 'bias'}"
    return Requirement(name=name, met=met, reason=reason, value="fair" if met else "biased", needed="fair")


def _compliance(subject: Subject, name: str) -> Requirement:
    framework = name.removeprefix(COMPLIANCE)
    told = _newest_about(subject, EventType.COMPLIANCE_ASSESSED, framework=framework)
    if told is None:
        return Requirement(name=name, met=False, reason=f"there is no assessment of {framework}")
    details = _details(told)
    failed = details.get("failed") or []
    reason = (
        f"{len(failed)} requirements of {framework} are not met" if failed else f"nothing of {framework} is missing"
    )
    score = details.get("score")
    return Requirement(name=name, met=not failed, reason=reason, value=score)


def _drift(subject: Subject, name: str) -> Requirement:
    told = _newest_about(subject, EventType.CONFIGURATION_CHANGED, reference_set=True)
    if told is None:  # a monitor may also watch all versions of the model
        whole = [subject.model.name]
        told = _newest(subject.rows, EventType.CONFIGURATION_CHANGED, "model", whole, reference_set=True)
    if told is None:
        return Requirement(name=name, met=False, reason="no monitor of it has a reference")
    rows = _details(told).get("rows")
    return Requirement(name=name, met=True, reason=f"a monitor has a reference of {rows} rows", value=rows)


def _given(subject: Subject, name: str, *, what: Callable[[ModelVersion], Any]) -> Requirement:
    met = bool(what(subject.model))
    return Requirement(name=name, met=met, reason=f"{REQUIREMENTS[name]}: {'yes' if met else 'no'}")


def _licence(subject: Subject, name: str) -> Requirement:
    model = store_models.model(subject.rows, subject.model.name)
    licence = "" if model is None else model.licence
    return Requirement(name=name, met=bool(licence), reason=f"the licence is {licence or 'not named'}", value=licence)


def _shadow(subject: Subject, needed: float) -> Requirement:
    """The lower end of the interval of agreement, from the newest shadow of the version."""
    found = [one for one in (_compared(subject), _rolled_out(subject)) if one is not None]
    if not found:
        return Requirement(name="shadow_agreement", met=False, reason="it has run in no shadow", needed=needed)
    _, low, n = max(found)
    reason = f"it agreed in at least {low:.4f} of {n} answers; {needed:g} is needed"
    return Requirement(name="shadow_agreement", met=low >= needed, reason=reason, value=low, needed=needed)


def _compared(subject: Subject) -> tuple[int, float, int] | None:
    """(position, low, n) of the newest comparison by hand."""
    for row in _mentioning(subject, (EventType.SHADOW_COMPARED,)):
        details = _details(row)
        if details.get("shadow_model") in spellings(subject.model) and details.get("comparisons"):
            return row["position"], float(details["agreement_interval"][0]), details["comparisons"]
    return None


def _rolled_out(subject: Subject) -> tuple[int, float, int] | None:
    """(position, low, n) of the newest measurement of a shadow deployment."""
    kinds = (
        EventType.DEPLOYMENT_COMPLETED,
        EventType.DEPLOYMENT_ADVANCED,
        EventType.DEPLOYMENT_HELD,
        EventType.DEPLOYMENT_ROLLED_BACK,
    )
    for row in _mentioning(subject, kinds):
        details = _details(row)
        about = f"{details.get('model')}:{details.get('version')}"
        if details.get("strategy") != "shadow" or about not in spellings(subject.model):
            continue
        for one in details.get("measurements", ()):
            if one["name"] == "agreement" and one["low"] is not None:
                return row["position"], float(one["low"]), one["n"]
    return None


def _mentioning(subject: Subject, kinds: tuple[EventType, ...]) -> list[Row]:
    """The newest events of some kinds whose details have the model's name."""
    wanted = ", ".join(f"'{kind.value}'" for kind in kinds)
    escaped = subject.model.name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return subject.rows.all(
        f"SELECT position, details FROM events WHERE event_type IN ({wanted}) AND position > :since"
        " AND details LIKE :part ESCAPE '\\' ORDER BY position DESC LIMIT :limit",
        since=subject.since,
        part=f"%{escaped}%",
        limit=LOOKED_AT,
    )


def _newest_about(subject: Subject, kind: EventType, **details: Any) -> Row | None:
    """The newest event of a kind about the version, since it has been this one, whose details have these values."""
    told = _newest(subject.rows, kind, "model", spellings(subject.model), **details)
    return told if told is not None and told["position"] > subject.since else None


def _newest(rows: Connection, kind: EventType, resource_type: str, resources: list[str], **details: Any) -> Row | None:
    """The newest event of a kind about one of the resources whose details have these values."""
    places = {f"r{number}": one for number, one in enumerate(resources)}
    found = rows.all(
        "SELECT position, actor, details FROM events WHERE resource_type = :resource_type AND event_type = :kind"
        f" AND resource_id IN ({', '.join(':' + place for place in places)}) ORDER BY position DESC LIMIT :limit",
        resource_type=resource_type,
        kind=kind.value,
        limit=LOOKED_AT,
        **places,
    )
    return next((row for row in found if not details or details.items() <= _details(row).items()), None)


def _details(row: Row) -> Mapping[str, Any]:
    details: Mapping[str, Any] = json.loads(row["details"])
    return details


def spellings(model: ModelVersion) -> list[str]:
    """How events of other areas may write the version."""
    canonical = canonical_version(model.version)
    return [f"{model.name}:{canonical}", f"{model.name}:v{canonical}"]


def _artifact(rows: Connection, model: ModelVersion) -> Row | None:
    return rows.one("SELECT admission, rules_version FROM artifacts WHERE digest = :digest", digest=model.digest)


CHECKS: Mapping[str, Check] = {
    "scan": _scan,
    "signature": _signature,
    "bias_assessment": _bias,
    "compliance": _compliance,
    "drift_reference": _drift,
    "licence": _licence,
    "input_signature": partial(_given, what=lambda model: model.signature),
    "description": partial(_given, what=lambda model: model.description.strip()),
    "changelog": partial(_given, what=lambda model: model.changelog.strip()),
    "example": partial(_given, what=lambda model: model.example),
    "code": partial(_given, what=lambda model: model.references.commit and not model.references.dirty),
    "data": partial(_given, what=lambda model: model.training_data),
    "lock": partial(_given, what=lambda model: model.references.lock_digest),
    "environment": partial(_given, what=lambda model: model.environment),
}
