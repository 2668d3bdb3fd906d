"""Break-glass promotions, and the reviews that they open."""

from __future__ import annotations

from dataclasses import replace

from modelyard.core.area import Area
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.operations import operation
from modelyard.core.people import checked_person
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.registry import breaking, checks, moves, requirements, rules, store, store_policies
from modelyard.registry.breaking import BreakGlass, ReviewStatus, ReviewVerdict
from modelyard.registry.lookup import found, refusals_told, resource, tell_refusal


class BreakGlassMoves(Area):
    """Moves that could not wait for an approval."""

    @operation("POST", "/models/{name}/versions/{version}/break-glass", needs="registry.break_glass")
    def break_glass(
        self, name: str, version: str, target_stage: ModelStage, user: str, *, reason: str, incident: str
    ) -> BreakGlass:
        """The move of a version to staging or production at once, without approval: a critical event, and a review.

        `incident` names the ticket or call it answers. Only bytes that are stored, accepted and undamaged move.
        Forbidden, and an event, while a review of the model's last one has waited for more than a day.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.1", model_file, "lightgbm", "ana@example.com")
        >>> made = registry.break_glass(
        ...     "fraud", "v1.0.1", ModelStage.PRODUCTION, "ana@example.com", reason="all refused", incident="INC-7"
        ... )
        >>> registry.get_model("fraud", "v1.0.1").stage.value, made.status.value
        ('production', 'open')
        """
        stage = checks.stage_of(target_stage)
        for what, text in (("reason", reason), ("incident", incident)):
            if not checks.checked_text(text, what).strip():
                raise Invalid(
                    f"{what} is empty. Say why this cannot wait for an approval, and which incident it answers."
                )
        with self.store.reading() as rows:
            digest = found(rows, name, version).digest
        if digest:  # outside the transaction: reading them may take long
            self.store.artifacts.verify(digest)
        with self.store.work(checked_person(user, "user")) as work:
            model = found(work.rows, name, version)
            decision = rules.may_request(model, stage)
            if decision.verdict is Verdict.REFUSE:
                raise Conflict(decision.reasons[0])
            bound = requirements.stored_bytes(work.rows, model)
            if not bound.met or model.digest != digest:
                raise Conflict(f"{name} {version} cannot be moved: {bound.reason}.")
            waiting = store_policies.breaks(work.rows, name=name, status=ReviewStatus.OPEN, limit=checks.PAGE_LIMIT)
            decision = breaking.may_break(waiting, work.now)
            if decision.verdict is Verdict.ALLOW:
                made = BreakGlass(
                    break_id=new_id("brk"),
                    name=name,
                    version=model.version,
                    from_stage=model.stage,
                    target_stage=stage,
                    digest=model.digest,
                    broken_by=user,
                    reason=reason,
                    incident=incident,
                    created_at=work.now,
                )
                return _broken(work, made)
            tell_refusal(work, model, "break_glass", decision)
        raise Forbidden(decision.reasons[0], told=True)

    @operation("POST", "/break-glass/{break_id}/review", needs="registry.approve")
    def review_break_glass(self, break_id: str, reviewer: str, verdict: ReviewVerdict, comment: str = "") -> BreakGlass:
        """The move with another person's verdict, which closes its review. An unjustified one is not undone by it.

        >>> from modelyard.registry import ModelRegistry, ModelStage
        >>> registry = ModelRegistry(folder)
        >>> _ = registry.register_model("fraud", "v1.0.1", model_file, "lightgbm", "ana@example.com")
        >>> made = registry.break_glass("fraud", "v1.0.1", ModelStage.STAGING, "ana@example.com", reason="outage", incident="INC-7")
        >>> registry.review_break_glass(made.break_id, "max@example.com", "justified").status.value
        'reviewed'
        """
        if verdict not in ("justified", "unjustified"):
            raise Invalid(f"verdict is {verdict!r}. Say justified or unjustified.")
        checks.checked_text(comment, "comment")
        checked_person(reviewer, "reviewer")
        with self.store.reading() as rows:
            move = _found(rows, break_id)
        about = Resource("model", f"{move.name}:{move.version}")  # which may be deleted meanwhile
        with refusals_told(self.store, reviewer, about, "review_break_glass"), self.store.work(reviewer) as work:
            move = _found(work.rows, break_id)
            model = store.version(work.rows, move.name, move.version)  # it may be deleted meanwhile
            barred = {} if model is None else moves.barred(work.rows, model, move.broken_by)
            decision = breaking.may_review(move, barred, reviewer)
            if decision.verdict is Verdict.ALLOW:
                made = replace(
                    move,
                    status=ReviewStatus.REVIEWED,
                    reviewer=reviewer,
                    verdict=verdict,
                    comment=comment,
                    reviewed_at=work.now,
                )
                store_policies.review_break(work.rows, made)
                told = {
                    "break_id": break_id,
                    "verdict": verdict,
                    "comment": comment,
                    "barred": _took_part(work, move, model),
                }
                severity = EventSeverity.INFO if verdict == "justified" else EventSeverity.ERROR
                work.emit(EventType.BREAK_GLASS_REVIEWED, about, told, severity=severity)
                return made
            told = {"action": "review_break_glass", "reasons": decision.reasons, "break_id": break_id}
            work.emit(EventType.SECURITY_VIOLATION, about, told, severity=EventSeverity.WARNING)
        raise Forbidden(decision.reasons[0], told=True)

    @operation("GET", "/break-glass", needs="registry.read")
    def list_break_glass(
        self, name: str | None = None, status: ReviewStatus | None = None, limit: int = 100
    ) -> list[BreakGlass]:
        """Moves that nobody approved, the oldest first: with the status open, those that wait for a review.

        >>> from modelyard.registry import ModelRegistry, ReviewStatus
        >>> ModelRegistry(folder).list_break_glass(status=ReviewStatus.OPEN)
        []
        """
        with self.store.reading() as rows:
            return store_policies.breaks(rows, name=name, status=status, limit=checks.checked_limit(limit))


def _broken(work: Work, made: BreakGlass) -> BreakGlass:
    model = found(work.rows, made.name, made.version)
    store_policies.add_break(work.rows, made)
    moves.void_open(work, model, f"{made.broken_by} moved the version by breaking the glass.")
    work.emit(EventType.BREAK_GLASS_USED, resource(model), {"move": made}, severity=EventSeverity.CRITICAL)
    changed = moves.moved(work, model, made.target_stage, break_id=made.break_id, user=made.broken_by)
    moves.crown_first(work, changed)
    return made


def _took_part(work: Work, move: BreakGlass, model: ModelVersion | None) -> list[str]:
    if model is None:
        return [move.broken_by]
    return rules.took_part(model, move.broken_by, store.uploader(work.rows, model.digest))


def _found(rows: Connection, break_id: str) -> BreakGlass:
    move = store_policies.broken(rows, break_id)
    if move is None:
        raise NotFound(f"There is no break-glass move {break_id!r}. List them: modelyard registry list-break-glass")
    return move
