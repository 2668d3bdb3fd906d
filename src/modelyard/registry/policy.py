"""Promotion policies as values: what a version must show, and who must say yes, before it may enter a stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from modelyard.core.decisions import Decision
from modelyard.core.errors import Invalid, nearest
from modelyard.core.instants import Instant
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.people import checked_person, likeness
from modelyard.registry.checks import checked_model_name
from modelyard.registry.comparison import higher_is_better
from modelyard.registry.rules import ALLOW, PromotionRequest, Requirement, refuse

ANY = "*"  # the scope of a policy for every model that has none of its own
MOST_QUORUM = 100
LONGEST_HOURS = 8_784  # a year
REQUIREMENTS = {  # what `requires` may name, and what each asks for; the functions are in requirements.py
    "scan": "the bytes passed the present admission rules",
    "signature": "somebody signed the bytes",
    "input_signature": "the version says what goes in and comes out",
    "bias_assessment": "the newest bias assessment found none",
    "drift_reference": "a monitor has a reference to watch for drift against",
    "description": "the version is described",
    "changelog": "the version says what changed",
    "example": "the version has an example of input and output",
    "code": "the version names the commit it was made from, without uncommitted changes",
    "data": "the version names its training data",
    "lock": "the version has the digest of its lock file",
    "environment": "the version says what it ran with",
    "licence": "the model has a licence",
}
COMPLIANCE = "compliance:"  # compliance:eu_ai_act: the newest assessment of that framework failed nothing


class PolicyStatus(Enum):
    """How far a policy has come."""

    PROPOSED = "proposed"
    ACTIVE = "active"
    REJECTED = "rejected"
    WITHDRAWN = "withdrawn"
    SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionPolicy:
    """What moving a version of the scope (a model's name, or `*`) to the target stage takes.

    `quorum` approvals, by `reviewers` or, where `roles` are given, by holders of one of them; 0 leaves the stage open,
    so that versions move there without a request. `metrics` maps a name to {"min": ..., "max": ...},
    `no_worse_than_champion` a metric to how much worse it may be. `requires` names further evidence. `agreed_by` approved
    the policy itself, which takes as many people as the policy that it replaces asks for.
    """

    policy_id: str
    scope: str
    target_stage: ModelStage
    version: int
    status: PolicyStatus
    quorum: int = 1
    reviewers: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    no_worse_than_champion: Mapping[str, float] = field(default_factory=dict)
    requires: tuple[str, ...] = ()
    min_shadow_agreement: float | None = None
    expires_after_hours: float | None = None
    proposed_by: str = ""
    proposed_at: Instant | None = None
    justification: str = ""
    decided_by: str = ""
    decided_at: Instant | None = None
    reason: str = ""
    agreed_by: tuple[str, ...] = ()

    @property
    def protected(self) -> bool:
        """Whether moving to the stage takes an approval."""
        return self.quorum > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionCheck:
    """What a promotion would take now. `missing` has one sentence for everything that stands in its way."""

    name: str
    version: str
    target_stage: ModelStage
    policy_id: str
    policy_version: int
    quorum: int
    reviewers: tuple[str, ...]
    roles: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    missing: tuple[str, ...]


def default_policy(target: ModelStage) -> PromotionPolicy:
    """The policy where none was approved: one other person says yes."""
    return PromotionPolicy(
        policy_id="default", scope=ANY, target_stage=target, version=0, status=PolicyStatus.ACTIVE, quorum=1
    )


def checked_policy(policy: PromotionPolicy) -> PromotionPolicy:
    """The policy, if everything in it can be asked for; Invalid names the field.

    >>> checked_policy(PromotionPolicy(
    ...     policy_id="", scope="*", target_stage=ModelStage.PRODUCTION, version=1, status=PolicyStatus.PROPOSED,
    ...     requires=("bias_asessment",)))
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: requires has no 'bias_asessment'. Did you mean bias_assessment? ...
    """
    if policy.scope != ANY:
        checked_model_name(policy.scope)
    if policy.target_stage not in (ModelStage.STAGING, ModelStage.PRODUCTION):
        raise Invalid(f"target_stage is {policy.target_stage.value}; only staging and production are asked for.")
    if type(policy.quorum) is not int or not 0 <= policy.quorum <= MOST_QUORUM:
        raise Invalid(f"quorum is {policy.quorum!r}. Pass 0, which opens the stage, to {MOST_QUORUM}.")
    for person in policy.reviewers:
        checked_person(person, "a reviewer")
    able = {likeness(person) for person in policy.reviewers}
    if policy.reviewers and not policy.roles and len(able) < policy.quorum:
        raise Invalid(f"{len(able)} reviewers are named, and {policy.quorum} must approve. Name more or ask for fewer.")
    for role in policy.roles:
        checked_person(role, "a role")
    _check_figures(policy)
    for name in policy.requires:
        if name not in REQUIREMENTS and not (name.startswith(COMPLIANCE) and name.removeprefix(COMPLIANCE).strip()):
            raise Invalid(f"requires has no {name!r}. {nearest(name, [*REQUIREMENTS, COMPLIANCE + 'FRAMEWORK'])}")
    return policy


def _check_figures(policy: PromotionPolicy) -> None:
    for metric, bounds in policy.metrics.items():
        if not isinstance(bounds, Mapping) or not bounds or bounds.keys() - {"min", "max"}:
            raise Invalid(f"metrics[{metric!r}] is {bounds!r:.80}. Pass {{'min': 0.9}}, {{'max': 0.1}} or both.")
        for bound, value in bounds.items():
            _check_number(f"metrics[{metric!r}][{bound!r}]", value, low=-math.inf)
    for metric, margin in policy.no_worse_than_champion.items():
        _check_number(f"no_worse_than_champion[{metric!r}]", margin, low=0)
    if policy.min_shadow_agreement is not None:
        _check_number("min_shadow_agreement", policy.min_shadow_agreement, low=0, high=1)
    if policy.expires_after_hours is not None:
        _check_number("expires_after_hours", policy.expires_after_hours, low=1 / 3600, high=LONGEST_HOURS)


def _check_number(what: str, value: Any, *, low: float, high: float = math.inf) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high:
        raise Invalid(f"{what} is {value!r:.80}. Pass a number from {low:g} to {high:g}.")


def may_decide_policy(policy: PromotionPolicy, person: str) -> Decision:
    """Whether the person may approve the policy: nobody approves their own, or twice."""
    if policy.status is not PolicyStatus.PROPOSED:
        return refuse(f"The policy {policy.policy_id} is {policy.status.value}. Propose a new one.")
    if likeness(person) == likeness(policy.proposed_by):
        return refuse(f"{person} proposed the policy {policy.policy_id}, and cannot approve it. Ask another person.")
    if likeness(person) in map(likeness, policy.agreed_by):
        return refuse(f"{person} approved the policy {policy.policy_id} already. Ask another person.")
    return ALLOW


def agreed(policy: PromotionPolicy, replaced: PromotionPolicy | None) -> bool:
    """Whether enough people approved the policy: as many as the one that it replaces asks for, and never fewer than one.

    Else two people could open a stage that takes three. The reviewers whom that one names are not asked for by name: a
    policy whose reviewers have left could never be changed.
    """
    return len(policy.agreed_by) >= max(1, 0 if replaced is None else replaced.quorum)


def metric_requirements(policy: PromotionPolicy, model: ModelVersion) -> list[Requirement]:
    """Whether the version's metrics lie within the policy's bounds."""
    found = []
    for metric, bounds in sorted(policy.metrics.items()):
        value = model.metrics.get(metric)
        for bound, needed in sorted(bounds.items()):
            met = value is not None and (value >= needed if bound == "min" else value <= needed)
            word = "at least" if bound == "min" else "at most"
            seen = "is not recorded" if value is None else f"is {value:g}"
            reason = f"{metric} {seen}; {word} {needed:g} is needed"
            found.append(
                Requirement(name=f"metrics.{metric}.{bound}", met=met, reason=reason, value=value, needed=needed)
            )
    return found


def champion_requirements(
    policy: PromotionPolicy, model: ModelVersion, champion: ModelVersion | None
) -> list[Requirement]:
    """Whether the version is no worse than the champion, by the metrics that the policy names."""
    return [
        _beside(metric, margin, model, champion) for metric, margin in sorted(policy.no_worse_than_champion.items())
    ]


def _beside(metric: str, margin: float, model: ModelVersion, champion: ModelVersion | None) -> Requirement:
    name = f"champion.{metric}"
    value = model.metrics.get(metric)
    if champion is None or champion.version == model.version:
        return Requirement(name=name, met=True, reason="there is no other champion", value=value)
    theirs = champion.metrics.get(metric)
    if theirs is None or value is None:
        whose = model.version if value is None else f"the champion {champion.version}"
        return Requirement(name=name, met=False, reason=f"{metric} of {whose} is not recorded", value=value)
    up = higher_is_better(metric)
    needed = theirs - margin if up else theirs + margin
    met = value >= needed if up else value <= needed
    word = "at least" if up else "at most"
    reason = f"{metric} is {value:g}; {word} {needed:g} is needed, {margin:g} beside {theirs:g} of {champion.version}"
    return Requirement(name=name, met=met, reason=reason, value=value, needed=needed)


def unmet(requirements: Sequence[Requirement]) -> list[str]:
    """One sentence for each requirement that is not met."""
    return [f"{one.name}: {one.reason}" for one in requirements if not one.met]


def may_enter(policy: PromotionPolicy, model: ModelVersion, requirements: Sequence[Requirement]) -> Decision:
    """Whether the version has what the policy asks for, before anybody's yes."""
    missing = unmet(requirements)
    if not missing:
        return ALLOW
    return refuse(
        f"{model.name} {model.version} cannot enter {policy.target_stage.value} yet: {'; '.join(missing)}. "
        f"See: modelyard registry check-promotion {model.name} {model.version} {policy.target_stage.value}"
    )


def promotion_check(
    policy: PromotionPolicy,
    model: ModelVersion,
    follows: Decision,
    requirements: Sequence[Requirement],
    request: PromotionRequest | None,
) -> PromotionCheck:
    """What is asked for and what is missing. `follows` says whether the stage follows the version's."""
    quorum = policy.quorum if request is None else request.quorum
    given = 0 if request is None else len(request.approvals)
    missing = [*follows.reasons, *unmet(requirements)]
    if quorum > given:
        missing.append(f"{quorum - given} approval{'s' if quorum - given > 1 else ''}")
    return PromotionCheck(
        name=model.name,
        version=model.version,
        target_stage=policy.target_stage,
        policy_id=policy.policy_id,
        policy_version=policy.version,
        quorum=quorum,
        reviewers=policy.reviewers,
        roles=policy.roles,
        requirements=tuple(requirements),
        missing=tuple(missing),
    )
