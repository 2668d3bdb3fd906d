"""The rows of promotion policies and break-glass moves."""

from __future__ import annotations

import json
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.instants import from_micros, micros
from modelyard.core.models import ModelStage
from modelyard.core.ports import Connection, Row
from modelyard.registry.breaking import BreakGlass, ReviewStatus
from modelyard.registry.checks import canonical_version
from modelyard.registry.policy import PolicyStatus, PromotionPolicy

ASKED = (  # what a policy asks for: one JSON value, as it is only read whole
    "quorum",
    "reviewers",
    "roles",
    "metrics",
    "no_worse_than_champion",
    "requires",
    "min_shadow_agreement",
    "expires_after_hours",
)


def add(rows: Connection, policy: PromotionPolicy, *, now: int) -> None:
    """Write a proposed policy."""
    rows.run(
        "INSERT INTO promotion_policies (policy_id, scope, target_stage, version, status, asked, proposed_by,"
        " proposed_at, justification, decided_by, decided_at, reason, agreed_by) VALUES (:policy_id, :scope, :target_stage,"
        " :version, :status, :asked, :proposed_by, :proposed_at, :justification, '', NULL, '', '[]')",
        policy_id=policy.policy_id,
        scope=policy.scope,
        target_stage=policy.target_stage.value,
        version=policy.version,
        status=policy.status.value,
        asked=dumps({name: getattr(policy, name) for name in ASKED}),
        proposed_by=policy.proposed_by,
        proposed_at=now,
        justification=policy.justification,
    )


def decide(rows: Connection, policy: PromotionPolicy) -> None:
    """Write what became of a policy; the one that an active policy replaces is superseded."""
    if policy.status is PolicyStatus.ACTIVE:
        rows.run(
            "UPDATE promotion_policies SET status = 'superseded'"
            " WHERE scope = :scope AND target_stage = :target_stage AND status = 'active'",
            scope=policy.scope,
            target_stage=policy.target_stage.value,
        )
    rows.run(
        "UPDATE promotion_policies SET status = :status, decided_by = :decided_by, decided_at = :decided_at,"
        " reason = :reason, agreed_by = :agreed_by WHERE policy_id = :policy_id",
        status=policy.status.value,
        decided_by=policy.decided_by,
        decided_at=None if policy.decided_at is None else micros(policy.decided_at),
        reason=policy.reason,
        agreed_by=dumps(policy.agreed_by),
        policy_id=policy.policy_id,
    )


def policy(rows: Connection, policy_id: str) -> PromotionPolicy | None:
    """One policy, or None."""
    row = rows.one("SELECT * FROM promotion_policies WHERE policy_id = :policy_id", policy_id=policy_id)
    return None if row is None else _policy(row)


def active(rows: Connection, name: str, stage: ModelStage) -> PromotionPolicy | None:
    """The policy in force for a model: its own, or that of every model."""
    row = rows.one(
        "SELECT * FROM promotion_policies WHERE scope IN (:name, '*') AND target_stage = :stage AND status = 'active'"
        " ORDER BY CASE WHEN scope = '*' THEN 1 ELSE 0 END LIMIT 1",
        name=name,
        stage=stage.value,
    )
    return None if row is None else _policy(row)


def proposed(rows: Connection, scope: str, stage: ModelStage) -> PromotionPolicy | None:
    """The policy of a scope that waits for a decision."""
    row = rows.one(
        "SELECT * FROM promotion_policies WHERE scope = :scope AND target_stage = :stage AND status = 'proposed'",
        scope=scope,
        stage=stage.value,
    )
    return None if row is None else _policy(row)


def next_version(rows: Connection, scope: str, stage: ModelStage) -> int:
    """The number of a scope's next policy."""
    row = rows.one(
        "SELECT COALESCE(MAX(version), 0) AS version FROM promotion_policies"
        " WHERE scope = :scope AND target_stage = :stage",
        scope=scope,
        stage=stage.value,
    )
    return 1 if row is None else int(row["version"]) + 1


def policies(
    rows: Connection, *, scope: str | None, stage: ModelStage | None, status: PolicyStatus | None, limit: int
) -> list[PromotionPolicy]:
    """Policies by scope, stage and version, the newest version first."""
    wanted: dict[str, Any] = {"limit": limit}
    parts = ["1 = 1"]
    for column, value in (
        ("scope", scope),
        ("target_stage", stage and stage.value),
        ("status", status and status.value),
    ):
        if value is not None:
            parts.append(f"{column} = :{column}")
            wanted[column] = value
    sql = (
        f"SELECT * FROM promotion_policies WHERE {' AND '.join(parts)}"
        " ORDER BY scope, target_stage, version DESC LIMIT :limit"
    )
    return [_policy(row) for row in rows.all(sql, **wanted)]


def add_break(rows: Connection, move: BreakGlass) -> None:
    """Write a move that nobody approved."""
    rows.run(
        "INSERT INTO break_glass_moves (break_id, name, canonical, version, from_stage, target_stage, digest, broken_by,"
        " reason, incident, created_at, status, reviewer, verdict, comment, reviewed_at) VALUES (:break_id, :name,"
        " :canonical, :version, :from_stage, :target_stage, :digest, :broken_by, :reason, :incident, :created_at,"
        " :status, '', '', '', NULL)",
        break_id=move.break_id,
        name=move.name,
        canonical=canonical_version(move.version),
        version=move.version,
        from_stage=move.from_stage.value,
        target_stage=move.target_stage.value,
        digest=move.digest,
        broken_by=move.broken_by,
        reason=move.reason,
        incident=move.incident,
        created_at=micros(move.created_at),
        status=move.status.value,
    )


def review_break(rows: Connection, move: BreakGlass) -> None:
    """Write a review."""
    rows.run(
        "UPDATE break_glass_moves SET status = :status, reviewer = :reviewer, verdict = :verdict, comment = :comment,"
        " reviewed_at = :reviewed_at WHERE break_id = :break_id",
        status=move.status.value,
        reviewer=move.reviewer,
        verdict=move.verdict,
        comment=move.comment,
        reviewed_at=None if move.reviewed_at is None else micros(move.reviewed_at),
        break_id=move.break_id,
    )


def broken(rows: Connection, break_id: str) -> BreakGlass | None:
    """One move, or None."""
    row = rows.one("SELECT * FROM break_glass_moves WHERE break_id = :break_id", break_id=break_id)
    return None if row is None else _break(row)


def breaks(rows: Connection, *, name: str | None, status: ReviewStatus | None, limit: int) -> list[BreakGlass]:
    """Moves that nobody approved, the oldest first."""
    wanted: dict[str, Any] = {"limit": limit}
    parts = ["1 = 1"]
    for column, value in (("name", name), ("status", status and status.value)):
        if value is not None:
            parts.append(f"{column} = :{column}")
            wanted[column] = value
    sql = f"SELECT * FROM break_glass_moves WHERE {' AND '.join(parts)} ORDER BY created_at, break_id LIMIT :limit"
    return [_break(row) for row in rows.all(sql, **wanted)]


def _policy(row: Row) -> PromotionPolicy:
    asked: dict[str, Any] = json.loads(row["asked"])
    for name in ("reviewers", "roles", "requires"):
        asked[name] = tuple(asked[name])
    return PromotionPolicy(
        policy_id=row["policy_id"],
        scope=row["scope"],
        target_stage=ModelStage(row["target_stage"]),
        version=row["version"],
        status=PolicyStatus(row["status"]),
        proposed_by=row["proposed_by"],
        proposed_at=from_micros(row["proposed_at"]),
        justification=row["justification"],
        decided_by=row["decided_by"],
        decided_at=None if row["decided_at"] is None else from_micros(row["decided_at"]),
        reason=row["reason"],
        agreed_by=tuple(json.loads(row["agreed_by"])),
        **asked,
    )


def _break(row: Row) -> BreakGlass:
    return BreakGlass(
        break_id=row["break_id"],
        name=row["name"],
        version=row["version"],
        from_stage=ModelStage(row["from_stage"]),
        target_stage=ModelStage(row["target_stage"]),
        digest=row["digest"],
        broken_by=row["broken_by"],
        reason=row["reason"],
        incident=row["incident"],
        created_at=from_micros(row["created_at"]),
        status=ReviewStatus(row["status"]),
        reviewer=row["reviewer"],
        verdict=row["verdict"],
        comment=row["comment"],
        reviewed_at=None if row["reviewed_at"] is None else from_micros(row["reviewed_at"]),
    )
