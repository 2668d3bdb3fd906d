"""Who is calling and what they may do: bearer tokens and roles, denied by default."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelyard.core.area import Area
from modelyard.core.errors import Forbidden, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.refs import Resource

PREFIX = "myd_"  # lets secret scanners recognise a token

# role -> the permissions it has; `*` stands for every area
ROLES: Mapping[str, tuple[str, ...]] = {
    "viewer": ("*.read",),
    "contributor": ("*.read", "*.write"),
    "approver": ("*.read", "registry.approve", "governance.write"),
    "admin": ("*.read", "*.write", "registry.approve", "access.write"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The person or service that a request speaks for."""

    subject: str
    role: str

    def may(self, permission: str) -> bool:
        """True if the role has the permission.

        >>> Identity(subject="ann", role="viewer").may("registry.write")
        False
        """
        verb = permission.partition(".")[2]
        return any(granted in (permission, f"*.{verb}") for granted in ROLES[self.role])


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as it is listed: never the secret itself."""

    token_id: str
    subject: str
    role: str
    created_by: str
    created_at: Instant
    expires_at: Instant | None = None
    revoked_at: Instant | None = None


class Access(Area):
    """Creates, checks and revokes tokens. A token is 256 random bits; only its SHA-256 is kept."""

    def create_token(self, subject: str, role: str, *, created_by: str, days: float | None = 90) -> tuple[Token, str]:
        """A new token and its secret, which is shown this once."""
        checked_name(subject, "user")
        if role not in ROLES:
            raise Invalid(f"There is no role {role!r}. {nearest(role, list(ROLES))}")
        secret = PREFIX + secrets.token_urlsafe(32)
        with self.store.work(created_by) as work:
            expires = None if days is None else work.now + timedelta(days=days)
            token = Token(
                token_id=new_id("tok"),
                subject=subject,
                role=role,
                created_by=created_by,
                created_at=work.now,
                expires_at=expires,
            )
            work.rows.run(INSERT, token_hash=_hash(secret), **_row(token))
            details = {"subject": subject, "role": role}
            work.emit(
                EventType.TOKEN_CREATED, Resource("token", token.token_id), details, severity=EventSeverity.WARNING
            )
        return token, secret

    def revoke_token(self, token_id: str, *, user: str) -> Token:
        """The token, of no use from now on."""
        with self.store.work(user) as work:
            changed = work.rows.run(REVOKE, token_id=token_id, at=micros(work.now))
            row = work.rows.one(SELECT + " WHERE token_id = :token_id", token_id=token_id)
            if row is None:
                raise NotFound(f"There is no token {token_id}. List them: modelyard token list")
            if changed:
                work.emit(EventType.TOKEN_REVOKED, Resource("token", token_id), severity=EventSeverity.WARNING)
        return _token(row)

    def list_tokens(self) -> list[Token]:
        """Every token, newest first."""
        with self.store.reading() as rows:
            return [_token(row) for row in rows.all(SELECT + " ORDER BY created_at DESC, token_id")]

    def identify(self, secret: str) -> Identity:
        """Whom the secret belongs to; Forbidden if it is unknown, expired or revoked."""
        with self.store.reading() as rows:
            row = rows.one(SELECT + " WHERE token_hash = :token_hash", token_hash=_hash(secret))
        now = micros(self.store.clock.now())
        if row is None or row["revoked_at"] is not None or (row["expires_at"] is not None and row["expires_at"] <= now):
            raise Forbidden("The access token is unknown, expired or revoked. Ask an administrator for a new one.")
        return Identity(subject=row["subject"], role=row["role"])

    def any_tokens(self) -> bool:
        """True once a token has been created: from then on every request needs one."""
        with self.store.reading() as rows:
            return rows.one("SELECT token_id FROM access_tokens LIMIT 1") is not None


INSERT = """
INSERT INTO access_tokens (token_id, token_hash, subject, role, created_by, created_at, expires_at, revoked_at)
VALUES (:token_id, :token_hash, :subject, :role, :created_by, :created_at, :expires_at, :revoked_at)
"""
SELECT = "SELECT token_id, subject, role, created_by, created_at, expires_at, revoked_at FROM access_tokens"
REVOKE = "UPDATE access_tokens SET revoked_at = :at WHERE token_id = :token_id AND revoked_at IS NULL"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()  # 256 random bits need no slow hash


def _row(token: Token) -> dict[str, Any]:
    times = {name: getattr(token, name) for name in ("created_at", "expires_at", "revoked_at")}
    return {
        "token_id": token.token_id,
        "subject": token.subject,
        "role": token.role,
        "created_by": token.created_by,
        **{name: None if at is None else micros(at) for name, at in times.items()},
    }


def _token(row: Mapping[str, Any]) -> Token:
    def moment(name: str) -> Instant | None:
        return None if row[name] is None else from_micros(row[name])

    return Token(
        token_id=row["token_id"],
        subject=row["subject"],
        role=row["role"],
        created_by=row["created_by"],
        created_at=from_micros(row["created_at"]),
        expires_at=moment("expires_at"),
        revoked_at=moment("revoked_at"),
    )
