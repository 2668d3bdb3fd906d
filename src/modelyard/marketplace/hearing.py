"""What the catalogue does, in its own transaction, when a model changes: handlers for the wiring."""

from __future__ import annotations

from modelyard.core.events import Event, EventType
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.marketplace import store


def follow_renaming(work: Work, event: Event) -> None:
    """Hears REGISTERED_MODEL_UPDATED: listings follow their model's name."""
    change = event.details.get("changes", {}).get("name")
    if change:
        store.rename_model(work.rows, change["from"], change["to"])


def withdraw_deleted(work: Work, event: Event) -> None:
    """Hears MODEL_DELETED: what is gone is listed no more."""
    name, _, version = event.resource_id.rpartition(":")
    listing_id = store.listed_of(work.rows, name, version.removeprefix("v"))
    if listing_id is None:
        return
    because = f"{name} {version} was deleted"
    store.withdraw(work.rows, listing_id, at=work.now, because=because)
    work.emit(EventType.LISTING_WITHDRAWN, Resource("listing", listing_id), {"reason": because})
