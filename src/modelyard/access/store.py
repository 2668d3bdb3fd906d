"""The SQL of the access area."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.access.limits import Failures
from modelyard.access.rules import Grant
from modelyard.access.values import Granted, Placed, Subject, Token
from modelyard.core.canonical import dumps
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.people import folded
from modelyard.core.ports import Connection, Row

INSERT_SUBJECT = """
INSERT INTO access_subjects (folded, subject, kind, owner, issuer, created_by, created_at)
VALUES (:folded, :subject, :kind, :owner, :issuer, :created_by, :created_at)
"""
SUBJECTS = """
SELECT subject, kind, owner, issuer, password IS NOT NULL AS has_password, created_by, created_at, disabled_at
FROM access_subjects
"""
INSERT_GRANT = """
INSERT INTO access_grants (folded, role, project, issuer, granted_by, granted_at)
VALUES (:folded, :role, :project, :issuer, :granted_by, :granted_at)
ON CONFLICT (folded, role, project, issuer) DO NOTHING
"""
DELETE_GRANT = """
DELETE FROM access_grants
WHERE folded = :folded AND role = :role AND project = :project AND issuer = :issuer
"""
GRANTS = """
SELECT subject, role, project, access_grants.issuer AS issuer, granted_by, granted_at
FROM access_grants JOIN access_subjects ON access_subjects.folded = access_grants.folded
"""
INSERT_TOKEN = """
INSERT INTO access_tokens (token_id, token_hash, folded, scopes, project, created_by, created_at, expires_at)
VALUES (:token_id, :token_hash, :folded, :scopes, :project, :created_by, :created_at, :expires_at)
"""
TOKENS = """
SELECT token_id, subject, kind, owner, scopes, project, access_tokens.created_by AS created_by,
  access_tokens.created_at AS created_at, expires_at, revoked_at, last_used_at
FROM access_tokens JOIN access_subjects ON access_subjects.folded = access_tokens.folded
"""
# A service's token is of no use either once its owner is disabled.
PRESENTED = """
SELECT token_id, access_tokens.folded AS folded, scopes, project, expires_at, revoked_at, last_used_at,
  holder.subject AS subject, holder.kind AS kind, holder.owner AS owner,
  COALESCE(holder.disabled_at, person.disabled_at) AS disabled_at
FROM access_tokens
JOIN access_subjects holder ON holder.folded = access_tokens.folded
LEFT JOIN access_subjects person ON person.folded = :owner_folded
WHERE token_hash = :token_hash
"""
REVOKE = "UPDATE access_tokens SET revoked_at = :at WHERE token_id = :token_id AND revoked_at IS NULL"
USED = "UPDATE access_tokens SET last_used_at = :at WHERE token_id = :token_id"
FORGET_TOKENS = "DELETE FROM access_tokens WHERE folded = :folded AND expires_at < :before"
SET_PASSWORD = "UPDATE access_subjects SET password = :password WHERE folded = :folded"
SET_DISABLED = "UPDATE access_subjects SET disabled_at = :at WHERE folded = :folded"
COUNT_FAILURE = """
INSERT INTO access_failures (key, count, at) VALUES (:key, :count, :at)
ON CONFLICT (key) DO UPDATE SET count = excluded.count, at = excluded.at
"""
FORGIVE = "DELETE FROM access_failures WHERE key = :key"
FORGET_FAILURES = "DELETE FROM access_failures WHERE at < :before"
PLACE = """
INSERT INTO access_objects (kind, name, project, placed_at) VALUES (:kind, :name, :project, :at)
ON CONFLICT (kind, name) DO UPDATE SET project = excluded.project, placed_at = excluded.placed_at
"""


def add_subject(rows: Connection, made: Subject) -> None:
    """A new person or service."""
    rows.run(
        INSERT_SUBJECT,
        folded=folded(made.subject),
        subject=made.subject,
        kind=made.kind,
        owner=made.owner,
        issuer=made.issuer,
        created_by=made.created_by,
        created_at=micros(made.created_at),
    )


def subject(rows: Connection, name: str) -> Subject | None:
    """A person or service by name, however it is capitalised."""
    row = rows.one(SUBJECTS + " WHERE folded = :folded", folded=folded(name))
    return None if row is None else _subject(row)


def subjects(rows: Connection) -> list[Subject]:
    """Everybody, in the order of their names."""
    return [_subject(row) for row in rows.all(SUBJECTS + " ORDER BY folded")]


def password(rows: Connection, name: str) -> str | None:
    """The hash of a person's password; None where there is none, or where the person is disabled."""
    sql = "SELECT password FROM access_subjects WHERE folded = :folded AND disabled_at IS NULL"
    row = rows.one(sql, folded=folded(name))
    return None if row is None else row["password"]


def add_grant(rows: Connection, made: Granted) -> bool:
    """Give a role; True unless the subject had it already."""
    return bool(
        rows.run(
            INSERT_GRANT,
            folded=folded(made.subject),
            role=made.role,
            project=made.project,
            issuer=made.issuer,
            granted_by=made.granted_by,
            granted_at=micros(made.granted_at),
        )
    )


def drop_grant(rows: Connection, name: str, grant: Grant, issuer: str) -> bool:
    """Take a role; True if the subject had it."""
    return bool(rows.run(DELETE_GRANT, folded=folded(name), role=grant.role, project=grant.project, issuer=issuer))


def grants(rows: Connection, name: str | None) -> list[Granted]:
    """The roles of one subject, or everybody's."""
    order = " ORDER BY access_grants.folded, role, project, access_grants.issuer"
    if name is None:
        return [_granted(row) for row in rows.all(GRANTS + order)]
    sql = GRANTS + " WHERE access_grants.folded = :folded" + order
    return [_granted(row) for row in rows.all(sql, folded=folded(name))]


def add_token(rows: Connection, made: Token, token_hash: str) -> None:
    """A new token."""
    rows.run(
        INSERT_TOKEN,
        token_id=made.token_id,
        token_hash=token_hash,
        folded=folded(made.subject),
        scopes=dumps(made.scopes),
        project=made.project,
        created_by=made.created_by,
        created_at=micros(made.created_at),
        expires_at=micros(made.expires_at),
    )


def tokens(rows: Connection, name: str | None) -> list[Token]:
    """The tokens of one subject, or all; newest first."""
    order = " ORDER BY access_tokens.created_at DESC, token_id"
    if name is None:
        return [_token(row) for row in rows.all(TOKENS + order)]
    return [_token(row) for row in rows.all(TOKENS + " WHERE access_tokens.folded = :f" + order, f=folded(name))]


def token(rows: Connection, token_id: str) -> Token | None:
    """A token by its id."""
    row = rows.one(TOKENS + " WHERE token_id = :token_id", token_id=token_id)
    return None if row is None else _token(row)


def presented(rows: Connection, token_hash: str) -> Row | None:
    """What a presented token's digest stands for, whether or not it is still good."""
    sql = "SELECT owner FROM access_tokens t JOIN access_subjects s ON s.folded = t.folded WHERE token_hash = :h"
    row = rows.one(sql, h=token_hash)
    if row is None:
        return None
    return rows.one(PRESENTED, token_hash=token_hash, owner_folded=folded(row["owner"]))


def owners(rows: Connection, names: Sequence[str]) -> dict[str, str]:
    """Folded service -> the person it counts as. Persons and strangers are left out."""
    sql = "SELECT owner FROM access_subjects WHERE folded = :folded AND kind = 'service'"
    asked = {name: rows.one(sql, folded=name) for name in {folded(name) for name in names}}
    return {name: row["owner"] for name, row in asked.items() if row is not None}


def guarded(rows: Connection) -> bool:
    """True once there is a token or a password."""
    sql = """
    SELECT 1 AS found FROM access_tokens
    UNION ALL SELECT 1 AS found FROM access_subjects WHERE password IS NOT NULL
    LIMIT 1
    """
    return rows.one(sql) is not None


def failures(rows: Connection, key: str) -> Failures | None:
    """How often somebody failed to sign in, and when they last did."""
    row = rows.one("SELECT count, at FROM access_failures WHERE key = :key", key=key)
    return None if row is None else Failures(count=row["count"], at=row["at"] / 1e6)


def project_of(rows: Connection, kind: str, name: str) -> str | None:
    """The project that something was placed in."""
    row = rows.one("SELECT project FROM access_objects WHERE kind = :kind AND name = :name", kind=kind, name=name)
    return None if row is None else row["project"]


def placed(rows: Connection, project: str | None) -> list[Placed]:
    """What was placed in a project, or in any."""
    chosen = "" if project is None else " WHERE project = :project"
    values: Mapping[str, Any] = {} if project is None else {"project": project}
    sql = f"SELECT kind, name, project FROM access_objects{chosen} ORDER BY project, kind, name"
    return [Placed(**row) for row in rows.all(sql, **values)]


def _subject(row: Row) -> Subject:
    return Subject(
        **{
            **row,
            "has_password": bool(row["has_password"]),
            "created_at": from_micros(row["created_at"]),
            "disabled_at": _moment(row["disabled_at"]),
        }
    )


def _granted(row: Row) -> Granted:
    return Granted(**{**row, "granted_at": from_micros(row["granted_at"])})


def _token(row: Row) -> Token:
    times = {name: _moment(row[name]) for name in ("created_at", "expires_at", "revoked_at", "last_used_at")}
    return Token(**{**row, **times, "scopes": tuple(json.loads(row["scopes"]))})


def _moment(value: int | None) -> Instant | None:
    return None if value is None else from_micros(value)
