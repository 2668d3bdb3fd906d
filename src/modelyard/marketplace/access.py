"""What every part of the marketplace begins with: find the listing, and refuse in a way that is told."""

from __future__ import annotations

from modelyard.core.decisions import Decision
from modelyard.core.errors import Forbidden, NotFound, nearest
from modelyard.core.events import EventSeverity, EventType
from modelyard.core.ports import Connection
from modelyard.core.refs import Resource
from modelyard.core.work import Store
from modelyard.marketplace import store
from modelyard.marketplace.values import Listing, ListingStatus


def known(rows: Connection, listing_id: str) -> Listing:
    """The listing if it is shown; NotFound, also for one that was withdrawn."""
    found = store.listing(rows, listing_id)
    if found is None:
        raise NotFound(f"There is no listing {listing_id!r:.80}. {nearest(listing_id, store.some_ids(rows))}")
    if found.status is ListingStatus.WITHDRAWN:
        raise NotFound(f"{listing_id} was withdrawn: {found.withdrawn_because or 'no reason was given'}.")
    return found


def refused(place: Store, person: str, action: str, listing_id: str, decision: Decision) -> Forbidden:
    """The refusal to raise, once it is an event."""
    with place.work(person) as work:
        told = {"action": action, "reasons": decision.reasons}
        work.emit(EventType.SECURITY_VIOLATION, Resource("listing", listing_id), told, severity=EventSeverity.WARNING)
    return Forbidden(decision.reasons[0])
