"""Marketplace: a catalogue of model versions across projects, and signed packages between yards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.ids import new_id
from modelyard.core.instants import from_micros
from modelyard.core.operations import operation
from modelyard.core.pages import Page
from modelyard.core.people import checked_person, folded
from modelyard.core.refs import Resource
from modelyard.marketplace import rules, search, store
from modelyard.marketplace.access import known, refused
from modelyard.marketplace.sharing import Sharing
from modelyard.marketplace.values import (
    AccessRequest,
    Listing,
    ListingStatus,
    Rating,
    RequestState,
    Usage,
    Visibility,
)


class Marketplace(Sharing):
    """Lists model versions for other teams, keeps what they say of them, and shares them as signed packages.

    >>> from modelyard.registry import ModelRegistry
    >>> market = Marketplace(folder)
    >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
    >>> found = market.publish(
    ...     "fraud", "v1.0.0", "ana@example.org", licence="Apache-2.0", owner="ana@example.org", summary="Cards"
    ... )
    >>> [one.summary for one in market.search_listings("licence = 'Apache-2.0'").items]
    ['Cards']
    """

    @operation("POST", "/marketplace/listings", needs="marketplace.write")
    def publish(
        self,
        model: str,
        version: str,
        user: str,
        *,
        licence: str,
        owner: str,
        summary: str,
        card: dict[str, Any] | None = None,
        card_path: str | Path | None = None,
        visibility: Visibility = Visibility.OPEN,
    ) -> Listing:
        """The listing of a version whose bytes were admitted, whatever its stage, which is shown beside it.

        `licence` is an SPDX expression, `owner` the person who answers for the model, `card` the model card by headings,
        or `card_path` a Markdown file. A restricted listing is found by all, and had by those whom the owner grants it.
        Conflict while the version is listed, Forbidden while its bytes are in quarantine.

        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> card = {"intended_use": "Card payments."}
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards", "card": card}
        >>> market.publish("fraud", "v1.0.0", "ana@example.org", **told).stage
        'development'
        """
        checked_person(user, "user")
        found = self._area("registry").get_model(model, version)
        listing = Listing(
            listing_id=new_id("lst"),
            model=found.name,
            version=found.version,
            digest=self._accepted(found.name, found.version, found.digest),
            project=self._area("registry").get_registered_model(found.name).project,
            summary=rules.checked_text(summary, "summary", rules.SUMMARY_LIMIT),
            licence=rules.checked_licence(licence),
            owner=checked_person(owner, "owner"),
            visibility=rules.visibility_of(visibility),
            status=ListingStatus.LISTED,
            published_by=user,
            published_at=self.store.clock.now(),
            stage=found.stage.value,
            framework=found.framework,
            fetches=0,
            ratings=0,
            card=_card(f"{found.name} {found.version}", card, card_path),
            metrics=found.metrics,
        )
        with self.store.work(user) as work:
            listing = replace(listing, published_at=work.now)
            words = rules.words(listing.model, listing.summary, *found.tags, listing.card)
            canonical = found.version.removeprefix("v")
            if not store.add_listing(work.rows, listing, canonical=canonical, words=words):
                raise Conflict(f"{found.name} {found.version} is listed already. Withdraw that listing first.")
            told = {
                "model": listing.model,
                "version": listing.version,
                "digest": listing.digest,
                "licence": listing.licence,
                "owner": listing.owner,
                "visibility": listing.visibility,
            }
            work.emit(EventType.LISTING_PUBLISHED, Resource("listing", listing.listing_id), told)
        return listing

    @operation("GET", "/marketplace/listings", needs="marketplace.read", scope="anywhere")
    def search_listings(
        self, filter: str = "", text: str = "", order_by: str = "", *, limit: int = 100, page_token: str = ""
    ) -> Page[Listing]:
        """A page of the listings that meet the filter and hold all words of the text, the newest first, without cards.

        Fields: model, version, licence, owner, project, visibility, stage, framework, summary, published_by,
        published_at, fetches, ratings, rating. Order by published_at, model, fetches or rating, for example
        `rating DESC`.

        >>> Marketplace(folder).search_listings("rating >= 4 and stage = 'production'", text="fraud").items
        ()
        """
        with self.store.reading() as rows:
            return search.page(rows, filter, text, order_by, limit=limit, page_token=page_token)

    @operation("GET", "/marketplace/listings/{listing_id}", needs="marketplace.read", scope="anywhere")
    def get_listing(self, listing_id: str, user: str) -> Listing:
        """The listing, with its card for those who may have the model; NotFound once it is withdrawn.

        >>> Marketplace(folder).get_listing("lst_1", "ben@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no listing 'lst_1'. None exist yet.
        """
        with self.store.reading() as rows:
            listing = known(rows, listing_id)
            asked = store.requests_of(rows, listing_id, folded(checked_person(user, "user")))
        decision = rules.may_have(listing, user, asked, self.store.clock.now())
        return replace(listing, card="") if decision.reasons else listing

    @operation("POST", "/marketplace/listings/{listing_id}/withdraw", needs="marketplace.write", scope="anywhere")
    def withdraw(self, listing_id: str, user: str, *, reason: str = "") -> Listing:
        """The listing, out of the catalogue; packages that were fetched are not called back.

        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards"}
        >>> made = market.publish("fraud", "v1.0.0", "ana@example.org", **told)
        >>> market.withdraw(made.listing_id, "ana@example.org", reason="v2 is out").status.value
        'withdrawn'
        """
        rules.checked_text(reason, "reason", rules.SUMMARY_LIMIT)
        with self.store.reading() as rows:
            listing = known(rows, listing_id)
        decision = rules.may_manage(listing, checked_person(user, "user"))
        if decision.reasons:
            raise refused(self.store, user, "withdraw", listing_id, decision)
        with self.store.work(user) as work:
            if not store.withdraw(work.rows, listing_id, at=work.now, because=reason):
                raise Conflict(f"{listing_id} was withdrawn already.")
            work.emit(EventType.LISTING_WITHDRAWN, Resource("listing", listing_id), {"reason": reason})
        return replace(listing, status=ListingStatus.WITHDRAWN, withdrawn_at=work.now, withdrawn_because=reason)

    @operation("GET", "/marketplace/listings/{listing_id}/usage", needs="marketplace.read", scope="anywhere")
    def usage(self, listing_id: str) -> Usage:
        """How much the listing is used: fetches and rollouts, by their events, and the requests that it answers here.

        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards"}
        >>> made = market.publish("fraud", "v1.0.0", "ana@example.org", **told)
        >>> market.usage(made.listing_id).fetches
        0
        """
        with self.store.reading() as rows:
            listing = known(rows, listing_id)
            count, people, last = store.fetches(rows, listing_id)
            deployments = store.deployments(rows, listing.model, listing.version)
        answered = self._answered(listing)
        return Usage(
            listing_id=listing_id,
            fetches=count,
            people=people,
            deployments=deployments,
            endpoints=len(answered),
            requests=sum(answered),
            last_fetched_at=None if last is None else from_micros(last),
        )

    @operation("PUT", "/marketplace/listings/{listing_id}/rating", needs="marketplace.read", scope="anywhere")
    def rate(self, listing_id: str, stars: int, user: str, *, comment: str = "") -> Rating:
        """The person's rating, in place of an earlier one. Forbidden for who owns or published the listing.

        >>> from modelyard.registry import ModelRegistry
        >>> market = Marketplace(folder)
        >>> _ = ModelRegistry(folder).register_model("fraud", "v1.0.0", model_file, "lightgbm", "ana@example.org")
        >>> told = {"licence": "MIT", "owner": "ana@example.org", "summary": "Cards"}
        >>> made = market.publish("fraud", "v1.0.0", "ana@example.org", **told)
        >>> _ = market.rate(made.listing_id, 5, "ben@example.org", comment="held up in shadow")
        >>> market.get_listing(made.listing_id, "ben@example.org").rating
        5.0
        """
        rules.checked_stars(stars)
        rules.checked_text(comment, "comment")
        with self.store.reading() as rows:
            listing = known(rows, listing_id)
            asked = store.requests_of(rows, listing_id, folded(checked_person(user, "user")))
        decision = rules.may_rate(listing, user)
        if not decision.reasons:
            decision = rules.may_have(listing, user, asked, self.store.clock.now())
        if decision.reasons:
            raise refused(self.store, user, "rate", listing_id, decision)
        with self.store.work(user) as work:
            known(work.rows, listing_id)
            made = Rating(listing_id=listing_id, rated_by=user, stars=stars, comment=comment, rated_at=work.now)
            store.put_rating(work.rows, made, folded(user))
            work.emit(EventType.LISTING_RATED, Resource("listing", listing_id), {"stars": stars, "comment": comment})
        return made

    @operation("GET", "/marketplace/listings/{listing_id}/ratings", needs="marketplace.read", scope="anywhere")
    def list_ratings(self, listing_id: str, limit: int = 100) -> list[Rating]:
        """The newest ratings of a listing, one a person.

        >>> Marketplace(folder).list_ratings("lst_1")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no listing 'lst_1'. None exist yet.
        """
        with self.store.reading() as rows:
            known(rows, listing_id)
            return store.ratings(rows, listing_id, _checked_limit(limit))

    @operation("POST", "/marketplace/listings/{listing_id}/requests", needs="marketplace.read", scope="anywhere")
    def request_access(self, listing_id: str, requested_by: str, *, reason: str) -> AccessRequest:
        """The open request for what a restricted listing offers. Conflict while one is open or access is not needed.

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

        >>> Marketplace(folder).grant_access("acc_1", "ana@example.org")
        Traceback (most recent call last):
        modelyard.core.errors.NotFound: There is no request 'acc_1'. List them: modelyard marketplace list-requests
        """
        lasts = timedelta(days=rules.checked_days(days))
        return self._decided(request_id, user, RequestState.GRANTED, comment=comment, lasts=lasts)

    @operation("POST", "/marketplace/requests/{request_id}/deny", needs="marketplace.write", scope="anywhere")
    def deny_access(self, request_id: str, user: str, *, comment: str = "") -> AccessRequest:
        """The denied request; access that was granted by it ends.

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

        >>> Marketplace(folder).list_requests("ana@example.org", status=RequestState.OPEN)
        []
        """
        wanted = None if status is None else RequestState(status).value
        with self.store.reading() as rows:
            found = store.requests(rows, listing_id=listing_id, status=wanted, limit=_checked_limit(limit))
            mine = {one: self._owns(store.listing(rows, one), user) for one in {each.listing_id for each in found}}
        person = folded(checked_person(user, "user"))
        return [one for one in found if mine[one.listing_id] or folded(one.requested_by) == person]

    def _answered(self, listing: Listing) -> list[int]:
        """The requests that the version has answered, by endpoint. A shadow's answers reach nobody and do not count."""
        serving, found = self._area("serving"), []
        for traffic in serving.endpoints():
            arms = [arm.name for arm in traffic.arms if rules.is_version(listing, arm.model, arm.version)]
            if arms:
                counted = serving.counts(traffic.endpoint).arms
                found.append(sum(counted[arm].requests for arm in arms if arm in counted))
        return found

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

    def _accepted(self, name: str, version: str, digest: str) -> str:
        if not digest:
            raise Conflict(f"{name} {version} has no bytes here, so that nobody could fetch it. Register its file.")
        artifact = self._area("artifacts").get(digest)
        if artifact.admission != "accepted":
            raise Forbidden(f"{name} {version} is in quarantine: {artifact.findings[0]}. Convert it and publish that.")
        return digest


def _card(title: str, card: Mapping[str, Any] | None, path: str | Path | None) -> str:
    if card is not None and path is not None:
        raise Invalid("Pass card or card_path, not both.")
    if path is None:
        return rules.card_text(title, card or {})
    try:
        with Path(path).open("rb") as file:
            text = file.read(rules.CARD_LIMIT * 4 + 1).decode("utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"There is no file {path}. Name the model card in Markdown.") from error
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read as a Markdown text: {error}.") from error
    return rules.checked_text(text, "card_path", rules.CARD_LIMIT)


def _checked_limit(limit: int) -> int:
    if type(limit) is not int or not 1 <= limit <= search.MOST:
        raise Invalid(f"limit is {limit!r:.40}. Pass 1 to {search.MOST:,}.")
    return limit
