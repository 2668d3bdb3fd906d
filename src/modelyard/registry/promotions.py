"""Promotions: a version moves up only through the approval of people who did not make it, for exactly its bytes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from modelyard.core.area import Area
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Damaged, Forbidden, NotFound, YardError
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import Instant, micros
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.operations import operation
from modelyard.core.people import checked_person, likeness
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.registry import checks, moves, policy, requirements, rules, store, store_requests
from modelyard.registry.lookup import found, refusals_told, resource, tell_refusal
from modelyard.registry.policy import PromotionCheck, PromotionPolicy
from modelyard.registry.rules import Approval, Comment, PromotionRequest, RequestStatus


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
        """The open request to move a version to staging or production, bound to its bytes, figures and policy.

        `reviewers` are the people who may approve, `quorum` of whom must; without them, those whom the policy names, or
        anyone who did not ask for it, register or train it. The policy's quorum holds where it is higher. Conflict if a
        request is open already, the stages do not follow, the stage is open, or the bytes are not stored and accepted.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> request = registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, "ana@example.com")
        >>> request.status.value
        'open'
        """
        target = checks.stage_of(target_stage)
        checked_person(requested_by, "requested_by")
        checks.checked_text(justification, "justification")
        named = tuple(checked_person(person, "a reviewer") for person in reviewers or ())
        with self.store.work(requested_by) as work:
            model = found(work.rows, name, version)
            asks = moves.policy_for(work.rows, name, target)
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
                reviewers=rules.reviewers_of(named, asks.reviewers, asks.roles),
                quorum=rules.quorum_of(quorum, asks.quorum),
                status=RequestStatus.OPEN,
                created_at=work.now,
                policy_id=asks.policy_id,
                policy_version=asks.version,
                roles=asks.roles,
                expires_at=_expiry(work, asks),
                requirements=requirements.evaluated(work.rows, asks, model),
            )
            _check_askable(work, request, model, asks)
            store_requests.add_request(work.rows, request)
            told = moves.told(request, justification=justification, requirements=request.requirements)
            work.emit(EventType.PROMOTION_REQUESTED, resource(model), told)
        return request

    @operation("POST", "/models/{name}/versions/{version}/promotion/approve", needs="registry.approve")
    def approve_promotion(self, name: str, version: str, approver: str, comment: str = "") -> PromotionRequest:
        """The request after one more approval; with enough of them the version is in its new stage.

        The stored bytes are read again first. Forbidden, and an event, if the person may not decide, or if the bytes,
        figures or policy are no longer those of the request, which voids it. Conflict, and an event, while something is
        missing that the policy asks for, or if the request's time is past, which closes it.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.request_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION, "ana@example.com")
        >>> registry.approve_promotion("fraud", "v1.0.0", "max@example.com").status.value
        'approved'
        """
        checked_person(approver, "approver")
        checks.checked_text(comment, "comment")
        about = self._check_bytes(name, version, approver)
        with refusals_told(self.store, approver, about, "approve_promotion"), self.store.work(approver) as work:
            request, model = _open(work.rows, name, version)
            refused = _refused(work, request, model, approver)
            if refused is None:
                return _approved(work, request, model, Approval(approver=approver, comment=comment, at=work.now))
        raise refused

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
        checked_person(approver, "approver")
        checks.checked_text(reason, "reason")
        with self.store.reading() as rows:
            about = resource(_open(rows, name, version)[1])
        with refusals_told(self.store, approver, about, "reject_promotion"), self.store.work(approver) as work:
            request, model = _open(work.rows, name, version)
            decision = rules.may_decide(request, moves.barred(work.rows, model, request.requested_by), approver)
            if rules.is_overdue(request, work.now):
                return moves.expire(work, request)
            if decision.verdict is Verdict.ALLOW:
                told = _deciding(work.rows, request, model, approver, reason=reason)
                work.emit(EventType.APPROVAL_REJECTED, resource(model), told, severity=EventSeverity.WARNING)
                return moves.close(work, request, RequestStatus.REJECTED, reason)
            tell_refusal(work, model, "reject_promotion", decision)
        raise Forbidden(decision.reasons[0], told=True)

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
        checked_person(requested_by, "requested_by")
        checks.checked_text(reason, "reason")
        with self.store.work(requested_by) as work:
            request, model = _open(work.rows, name, version)
            decision = rules.may_withdraw(request, requested_by)
            if decision.verdict is Verdict.ALLOW:
                work.emit(EventType.APPROVAL_WITHDRAWN, resource(model), moves.told(request, reason=reason))
                return moves.close(work, request, RequestStatus.WITHDRAWN, reason)
            tell_refusal(work, model, "withdraw_promotion", decision)
        raise Forbidden(decision.reasons[0], told=True)

    @operation("POST", "/models/{name}/versions/{version}/promotion/comments", needs="registry.write")
    def comment_promotion(self, name: str, version: str, user: str, comment: str) -> PromotionRequest:
        """The open request with one more comment, which decides nothing.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> _ = registry.request_promotion("fraud", "v1.0.0", ModelStage.STAGING, "ana@example.com")
        >>> registry.comment_promotion("fraud", "v1.0.0", "max@example.com", "On which data?").comments[0].text
        'On which data?'
        """
        checks.checked_text(comment, "comment")
        with self.store.work(checked_person(user, "user")) as work:
            request, model = _open(work.rows, name, version)
            said = Comment(author=user, text=comment, at=work.now)
            event = work.emit(EventType.PROMOTION_COMMENTED, resource(model), moves.told(request, comment=comment))
            store_requests.add_comment(work.rows, request.request_id, said, position=event.position or 0)
        return replace(request, comments=(*request.comments, said))

    @operation("GET", "/models/{name}/versions/{version}/promotion/check", needs="registry.read")
    def check_promotion(self, name: str, version: str, target_stage: ModelStage) -> PromotionCheck:
        """What moving the version to the stage takes now, and what is missing, before anybody is asked.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> registry.check_promotion("fraud", "v1.0.0", ModelStage.PRODUCTION).missing
        ('1 approval',)
        """
        target = checks.stage_of(target_stage)
        with self.store.reading() as rows:
            model = found(rows, name, version)
            asks = moves.policy_for(rows, name, target)
            return policy.promotion_check(
                asks,
                model,
                rules.may_request(model, target),
                requirements.evaluated(rows, asks, model),
                store_requests.open_request(rows, name, version),
            )

    @operation("POST", "/promotions/expire", needs="registry.write")
    def expire_requests(self, user: str = "system") -> list[PromotionRequest]:
        """The open requests whose time was past, closed. A server does this by itself, every minute.

        >>> from modelyard.registry import ModelRegistry
        >>> ModelRegistry(folder).expire_requests()
        []
        """
        with self.store.work(checked_person(user, "user")) as work:
            return [moves.expire(work, one) for one in store_requests.overdue(work.rows, micros(work.now))]

    @operation("POST", "/models/{name}/versions/{version}/stage", needs="registry.write")
    def transition(self, name: str, version: str, target_stage: ModelStage, user: str) -> ModelVersion:
        """The version in a lower stage, or in a higher one that its policy leaves open and asks nothing unmet for.

        Forbidden, and an event, where an approval is needed; the message says how to ask for one.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.com")
        >>> opened = registry.propose_policy("*", ModelStage.STAGING, "ana@example.com", quorum=0)
        >>> _ = registry.approve_policy(opened.policy_id, "max@example.com")
        >>> registry.transition("fraud", "v1.0.0", ModelStage.STAGING, "ana@example.com").stage.value
        'staging'
        """
        stage = checks.stage_of(target_stage)
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            asks = moves.policy_for(work.rows, name, stage)
            decision = rules.may_demote(model, stage)
            if not asks.protected and rules.may_request(model, stage).verdict is Verdict.ALLOW:
                decision = policy.may_enter(asks, model, requirements.evaluated(work.rows, asks, model))
            if decision.verdict is Verdict.ALLOW:
                moves.void_open(work, model, f"The version moved to {stage.value}.")
                return moves.moved(work, model, stage, policy_id=asks.policy_id, user=user)
            tell_refusal(work, model, "transition", decision)
        raise Forbidden(decision.reasons[0], told=True)

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

    def _check_bytes(self, name: str, version: str, approver: str) -> Resource:
        """The version whose request is open; it is void if the stored bytes are damaged.

        Outside the transaction: reading them may take long.
        """
        with self.store.reading() as rows:
            request, model = _open(rows, name, version)
            barred = moves.barred(rows, model, request.requested_by)
        if rules.may_decide(request, barred, approver).verdict is Verdict.REFUSE:
            return resource(model)  # refused, and recorded, before anything large is read
        try:
            self.store.artifacts.verify(model.digest)
        except (Damaged, NotFound) as error:
            reason = f"The bytes of {name} {version} are not those that were registered: {error}"
            with self.store.work(approver) as work:
                tell_refusal(work, model, "approve_promotion", rules.refuse(reason))
                moves.close(work, request, RequestStatus.VOID, reason)
            raise Forbidden(reason, told=True) from error
        return resource(model)


def _expiry(work: Work, asks: PromotionPolicy) -> Instant | None:
    hours = asks.expires_after_hours
    return None if hours is None else work.now + timedelta(hours=hours)


def _check_askable(work: Work, request: PromotionRequest, model: ModelVersion, asks: PromotionPolicy) -> None:
    """Conflict unless a request makes sense: the stages follow, an approval is needed, there is something to approve."""
    decision = rules.may_request(model, request.target_stage)
    if decision.verdict is Verdict.REFUSE:
        raise Conflict(decision.reasons[0])
    stage, what = request.target_stage.value, f"{request.name} {request.version}"
    if not asks.protected:
        raise Conflict(f"{stage} is open: move {what} there: modelyard registry transition {what} {stage}")
    if not request.roles:
        barred = moves.barred(work.rows, model, request.requested_by)
        rules.check_reviewers(model, barred, request.reviewers, request.quorum)
    for one in request.requirements:
        if one.name == "bytes" and not one.met:
            raise Conflict(f"{what} cannot be promoted: {one.reason}.")
    waiting = store_requests.open_request(work.rows, request.name, request.version)
    if waiting is not None and rules.is_overdue(waiting, work.now):
        moves.expire(work, waiting)
    elif waiting is not None:
        raise Conflict(f"A promotion of {what} is open already. Decide on it or withdraw it first.")


def _refused(work: Work, request: PromotionRequest, model: ModelVersion, approver: str) -> YardError | None:
    """Why the person's yes does not count, written and told; None if it does."""
    if rules.is_overdue(request, work.now):
        reason = moves.expire(work, request).reason
        return Conflict(f"The promotion of {request.name} {request.version} is closed: {reason} Ask again.")
    asks = moves.policy_for(work.rows, request.name, request.target_stage)
    may = rules.may_decide(request, moves.barred(work.rows, model, request.requested_by), approver)
    if may.verdict is Verdict.REFUSE:
        tell_refusal(work, model, "approve_promotion", may)
        return Forbidden(may.reasons[0], told=True)
    stands = rules.still_stands(request, model, store.evidence(model), asks.policy_id)
    if stands.verdict is Verdict.REFUSE:
        tell_refusal(work, model, "approve_promotion", stands)
        moves.close(work, request, RequestStatus.VOID, stands.reasons[0])
        return Forbidden(stands.reasons[0], told=True)
    seen = requirements.evaluated(work.rows, asks, model)
    store_requests.set_requirements(work.rows, replace(request, requirements=seen))
    enough = policy.may_enter(asks, model, seen)
    if enough.verdict is Verdict.REFUSE:
        tell_refusal(work, model, "approve_promotion", enough)
        return Conflict(enough.reasons[0])
    return None


def _approved(work: Work, request: PromotionRequest, model: ModelVersion, approval: Approval) -> PromotionRequest:
    if not store_requests.add_approval(work.rows, request.request_id, likeness(approval.approver), approval):
        raise Conflict(f"{approval.approver} approved {request.name} {request.version} already.")
    given = (*request.approvals, approval)
    told = _deciding(work.rows, request, model, approval.approver, comment=approval.comment, approvals=len(given))
    work.emit(EventType.APPROVAL_GRANTED, resource(model), told)
    asks = moves.policy_for(work.rows, request.name, request.target_stage)
    request = replace(request, approvals=given, requirements=requirements.evaluated(work.rows, asks, model))
    if len(given) < request.quorum:
        return request
    because = {
        "request_id": request.request_id,
        "policy_id": request.policy_id,
        "policy_version": request.policy_version,
    }
    approvers = [one.approver for one in given]
    moves.crown_first(work, moves.moved(work, model, request.target_stage, **because, approvers=approvers))
    return moves.close(work, request, RequestStatus.APPROVED, "")


def _deciding(
    rows: Connection, request: PromotionRequest, model: ModelVersion, approver: str, **more: object
) -> dict[str, object]:
    """What an event of a decision says, with what its handlers check: who may not decide, and who must have which role.

    `roles`: the approver must hold one of them, if there are any. `barred`: the approver, and the owner of a token that
    approves, must be none of them. `approved_by`: those who said yes before; a person counts once.
    """
    return moves.told(
        request,
        approver=approver,
        roles=[] if rules.is_named(request, approver) else list(request.roles),
        barred=rules.took_part(model, request.requested_by, store.uploader(rows, model.digest)),
        approved_by=[one.approver for one in request.approvals],
        **more,
    )


def _open(rows: Connection, name: str, version: str) -> tuple[PromotionRequest, ModelVersion]:
    model = found(rows, name, version)
    request = store_requests.open_request(rows, name, version)
    if request is None:
        raise NotFound(
            f"No promotion of {name} {version} is open. "
            f"Ask for one: modelyard registry request-promotion {name} {version} production"
        )
    return request, model
