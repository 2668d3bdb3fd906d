"""The rows of runs' files: folders and files by name, the bytes they need, and uploads in parts."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.core.ports import Connection, Row


def find_entry(rows: Connection, folder: str, name: str) -> Row | None:
    """A file (with a digest) or a folder (without)."""
    sql = "SELECT * FROM run_files WHERE folder = :folder AND name = :name"
    return rows.one(sql, folder=folder, name=name)


def entries(rows: Connection, folder: str) -> list[Row]:
    """What lies in a folder, by name."""
    return rows.all("SELECT * FROM run_files WHERE folder = :folder ORDER BY name", folder=folder)


def tree(rows: Connection, folder: str) -> Iterator[tuple[str, str]]:
    """(path, digest) of every file in a folder and below."""
    for row in entries(rows, folder):
        path = f"{folder}/{row['name']}"
        if row["digest"] is None:
            yield from tree(rows, path)
        else:
            yield path, row["digest"]


def put_entry(rows: Connection, folder: str, name: str, digest: str | None, size: int | None) -> None:
    """Write a file or folder in the place of what was there."""
    rows.run(
        "INSERT INTO run_files (folder, name, digest, size) VALUES (:folder, :name, :digest, :size) "
        "ON CONFLICT (folder, name) DO UPDATE SET digest = excluded.digest, size = excluded.size",
        folder=folder,
        name=name,
        digest=digest,
        size=size,
    )


def drop_entry(rows: Connection, folder: str, name: str) -> None:
    """Remove a file or an empty folder."""
    rows.run("DELETE FROM run_files WHERE folder = :folder AND name = :name", folder=folder, name=name)


def drop_entries(rows: Connection, folder: str) -> None:
    """Remove what lies right in a folder."""
    rows.run("DELETE FROM run_files WHERE folder = :folder", folder=folder)


def touch_blob(rows: Connection, digest: str, size: int, now: int) -> None:
    """Note that bytes were stored: they stay for the grace period even if nothing names them."""
    rows.run(
        "INSERT INTO run_blobs (digest, size, touched_at) VALUES (:digest, :size, :now) "
        "ON CONFLICT (digest) DO UPDATE SET touched_at = excluded.touched_at",
        digest=digest,
        size=size,
        now=now,
    )


def is_known(rows: Connection, digest: str) -> bool:
    """Whether bytes are noted, or are an artifact's."""
    noted = rows.one("SELECT 1 AS one FROM run_blobs WHERE digest = :digest", digest=digest)
    return noted is not None or is_admitted(rows, digest)


def is_admitted(rows: Connection, digest: str) -> bool:
    """Whether an artifact is, or has, these bytes."""
    found = rows.one(
        "SELECT 1 AS one WHERE EXISTS (SELECT 1 FROM artifacts WHERE digest = :digest AND kind = 'file') "
        "OR EXISTS (SELECT 1 FROM artifact_members WHERE member_digest = :digest)",
        digest=digest,
    )
    return found is not None


def loose_blobs(rows: Connection, before: int) -> list[str]:
    """Bytes that nothing names and nobody has stored since the moment."""
    found = rows.all(
        "SELECT digest FROM run_blobs b WHERE touched_at < :before "
        "AND NOT EXISTS (SELECT 1 FROM run_files f WHERE f.digest = b.digest) "
        "AND NOT EXISTS (SELECT 1 FROM run_upload_parts p WHERE p.digest = b.digest)",
        before=before,
    )
    return [row["digest"] for row in found]


def drop_blob(rows: Connection, digest: str) -> None:
    """Forget bytes."""
    rows.run("DELETE FROM run_blobs WHERE digest = :digest", digest=digest)


def add_upload(rows: Connection, upload_id: str, path: str, now: int) -> None:
    """Begin an upload in parts."""
    rows.run(
        "INSERT INTO run_uploads (upload_id, path, started_at) VALUES (:upload_id, :path, :now)",
        upload_id=upload_id,
        path=path,
        now=now,
    )


def find_upload(rows: Connection, upload_id: str) -> Row | None:
    """An upload that has begun and not ended."""
    return rows.one("SELECT * FROM run_uploads WHERE upload_id = :upload_id", upload_id=upload_id)


def put_part(rows: Connection, upload_id: str, number: int, digest: str, size: int) -> None:
    """Note a part, in the place of one with the same number."""
    rows.run(
        "INSERT INTO run_upload_parts (upload_id, number, digest, size) VALUES (:upload_id, :number, :digest, :size) "
        "ON CONFLICT (upload_id, number) DO UPDATE SET digest = excluded.digest, size = excluded.size",
        upload_id=upload_id,
        number=number,
        digest=digest,
        size=size,
    )


def parts(rows: Connection, upload_id: str) -> list[Row]:
    """The parts of an upload in order."""
    return rows.all("SELECT * FROM run_upload_parts WHERE upload_id = :upload_id ORDER BY number", upload_id=upload_id)


def drop_upload(rows: Connection, upload_id: str) -> bool:
    """Forget an upload and its parts; True if it was there."""
    rows.run("DELETE FROM run_upload_parts WHERE upload_id = :upload_id", upload_id=upload_id)
    return bool(rows.run("DELETE FROM run_uploads WHERE upload_id = :upload_id", upload_id=upload_id))


def old_uploads(rows: Connection, before: int) -> list[str]:
    """Uploads that began before the moment and were never completed."""
    found = rows.all("SELECT upload_id FROM run_uploads WHERE started_at < :before", before=before)
    return [row["upload_id"] for row in found]
