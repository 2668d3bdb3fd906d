"""From a presented token to the identity behind it: read from the database at most once a second for each token."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.access import store
from modelyard.access.rules import Grant, Identity
from modelyard.access.secrets import PREFIX, Pepper, well_formed
from modelyard.access.values import Granted, Subject
from modelyard.core.errors import Forbidden
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.refs import Resource
from modelyard.core.work import Store

if TYPE_CHECKING:
    from modelyard.access.oidc import Claims, Issuer

STALE_US = 1_000_000  # a revoked token, a lost role and a disabled person count from a second later at the latest
USED_EVERY_US = 60_000_000
REMEMBERED = 4096  # tokens
REFUSED = "The access token is unknown, expired or revoked. Ask an administrator for a new one."


@dataclass(frozen=True, slots=True)
class _Seen:
    identity: Identity
    read_at: int
    expires_at: int


class Identities:
    """Identifies callers by token, and by the signed tokens of an issuer where one is configured."""

    def __init__(self, at: Store, issuer: Issuer | None = None) -> None:
        self._store, self._pepper, self._issuer = at, Pepper(at.folder), issuer
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()
        self._guarded = False

    def of(self, presented: str) -> Identity:
        """Whom the token belongs to; Forbidden if it is unknown, expired or revoked, or its holder is disabled."""
        key = self._pepper.key(presented)
        now = micros(self._store.clock.now())
        seen = self._seen.get(key)
        if seen is not None and 0 <= now - seen.read_at < STALE_US and now < seen.expires_at:
            return seen.identity
        found = self._read(presented, key.hex(), now)
        self._seen[key] = found
        while len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return found.identity

    def certified(self, subject: str) -> Identity:
        """Whom a client certificate names, which the server's own authority has signed."""
        key, now = self._pepper.key("certificate " + subject), micros(self._store.clock.now())
        seen = self._seen.get(key)
        if seen is not None and 0 <= now - seen.read_at < STALE_US:
            return seen.identity
        with self._store.reading() as rows:
            known, held = store.subject(rows, subject), store.grants(rows, subject)
        if known is None or known.disabled_at is not None:
            raise Forbidden(f"{subject}, whom the certificate names, is not known here or disabled.")
        identity = Identity(subject=known.subject, owner=known.owner, kind=known.kind, grants=_powers(held))
        self._seen[key] = _Seen(identity, now, now + STALE_US)
        return identity

    def forget(self) -> None:
        """Read every token anew: after a change made through this process."""
        self._seen.clear()

    def guarded(self) -> bool:
        """True once there is any way to sign in: from then on every request needs one."""
        if self._issuer is not None:
            return True
        if not self._guarded:  # tokens are never removed but for old ones, so this turns true once
            with self._store.reading() as rows:
                self._guarded = store.guarded(rows)
        return self._guarded

    def _read(self, presented: str, digest: str, now: int) -> _Seen:
        if presented.startswith(PREFIX):
            return self._own(presented, digest, now)
        if self._issuer is not None and presented.count(".") == 2:
            return self._issued(self._issuer.claims(presented, from_micros(now)), now)
        raise Forbidden(REFUSED)

    def _own(self, presented: str, digest: str, now: int) -> _Seen:
        if not well_formed(presented):  # a mistyped token costs no query
            raise Forbidden(REFUSED)
        with self._store.reading() as rows:
            row = store.presented(rows, digest)
            if row is None or row["revoked_at"] is not None or row["disabled_at"] is not None:
                raise Forbidden(REFUSED)
            if row["expires_at"] <= now:
                raise Forbidden(REFUSED)
            held = store.grants(rows, row["subject"])
        if now - (row["last_used_at"] or 0) >= USED_EVERY_US:
            with self._store.work(row["subject"]) as work:
                work.rows.run(store.USED, token_id=row["token_id"], at=now)
        identity = Identity(
            subject=row["subject"],
            owner=row["owner"],
            kind=row["kind"],
            grants=_powers(held),
            scopes=tuple(json.loads(row["scopes"])),
            project=row["project"],
        )
        return _Seen(identity, now, row["expires_at"])

    def _issued(self, claims: Claims, now: int) -> _Seen:
        with self._store.reading() as rows:
            known, held = store.subject(rows, claims.subject), store.grants(rows, claims.subject)
        if known is not None and known.disabled_at is not None:
            raise Forbidden(REFUSED)
        given = {Grant(one.role, one.project) for one in held if one.issuer == claims.issuer}
        if known is None or given != claims.grants:
            held = self._brought_up(claims)
        identity = Identity(subject=claims.subject, owner=claims.subject, grants=_powers(held))
        return _Seen(identity, now, micros(claims.expires_at))

    def _brought_up(self, claims: Claims) -> list[Granted]:
        """The subject's roles once they are what the issuer's groups say now. Each change is an event."""
        with self._store.work(claims.issuer) as work:
            if store.subject(work.rows, claims.subject) is None:
                made = Subject(
                    subject=claims.subject,
                    kind="person",
                    owner=claims.subject,
                    issuer=claims.issuer,
                    has_password=False,
                    created_by=claims.issuer,
                    created_at=work.now,
                )
                store.add_subject(work.rows, made)
                work.emit(EventType.USER_CREATED, Resource("user", claims.subject), {"issuer": claims.issuer})
            held = {Grant(g.role, g.project) for g in store.grants(work.rows, claims.subject) if g.issuer}
            for grant in sorted(claims.grants - held):
                store.add_grant(work.rows, _granted(claims, grant, work.now))
            for grant in sorted(held - claims.grants):
                store.drop_grant(work.rows, claims.subject, grant, claims.issuer)
            for kind, changed in (
                (EventType.ROLE_GRANTED, claims.grants - held),
                (EventType.ROLE_REVOKED, held - claims.grants),
            ):
                for grant in sorted(changed):
                    details = {"role": grant.role, "project": grant.project, "issuer": claims.issuer}
                    work.emit(kind, Resource("user", claims.subject), details, severity=EventSeverity.WARNING)
            return store.grants(work.rows, claims.subject)


def _powers(held: list[Granted]) -> frozenset[Grant]:
    return frozenset(Grant(one.role, one.project) for one in held)


def _granted(claims: Claims, grant: Grant, now: Instant) -> Granted:
    return Granted(
        subject=claims.subject,
        role=grant.role,
        project=grant.project,
        issuer=claims.issuer,
        granted_by=claims.issuer,
        granted_at=now,
    )
