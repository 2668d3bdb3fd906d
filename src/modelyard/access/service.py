"""AccessManager: who may call the server, by which tokens, and what they may do there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from modelyard.access import rules, store
from modelyard.access.projects import Projects
from modelyard.access.rules import EVERY, Grant
from modelyard.access.secrets import Pepper, new_token
from modelyard.access.subjects import Subjects
from modelyard.access.values import NewToken, Subject, Token
from modelyard.core.errors import Forbidden, Invalid, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.people import folded
from modelyard.core.refs import Resource
from modelyard.core.work import Work

LONGEST_DAYS = 366.0


class AccessManager(Subjects, Projects):
    """Who may call the server and what they may do there. Nobody may do anything that no role of theirs names.

    A token is 256 random bits; its HMAC-SHA-256 under a key outside the database is all that is kept.
    """

    @operation("POST", "/access/tokens", needs="access.write")
    def create_token(
        self,
        subject: str,
        *,
        created_by: str,
        role: str = "",
        project: str = EVERY,
        scopes: Sequence[str] = ("*.*",),
        owner: str = "",
        days: float = 90,
    ) -> NewToken:
        """A new token, whose secret is shown this once. It may do what its subject's roles and its own scopes both name.

        A subject that is not known yet is made: a person, or with `owner` a service that counts as that person. With
        `role` the subject is given the role in the token's project too. `days` is at most 366.

        >>> from modelyard.access.service import AccessManager
        >>> made = AccessManager(folder).create_token("ann@example.org", role="viewer", created_by="root")
        >>> made.subject, made.secret[:4], made.scopes
        ('ann@example.org', 'myd_', ('*.*',))
        """
        if not 0 < days <= LONGEST_DAYS:
            raise Invalid(f"days is {days:g}. A token is good for more than 0 and at most {LONGEST_DAYS:g} days.")
        scopes, project = rules.checked_scopes(scopes), rules.checked_project(project)
        secret = new_token()
        digest = Pepper(self.store.folder).key(secret).hex()
        with self.store.work(created_by) as work:
            known = self._known_or_made(work, subject, owner)
            if role:
                self._grant(work, known, Grant(rules.checked_role(role), project))
            lasts = timedelta(days=days)
            token = self._issued(work, known, digest, scopes=scopes, project=project, lasts=lasts)
            details = {"subject": known.subject, "owner": known.owner, "scopes": scopes, "project": project}
            work.emit(
                EventType.TOKEN_CREATED, Resource("token", token.token_id), details, severity=EventSeverity.WARNING
            )
        return _told_once(token, secret)

    @operation("GET", "/access/tokens", needs="access.read")
    def list_tokens(self, subject: str | None = None) -> list[Token]:
        """The tokens of one subject, or all of them, newest first; their secrets are not kept.

        >>> from modelyard.access.service import AccessManager
        >>> access = AccessManager(folder)
        >>> _ = access.create_token("robot", owner="ann", scopes=["registry.read"], created_by="root")
        >>> [(token.subject, token.owner, token.scopes) for token in access.list_tokens()]
        [('robot', 'ann', ('registry.read',))]
        """
        with self.store.reading() as rows:
            return store.tokens(rows, subject)

    @operation("POST", "/access/tokens/{token_id}/revoke", needs="access.write")
    def revoke_token(self, token_id: str, *, user: str) -> Token:
        """The token, of no use from now on; other processes notice within a second.

        >>> from modelyard.access.service import AccessManager
        >>> access = AccessManager(folder)
        >>> made = access.create_token("ann", created_by="root")
        >>> access.revoke_token(made.token_id, user="root").revoked_at is not None
        True
        """
        with self.store.work(user) as work:
            changed = work.rows.run(store.REVOKE, token_id=token_id, at=micros(work.now))
            token = store.token(work.rows, token_id)
            if token is None:
                raise NotFound(f"There is no token {token_id!r}. List them: modelyard access list-tokens")
            if changed:
                details = {"subject": token.subject}
                work.emit(EventType.TOKEN_REVOKED, Resource("token", token_id), details, severity=EventSeverity.WARNING)
        return token

    def session(self, subject: str, *, hours: float) -> NewToken:
        """A token for somebody who has just proved who they are. Their tokens of more than 30 days ago are forgotten."""
        secret = new_token()
        digest = Pepper(self.store.folder).key(secret).hex()
        with self.store.work(subject) as work:
            known = self._known(work, subject)
            before = micros(work.now - timedelta(days=30))
            work.rows.run(store.FORGET_TOKENS, folded=folded(subject), before=before)
            token = self._issued(work, known, digest, scopes=("*.*",), project=EVERY, lasts=timedelta(hours=hours))
            details = {"subject": known.subject, "login": True}
            work.emit(EventType.TOKEN_CREATED, Resource("token", token.token_id), details)
        return _told_once(token, secret)

    def _issued(
        self, work: Work, known: Subject, digest: str, *, scopes: tuple[str, ...], project: str, lasts: timedelta
    ) -> Token:
        if known.disabled_at is not None:
            raise Forbidden(f"{known.subject} is disabled. Let them in again: modelyard access enable-user")
        token = Token(
            token_id=new_id("tok"),
            subject=known.subject,
            kind=known.kind,
            owner=known.owner,
            scopes=scopes,
            project=project,
            created_by=work.actor,
            created_at=work.now,
            expires_at=work.now + lasts,
        )
        store.add_token(work.rows, token, digest)
        return token


def _told_once(token: Token, secret: str) -> NewToken:
    return NewToken(
        token_id=token.token_id,
        subject=token.subject,
        owner=token.owner,
        scopes=token.scopes,
        project=token.project,
        expires_at=token.expires_at,
        secret=secret,
    )
