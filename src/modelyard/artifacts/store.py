"""The artifacts' rows."""

from __future__ import annotations

import json
from collections.abc import Iterable

from modelyard.core.canonical import dumps
from modelyard.core.models import Artifact
from modelyard.core.ports import Connection, Row

ADD = """
INSERT INTO artifacts (digest, kind, size, format, name, admission, findings, rules_version, created_by, created_at,
                       touched_at)
VALUES (:digest, :kind, :size, :format, :name, :admission, :findings, :rules_version, :created_by, :now, :now)
ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at
RETURNING created_at, kind
"""


def add(rows: Connection, artifact: Artifact, *, kind: str, rules_version: int, by: str, now: int) -> Row:
    """Write the artifact, or note that it came again; what stood there first stays."""
    row = rows.one(
        ADD,
        digest=artifact.digest,
        kind=kind,
        size=artifact.size,
        format=artifact.format,
        name=artifact.name,
        admission=artifact.admission,
        findings=dumps(artifact.findings),
        rules_version=rules_version,
        created_by=by,
        now=now,
    )
    assert row is not None  # RETURNING always answers
    return row


def add_members(rows: Connection, digest: str, members: Iterable[tuple[str, str, int]]) -> None:
    """Write a folder's (path, digest, size)."""
    rows.many(
        "INSERT INTO artifact_members (digest, path, member_digest, size) VALUES (:digest, :path, :member, :size)"
        " ON CONFLICT (digest, path) DO NOTHING",
        [{"digest": digest, "path": path, "member": member, "size": size} for path, member, size in members],
    )


def readmit(rows: Connection, artifact: Artifact, *, rules_version: int) -> None:
    """Write what today's rules say of bytes that are here already."""
    rows.run(
        "UPDATE artifacts SET admission = :admission, findings = :findings, format = :format,"
        " rules_version = :rules_version WHERE digest = :digest",
        digest=artifact.digest,
        admission=artifact.admission,
        findings=dumps(artifact.findings),
        format=artifact.format,
        rules_version=rules_version,
    )


def row_of(rows: Connection, digest: str) -> Row | None:
    """The artifact's own row."""
    return rows.one("SELECT * FROM artifacts WHERE digest = :digest", digest=digest)


def members(rows: Connection, digest: str) -> dict[str, str]:
    """A folder's files: path -> digest."""
    sql = "SELECT path, member_digest FROM artifact_members WHERE digest = :digest ORDER BY path"
    return {row["path"]: row["member_digest"] for row in rows.all(sql, digest=digest)}


def page(rows: Connection, after: str, limit: int) -> list[Row]:
    """Artifacts in the order of their digests."""
    return rows.all(
        "SELECT * FROM artifacts WHERE digest > :after ORDER BY digest LIMIT :limit", after=after, limit=limit
    )


def hold(rows: Connection, digest: str, holder: str) -> None:
    """Keep the artifact while the holder needs it."""
    rows.run(
        "INSERT INTO artifact_holds (digest, holder) VALUES (:digest, :holder) ON CONFLICT (digest, holder) DO NOTHING",
        digest=digest,
        holder=holder,
    )


def release(rows: Connection, digest: str, holder: str) -> None:
    """The holder needs the artifact no longer."""
    rows.run("DELETE FROM artifact_holds WHERE digest = :digest AND holder = :holder", digest=digest, holder=holder)


def is_held(rows: Connection, digest: str) -> bool:
    """Whether anybody needs the artifact."""
    return rows.one("SELECT 1 AS found FROM artifact_holds WHERE digest = :digest LIMIT 1", digest=digest) is not None


def drop_unheld(rows: Connection, before: int) -> list[str]:
    """Forget artifacts that nobody holds and that were last admitted before a moment; returns their digests."""
    gone = rows.all(
        "DELETE FROM artifacts WHERE touched_at < :before AND NOT EXISTS"
        " (SELECT 1 FROM artifact_holds WHERE artifact_holds.digest = artifacts.digest) RETURNING digest",
        before=before,
    )
    for row in gone:
        rows.run("DELETE FROM artifact_members WHERE digest = :digest", digest=row["digest"])
    return sorted(row["digest"] for row in gone)


def is_used(rows: Connection, blob: str) -> bool:
    """True if an artifact is, or has, these bytes, or a run's files need them: both keep equal bytes once."""
    found = rows.one(
        "SELECT 1 AS found WHERE EXISTS (SELECT 1 FROM artifacts WHERE digest = :blob AND kind = 'file')"
        " OR EXISTS (SELECT 1 FROM artifact_members WHERE member_digest = :blob)"
        " OR EXISTS (SELECT 1 FROM run_blobs WHERE digest = :blob)",
        blob=blob,
    )
    return found is not None


def saw_loose(rows: Connection, blob: str, now: int) -> int:
    """Note that bytes belong to nothing; returns when that was first seen."""
    row = rows.one(
        "INSERT INTO loose_blobs (blob, seen_at) VALUES (:blob, :now)"
        " ON CONFLICT (blob) DO UPDATE SET seen_at = loose_blobs.seen_at RETURNING seen_at",
        blob=blob,
        now=now,
    )
    assert row is not None  # RETURNING always answers
    seen: int = row["seen_at"]
    return seen


def not_loose(rows: Connection, blob: str) -> None:
    """The bytes belong to something again, or are gone."""
    rows.run("DELETE FROM loose_blobs WHERE blob = :blob", blob=blob)


def artifact_of(row: Row, files: dict[str, str]) -> Artifact:
    """The value that a row and its members hold."""
    return Artifact(
        digest=row["digest"],
        size=row["size"],
        format=row["format"],
        name=row["name"],
        members=files,
        admission=row["admission"],
        findings=tuple(json.loads(row["findings"])),
    )
