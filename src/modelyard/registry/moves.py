"""What changes where a version stands, within the caller's transaction: rows and events, once a decision is taken."""

from __future__ import annotations

from dataclasses import replace

from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import micros
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.registry import checks, rules, store, store_models, store_policies, store_requests
from modelyard.registry.lookup import found, holder, resource
from modelyard.registry.policy import PromotionPolicy, default_policy
from modelyard.registry.rules import PromotionRequest, RequestStatus


def policy_for(rows: Connection, name: str, stage: ModelStage) -> PromotionPolicy:
    """The policy in force for the model and the stage."""
    return store_policies.active(rows, name, stage) or default_policy(stage)


def barred(rows: Connection, model: ModelVersion, requested_by: str) -> dict[str, str]:
    """Who may not approve the version, by the likeness of the name, and why."""
    return rules.barred(model, requested_by, store.uploader(rows, model.digest))


def moved(work: Work, model: ModelVersion, stage: ModelStage, **details: object) -> ModelVersion:
    """The version in its new stage, written and told. What leaves production cannot stay the champion."""
    changed = replace(model, stage=stage, updated_at=work.now)
    store.move(work.rows, changed)
    told = {"number": model.number, "from": model.stage.value, "to": stage.value, "digest": model.digest, **details}
    work.emit(EventType.STAGE_CHANGED, resource(model), told)
    if rules.CHAMPION in model.aliases and model.stage is ModelStage.PRODUCTION:
        store_models.remove_alias(work.rows, model.name, rules.CHAMPION)
        work.emit(
            EventType.ALIAS_SET, resource(model), {"alias": rules.CHAMPION, "version": None, "number": model.number}
        )
        changed = replace(changed, aliases=tuple(alias for alias in model.aliases if alias != rules.CHAMPION))
    return changed


def crown_first(work: Work, model: ModelVersion) -> None:
    """The first version in production is its model's champion."""
    if model.stage is ModelStage.PRODUCTION and store.by_alias(work.rows, model.name, rules.CHAMPION) is None:
        point_alias(work, model, rules.CHAMPION)


def point_alias(work: Work, model: ModelVersion, alias: str, **details: object) -> ModelVersion:
    """The version with the alias, written and told."""
    store_models.set_alias(work.rows, model.name, alias, model.version)
    told = {"alias": alias, "version": model.version, "number": model.number, **details}
    work.emit(EventType.ALIAS_SET, resource(model), told)
    return replace(model, aliases=tuple(sorted({*model.aliases, alias})))


def remove_version(work: Work, model: ModelVersion) -> None:
    """Remove a version, let its bytes go and tell of it; a handler of the event may refuse."""
    void_open(work, model, "The version was deleted.")
    store.delete(work.rows, model.name, model.version)
    if model.digest:
        holds = holder(model.name, checks.canonical_version(model.version))
        work.store.artifacts.release(work.rows, model.digest, holds)
    names = ("name", "version", "number", "digest", "stage")
    work.emit(EventType.MODEL_DELETED, resource(model), {name: getattr(model, name) for name in names})


def void_open(work: Work, model: ModelVersion, reason: str) -> None:
    """Close the open request, if there is one, for a version that is not what it was."""
    request = store_requests.open_request(work.rows, model.name, model.version)
    if request is not None:
        void(work, request, reason)


def void(work: Work, request: PromotionRequest, reason: str) -> PromotionRequest:
    """The request, closed because what it was made for changed."""
    model = found(work.rows, request.name, request.version)
    work.emit(EventType.APPROVAL_WITHDRAWN, resource(model), told(request, reason=reason))
    return close(work, request, RequestStatus.VOID, reason)


def expire(work: Work, request: PromotionRequest) -> PromotionRequest:
    """The request, closed because its time is past."""
    model = found(work.rows, request.name, request.version)
    severity = EventSeverity.WARNING
    work.emit(
        EventType.REQUEST_EXPIRED, resource(model), told(request, expires_at=request.expires_at), severity=severity
    )
    return close(work, request, RequestStatus.EXPIRED, f"Nobody decided before {request.expires_at}.")


def close(work: Work, request: PromotionRequest, status: RequestStatus, reason: str) -> PromotionRequest:
    """The request with its outcome, written."""
    store_requests.decide(work.rows, request.request_id, status, now=micros(work.now), reason=reason)
    return replace(request, status=status, decided_at=work.now, reason=reason)


def told(request: PromotionRequest, **more: object) -> dict[str, object]:
    """What events say of a request."""
    return {
        "request_id": request.request_id,
        "target_stage": request.target_stage.value,
        "digest": request.digest,
        "quorum": request.quorum,
        "policy_id": request.policy_id,
        "policy_version": request.policy_version,
        **more,
    }
