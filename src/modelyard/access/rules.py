"""Who may do what: roles, grants and scopes as data, and one pure function that decides. Denied unless allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name
from modelyard.core.people import folded, likeness

EVERY = "*"  # as a project: the whole yard
DEFAULT = "default"  # the project of what was never placed

Kind = Literal["person", "service"]
KINDS: tuple[Kind, ...] = ("person", "service")

# role -> the permissions it has. `*.read` is reading in every area but `access`, which is always named.
ROLES: Mapping[str, tuple[str, ...]] = {
    "viewer": ("*.read",),
    "contributor": ("*.read", "*.write"),
    "approver": ("*.read", "*.approve", "governance.write"),
    "admin": ("*.read", "*.write", "*.approve", "access.read", "access.write"),
    # given on top of another role, and never part of one
    "breaker": ("registry.break_glass",),
    "issuer": ("access.issue",),
}
NAMED_ONLY = frozenset({"access"})  # areas that `*` does not stand for

_PATTERN = re.compile(r"(\*|[a-z_]+)\.(\*|[a-z_]+)\Z")


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    """A role in a project, or in every project."""

    role: str
    project: str = EVERY


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The person or service that a request speaks for, and what limits the token that it was sent with.

    `owner` is the person that a service counts as, where people are counted.
    """

    subject: str
    owner: str
    kind: Kind = "person"
    grants: frozenset[Grant] = frozenset()
    scopes: tuple[str, ...] = ("*.*",)
    project: str = EVERY  # a token may be bound to one project

    def may(self, permission: str, project: str = EVERY) -> bool:
        """True if the identity has the permission in the project; `*` asks for the whole yard.

        >>> ann = Identity(subject="ann", owner="ann", grants=frozenset({Grant("viewer", "fraud")}))
        >>> ann.may("registry.read", "fraud"), ann.may("registry.write", "fraud"), ann.may("registry.read")
        (True, False, False)
        """
        return may(self, permission, project)


def may(identity: Identity, permission: str, project: str = EVERY) -> bool:
    """True if some role that the identity has in the project, and some scope of its token, cover the permission."""
    return (
        identity.project in (EVERY, project)
        and any(covers(scope, permission, frozenset()) for scope in identity.scopes)
        and any(
            grant.project in (EVERY, project) and any(covers(one, permission) for one in ROLES.get(grant.role, ()))
            for grant in identity.grants
        )
    )


def covers(pattern: str, permission: str, named_only: frozenset[str] = NAMED_ONLY) -> bool:
    """True if the pattern stands for the permission, or for all of a pattern. In a role, `*` leaves out the area `access`.

    >>> covers("*.write", "registry.write"), covers("*.write", "access.write"), covers("registry.*", "*.read")
    (True, False, False)
    """
    area, _, verb = permission.partition(".")
    its_area, _, its_verb = pattern.partition(".")
    return its_verb in ("*", verb) and (its_area == area or (its_area == "*" and area not in named_only))


def projects_of(identity: Identity, permission: str) -> frozenset[str]:
    """The projects in which the identity has the permission; `*` among them stands for all.

    >>> ann = Identity(subject="ann", owner="ann", grants=frozenset({Grant("viewer", "a"), Grant("viewer", "b")}))
    >>> sorted(projects_of(ann, "registry.read"))
    ['a', 'b']
    """
    asked = {identity.project} if identity.project != EVERY else {grant.project for grant in identity.grants}
    return frozenset(project for project in asked if may(identity, permission, project))


def checked_role(role: str) -> str:
    """The role itself, if there is one of that name."""
    if role not in ROLES:
        raise Invalid(f"There is no role {role!r}. {nearest(role, list(ROLES))}")
    return role


def checked_project(project: str) -> str:
    """The project's name itself if it is a good one; `*` stands for every project."""
    return project if project == EVERY else checked_name(project, "project")


def checked_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Patterns of permissions in order, each once.

    >>> checked_scopes(["registry.read", "*.read"])
    ('*.read', 'registry.read')
    >>> checked_scopes(["read"])
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: 'read' is no scope. Write it as AREA.VERB, for example registry.read or *.write.
    """
    found = tuple(sorted(set(scopes)))
    for scope in found:
        if not _PATTERN.match(scope):
            raise Invalid(f"{scope!r} is no scope. Write it as AREA.VERB, for example registry.read or *.write.")
    if not found:
        raise Invalid("A token without scopes could do nothing. Name one, for example registry.read, or *.* for all.")
    return found


def refusal(identity: Identity, permission: str, project: str) -> str:
    """What a caller is told who may not do something."""
    roles = ", ".join(sorted({_shown(grant) for grant in identity.grants}))
    lacks = f"{roles}, which lacks" if roles else "no role, and so lacks"
    where = "" if project == EVERY else f" in the project {project}"
    held = any(covers(scope, permission, frozenset()) for scope in identity.scopes)
    if held and identity.project in (EVERY, project):
        return (
            f"{identity.subject} has {lacks} {permission}{where or ' for the whole yard'}. "
            f"Ask an administrator: modelyard access grant-role {identity.subject} ROLE --project NAME"
        )
    bound = f" and the project {identity.project}" if identity.project != EVERY else ""
    return (
        f"The token of {identity.subject} is limited to {', '.join(identity.scopes)}{bound}, which leaves out "
        f"{permission}{where or ' for the whole yard'}. Use another token: modelyard access create-token"
    )


def _shown(grant: Grant) -> str:
    return f"the role {grant.role}" + ("" if grant.project == EVERY else f" in {grant.project}")


def counted_once(approver: str, barred: Sequence[str], owner_of: Mapping[str, str]) -> bool:
    """True if the approver is none of the barred ones, services taken for their owners.

    >>> counted_once("robot", ["ana"], {"robot": "ana"})
    False
    """

    def person(subject: str) -> str:
        return likeness(owner_of.get(folded(subject), subject))

    return person(approver) not in {person(one) for one in barred}
