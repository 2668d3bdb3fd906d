"""What a caller of the server may hand out: no token in another's name, and no role or scope beyond their own.

Without it, whoever manages access could approve their own work as somebody else. On the yard's own folder nobody is
asked: who may write there may do anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelyard.access import store
from modelyard.access.rules import EVERY, ROLES, Identity, covers
from modelyard.core.people import folded
from modelyard.core.ports import Connection

ISSUING = "access.issue"  # tokens in the names of others


def refusal_of(rows: Connection, caller: Identity, operation: str, values: Mapping[str, Any]) -> str:
    """Why the caller may not hand out what the operation does; "" where nothing is against it."""
    check = CHECKS.get(operation)
    return "" if check is None else check(rows, caller, values)


def _token(rows: Connection, caller: Identity, values: Mapping[str, Any]) -> str:
    subject = values["subject"]
    person = _person(rows, subject, values.get("owner") or subject)
    if folded(person) != folded(caller.owner) and not caller.may(ISSUING):
        whose = "" if folded(person) == folded(subject) else f", a service of {person}"
        return (
            f"A token for {subject}{whose} would let {caller.subject} act as another person. Let {person} sign in, have "
            f"somebody with the role issuer make it, or run on the server's own machine: "
            f"modelyard access create-token {subject}"
        )
    wider = [
        scope for scope in values.get("scopes", ()) if not any(covers(own, scope, frozenset()) for own in caller.scopes)
    ]
    if wider:
        return (
            f"The token of {caller.subject} is limited to {', '.join(caller.scopes)} and cannot make one for "
            f"{', '.join(wider)}. Name narrower scopes, or use another token."
        )
    return _role(rows, caller, values) if values.get("role") else ""


def _role(_: Connection, caller: Identity, values: Mapping[str, Any]) -> str:
    role, project = str(values["role"]), str(values.get("project", EVERY))
    own = [
        pattern for grant in caller.grants if grant.project in (EVERY, project) for pattern in ROLES.get(grant.role, ())
    ]
    lacking = [pattern for pattern in ROLES.get(role, ()) if not any(covers(mine, pattern) for mine in own)]
    if not lacking:
        return ""
    return (
        f"{caller.subject} may not do {', '.join(lacking)} and so cannot give the role {role} to anybody. Ask somebody "
        f"who has it, or run on the server's own machine: modelyard access grant-role {values['subject']} {role}"
    )


def _person(rows: Connection, subject: str, otherwise: str) -> str:
    """The person that a subject counts as, or will."""
    known = store.subject(rows, subject)
    return otherwise if known is None else known.owner


# operation -> what is against it
CHECKS: Mapping[str, Callable[[Connection, Identity, Mapping[str, Any]], str]] = {
    "access.create_token": _token,
    "access.grant_role": _role,
}
