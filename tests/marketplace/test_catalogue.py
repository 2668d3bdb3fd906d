"""The catalogue: what may be listed, found, rated and had."""

from __future__ import annotations

import pickle
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard import Yard
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.core.traffic import Arm, Traffic
from modelyard.marketplace import Listing, Marketplace, RequestState, Visibility
from modelyard.marketplace.hearing import follow_renaming, withdraw_deleted
from modelyard.marketplace.rules import card_text, checked_licence
from modelyard.serving.counters import Counters

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8)
ANA, BEN, EVE = "ana@example.org", "ben@example.org", "eve@example.org"


def publish(yard: Yard, version: str = "v1.0.0", **more: object) -> Listing:
    told = {"licence": "Apache-2.0", "owner": ANA, "summary": "Finds card fraud"} | more
    return yard.marketplace.publish("fraud", version, "ana@example.org", **told)


def versions(yard: Yard, small_model: Path, *numbers: str) -> None:
    for number in numbers:
        yard.registry.register_model("fraud", number, small_model, "lightgbm", ANA)


def test_a_listing_says_what_its_version_is_now(theirs: Yard) -> None:
    made = publish(theirs, card={"intended_use": "Cards", "limits": ["no gift cards"]})
    assert (made.stage, made.framework, made.metrics) == ("production", "lightgbm", {"auc": 0.93})
    theirs.registry.archive("fraud", "v1.0.0", ANA)
    found = theirs.marketplace.get_listing(made.listing_id, BEN)
    assert found == replace(made, stage="archived")
    assert "## Limits\n\n- no gift cards" in found.card
    assert theirs.audit.query_events(EventType.LISTING_PUBLISHED)[0].details["licence"] == "Apache-2.0"


def test_a_card_may_be_a_markdown_file(theirs: Yard, tmp_path: Path) -> None:
    (tmp_path / "card.md").write_text("# Fraud\n\n<script>alert(1)</script> stays text.\n")
    made = publish(theirs, card_path=tmp_path / "card.md")
    assert theirs.marketplace.get_listing(made.listing_id, BEN).card.startswith("# Fraud")
    with pytest.raises(Invalid, match="not both"):
        publish(theirs, card_path=tmp_path / "card.md", card={})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("licence", "all rights reserved"),
        ("licence", ""),
        ("licence", "MIT AND"),
        ("licence", "(MIT"),
        ("owner", " "),
        ("owner", "ana\n"),
        ("summary", "x" * 501),
        ("summary", "a\0b"),
        ("summary", "\ud800"),
        ("visibility", "secret"),
        ("card_path", "nowhere.md"),
    ],
)
def test_what_may_not_be_listed_is_refused_by_the_field(theirs: Yard, field: str, value: str) -> None:
    with pytest.raises((Invalid, NotFound), match=f"{field}|{re.escape(value[:10])}"):
        publish(theirs, **{field: value})
    assert theirs.marketplace.search_listings().items == ()


@given(st.text(max_size=40))
def test_no_text_breaks_the_licence_rule(text: str) -> None:
    try:
        assert checked_licence(text) == text
    except Invalid:
        return
    assert re.fullmatch(r"[A-Za-z0-9.+() -]+", text)


def test_only_admitted_bytes_are_listed(theirs: Yard, tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(print))
    kept = theirs.artifacts.quarantine(tmp_path / "bad.pkl", ANA)
    version = theirs.registry.get_model("fraud", "v1.0.0")
    theirs.registry.register_version(replace(version, version="v2.0.0", digest=kept.digest))
    with pytest.raises(Forbidden, match="quarantine"):
        publish(theirs, "v2.0.0")
    theirs.registry.register_version(replace(version, version="v3.0.0", digest="", source="s3://elsewhere"))
    with pytest.raises(Conflict, match="no bytes"):
        publish(theirs, "v3.0.0")


def test_a_version_is_listed_once_and_again_after_it_was_withdrawn(theirs: Yard) -> None:
    made = publish(theirs)
    with pytest.raises(Conflict, match="listed already"):
        publish(theirs)
    with pytest.raises(Forbidden):
        theirs.marketplace.withdraw(made.listing_id, EVE)
    theirs.marketplace.withdraw(made.listing_id, ANA, reason="wrong licence")
    with pytest.raises(NotFound, match="wrong licence"):
        theirs.marketplace.get_listing(made.listing_id, BEN)
    assert publish(theirs).listing_id != made.listing_id


def test_listings_are_found_by_filter_words_and_order_a_page_at_a_time(
    theirs: Yard, small_model: Path, clock: FixedClock
) -> None:
    numbers = [f"v2.{number}.0" for number in range(7)]
    versions(theirs, small_model, *numbers)
    market = theirs.marketplace
    made = {}
    for number, version in enumerate(numbers):
        clock.advance(60)
        made[version] = publish(
            theirs, version, licence="MIT" if number % 2 else "GPL-3.0-only", summary=f"100% Ünfug_{number}"
        )
        for star in range(number % 3):
            market.rate(made[version].listing_id, star + 3, f"rater{star}@example.org")
    found, token = [], ""
    while True:
        page = market.search_listings("licence = 'MIT'", order_by="published_at ASC", limit=2, page_token=token)
        found += [one.version for one in page.items]
        token = page.next_page_token
        if not token:
            break
    assert found == ["v2.1.0", "v2.3.0", "v2.5.0"]
    assert [one.version for one in market.search_listings(text="ünfug_3").items] == ["v2.3.0"]
    assert [one.version for one in market.search_listings(text="100% ÜNFUG").items] == numbers[::-1]
    assert [one.version for one in market.search_listings(text="%").items] == numbers[::-1]
    best = market.search_listings("rating > 3", order_by="rating DESC").items
    assert [one.rating for one in best] == [3.5, 3.5]
    assert market.search_listings("stage = 'production'").items == ()
    assert market.search_listings("published_at > '2026-01-01T00:06:30'").items[0].version == "v2.6.0"
    assert all(one.card == "" for one in best)
    with pytest.raises(Invalid, match="token"):
        market.search_listings(page_token="nonsense")


@pytest.mark.parametrize(
    "filter", ["colour = 'red'", "rating = 'good'", "model = 1", "model =", "metrics.auc > 1", "'", "l.words = 'x'"]
)
def test_a_filter_that_means_nothing_is_refused(theirs: Yard, filter: str) -> None:
    with pytest.raises(Invalid):
        theirs.marketplace.search_listings(filter)


def test_the_catalogue_answers_the_same_on_postgresql(postgres_url: str, small_model: Path, tmp_path: Path) -> None:
    with Yard(postgres_url, files=tmp_path / "files") as yard:
        versions(yard, small_model, "v1.0.0", "v1.1.0")
        first, second = publish(yard, "v1.0.0"), publish(yard, "v1.1.0", visibility="restricted")
        yard.marketplace.rate(first.listing_id, 4, BEN)
        with pytest.raises(Conflict):
            publish(yard)
        request = yard.marketplace.request_access(second.listing_id, BEN, reason="test")
        with pytest.raises(Conflict):
            yard.marketplace.request_access(second.listing_id, BEN, reason="test")
        yard.marketplace.grant_access(request.request_id, ANA)
        found = yard.marketplace.search_listings("rating >= 4 and stage = 'development'", "card")
        assert [one.version for one in found.items] == ["v1.0.0"]
        ordered = yard.marketplace.search_listings(order_by="rating DESC", limit=1)
        again = yard.marketplace.search_listings(order_by="rating DESC", limit=1, page_token=ordered.next_page_token)
        assert [one.version for one in (*ordered.items, *again.items)] == ["v1.0.0", "v1.1.0"]
        assert yard.marketplace.pack(second.listing_id, tmp_path / "x.zip", BEN).version == "v1.1.0"
        assert yard.marketplace.usage(second.listing_id).fetches == 1


def test_nobody_rates_their_own_and_everybody_rates_once(theirs: Yard, listing: Listing) -> None:
    market = theirs.marketplace
    for own in (ANA, " ANA@example.org"):
        with pytest.raises(Forbidden):
            market.rate(listing.listing_id, 5, own)
    market.rate(listing.listing_id, 1, BEN)
    market.rate(listing.listing_id, 5, "BEN@example.org ".strip(), comment="after a second look")
    assert [(one.stars, one.comment) for one in market.list_ratings(listing.listing_id)] == [(5, "after a second look")]
    assert market.get_listing(listing.listing_id, BEN).rating == 5
    for stars in (0, 6, True, 4.5):
        with pytest.raises(Invalid):
            market.rate(listing.listing_id, stars, BEN)
    assert theirs.audit.query_events(EventType.SECURITY_VIOLATION)[0].details["action"] == "rate"


def test_ratings_that_come_at_once_are_all_counted(theirs: Yard, listing: Listing, tmp_path: Path) -> None:
    """Each person twice, from threads with stores of their own: the sums stay those of the newest rating of each."""
    people = [f"p{number}@example.org" for number in range(8)]
    ready, failures = threading.Barrier(len(people)), []

    def rate(person: str, stars: int) -> None:
        try:
            with Yard(tmp_path / "theirs") as yard:
                ready.wait()
                yard.marketplace.rate(listing.listing_id, 1, person)
                yard.marketplace.rate(listing.listing_id, stars, person)
        except Exception as error:  # noqa: BLE001 - told by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=rate, args=(one, 1 + number % 5)) for number, one in enumerate(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = theirs.marketplace.get_listing(listing.listing_id, BEN)
    stars = [1 + number % 5 for number in range(len(people))]
    assert (found.ratings, found.rating) == (len(people), sum(stars) / len(stars))
    assert len(theirs.audit.query_events(EventType.LISTING_RATED)) == 2 * len(people)


def test_a_restricted_listing_is_had_by_those_whom_its_owner_grants_it(
    theirs: Yard, clock: FixedClock, tmp_path: Path
) -> None:
    market = theirs.marketplace
    made = publish(theirs, visibility=Visibility.RESTRICTED, card={"secret": "sauce"})
    assert market.get_listing(made.listing_id, BEN).card == ""
    for refused in (
        lambda: market.pack(made.listing_id, tmp_path / "x.zip", BEN),
        lambda: market.rate(made.listing_id, 1, BEN),
    ):
        with pytest.raises(Forbidden, match="request-access"):
            refused()
    request = market.request_access(made.listing_id, BEN, reason="benchmark")
    with pytest.raises(Conflict):
        market.request_access(made.listing_id, BEN.upper(), reason="again")
    for person in (BEN, EVE):
        with pytest.raises(Forbidden):
            market.grant_access(request.request_id, person)
    granted = market.grant_access(request.request_id, ANA, days=2)
    assert granted.status is RequestState.GRANTED
    assert market.get_listing(made.listing_id, BEN).card
    assert market.pack(made.listing_id, tmp_path / "x.zip", BEN).model == "fraud"
    with pytest.raises(Forbidden):
        market.pack(made.listing_id, tmp_path / "y.zip", EVE)
    assert not (tmp_path / "y.zip").exists()
    clock.advance(2 * 86_400)
    with pytest.raises(Forbidden, match="expired"):
        market.pack(made.listing_id, tmp_path / "y.zip", BEN)
    second = market.request_access(made.listing_id, BEN, reason="once more")
    market.deny_access(second.request_id, ANA, comment="no")
    with pytest.raises(Conflict):
        market.grant_access(second.request_id, ANA)
    assert [event.details["decision"] for event in theirs.audit.query_events(EventType.ACCESS_DECIDED)] == [
        "granted",
        "denied",
    ]
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["x.zip"]


def test_granted_access_can_be_taken_back(theirs: Yard, tmp_path: Path) -> None:
    made = publish(theirs, visibility="restricted")
    request = theirs.marketplace.request_access(made.listing_id, BEN, reason="benchmark")
    theirs.marketplace.grant_access(request.request_id, ANA)
    theirs.marketplace.deny_access(request.request_id, ANA, comment="contract ended")
    with pytest.raises(Forbidden):
        theirs.marketplace.pack(made.listing_id, tmp_path / "x.zip", BEN)


def test_requests_are_seen_by_those_they_concern(theirs: Yard) -> None:
    made = publish(theirs, visibility="restricted")
    theirs.marketplace.request_access(made.listing_id, BEN, reason="secret project")
    seen = {person: len(theirs.marketplace.list_requests(person)) for person in (ANA, BEN, EVE)}
    assert seen == {ANA: 1, BEN: 1, EVE: 0}


def test_usage_is_counted_from_events(theirs: Yard, listing: Listing, small_model: Path, tmp_path: Path) -> None:
    for number, person in enumerate((BEN, BEN, EVE)):
        theirs.marketplace.pack(listing.listing_id, tmp_path / f"{number}.zip", person)
    versions(theirs, small_model, "v0.9.0")
    theirs.deployments.start("fraud", "v1.0.0", strategy="shadow", baseline="fraud:v0.9.0")
    usage = theirs.marketplace.usage(listing.listing_id)
    assert (usage.fetches, usage.people, usage.deployments) == (3, 2, 1)
    assert theirs.marketplace.get_listing(listing.listing_id, BEN).fetches == 3


def test_usage_has_the_requests_that_the_version_answers_here(theirs: Yard, listing: Listing) -> None:
    """On every endpoint, in every arm that is not a shadow, however the version is written."""
    first = Arm(name="baseline", model="fraud", version="1.0.0", weight=0.5)
    other = Arm(name="canary", model="fraud", version="v2.0.0", weight=0.5)
    shadowed = Arm(name="shadow", model="fraud", version="v1.0.0", weight=1.0)
    theirs.serving.apply(Traffic(endpoint="a", generation=1, arms=(first, other)))
    theirs.serving.apply(Traffic(endpoint="b", generation=1, arms=(replace(first, version="v1.0.0", weight=1.0),)))
    theirs.serving.apply(Traffic(endpoint="c", generation=1, arms=(replace(other, weight=1.0),), shadow=shadowed))
    for endpoint, arm, answers in (("a", 0, 3), ("a", 1, 5), ("b", 0, 4), ("c", 0, 7)):
        counters = Counters(theirs.serving.places.counters(endpoint, 1), 0)  # as a serving process keeps them
        for _ in range(answers):
            counters.answered(arm, 80.0)
    usage = theirs.marketplace.usage(listing.listing_id)
    assert (usage.endpoints, usage.requests) == (2, 7)
    theirs.serving.apply(Traffic(endpoint="a", generation=2, arms=(first, other)))
    assert theirs.marketplace.usage(listing.listing_id).requests == 4, "a new routing counts anew"


def test_the_catalogue_follows_its_models(theirs: Yard, small_model: Path) -> None:
    """As the wiring is to do it: a renamed model keeps its listing, a deleted version loses it."""
    theirs.store.wires.inside.setdefault(EventType.REGISTERED_MODEL_UPDATED, []).append(follow_renaming)
    theirs.store.wires.inside.setdefault(EventType.MODEL_DELETED, []).append(withdraw_deleted)
    versions(theirs, small_model, "v2.0.0")
    made = publish(theirs, "v2.0.0")
    theirs.registry.archive("fraud", "v1.0.0", ANA)
    theirs.registry.rename_model("fraud", "scam", ANA)
    assert theirs.marketplace.get_listing(made.listing_id, BEN).model == "scam"
    theirs.registry.delete("scam", "v2.0.0", ANA)
    with pytest.raises(NotFound, match="deleted"):
        theirs.marketplace.get_listing(made.listing_id, BEN)


@given(st.dictionaries(WORDS, st.recursive(WORDS | st.integers(), st.lists, max_leaves=3), max_size=3))
def test_any_card_becomes_markdown(card: dict[str, object]) -> None:
    assert card_text("fraud v1.0.0", card).startswith("# fraud v1.0.0")


def test_the_marketplace_opens_alone(tmp_path: Path, small_model: Path, new_yard: Callable[[str], Yard]) -> None:
    yard = new_yard("alone")
    versions(yard, small_model, "v1.0.0")
    market = Marketplace(tmp_path / "alone")
    told = {"licence": "MIT", "owner": ANA, "summary": "x"}
    assert market.publish("fraud", "v1.0.0", ANA, **told).project == "default"
