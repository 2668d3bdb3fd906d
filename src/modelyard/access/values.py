"""What the access area answers with: subjects, grants, tokens and placed things."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.access.rules import Kind
from modelyard.core.instants import Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A person or a service that may call. `issuer` is who vouches for it, "" for this yard itself."""

    subject: str
    kind: Kind
    owner: str
    issuer: str
    has_password: bool
    created_by: str
    created_at: Instant
    disabled_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A role that a subject has in a project, and who gave it."""

    subject: str
    role: str
    project: str
    issuer: str
    granted_by: str
    granted_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as it is listed: never the secret itself. `last_used_at` is right to the minute."""

    token_id: str
    subject: str
    kind: Kind
    owner: str
    scopes: tuple[str, ...]
    project: str
    created_by: str
    created_at: Instant
    expires_at: Instant
    revoked_at: Instant | None = None
    last_used_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class NewToken:
    """A token that was just made: the only time its secret is told. It does not show in logs."""

    token_id: str
    subject: str
    owner: str
    scopes: tuple[str, ...]
    project: str
    expires_at: Instant
    secret: str

    def __repr__(self) -> str:
        return f"NewToken(token_id={self.token_id!r}, subject={self.subject!r}, secret=(hidden))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An experiment, and the project it belongs to."""

    kind: str
    name: str
    project: str
