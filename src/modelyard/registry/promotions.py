"""Promotions: a version moves up only through the approval of people who did not make it, for exactly its bytes."""

from __future__ import annotations

from dataclasses import replace

from modelyard.core.area import Area
from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Conflict, Damaged, Forbidden, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import micros
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.operations import operation
from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.registry import checks, rules, store, store_models, store_requests
from modelyard.registry.lookup import found, holder, resource, tell_refusal
from modelyard.registry.rules import Approval, PromotionRequest, RequestStatus


class Promotions(Area):
    """Requests to move a version to a higher stage, and what reviewers say to them."""

    @operation("POST", "/models/{name}/versions/{version}/promotion", needs="registry.write")
    def request_promotion(
        self,
        name: str,
        version: str,
        target_stage: ModelStage,
        requested_by: str,
        justification: str = "",
        *,
        reviewers: list[str] | None = None,
        quorum: int = 1,
    ) -> PromotionRequest:
        """The open request to move a version to staging or production, bound to its bytes, metrics and parameters.

        `reviewers` are the people who may approve, `quorum` of whom must; without them anyone may who did not ask for
        it, register or train it. Conflict if a request is open already or the stages do not follow.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> request = registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, "ana@example.com")
        >>> request.status.value
        'open'
        """
        target = checks.stage_of(target_stage)
        checks.checked_person(requested_by, "requested_by")
        checks.checked_text(justification, "justification")
        named = tuple(checks.checked_person(person, "a reviewer") for person in reviewers or ())
        with self.store.work(requested_by) as work:
            model = found(work.rows, name, version)
            decision = rules.may_request(model, target)
            if decision.verdict is Verdict.REFUSE:
                raise Conflict(decision.reasons[0])
            rules.check_reviewers(model, requested_by, named, quorum)
            if store_requests.open_request(work.rows, name, version) is not None:
                raise Conflict(f"A promotion of {name} {version} is open already. Decide on it or withdraw it first.")
            request = PromotionRequest(
                request_id=new_id("req"),
                name=name,
                version=model.version,
                from_stage=model.stage,
                target_stage=target,
                digest=model.digest,
                evidence=store.evidence(model),
                requested_by=requested_by,
                justification=justification,
                reviewers=named,
                quorum=quorum,
                status=RequestStatus.OPEN,
                created_at=work.now,
            )
            store_requests.add_request(work.rows, request)
            work.emit(EventType.PROMOTION_REQUESTED, resource(model), _told(request, justification=justification))
        return request

    @operation("POST", "/models/{name}/versions/{version}/promotion/approve", needs="registry.approve")
    def approve_promotion(self, name: str, version: str, approver: str, comment: str = "") -> PromotionRequest:
        """The request after one more approval; with enough of them the version is in its new stage.

        The stored bytes are read again first. Forbidden, and an event, if the person may not decide, or if the bytes,
        metrics or parameters are no longer those of the request, which voids it.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, "ana@example.com")
        >>> registry.approve_promotion("fraud", "v1.0.0", "max@example.com").status.value
        'approved'
        """
        checks.checked_person(approver, "approver")
        checks.checked_text(comment, "comment")
        self._check_bytes(name, version, approver)
        with self.store.work(approver) as work:
            request, model = _open(work.rows, name, version)
            decision = _first_refusal(
                rules.may_decide(request, model, approver), rules.still_stands(request, model, store.evidence(model))
            )
            if decision.verdict is Verdict.ALLOW:
                return self._approve(work, request, model, Approval(approver=approver, comment=comment, at=work.now))
            tell_refusal(work, model, "approve_promotion", decision)
            if rules.may_decide(request, model, approver).verdict is Verdict.ALLOW:
                _close(work, request, RequestStatus.VOID, decision.reasons[0])
        raise Forbidden(decision.reasons[0])

    @operation("POST", "/models/{name}/versions/{version}/promotion/reject", needs="registry.approve")
    def reject_promotion(self, name: str, version: str, approver: str, reason: str = "") -> PromotionRequest:
        """The request, closed by a reviewer's no; who may approve may reject.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, "ana@example.com")
        >>> registry.reject_promotion("fraud", "v1.0.0", "max@example.com", reason="No fairness test").reason
        'No fairness test'
        """
        checks.checked_person(approver, "approver")
        checks.checked_text(reason, "reason")
        with self.store.work(approver) as work:
            request, model = _open(work.rows, name, version)
            decision = rules.may_decide(request, model, approver)
            if decision.verdict is Verdict.ALLOW:
                told = _told(request, approver=approver, reason=reason)
                work.emit(EventType.APPROVAL_REJECTED, resource(model), told, severity=EventSeverity.WARNING)
                return _close(work, request, RequestStatus.REJECTED, reason)
            tell_refusal(work, model, "reject_promotion", decision)
        raise Forbidden(decision.reasons[0])

    @operation("POST", "/models/{name}/versions/{version}/promotion/withdraw", needs="registry.write")
    def withdraw_promotion(self, name: str, version: str, requested_by: str, reason: str = "") -> PromotionRequest:
        """The request, taken back by the person who made it.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, "ana@example.com")
        >>> registry.withdraw_promotion("fraud", "v1.0.0", "ana@example.com").status.value
        'withdrawn'
        """
        checks.checked_person(requested_by, "requested_by")
        checks.checked_text(reason, "reason")
        with self.store.work(requested_by) as work:
            request, model = _open(work.rows, name, version)
            decision = rules.may_withdraw(request, requested_by)
            if decision.verdict is Verdict.ALLOW:
                work.emit(EventType.APPROVAL_WITHDRAWN, resource(model), _told(request, reason=reason))
                return _close(work, request, RequestStatus.WITHDRAWN, reason)
            tell_refusal(work, model, "withdraw_promotion", decision)
        raise Forbidden(decision.reasons[0])

    @operation("GET", "/promotions", needs="registry.read")
    def list_requests(
        self,
        name: str | None = None,
        version: str | None = None,
        status: RequestStatus | None = None,
        limit: int = 100,
    ) -> list[PromotionRequest]:
        """Promotion requests with their approvals, the newest first.

        >>> from modelyard.registry import ModelRegistry, RequestStatus
        >>> ModelRegistry(folder).list_requests(status=RequestStatus.OPEN)
        []
        """
        with self.store.reading() as rows:
            return store_requests.requests(
                rows, name=name, version=version, status=status, limit=checks.checked_limit(limit)
            )

    def move_champion(self, work: Work, name: str, version: str) -> ModelVersion:
        """The version, which the champion alias points at from now on, within the caller's transaction.

        Conflict unless it is in production. For those who act on an event in its own transaction.
        """
        model = found(work.rows, name, version)
        decision = rules.may_be_champion(model)
        if decision.verdict is Verdict.REFUSE:
            raise Conflict(decision.reasons[0])
        store_models.set_alias(work.rows, name, rules.CHAMPION, model.version)
        work.emit(EventType.ALIAS_SET, resource(model), {"alias": rules.CHAMPION, "version": model.version})
        return found(work.rows, name, version)

    def _approve(
        self, work: Work, request: PromotionRequest, model: ModelVersion, approval: Approval
    ) -> PromotionRequest:
        if not store_requests.add_approval(work.rows, request.request_id, checks.folded(approval.approver), approval):
            raise Conflict(f"{approval.approver} approved {request.name} {request.version} already.")
        given = (*request.approvals, approval)
        told = _told(request, approver=approval.approver, comment=approval.comment, approvals=len(given))
        work.emit(EventType.APPROVAL_GRANTED, resource(model), told)
        if len(given) < request.quorum:
            return replace(request, approvals=given)
        moved(work, model, request.target_stage, request_id=request.request_id, approvers=[a.approver for a in given])
        if (
            request.target_stage is ModelStage.PRODUCTION
            and store.by_alias(work.rows, model.name, rules.CHAMPION) is None
        ):
            self.move_champion(work, model.name, model.version)
        return replace(_close(work, request, RequestStatus.APPROVED, ""), approvals=given)

    def _check_bytes(self, name: str, version: str, approver: str) -> None:
        """Void the request if the stored bytes are damaged. Outside the transaction: reading them may take long."""
        with self.store.reading() as rows:
            request, model = _open(rows, name, version)
        if rules.may_decide(request, model, approver).verdict is Verdict.REFUSE:
            return  # refused, and recorded, before anything large is read
        try:
            self.store.artifacts.verify(model.digest)
        except (Damaged, NotFound) as error:
            reason = f"The bytes of {name} {version} are not those that were registered: {error}"
            with self.store.work(approver) as work:
                tell_refusal(work, model, "approve_promotion", rules.refuse(reason))
                _close(work, request, RequestStatus.VOID, reason)
            raise Forbidden(reason) from error


def moved(work: Work, model: ModelVersion, stage: ModelStage, **details: object) -> ModelVersion:
    """The version in its new stage, written and told. What leaves production cannot stay the champion."""
    changed = replace(model, stage=stage, updated_at=work.now)
    store.move(work.rows, changed)
    told = {"from": model.stage.value, "to": stage.value, "digest": model.digest, **details}
    work.emit(EventType.STAGE_CHANGED, resource(model), told)
    if rules.CHAMPION in model.aliases and stage is not ModelStage.PRODUCTION:
        store_models.remove_alias(work.rows, model.name, rules.CHAMPION)
        work.emit(EventType.ALIAS_SET, resource(model), {"alias": rules.CHAMPION, "version": None})
        changed = replace(changed, aliases=tuple(alias for alias in model.aliases if alias != rules.CHAMPION))
    return changed


def remove_version(work: Work, model: ModelVersion) -> None:
    """Remove a version, let its bytes go and tell of it; a handler of the event may refuse."""
    void_open(work, model, "The version was deleted.")
    store.delete(work.rows, model.name, model.version)
    if model.digest:
        holds = holder(model.name, checks.canonical_version(model.version))
        work.store.artifacts.release(work.rows, model.digest, holds)
    details = {"name": model.name, "version": model.version, "digest": model.digest, "stage": model.stage}
    work.emit(EventType.MODEL_DELETED, resource(model), details)


def void_open(work: Work, model: ModelVersion, reason: str) -> None:
    """Close the open request, if there is one, for a version that is not what it was."""
    request = store_requests.open_request(work.rows, model.name, model.version)
    if request is not None:
        work.emit(EventType.APPROVAL_WITHDRAWN, resource(model), _told(request, reason=reason))
        _close(work, request, RequestStatus.VOID, reason)


def _open(rows: Connection, name: str, version: str) -> tuple[PromotionRequest, ModelVersion]:
    model = found(rows, name, version)
    request = store_requests.open_request(rows, name, version)
    if request is None:
        raise NotFound(
            f"No promotion of {name} {version} is open. "
            f"Ask for one: modelyard registry request-promotion {name} {version} production"
        )
    return request, model


def _close(work: Work, request: PromotionRequest, status: RequestStatus, reason: str) -> PromotionRequest:
    store_requests.decide(work.rows, request.request_id, status, now=micros(work.now), reason=reason)
    return replace(request, status=status, decided_at=work.now, reason=reason)


def _first_refusal(*decisions: Decision) -> Decision:
    return next((one for one in decisions if one.verdict is Verdict.REFUSE), rules.ALLOW)


def _told(request: PromotionRequest, **more: object) -> dict[str, object]:
    return {
        "request_id": request.request_id,
        "target_stage": request.target_stage.value,
        "digest": request.digest,
        "quorum": request.quorum,
        **more,
    }
