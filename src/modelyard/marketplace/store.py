"""The SQL of the marketplace: one function a statement, values in and out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.ports import Connection, Row
from modelyard.marketplace.values import (
    AccessRequest,
    Listing,
    ListingStatus,
    Publisher,
    Rating,
    RequestState,
    Visibility,
)

# A listing with what its version is now; the version may be gone.
FROM = """
FROM marketplace_listings l LEFT JOIN model_versions v ON v.name = l.model AND v.canonical = l.canonical
"""
COLUMNS = "l.*, v.stage, v.framework, v.metrics"
RATING = "(CASE WHEN l.ratings = 0 THEN 0.0 ELSE 1.0 * l.stars / l.ratings END)"


def add_listing(rows: Connection, listing: Listing, *, canonical: str, words: str) -> bool:
    """Write a new listing; False if the version is listed already."""
    return (
        rows.run(
            "INSERT INTO marketplace_listings (listing_id, model, canonical, version, digest, project, summary, card,"
            " licence, owner, visibility, status, published_by, published_at, withdrawn_because, words, fetches, stars,"
            " ratings) VALUES (:listing_id, :model, :canonical, :version, :digest, :project, :summary, :card, :licence,"
            " :owner, :visibility, :status, :published_by, :published_at, '', :words, 0, 0, 0)"
            " ON CONFLICT (model, canonical) WHERE status = 'listed' DO NOTHING",
            listing_id=listing.listing_id,
            model=listing.model,
            canonical=canonical,
            version=listing.version,
            digest=listing.digest,
            project=listing.project,
            summary=listing.summary,
            card=listing.card,
            licence=listing.licence,
            owner=listing.owner,
            visibility=listing.visibility.value,
            status=listing.status.value,
            published_by=listing.published_by,
            published_at=micros(listing.published_at),
            words=words,
        )
        == 1
    )


def listing(rows: Connection, listing_id: str) -> Listing | None:
    """One listing."""
    row = rows.one(f"SELECT {COLUMNS} {FROM} WHERE l.listing_id = :listing_id", listing_id=listing_id)
    return None if row is None else listing_from(row)


def some_ids(rows: Connection, limit: int = 20) -> list[str]:
    """The newest listings, for an error message."""
    found = rows.all(
        "SELECT listing_id FROM marketplace_listings WHERE status = 'listed'"
        " ORDER BY published_at DESC, listing_id LIMIT :limit",
        limit=limit,
    )
    return [row["listing_id"] for row in found]


def search(rows: Connection, where: str, order: str, values: Mapping[str, Any], limit: int) -> list[Row]:
    """Listings that a clause finds, in an order; both are made of this area's own pieces."""
    sql = f"SELECT {COLUMNS}, {RATING} AS mean {FROM} WHERE {where} ORDER BY {order} LIMIT :limit"
    return rows.all(sql, limit=limit, **values)


def withdraw(rows: Connection, listing_id: str, *, at: Instant, because: str) -> bool:
    """Take a listing out of the catalogue; False if it was."""
    return (
        rows.run(
            "UPDATE marketplace_listings SET status = 'withdrawn', withdrawn_at = :at, withdrawn_because = :because"
            " WHERE listing_id = :listing_id AND status = 'listed'",
            listing_id=listing_id,
            at=micros(at),
            because=because,
        )
        == 1
    )


def listed_of(rows: Connection, model: str, canonical: str) -> str | None:
    """The listing of a version that is shown."""
    row = rows.one(
        "SELECT listing_id FROM marketplace_listings WHERE model = :model AND canonical = :canonical"
        " AND status = 'listed'",
        model=model,
        canonical=canonical,
    )
    return None if row is None else str(row["listing_id"])


def rename_model(rows: Connection, name: str, new_name: str) -> None:
    """Listings follow their model's name."""
    rows.run("UPDATE marketplace_listings SET model = :new WHERE model = :name", name=name, new=new_name)


def count_fetch(rows: Connection, listing_id: str) -> None:
    """One more fetch."""
    rows.run("UPDATE marketplace_listings SET fetches = fetches + 1 WHERE listing_id = :id", id=listing_id)


def put_rating(rows: Connection, rating: Rating, person: str) -> None:
    """Write a person's rating in place of an earlier one, and bring the listing's sums up to date."""
    rows.run(
        "INSERT INTO marketplace_ratings (listing_id, person, rated_by, stars, comment, rated_at)"
        " VALUES (:listing_id, :person, :rated_by, :stars, :comment, :rated_at) ON CONFLICT (listing_id, person)"
        " DO UPDATE SET stars = excluded.stars, comment = excluded.comment, rated_at = excluded.rated_at,"
        " rated_by = excluded.rated_by",
        listing_id=rating.listing_id,
        person=person,
        rated_by=rating.rated_by,
        stars=rating.stars,
        comment=rating.comment,
        rated_at=micros(rating.rated_at),
    )
    rows.run(
        "UPDATE marketplace_listings SET"
        " stars = (SELECT COALESCE(SUM(stars), 0) FROM marketplace_ratings WHERE listing_id = :id),"
        " ratings = (SELECT COUNT(*) FROM marketplace_ratings WHERE listing_id = :id) WHERE listing_id = :id",
        id=rating.listing_id,
    )


def ratings(rows: Connection, listing_id: str, limit: int) -> list[Rating]:
    """The newest ratings of a listing."""
    found = rows.all(
        "SELECT * FROM marketplace_ratings WHERE listing_id = :listing_id ORDER BY rated_at DESC, person LIMIT :limit",
        listing_id=listing_id,
        limit=limit,
    )
    return [
        Rating(
            listing_id=row["listing_id"],
            rated_by=row["rated_by"],
            stars=row["stars"],
            comment=row["comment"],
            rated_at=from_micros(row["rated_at"]),
        )
        for row in found
    ]


def add_request(rows: Connection, request: AccessRequest, person: str) -> bool:
    """Write a request; False if the person has an open one."""
    return (
        rows.run(
            "INSERT INTO marketplace_requests (request_id, listing_id, person, requested_by, reason, requested_at,"
            " status, decided_by, comment) VALUES (:request_id, :listing_id, :person, :requested_by, :reason,"
            " :requested_at, 'open', '', '') ON CONFLICT (listing_id, person) WHERE status = 'open' DO NOTHING",
            request_id=request.request_id,
            listing_id=request.listing_id,
            person=person,
            requested_by=request.requested_by,
            reason=request.reason,
            requested_at=micros(request.requested_at),
        )
        == 1
    )


def request(rows: Connection, request_id: str) -> AccessRequest | None:
    """One request."""
    row = rows.one("SELECT * FROM marketplace_requests WHERE request_id = :request_id", request_id=request_id)
    return None if row is None else _request(row)


def requests_of(rows: Connection, listing_id: str, person: str) -> list[AccessRequest]:
    """A person's requests for a listing, the newest first."""
    found = rows.all(
        "SELECT * FROM marketplace_requests WHERE listing_id = :listing_id AND person = :person"
        " ORDER BY requested_at DESC, request_id",
        listing_id=listing_id,
        person=person,
    )
    return [_request(row) for row in found]


def requests(rows: Connection, *, listing_id: str | None, status: str | None, limit: int) -> list[AccessRequest]:
    """Requests, the newest first."""
    wanted = {"listing_id": listing_id, "status": status}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = "".join(f" AND {name} = :{name}" for name in given)
    found = rows.all(
        f"SELECT * FROM marketplace_requests WHERE 1 = 1{where} ORDER BY requested_at DESC, request_id LIMIT :limit",
        limit=limit,
        **given,
    )
    return [_request(row) for row in found]


def decide(rows: Connection, request: AccessRequest) -> None:
    """Write what became of a request."""
    rows.run(
        "UPDATE marketplace_requests SET status = :status, decided_by = :decided_by, decided_at = :decided_at,"
        " comment = :comment, expires_at = :expires_at WHERE request_id = :request_id",
        status=request.status.value,
        decided_by=request.decided_by,
        decided_at=None if request.decided_at is None else micros(request.decided_at),
        comment=request.comment,
        expires_at=None if request.expires_at is None else micros(request.expires_at),
        request_id=request.request_id,
    )


def add_publisher(rows: Connection, publisher: Publisher) -> bool:
    """Write a publisher; False if the name or the key is known."""
    return (
        rows.run(
            "INSERT INTO marketplace_publishers (name, key_id, public_key, trusted_by, trusted_at)"
            " VALUES (:name, :key_id, :public_key, :trusted_by, :trusted_at) ON CONFLICT DO NOTHING",
            name=publisher.name,
            key_id=publisher.key_id,
            public_key=publisher.public_key,
            trusted_by=publisher.trusted_by,
            trusted_at=micros(publisher.trusted_at),
        )
        == 1
    )


def drop_publisher(rows: Connection, name: str) -> bool:
    """Forget a publisher; False if there is none of the name."""
    return rows.run("DELETE FROM marketplace_publishers WHERE name = :name", name=name) == 1


def publishers(rows: Connection) -> list[Publisher]:
    """Every trusted publisher by name."""
    return [
        Publisher(
            name=row["name"],
            key_id=row["key_id"],
            public_key=row["public_key"],
            trusted_by=row["trusted_by"],
            trusted_at=from_micros(row["trusted_at"]),
        )
        for row in rows.all("SELECT * FROM marketplace_publishers ORDER BY name")
    ]


def fetches(rows: Connection, listing_id: str) -> tuple[int, int, int | None]:
    """(how many fetches, of how many people, when the last was) by the events of a listing."""
    row = rows.one(
        "SELECT COUNT(*) AS n, COUNT(DISTINCT actor) AS people, MAX(occurred_at) AS last FROM events"
        " WHERE resource_type = 'listing' AND resource_id = :id AND event_type = 'listing_fetched'",
        id=listing_id,
    )
    return (0, 0, None) if row is None else (row["n"], row["people"], row["last"])


def deployments(rows: Connection, model: str, version: str) -> int:
    """How many rollouts of a version began, by their events, with or without a leading v."""
    found = rows.tuples("SELECT details FROM events WHERE event_type = 'deployment_started'")
    told = (json.loads(details) for (details,) in found)
    number = version.removeprefix("v")
    return sum(one.get("model") == model and str(one.get("version")).removeprefix("v") == number for one in told)


def listing_from(row: Row) -> Listing:
    """The listing that a row holds."""
    count = row["ratings"]
    return Listing(
        listing_id=row["listing_id"],
        model=row["model"],
        version=row["version"],
        digest=row["digest"],
        project=row["project"],
        summary=row["summary"],
        licence=row["licence"],
        owner=row["owner"],
        visibility=Visibility(row["visibility"]),
        status=ListingStatus(row["status"]),
        published_by=row["published_by"],
        published_at=from_micros(row["published_at"]),
        stage=row["stage"] or "gone",
        framework=row["framework"] or "",
        fetches=row["fetches"],
        ratings=count,
        rating=row["stars"] / count if count else None,
        card=row["card"],
        metrics=json.loads(row["metrics"]) if row["metrics"] else None,
        withdrawn_at=None if row["withdrawn_at"] is None else from_micros(row["withdrawn_at"]),
        withdrawn_because=row["withdrawn_because"],
    )


def _request(row: Row) -> AccessRequest:
    return AccessRequest(
        request_id=row["request_id"],
        listing_id=row["listing_id"],
        requested_by=row["requested_by"],
        reason=row["reason"],
        requested_at=from_micros(row["requested_at"]),
        status=RequestState(row["status"]),
        decided_by=row["decided_by"],
        decided_at=None if row["decided_at"] is None else from_micros(row["decided_at"]),
        comment=row["comment"],
        expires_at=None if row["expires_at"] is None else from_micros(row["expires_at"]),
    )
