"""Marketplace: a catalogue of model versions across projects, and signed packages between yards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
from modelyard.marketplace.requests import AccessRequests
from modelyard.marketplace.sharing import Sharing
from modelyard.marketplace.values import (
    Listing,
    ListingStatus,
    Rating,
    Usage,
    Visibility,
)

TOLD = ("model", "version", "digest", "licence", "owner", "visibility")  # of a listing, by its event


class Marketplace(AccessRequests, Sharing):
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
            told = {name: getattr(listing, name) for name in TOLD}
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
            return store.ratings(rows, listing_id, rules.checked_limit(limit))

    def _answered(self, listing: Listing) -> list[int]:
        """The requests that the version has answered, by endpoint. A shadow's answers reach nobody and do not count."""
        serving, found = self._area("serving"), []
        for traffic in serving.endpoints():
            arms = [arm.name for arm in traffic.arms if rules.is_version(listing, arm.model, arm.version)]
            if arms:
                counted = serving.counts(traffic.endpoint).arms
                found.append(sum(counted[arm].requests for arm in arms if arm in counted))
        return found

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
