"""Who there is, people and services, and the roles they have."""

from __future__ import annotations

from collections.abc import Mapping

from modelyard.access import rules, store
from modelyard.access.passwords import hashed
from modelyard.access.rules import EVERY, Grant
from modelyard.access.secrets import told
from modelyard.access.values import Granted, Subject
from modelyard.core.area import Area
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ids import checked_name
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.people import folded
from modelyard.core.refs import Resource
from modelyard.core.work import Work


class Subjects(Area):
    """Knows people and services, lets them in or not, and gives them roles."""

    @operation("POST", "/access/users", needs="access.write")
    def create_user(self, subject: str, *, created_by: str, owner: str = "") -> Subject:
        """A new person, or with `owner` a service that counts as that person wherever people are counted.

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
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

    @operation("POST", "/access/grants", needs="access.write", scope="project:project")
    def grant_role(self, subject: str, role: str, *, created_by: str, project: str = EVERY) -> Granted:
        """The role that the subject has from now on, in one project or in all of them (`*`).

        >>> from modelyard.access.service import AccessManager
        >>> AccessManager(folder).grant_role("ann", "approver", project="fraud", created_by="root").project
        'fraud'
        """
        grant = Grant(rules.checked_role(role), rules.checked_project(project))
        with self.store.work(created_by) as work:
            return self._grant(work, self._known_or_made(work, subject, ""), grant)

    @operation("POST", "/access/grants/revoke", needs="access.write", scope="project:project")
    def revoke_role(self, subject: str, role: str, *, user: str, project: str = EVERY) -> list[Granted]:
        """The roles that are left to the subject. A role that an issuer's groups give comes back with the next sign-in.

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
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

        >>> from modelyard.access.service import AccessManager
        >>> AccessManager(folder).roles()["viewer"]
        ('*.read',)
        """
        return dict(rules.ROLES)

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
