"""Promotion policies: proposed by one person, approved by another, in force until the next one is."""

from __future__ import annotations

from dataclasses import replace

from modelyard.core.area import Area
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Forbidden, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import micros
from modelyard.core.models import ModelStage
from modelyard.core.operations import operation
from modelyard.core.people import checked_person, folded
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.registry import checks, moves, policy, store_policies, store_requests
from modelyard.registry.lookup import refusals_told
from modelyard.registry.policy import PolicyStatus, PromotionPolicy


class Policies(Area):
    """What promotions take, as data that is itself approved."""

    @operation("POST", "/policies", needs="registry.write")
    def propose_policy(
        self,
        scope: str,
        target_stage: ModelStage,
        user: str,
        *,
        quorum: int = 1,
        reviewers: list[str] | None = None,
        roles: list[str] | None = None,
        metrics: dict[str, dict[str, float]] | None = None,
        no_worse_than_champion: dict[str, float] | None = None,
        requires: list[str] | None = None,
        min_shadow_agreement: float | None = None,
        expires_after_hours: float | None = None,
        justification: str = "",
    ) -> PromotionPolicy:
        """The proposed policy for a model, or for `*`, all that have none of their own; another person approves it.

        `quorum` of the `reviewers`, or of the holders of one of the `roles`, must approve; 0 opens the stage. `metrics`
        bounds them: {"auc": {"min": 0.9}}; `no_worse_than_champion` says how much worse one may be: {"auc": 0.01}.
        `requires` may name scan, signature, input_signature, bias_assessment, compliance:FRAMEWORK, drift_reference,
        description, changelog, example, code, data, lock, environment, licence. Conflict if one waits already.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> proposed = registry.propose_policy("*", ModelStage.PRODUCTION, "ana@example.com", quorum=2)
        >>> registry.approve_policy(proposed.policy_id, "max@example.com").status.value
        'active'
        """
        stage = checks.stage_of(target_stage)
        with self.store.work(checked_person(user, "user")) as work:
            made = policy.checked_policy(
                PromotionPolicy(
                    policy_id=new_id("pol"),
                    scope=scope,
                    target_stage=stage,
                    version=store_policies.next_version(work.rows, scope, stage),
                    status=PolicyStatus.PROPOSED,
                    quorum=quorum,
                    reviewers=tuple(reviewers or ()),
                    roles=tuple(roles or ()),
                    metrics=metrics or {},
                    no_worse_than_champion=no_worse_than_champion or {},
                    requires=tuple(requires or ()),
                    min_shadow_agreement=min_shadow_agreement,
                    expires_after_hours=expires_after_hours,
                    proposed_by=user,
                    proposed_at=work.now,
                    justification=checks.checked_text(justification, "justification"),
                )
            )
            _check_none_waits(work, made)
            store_policies.add(work.rows, made, now=micros(work.now))
            work.emit(EventType.POLICY_PROPOSED, _resource(made), _told(made))
        return made

    @operation("POST", "/policies/{policy_id}/approve", needs="registry.approve")
    def approve_policy(self, policy_id: str, approver: str, comment: str = "") -> PromotionPolicy:
        """The policy, in force in place of the one before once as many people approved it as that one asks for.

        Until then it stays proposed, with `agreed_by`; where the one before names roles, an approver has one of them. Open
        requests made by the replaced one are void. Forbidden, and an event, for the person who proposed it: also the first
        policy of a scope takes two people.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> proposed = registry.propose_policy("fraud", ModelStage.STAGING, "ana@example.com", quorum=0)
        >>> registry.approve_policy(proposed.policy_id, "ana@example.com")
        Traceback (most recent call last):
        modelyard.core.errors.Forbidden: ana@example.com proposed the policy pol_..., and cannot approve it. ...
        """
        checks.checked_text(comment, "comment")
        checked_person(approver, "approver")
        about = Resource("policy", policy_id)
        with refusals_told(self.store, approver, about, "approve_policy"), self.store.work(approver) as work:
            found = _found(work.rows, policy_id)
            decision = policy.may_decide_policy(found, approver)
            if decision.verdict is Verdict.ALLOW:
                return _agreed(work, found, approver, comment)
            _refuse(work, found, "approve_policy", decision.reasons[0])
        raise Forbidden(decision.reasons[0], told=True)

    @operation("POST", "/policies/{policy_id}/reject", needs="registry.approve")
    def reject_policy(self, policy_id: str, approver: str, reason: str = "") -> PromotionPolicy:
        """The policy, closed: rejected by another person, or withdrawn by the one who proposed it.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> proposed = registry.propose_policy("fraud", ModelStage.STAGING, "ana@example.com", quorum=0)
        >>> registry.reject_policy(proposed.policy_id, "max@example.com", reason="Staging serves tests").status.value
        'rejected'
        """
        checks.checked_text(reason, "reason")
        with self.store.work(checked_person(approver, "approver")) as work:
            found = _found(work.rows, policy_id)
            if found.status is not PolicyStatus.PROPOSED:
                raise Conflict(f"The policy {policy_id} is {found.status.value} already.")
            own = folded(approver) == folded(found.proposed_by)
            status = PolicyStatus.WITHDRAWN if own else PolicyStatus.REJECTED
            made = replace(found, status=status, decided_by=approver, decided_at=work.now, reason=reason)
            store_policies.decide(work.rows, made)
            told = _told(made, approver=approver, reason=reason)
            work.emit(EventType.POLICY_REJECTED, _resource(made), told)
        return made

    @operation("GET", "/policies/{policy_id}", needs="registry.read")
    def get_policy(self, policy_id: str) -> PromotionPolicy:
        """One policy, in force or not; NotFound for an unknown one.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> made = registry.propose_policy("fraud", ModelStage.STAGING, "ana@example.com", quorum=0)
        >>> registry.get_policy(made.policy_id).protected
        False
        """
        with self.store.reading() as rows:
            return _found(rows, policy_id)

    @operation("GET", "/policies", needs="registry.read")
    def list_policies(
        self,
        scope: str | None = None,
        target_stage: ModelStage | None = None,
        status: PolicyStatus | None = None,
        limit: int = 100,
    ) -> list[PromotionPolicy]:
        """Policies by scope and stage, the newest version first: with a scope, its history.

        >>> from modelyard.registry import ModelRegistry
        >>> ModelRegistry(folder).list_policies("*")
        []
        """
        stage = None if target_stage is None else checks.stage_of(target_stage)
        with self.store.reading() as rows:
            limit = checks.checked_limit(limit)
            return store_policies.policies(rows, scope=scope, stage=stage, status=status, limit=limit)

    @operation("GET", "/models/{name}/policy", needs="registry.read")
    def policy_of(self, name: str, target_stage: ModelStage) -> PromotionPolicy:
        """The policy in force for a model and a stage: its own, that of `*`, or the default of one other person's yes.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> ModelRegistry(folder).policy_of("fraud", ModelStage.PRODUCTION).quorum
        1
        """
        with self.store.reading() as rows:
            return moves.policy_for(rows, name, checks.stage_of(target_stage))


def _found(rows: Connection, policy_id: str) -> PromotionPolicy:
    found = store_policies.policy(rows, policy_id)
    if found is None:
        raise NotFound(f"There is no policy {policy_id!r}. List them: modelyard registry list-policies")
    return found


def _agreed(work: Work, found: PromotionPolicy, approver: str, comment: str) -> PromotionPolicy:
    """The policy with one more approval: in force if that is enough."""
    replaced = store_policies.active(work.rows, found.scope, found.target_stage)
    about = {
        "approver": approver,
        "comment": comment,
        "barred": [found.proposed_by],
        "approved_by": list(found.agreed_by),
        "roles": list(replaced.roles) if replaced else [],
        "model": found.scope,
    }
    made = replace(found, agreed_by=(*found.agreed_by, approver))
    if not policy.agreed(made, replaced):
        store_policies.decide(work.rows, made)
        work.emit(EventType.POLICY_AGREED, _resource(made), _told(made, **about))
        return made
    made = replace(made, status=PolicyStatus.ACTIVE, decided_by=approver, decided_at=work.now, reason=comment)
    store_policies.decide(work.rows, made)
    work.emit(EventType.POLICY_APPROVED, _resource(made), _told(made, **about), severity=EventSeverity.WARNING)
    _void_requests(work, made)
    return made


def _void_requests(work: Work, made: PromotionPolicy) -> None:
    for request in store_requests.open_for(work.rows, made.target_stage):
        if moves.policy_for(work.rows, request.name, made.target_stage).policy_id != request.policy_id:
            moves.void(work, request, f"The policy for {made.target_stage.value} changed since it was asked for.")


def _refuse(work: Work, found: PromotionPolicy, action: str, reason: str) -> None:
    details = {"action": action, "reasons": [reason], "scope": found.scope}
    work.emit(EventType.SECURITY_VIOLATION, _resource(found), details, severity=EventSeverity.WARNING)


def _check_none_waits(work: Work, made: PromotionPolicy) -> None:
    waiting = store_policies.proposed(work.rows, made.scope, made.target_stage)
    if waiting is not None:
        raise Conflict(
            f"The policy {waiting.policy_id} of {waiting.proposed_by} waits for a decision. Decide on it first."
        )


def _resource(made: PromotionPolicy) -> Resource:
    return Resource("policy", made.policy_id)


def _told(made: PromotionPolicy, **more: object) -> dict[str, object]:
    asked = {name: getattr(made, name) for name in store_policies.ASKED}
    who = {"scope": made.scope, "target_stage": made.target_stage.value, "version": made.version}
    return {**who, "proposed_by": made.proposed_by, "asked": asked, **more}
