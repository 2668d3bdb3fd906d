"""The rows of releases from quarantine and of their approvals."""

from __future__ import annotations

from modelyard.artifacts.rules import Release
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.people import folded
from modelyard.core.ports import Connection, Row


def add(rows: Connection, release: Release) -> None:
    """Write a new request."""
    rows.run(
        "INSERT INTO artifact_releases"
        " (release_id, digest, requested_by, justification, status, reason, created_at, decided_at)"
        " VALUES (:release_id, :digest, :requested_by, :justification, :status, '', :now, NULL)",
        release_id=release.release_id,
        digest=release.digest,
        requested_by=release.requested_by,
        justification=release.justification,
        status=release.status,
        now=micros(release.created_at),
    )


def approve(rows: Connection, release: Release, approver: str, comment: str, now: Instant) -> None:
    """Write one person's approval."""
    rows.run(
        "INSERT INTO artifact_release_approvals (release_id, person, approver, comment, approved_at)"
        " VALUES (:release_id, :person, :approver, :comment, :now)",
        release_id=release.release_id,
        person=folded(approver),
        approver=approver,
        comment=comment,
        now=micros(now),
    )


def decide(rows: Connection, release: Release, now: Instant) -> None:
    """Write where the release stands now."""
    rows.run(
        "UPDATE artifact_releases SET status = :status, reason = :reason, decided_at = :now WHERE release_id = :id",
        id=release.release_id,
        status=release.status,
        reason=release.reason,
        now=micros(now),
    )


def live(rows: Connection, digest: str) -> Release | None:
    """The release of these bytes that is open or approved."""
    sql = "SELECT * FROM artifact_releases WHERE digest = :digest AND status IN ('open', 'approved')"
    row = rows.one(sql, digest=digest)
    return None if row is None else _release(rows, row)


def of_digest(rows: Connection, digest: str) -> list[Release]:
    """Every release of these bytes, the newest first."""
    sql = "SELECT * FROM artifact_releases WHERE digest = :digest ORDER BY created_at DESC, release_id"
    return [_release(rows, row) for row in rows.all(sql, digest=digest)]


def end(rows: Connection, digest: str, reason: str, now: int) -> None:
    """Close what stands for bytes that are gone."""
    rows.run(
        "UPDATE artifact_releases SET status = 'withdrawn', reason = :reason, decided_at = :now"
        " WHERE digest = :digest AND status IN ('open', 'approved')",
        digest=digest,
        reason=reason,
        now=now,
    )


def _release(rows: Connection, row: Row) -> Release:
    sql = "SELECT approver FROM artifact_release_approvals WHERE release_id = :id ORDER BY approved_at, approver"
    return Release(
        release_id=row["release_id"],
        digest=row["digest"],
        requested_by=row["requested_by"],
        justification=row["justification"],
        status=row["status"],
        created_at=from_micros(row["created_at"]),
        approvers=tuple(one["approver"] for one in rows.all(sql, id=row["release_id"])),
        reason=row["reason"],
    )
