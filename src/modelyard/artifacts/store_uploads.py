"""The rows of uploads under way and of their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard.core.ports import Connection, Row

if TYPE_CHECKING:
    from modelyard.artifacts.uploads import Upload


def begin(rows: Connection, upload: Upload, *, by: str, now: int) -> None:
    """Write a new upload."""
    rows.run(
        "INSERT INTO artifact_uploads (upload_id, digest, size, name, created_by, created_at, touched_at)"
        " VALUES (:upload_id, :digest, :size, :name, :by, :now, :now)",
        upload_id=upload.upload_id,
        digest=upload.digest,
        size=upload.size,
        name=upload.name,
        by=by,
        now=now,
    )


def load(rows: Connection, upload_id: str) -> Row | None:
    """The upload's row with the number of bytes received."""
    return rows.one(
        "SELECT upload_id, name, digest, size,"
        " (SELECT coalesce(sum(p.size), 0) FROM artifact_upload_parts p WHERE p.upload_id = u.upload_id) AS received"
        " FROM artifact_uploads u WHERE upload_id = :upload_id",
        upload_id=upload_id,
    )


def append(rows: Connection, upload_id: str, start: int, size: int, blob: str, *, now: int) -> bool:
    """Write a part that begins where the others end; False if they end elsewhere."""
    found = load(rows, upload_id)
    if found is None or found["received"] != start:
        return False
    rows.run(
        "INSERT INTO artifact_upload_parts (upload_id, start, size, blob) VALUES (:upload_id, :start, :size, :blob)",
        upload_id=upload_id,
        start=start,
        size=size,
        blob=blob,
    )
    rows.run("UPDATE artifact_uploads SET touched_at = :now WHERE upload_id = :upload_id", upload_id=upload_id, now=now)
    return True


def parts(rows: Connection, upload_id: str) -> list[Row]:
    """The parts in their order."""
    sql = "SELECT start, size, blob FROM artifact_upload_parts WHERE upload_id = :upload_id ORDER BY start"
    return rows.all(sql, upload_id=upload_id)


def drop(rows: Connection, upload_id: str) -> None:
    """Forget an upload."""
    for table in ("artifact_upload_parts", "artifact_uploads"):
        rows.run(f"DELETE FROM {table} WHERE upload_id = :upload_id", upload_id=upload_id)


def waiting_since(rows: Connection, before: int) -> list[str]:
    """The uploads that nobody went on with since a moment."""
    found = rows.all("SELECT upload_id FROM artifact_uploads WHERE touched_at < :before", before=before)
    return [row["upload_id"] for row in found]


def is_known(rows: Connection, upload_id: str) -> bool:
    """True for an upload under way."""
    sql = "SELECT 1 AS found FROM artifact_uploads WHERE upload_id = :upload_id"
    return rows.one(sql, upload_id=upload_id) is not None
