"""The rows of signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from modelyard.core.instants import from_micros
from modelyard.core.ports import Connection, Row

if TYPE_CHECKING:
    from modelyard.artifacts.signatures import Signature

Made = TypeVar("Made")


def put(rows: Connection, signature: Signature, bundle: str, now: int) -> None:
    """Write a signature, in place of an older one by the same key."""
    rows.run(
        "INSERT INTO artifact_signatures (digest, key_id, bundle, method, signed_by, signed_at)"
        " VALUES (:digest, :key_id, :bundle, :method, :by, :now) ON CONFLICT (digest, key_id) DO UPDATE SET"
        " bundle = excluded.bundle, method = excluded.method, signed_by = excluded.signed_by,"
        " signed_at = excluded.signed_at",
        digest=signature.digest,
        key_id=signature.key_id,
        bundle=bundle,
        method=signature.method,
        by=signature.signed_by,
        now=now,
    )


def load(rows: Connection, digest: str, key_id: str) -> Row | None:
    """One key's signature of an artifact."""
    sql = "SELECT * FROM artifact_signatures WHERE digest = :digest AND key_id = :key_id"
    return rows.one(sql, digest=digest, key_id=key_id)


def of_digest(rows: Connection, digest: str) -> list[Row]:
    """Every signature of an artifact, the oldest first."""
    sql = "SELECT * FROM artifact_signatures WHERE digest = :digest ORDER BY signed_at, key_id"
    return rows.all(sql, digest=digest)


def drop(rows: Connection, digest: str) -> None:
    """Forget the signatures of an artifact that is gone."""
    rows.run("DELETE FROM artifact_signatures WHERE digest = :digest", digest=digest)


def value(row: Row, make: Callable[..., Made]) -> Made:
    """The value that a row holds."""
    return make(
        digest=row["digest"],
        key_id=row["key_id"],
        method=row["method"],
        signed_by=row["signed_by"],
        signed_at=from_micros(row["signed_at"]),
    )
