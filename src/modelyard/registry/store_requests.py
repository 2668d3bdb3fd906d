"""The rows of promotion requests and approvals."""

from __future__ import annotations

import json
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.instants import from_micros, micros
from modelyard.core.models import ModelStage
from modelyard.core.ports import Connection, Row
from modelyard.registry.checks import canonical_version
from modelyard.registry.rules import Approval, Comment, PromotionRequest, RequestStatus, Requirement


def add_request(rows: Connection, request: PromotionRequest) -> None:
    """Write a new request."""
    columns: dict[str, Any] = {
        "request_id": request.request_id,
        "name": request.name,
        "canonical": canonical_version(request.version),
        "version": request.version,
        "from_stage": request.from_stage.value,
        "target_stage": request.target_stage.value,
        "digest": request.digest,
        "evidence": request.evidence,
        "requested_by": request.requested_by,
        "justification": request.justification,
        "reviewers": dumps(request.reviewers),
        "quorum": request.quorum,
        "status": request.status.value,
        "created_at": micros(request.created_at),
        "decided_at": None,
        "reason": "",
        "policy_id": request.policy_id,
        "policy_version": request.policy_version,
        "roles": dumps(request.roles),
        "expires_at": None if request.expires_at is None else micros(request.expires_at),
        "requirements": dumps(request.requirements),
    }
    names = ", ".join(columns)
    values = ", ".join(":" + column for column in columns)
    rows.run(f"INSERT INTO promotion_requests ({names}) VALUES ({values})", **columns)


def open_request(rows: Connection, name: str, number: str) -> PromotionRequest | None:
    """The one open request of a version."""
    row = rows.one(
        "SELECT * FROM promotion_requests WHERE name = :name AND canonical = :canonical AND status = 'open'",
        name=name,
        canonical=canonical_version(number),
    )
    return None if row is None else _request(rows, row)


def requests(
    rows: Connection, *, name: str | None, version: str | None, status: RequestStatus | None, limit: int
) -> list[PromotionRequest]:
    """Requests, the newest first."""
    wanted: dict[str, Any] = {"limit": limit}
    parts = []
    if name is not None:
        parts.append("name = :name")
        wanted["name"] = name
    if version is not None:
        parts.append("canonical = :canonical")
        wanted["canonical"] = canonical_version(version)
    if status is not None:
        parts.append("status = :status")
        wanted["status"] = status.value
    where = f" WHERE {' AND '.join(parts)}" if parts else ""
    sql = f"SELECT * FROM promotion_requests{where} ORDER BY created_at DESC, request_id LIMIT :limit"
    return [_request(rows, row) for row in rows.all(sql, **wanted)]


def open_for(rows: Connection, stage: ModelStage) -> list[PromotionRequest]:
    """Every open request for a stage."""
    sql = "SELECT * FROM promotion_requests WHERE status = 'open' AND target_stage = :stage ORDER BY created_at, request_id"
    return [_request(rows, row) for row in rows.all(sql, stage=stage.value)]


def overdue(rows: Connection, now: int) -> list[PromotionRequest]:
    """Every open request whose time is past."""
    sql = (
        "SELECT * FROM promotion_requests WHERE status = 'open' AND expires_at <= :now ORDER BY expires_at, request_id"
    )
    return [_request(rows, row) for row in rows.all(sql, now=now)]


def set_requirements(rows: Connection, request: PromotionRequest) -> None:
    """Write what was found when the requirements were last looked at."""
    sql = "UPDATE promotion_requests SET requirements = :requirements WHERE request_id = :request_id"
    rows.run(sql, requirements=dumps(request.requirements), request_id=request.request_id)


def add_comment(rows: Connection, request_id: str, comment: Comment, *, position: int) -> None:
    """Write a comment; `position` is that of its event."""
    rows.run(
        "INSERT INTO promotion_comments (request_id, position, author, text, at)"
        " VALUES (:request_id, :position, :author, :text, :at)",
        request_id=request_id,
        position=position,
        author=comment.author,
        text=comment.text,
        at=micros(comment.at),
    )


def decide(rows: Connection, request_id: str, status: RequestStatus, *, now: int, reason: str) -> None:
    """Close a request."""
    rows.run(
        "UPDATE promotion_requests SET status = :status, decided_at = :now, reason = :reason"
        " WHERE request_id = :request_id",
        status=status.value,
        now=now,
        reason=reason,
        request_id=request_id,
    )


def add_approval(rows: Connection, request_id: str, person: str, approval: Approval) -> bool:
    """Write a person's yes; False if the person said it before."""
    return (
        rows.run(
            "INSERT INTO promotion_approvals (request_id, person, approver, comment, approved_at)"
            " VALUES (:request_id, :person, :approver, :comment, :approved_at)"
            " ON CONFLICT (request_id, person) DO NOTHING",
            request_id=request_id,
            person=person,
            approver=approval.approver,
            comment=approval.comment,
            approved_at=micros(approval.at),
        )
        == 1
    )


def _request(rows: Connection, row: Row) -> PromotionRequest:
    said = rows.all(
        "SELECT author, text, at FROM promotion_comments WHERE request_id = :request_id ORDER BY position",
        request_id=row["request_id"],
    )
    given = rows.all(
        "SELECT approver, comment, approved_at FROM promotion_approvals WHERE request_id = :request_id"
        " ORDER BY approved_at, person",
        request_id=row["request_id"],
    )
    return PromotionRequest(
        request_id=row["request_id"],
        name=row["name"],
        version=row["version"],
        from_stage=ModelStage(row["from_stage"]),
        target_stage=ModelStage(row["target_stage"]),
        digest=row["digest"],
        evidence=row["evidence"],
        requested_by=row["requested_by"],
        justification=row["justification"],
        reviewers=tuple(json.loads(row["reviewers"])),
        quorum=row["quorum"],
        status=RequestStatus(row["status"]),
        created_at=from_micros(row["created_at"]),
        decided_at=None if row["decided_at"] is None else from_micros(row["decided_at"]),
        reason=row["reason"],
        approvals=tuple(
            Approval(approver=one["approver"], comment=one["comment"], at=from_micros(one["approved_at"]))
            for one in given
        ),
        policy_id=row["policy_id"],
        policy_version=row["policy_version"],
        roles=tuple(json.loads(row["roles"])),
        expires_at=None if row["expires_at"] is None else from_micros(row["expires_at"]),
        requirements=tuple(Requirement(**one) for one in json.loads(row["requirements"])),
        comments=tuple(Comment(author=one["author"], text=one["text"], at=from_micros(one["at"])) for one in said),
    )
