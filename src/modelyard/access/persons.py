"""Whom a subject counts as, and which roles it has: for decisions that need several people."""

from __future__ import annotations

from collections.abc import Iterable

from modelyard.access import store
from modelyard.access.rules import EVERY, counted_once
from modelyard.access.scopes import projects
from modelyard.core.errors import Forbidden
from modelyard.core.events import Event
from modelyard.core.people import folded
from modelyard.core.ports import Connection
from modelyard.core.work import Work


def persons(rows: Connection, subjects: Iterable[str]) -> set[str]:
    """The people that the subjects stand for, folded for comparison: a service stands for its owner."""
    names = [folded(subject) for subject in subjects]
    owners = store.owners(rows, names)
    return {folded(owners.get(name, name)) for name in names}


def roles_of(rows: Connection, subject: str, project: str) -> set[str]:
    """The roles that a subject was given in the project, or in every project."""
    return {grant.role for grant in store.grants(rows, subject) if grant.project in (EVERY, project)}


def only_other_people(work: Work, event: Event) -> None:
    """Hears an approval, within its transaction: nobody approves through a service what they may not approve in person.

    `barred` of the event's details are the subjects whose approval does not count: requester, uploader, trainer;
    `approved_by` those who have approved before.
    """
    barred = [str(name) for key in ("barred", "approved_by") for name in event.details.get(key, [])]
    if not counted_once(event.actor, barred, store.owners(work.rows, [event.actor, *barred])):
        owner = store.owners(work.rows, [event.actor]).get(folded(event.actor), event.actor)
        raise Forbidden(f"{event.actor} counts as {owner}, who took part in what is to be approved. Ask somebody else.")


def only_named_roles(work: Work, event: Event) -> None:
    """Hears an approval, within its transaction: where a policy names roles, the approver has one of them there."""
    named = {str(role) for role in event.details.get("roles", [])}
    if not named:
        return
    model = str(event.details.get("model") or event.resource_id).partition(":")[0]
    for project in {EVERY} if model == EVERY else projects(work.rows, "model", model):
        if not roles_of(work.rows, event.actor, project) & named:
            raise Forbidden(
                f"{event.actor} has none of the roles {', '.join(sorted(named))} in the project {project}. "
                f"Ask an administrator: modelyard access grant-role {event.actor} {min(named)}"
            )
