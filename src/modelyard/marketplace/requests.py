"""Requests for restricted listings: people ask, and the listing's owner grants or denies."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from modelyard.core.area import Area
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.operations import operation
from modelyard.core.people import checked_person, folded
from modelyard.core.refs import Resource
from modelyard.marketplace import rules, store
from modelyard.marketplace.access import known, refused
from modelyard.marketplace.values import AccessRequest, Listing, RequestState


class AccessRequests(Area):
    """Keeps who asked for what a restricted listing offers, and what its owner said."""

    @operation("POST", "/marketplace/listings/{listing_id}/requests", needs="marketplace.read", scope="anywhere")
    def request_access(self, listing_id: str, requested_by: str, *, reason: str) -> AccessRequest:
        """The open request for what a restricted listing offers. Conflict while one is open or access is not needed.

        >>> from modelyard.marketplace import Marketplace
        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards", "visibility": "restricted"}
        >>> made = market.publish("fraud", "v1.0.0", "ana@example.org", **told)
        >>> market.request_access(made.listing_id, "ben@example.org", reason="benchmark").status.value
        'open'
        """
        person = folded(checked_person(requested_by, "requested_by"))
        if not rules.checked_text(reason, "reason").strip():
            raise Invalid("reason is empty. Say what the model is needed for.")
        with self.store.work(requested_by) as work:
            listing = known(work.rows, listing_id)
            asked = store.requests_of(work.rows, listing_id, person)
            if not rules.may_have(listing, requested_by, asked, work.now).reasons:
                raise Conflict(f"{requested_by} may have {listing_id} already. Fetch it.")
            made = AccessRequest(
                request_id=new_id("acc"),
                listing_id=listing_id,
                requested_by=requested_by,
                reason=reason,
                requested_at=work.now,
            )
            if not store.add_request(work.rows, made, person):
                raise Conflict(
                    f"{requested_by} has asked for {listing_id} already. {listing.owner} has not decided yet."
                )
            told = {"request_id": made.request_id, "reason": reason, "owner": listing.owner}
            work.emit(EventType.ACCESS_REQUESTED, Resource("listing", listing_id), told)
        return made

    @operation("POST", "/marketplace/requests/{request_id}/grant", needs="marketplace.write", scope="anywhere")
    def grant_access(self, request_id: str, user: str, *, days: float = 90.0, comment: str = "") -> AccessRequest:
        """The granted request: access from now on for so many days. Only the listing's owner or publisher may grant.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).grant_access("acc_1", "ana@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no request 'acc_1'. List them: modelyard marketplace list-requests
        """
        lasts = timedelta(days=rules.checked_days(days))
        return self._decided(request_id, user, RequestState.GRANTED, comment=comment, lasts=lasts)

    @operation("POST", "/marketplace/requests/{request_id}/deny", needs="marketplace.write", scope="anywhere")
    def deny_access(self, request_id: str, user: str, *, comment: str = "") -> AccessRequest:
        """The denied request; access that was granted by it ends.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).deny_access("acc_1", "ana@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no request 'acc_1'. List them: modelyard marketplace list-requests
        """
        return self._decided(request_id, user, RequestState.DENIED, comment=comment, lasts=None)

    @operation("GET", "/marketplace/requests", needs="marketplace.read", scope="anywhere")
    def list_requests(
        self, user: str, *, listing_id: str | None = None, status: RequestState | None = None, limit: int = 100
    ) -> list[AccessRequest]:
        """The requests that the person made, and those for listings of the person's own; the newest first.

        >>> from modelyard.marketplace import Marketplace
        >>> Marketplace(folder).list_requests("ana@example.org", status=RequestState.OPEN)
        []
        """
        wanted = None if status is None else RequestState(status).value
        with self.store.reading() as rows:
            found = store.requests(rows, listing_id=listing_id, status=wanted, limit=rules.checked_limit(limit))
            mine = {one: self._owns(store.listing(rows, one), user) for one in {each.listing_id for each in found}}
        person = folded(checked_person(user, "user"))
        return [one for one in found if mine[one.listing_id] or folded(one.requested_by) == person]

    @staticmethod
    def _owns(listing: Listing | None, person: str) -> bool:
        return listing is not None and rules.is_owner(listing, person)

    def _decided(
        self, request_id: str, user: str, status: RequestState, *, comment: str, lasts: timedelta | None
    ) -> AccessRequest:
        rules.checked_text(comment, "comment")
        with self.store.reading() as rows:
            request = store.request(rows, request_id)
            if request is None:
                raise NotFound(
                    f"There is no request {request_id!r:.80}. List them: modelyard marketplace list-requests"
                )
            listing = known(rows, request.listing_id)
        decision = rules.may_decide(listing, request, checked_person(user, "user"))
        if decision.reasons:
            raise refused(self.store, user, "decide_access", request.listing_id, decision)
        with self.store.work(user) as work:
            now = store.request(work.rows, request_id)
            if (
                now is None
                or now.status is status
                or (status is RequestState.GRANTED and now.status is not RequestState.OPEN)
            ):
                raise Conflict(f"{request_id} is decided already. Ask for access anew.")
            made = replace(
                now,
                status=status,
                decided_by=user,
                decided_at=work.now,
                comment=comment,
                expires_at=None if lasts is None else work.now + lasts,
            )
            store.decide(work.rows, made)
            told = {
                "request_id": request_id,
                "requested_by": made.requested_by,
                "decision": status,
                "comment": comment,
                "expires_at": made.expires_at,
            }
            work.emit(EventType.ACCESS_DECIDED, Resource("listing", made.listing_id), told)
        return made
