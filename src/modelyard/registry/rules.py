"""What the registry decides: transitions, who may approve, what may be deleted."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import Enum

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Invalid
from modelyard.core.instants import Instant
from modelyard.core.models import ModelStage, ModelVersion, RegisteredModel
from modelyard.core.people import everybody_in, folded, likeness

CHAMPION = "champion"  # the version that serves; it may only be one in production

# Upwards only with an approval; downwards freely. Restoring starts at the bottom, so that production is approved anew.
PROMOTIONS: Mapping[ModelStage, frozenset[ModelStage]] = {
    ModelStage.DEVELOPMENT: frozenset({ModelStage.STAGING, ModelStage.PRODUCTION}),
    ModelStage.STAGING: frozenset({ModelStage.PRODUCTION}),
    ModelStage.PRODUCTION: frozenset(),
    ModelStage.ARCHIVED: frozenset(),
}
DEMOTIONS: Mapping[ModelStage, frozenset[ModelStage]] = {
    ModelStage.DEVELOPMENT: frozenset({ModelStage.ARCHIVED}),
    ModelStage.STAGING: frozenset({ModelStage.DEVELOPMENT, ModelStage.ARCHIVED}),
    ModelStage.PRODUCTION: frozenset({ModelStage.STAGING, ModelStage.DEVELOPMENT, ModelStage.ARCHIVED}),
    ModelStage.ARCHIVED: frozenset({ModelStage.DEVELOPMENT}),
}


class RequestStatus(Enum):
    """How far a promotion request has come."""

    OPEN = "open"
    APPROVED = "approved"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    VOID = "void"  # what was to be approved changed, or is gone
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """One person's yes."""

    approver: str
    comment: str
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """What somebody says about a request, without deciding on it."""

    author: str
    text: str
    at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """Whether one thing that a policy asks for is met, with the figure that was found and the one that is needed."""

    name: str
    met: bool
    reason: str
    value: float | str | None = None
    needed: float | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionRequest:
    """A request to move one version, with exactly these bytes and figures, to a stage, by one version of a policy.

    `digest` is the artifact's; `evidence` is the digest of the version's metrics and parameters when it was asked.
    `requirements` is what the policy asked for and what was found, when it was last looked at.
    """

    request_id: str
    name: str
    version: str
    from_stage: ModelStage
    target_stage: ModelStage
    digest: str
    evidence: str
    requested_by: str
    justification: str
    reviewers: tuple[str, ...]
    quorum: int
    status: RequestStatus
    created_at: Instant
    decided_at: Instant | None = None
    reason: str = ""
    approvals: tuple[Approval, ...] = ()
    policy_id: str = "default"
    policy_version: int = 0
    roles: tuple[str, ...] = ()
    expires_at: Instant | None = None
    requirements: tuple[Requirement, ...] = ()
    comments: tuple[Comment, ...] = ()


ALLOW = Decision(verdict=Verdict.ALLOW)


def refuse(reason: str) -> Decision:
    """A refusal with its reason."""
    return Decision(verdict=Verdict.REFUSE, reasons=(reason,))


def may_request(model: ModelVersion, target: ModelStage) -> Decision:
    """Whether a promotion of the version to the stage can be asked for."""
    if target in PROMOTIONS[model.stage]:
        return ALLOW
    allowed = sorted(stage.value for stage in PROMOTIONS[model.stage])
    hint = f"Ask for {' or '.join(allowed)}." if allowed else "Restore it to development first."
    if model.stage is ModelStage.PRODUCTION:
        hint = "Demote or archive it without a request."
    return refuse(f"{model.name} {model.version} cannot be promoted from {model.stage.value} to {target.value}. {hint}")


def may_demote(model: ModelVersion, target: ModelStage) -> Decision:
    """Whether the version may be moved to the stage without an approval."""
    if target in DEMOTIONS[model.stage]:
        return ALLOW
    if target in PROMOTIONS[model.stage]:
        return refuse(
            f"{model.name} {model.version} needs an approval to move from {model.stage.value} to {target.value}. "
            f"Ask for one: modelyard registry request-promotion {model.name} {model.version} {target.value}"
        )
    return refuse(f"{model.name} {model.version} cannot be moved from {model.stage.value} to {target.value}.")


def barred(model: ModelVersion, requested_by: str, uploaded_by: str = "") -> dict[str, str]:
    """Who may not approve, by the likeness of the name, and why: nobody approves their own work.

    `uploaded_by` is who brought the bytes here first, under whatever name and version.
    """
    found = {likeness(uploaded_by): "uploaded its bytes"} if uploaded_by else {}
    found |= dict.fromkeys(everybody_in(model.trained_by), "trained it")
    found[likeness(model.created_by)] = "registered it"
    found[likeness(requested_by)] = "asked for the promotion"
    return found


def took_part(model: ModelVersion, requested_by: str, uploaded_by: str = "") -> list[str]:
    """The names of those who may not approve, as events tell them, so that a service can be taken for its owner."""
    return sorted({model.created_by, requested_by, uploaded_by, *everybody_in(model.trained_by)} - {""})


def check_reviewers(model: ModelVersion, barred: Container[str], reviewers: tuple[str, ...], quorum: int) -> None:
    """Invalid unless enough of the named reviewers may approve."""
    able = {one for one in map(likeness, reviewers) if one not in barred}
    if reviewers and len(able) < quorum:
        raise Invalid(
            f"{len(able)} of the reviewers named may approve {model.name} {model.version}, and {quorum} must. "
            "Name others: who asked, registered or trained cannot approve."
        )


def may_decide(request: PromotionRequest, barred: Mapping[str, str], person: str) -> Decision:
    """Whether the person may approve or reject the request."""
    why = barred.get(likeness(person))
    if why is not None:
        return refuse(f"{person} {why}, and cannot decide on {request.name} {request.version}. Ask another reviewer.")
    if request.reviewers and not request.roles and not is_named(request, person):
        return refuse(
            f"{person} is no reviewer of {request.name} {request.version}. Reviewers: {', '.join(request.reviewers)}."
        )
    return ALLOW


def is_named(request: PromotionRequest, person: str) -> bool:
    """Whether the person is one of the reviewers, so that no role is needed."""
    return folded(person) in {folded(reviewer) for reviewer in request.reviewers}


def reviewers_of(given: tuple[str, ...], policy: tuple[str, ...], roles: tuple[str, ...]) -> tuple[str, ...]:
    """The reviewers of a request: those of the policy, or the ones of them that the requester chose.

    Whoever asks may not name somebody in place of those who hold a role.
    """
    strangers = {folded(person) for person in given} - {folded(person) for person in policy}
    if policy and strangers:
        raise Invalid(f"{', '.join(sorted(strangers))}: not among the policy's reviewers, who are {', '.join(policy)}.")
    if strangers and roles:
        raise Invalid(
            f"The policy leaves the approval to whoever holds the role {' or '.join(roles)}. Name no reviewers."
        )
    return given or policy


def quorum_of(asked: int, policy: int) -> int:
    """How many approvals a request takes: what its maker asks for, and no fewer than the policy does."""
    if type(asked) is not int or asked < 1:
        raise Invalid(f"quorum is {asked!r}. Pass the number of approvals needed, 1 or more.")
    return max(asked, policy)


def is_overdue(request: PromotionRequest, now: Instant) -> bool:
    """Whether the request's time is past."""
    return request.expires_at is not None and now >= request.expires_at


def may_withdraw(request: PromotionRequest, person: str) -> Decision:
    """Whether the person may take the request back."""
    if folded(person) == folded(request.requested_by):
        return ALLOW
    return refuse(f"Only {request.requested_by} may withdraw the promotion of {request.name} {request.version}.")


def still_stands(request: PromotionRequest, model: ModelVersion, evidence: str, policy_id: str) -> Decision:
    """Whether the version, and the policy for it, are still those that the request was made for."""
    what = f"{request.name} {request.version}"
    if policy_id != request.policy_id:
        return refuse(
            f"The policy for {request.target_stage.value} changed since the promotion of {what} was asked for."
        )
    if model.digest != request.digest:
        return refuse(f"The bytes of {what} changed since its promotion was asked for. Ask again.")
    if evidence != request.evidence:
        return refuse(f"The metrics or parameters of {what} changed since its promotion was asked for. Ask again.")
    if model.stage is not request.from_stage:
        return refuse(f"{what} moved to {model.stage.value} since its promotion was asked for. Ask again.")
    return ALLOW


def is_champion(alias: str) -> bool:
    """Whether an alias reads as the champion's, however it is written.

    >>> is_champion("Champion"), is_champion("champion-2025")
    (True, False)
    """
    return likeness(alias) == CHAMPION


def may_change_figures(model: ModelVersion, *, protected: bool) -> Decision:
    """Whether the version's metrics may change: not while it stands where an approval that rests on them put it."""
    if model.stage not in (ModelStage.STAGING, ModelStage.PRODUCTION) or not protected:
        return ALLOW
    return refuse(
        f"The metrics of {model.name} {model.version} are what its approval for {model.stage.value} rests on, and later "
        "versions are compared with them. Register the next version, or demote this one first."
    )


def may_be_champion(model: ModelVersion, *, protected: bool) -> Decision:
    """Whether the champion alias may point at the version: only production is approved to serve, unless it is open."""
    if model.stage is ModelStage.PRODUCTION or not protected:
        return ALLOW
    return refuse(
        f"{model.name} {model.version} is in {model.stage.value}; only a production version can be the champion. "
        f"Ask for a promotion: modelyard registry request-promotion {model.name} {model.version} production"
    )


def may_delete(model: ModelVersion) -> Decision:
    """Whether the version may be deleted."""
    if model.stage is ModelStage.PRODUCTION:
        return refuse(f"{model.name} {model.version} is in production. Demote or archive it before deleting it.")
    if model.aliases:
        return refuse(
            f"{model.name} {model.version} has the alias {model.aliases[0]}. Move the alias to another version first."
        )
    return ALLOW


def may_delete_model(model: RegisteredModel, in_production: str | None) -> Decision:
    """Whether the model may be deleted with all its versions."""
    if in_production is not None:
        return refuse(
            f"{model.name} {in_production} is in production. Demote or archive it before deleting {model.name}."
        )
    for alias, version in model.aliases.items():
        return refuse(f"{model.name} {version} has the alias {alias}. Delete the alias before deleting {model.name}.")
    return ALLOW
