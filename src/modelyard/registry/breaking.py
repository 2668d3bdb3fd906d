"""Break-glass: a version moves at once, without approval; it is told loudly, and another person reviews it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Literal

from modelyard.core.decisions import Decision
from modelyard.core.instants import Instant
from modelyard.core.models import ModelStage
from modelyard.core.people import likeness
from modelyard.registry.rules import ALLOW, refuse

REVIEW_HOURS = 24.0  # how long a review may wait before the model's glass cannot be broken again
ReviewVerdict = Literal["justified", "unjustified"]


class ReviewStatus(Enum):
    """Whether somebody has looked at the move."""

    OPEN = "open"
    REVIEWED = "reviewed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakGlass:
    """One move that nobody approved, why it was made, and what another person says to it."""

    break_id: str
    name: str
    version: str
    from_stage: ModelStage
    target_stage: ModelStage
    digest: str
    broken_by: str
    reason: str
    incident: str
    created_at: Instant
    status: ReviewStatus = ReviewStatus.OPEN
    reviewer: str = ""
    verdict: str = ""
    comment: str = ""
    reviewed_at: Instant | None = None


def may_break(open_moves: list[BreakGlass], now: Instant) -> Decision:
    """Whether the model's glass may be broken again: no review of it may wait for too long."""
    for move in open_moves:
        if now - move.created_at > timedelta(hours=REVIEW_HOURS):
            return refuse(
                f"The review of {move.break_id}, by which {move.broken_by} moved {move.name} {move.version}, has waited "
                f"for more than {REVIEW_HOURS:g} hours. Let another person close it first: "
                f"modelyard registry review-break-glass {move.break_id} justified"
            )
    return ALLOW


def may_review(move: BreakGlass, barred: Mapping[str, str], person: str) -> Decision:
    """Whether the person may review the move: not who made it, nor who made the version, who are barred."""
    if move.status is not ReviewStatus.OPEN:
        return refuse(f"{move.break_id} was reviewed by {move.reviewer} already.")
    if likeness(person) == likeness(move.broken_by):
        return refuse(f"{person} made the move {move.break_id}, and cannot review it. Ask another person.")
    why = barred.get(likeness(person))
    if why is not None:
        return refuse(f"{person} {why}, and cannot review {move.break_id}, which moved it. Ask another person.")
    return ALLOW
