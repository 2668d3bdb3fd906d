"""People, services, their roles and tokens, and the project that each thing belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from modelyard.access import rules, store
from modelyard.access.passwords import hashed
from modelyard.access.rules import DEFAULT, EVERY, Grant
from modelyard.access.secrets import Pepper, new_token, told
from modelyard.access.values import Granted, NewToken, Placed, Subject, Token
from modelyard.core.area import Area
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name, new_id
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.people import folded
from modelyard.core.refs import Resource
from modelyard.core.work import Work

LONGEST_DAYS = 366.0
PLACED_KINDS = ("experiment",)  # a model carries its project itself


class AccessManager(Area):
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

    @operation("POST", "/access/grants", needs="access.write", scope="project:project")
    def grant_role(self, subject: str, role: str, *, created_by: str, project: str = EVERY) -> Granted:
        """The role that the subject has from now on, in one project or in all of them (`*`).

        >>> AccessManager(folder).grant_role("ann", "approver", project="fraud", created_by="root").project
        'fraud'
        """
        grant = Grant(rules.checked_role(role), rules.checked_project(project))
        with self.store.work(created_by) as work:
            return self._grant(work, self._known_or_made(work, subject, ""), grant)

    @operation("POST", "/access/grants/revoke", needs="access.write", scope="project:project")
    def revoke_role(self, subject: str, role: str, *, user: str, project: str = EVERY) -> list[Granted]:
        """The roles that are left to the subject. A role that an issuer's groups give comes back with the next sign-in.

        >>> access = AccessManager(folder)
        >>> _ = access.grant_role("ann", "viewer", created_by="root")
        >>> access.revoke_role("ann", "viewer", user="root")
        []
        """
        grant = Grant(rules.checked_role(role), rules.checked_project(project))
        with self.store.work(user) as work:
            known = self._known(work, subject)
            if not store.drop_grant(work.rows, subject, grant, ""):
                raise NotFound(
                    f"{known.subject} has no role {role} in {project!r} that was given here. "
                    "List them: modelyard access list-grants"
                )
            work.emit(
                EventType.ROLE_REVOKED,
                Resource("user", known.subject),
                {"role": role, "project": project},
                severity=EventSeverity.WARNING,
            )
            return store.grants(work.rows, subject)

    @operation("GET", "/access/grants", needs="access.read")
    def list_grants(self, subject: str | None = None) -> list[Granted]:
        """The roles of one subject, or everybody's.

        >>> access = AccessManager(folder)
        >>> _ = access.grant_role("ann", "viewer", created_by="root")
        >>> [(grant.role, grant.project) for grant in access.list_grants("ann")]
        [('viewer', '*')]
        """
        with self.store.reading() as rows:
            return store.grants(rows, subject)

    @operation("GET", "/access/roles", needs="access.read")
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Every role and the permissions it has; `*` stands for every area but `access`.

        >>> AccessManager(folder).roles()["viewer"]
        ('*.read',)
        """
        return dict(rules.ROLES)

    @operation("POST", "/access/users", needs="access.write")
    def create_user(self, subject: str, *, created_by: str, owner: str = "") -> Subject:
        """A new person, or with `owner` a service that counts as that person wherever people are counted.

        >>> AccessManager(folder).create_user("robot", owner="ann", created_by="root").kind
        'service'
        """
        with self.store.work(created_by) as work:
            if store.subject(work.rows, subject) is not None:
                raise Conflict(f"{subject!r} is known already. List everybody: modelyard access list-users")
            return self._known_or_made(work, subject, owner)

    @operation("GET", "/access/users", needs="access.read")
    def list_users(self) -> list[Subject]:
        """Everybody who was ever given a role or a token, people and services.

        >>> access = AccessManager(folder)
        >>> _ = access.create_user("ann", created_by="root")
        >>> [user.subject for user in access.list_users()]
        ['ann']
        """
        with self.store.reading() as rows:
            return store.subjects(rows)

    @operation("POST", "/access/users/disable", needs="access.write")
    def disable_user(self, subject: str, *, user: str) -> Subject:
        """The person or service, whose tokens, password and services are refused from now on.

        >>> access = AccessManager(folder)
        >>> _ = access.create_user("ann", created_by="root")
        >>> access.disable_user("ann", user="root").disabled_at is not None
        True
        """
        with self.store.work(user) as work:
            return self._change(work, subject, "disabled", micros(work.now))

    @operation("POST", "/access/users/enable", needs="access.write")
    def enable_user(self, subject: str, *, user: str) -> Subject:
        """The person or service, let in again.

        >>> access = AccessManager(folder)
        >>> _ = access.create_user("ann", created_by="root")
        >>> _ = access.disable_user("ann", user="root")
        >>> access.enable_user("ann", user="root").disabled_at is None
        True
        """
        with self.store.work(user) as work:
            return self._change(work, subject, "enabled", None)

    @operation("POST", "/access/users/password", needs="access.write", remote=False)
    def set_password(self, subject: str, password: str, *, user: str) -> Subject:
        """The person, who may sign in with the password from now on. It is named, not written: env:NAME or file:PATH.

        A password has 12 to 1024 characters; only its argon2id hash is kept.

        >>> _ = (folder / "secret").write_text("correct horse battery")
        >>> access = AccessManager(folder)
        >>> access.set_password("ann", f"file:{folder / 'secret'}", user="root").has_password
        True
        """
        phc = hashed(told(password, "password"))
        with self.store.work(user) as work:
            known = self._known_or_made(work, subject, "")
            if known.kind != "person" or known.issuer:
                raise Invalid(
                    f"{known.subject} signs in elsewhere or is a service. Passwords are for people known here."
                )
            work.rows.run(store.SET_PASSWORD, folded=folded(subject), password=phc)
            work.emit(
                EventType.USER_UPDATED,
                Resource("user", known.subject),
                {"what": "password"},
                severity=EventSeverity.WARNING,
            )
            return self._known(work, subject)

    @operation("PUT", "/access/projects/{project}/{kind}/{name}", needs="access.write")
    def place(self, project: str, kind: str, name: str, *, user: str) -> Placed:
        """The experiment, by its id, in the project that it and its runs belong to from now on.

        A model carries its own project: `modelyard registry update-model NAME --project PROJECT`.

        >>> AccessManager(folder).place("risk", "experiment", "1", user="root")
        Placed(kind='experiment', name='1', project='risk')
        """
        if kind not in PLACED_KINDS:
            raise Invalid(f"A {kind!r} is placed by nobody. {nearest(kind, list(PLACED_KINDS))}")
        placed = Placed(kind=kind, name=checked_name(name, kind), project=checked_name(project, "project"))
        with self.store.work(user) as work:
            before = store.project_of(work.rows, kind, name)
            work.rows.run(store.PLACE, kind=kind, name=name, project=project, at=micros(work.now))
            details = {"what": "project", "project": project, "before": before or DEFAULT}
            work.emit(EventType.CONFIGURATION_CHANGED, Resource(kind, name), details, severity=EventSeverity.WARNING)
        return placed

    @operation("GET", "/access/projects", needs="access.read")
    def list_placed(self, project: str | None = None) -> list[Placed]:
        """What was placed in a project, or in any. What never was is in the project `default` and not listed.

        >>> access = AccessManager(folder)
        >>> _ = access.place("risk", "experiment", "1", user="root")
        >>> [placed.name for placed in access.list_placed("risk")]
        ['1']
        """
        with self.store.reading() as rows:
            return store.placed(rows, project)

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

    def _grant(self, work: Work, known: Subject, grant: Grant) -> Granted:
        made = Granted(
            subject=known.subject,
            role=grant.role,
            project=grant.project,
            issuer="",
            granted_by=work.actor,
            granted_at=work.now,
        )
        if store.add_grant(work.rows, made):
            details = {"role": grant.role, "project": grant.project}
            resource = Resource("user", known.subject)
            work.emit(EventType.ROLE_GRANTED, resource, details, severity=EventSeverity.WARNING)
        return made

    def _known(self, work: Work, subject: str) -> Subject:
        known = store.subject(work.rows, subject)
        if known is None:
            raise NotFound(f"There is no user {subject!r}. List everybody: modelyard access list-users")
        return known

    def _known_or_made(self, work: Work, subject: str, owner: str) -> Subject:
        """The subject, made now unless it is known. A service keeps its owner, and a person never becomes a service."""
        known = store.subject(work.rows, subject)
        if known is not None:
            if owner and folded(owner) != folded(known.owner if known.kind == "service" else ""):
                whose = f"a service of {known.owner}" if known.kind == "service" else "a person"
                raise Conflict(f"{known.subject} is {whose} already. Choose another name for the service.")
            return known
        person = self._owner(work, owner) if owner else None
        made = Subject(
            subject=checked_name(subject, "user"),
            kind="person" if person is None else "service",
            owner=subject if person is None else person.subject,
            issuer="",
            has_password=False,
            created_by=work.actor,
            created_at=work.now,
        )
        store.add_subject(work.rows, made)
        work.emit(EventType.USER_CREATED, Resource("user", subject), {"kind": made.kind, "owner": made.owner})
        return made

    def _owner(self, work: Work, owner: str) -> Subject:
        person = self._known_or_made(work, owner, "")
        if person.kind != "person":
            raise Invalid(f"{person.subject} is a service. A service belongs to a person, for example {person.owner}.")
        return person

    def _change(self, work: Work, subject: str, what: str, disabled_at: int | None) -> Subject:
        known = self._known(work, subject)
        work.rows.run(store.SET_DISABLED, folded=folded(subject), at=disabled_at)
        resource = Resource("user", known.subject)
        work.emit(EventType.USER_UPDATED, resource, {"what": what}, severity=EventSeverity.WARNING)
        return self._known(work, subject)


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
