"""Who may export and import: everybody whom nobody has been told apart from, else readers and administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelyard.access.rules import EVERY, Grant, Identity, may, refusal
from modelyard.core.errors import Forbidden
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.people import folded
from modelyard.core.refs import Resource

if TYPE_CHECKING:
    from modelyard.yard import Yard

TO_EXPORT = "audit.read"  # in the whole yard: an export shows every model and every event
TO_IMPORT = "access.write"  # administrators: stages and approvals come along as the exporter tells them


def check_may_export(yard: Yard, user: str) -> None:
    """Forbidden, and an event, unless the person may read the whole yard."""
    _check(yard, user, "export", TO_EXPORT)


def check_may_import(yard: Yard, user: str) -> None:
    """Forbidden, and an event, unless the person administers the yard."""
    _check(yard, user, "import", TO_IMPORT)


def _check(yard: Yard, user: str, action: str, permission: str) -> None:
    """A yard without people and roles trusts whoever has its folder, as it does everywhere else."""
    known = yard.access.list_users()
    if not known:
        return
    stopped = any(folded(one.subject) == folded(user) and one.disabled_at is not None for one in known)
    granted = [] if stopped else yard.access.list_grants(user)
    grants = frozenset(Grant(one.role, one.project) for one in granted)
    identity = Identity(subject=user, owner=user, grants=grants)
    if may(identity, permission):
        return
    with yard.store.work(user) as work:
        told = {"action": action, "needs": permission}
        work.emit(EventType.SECURITY_VIOLATION, Resource("yard", action), told, severity=EventSeverity.WARNING)
    raise Forbidden(refusal(identity, permission, EVERY))
