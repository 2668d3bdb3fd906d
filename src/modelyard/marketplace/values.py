"""What the marketplace answers with: listings, ratings, requests for access, publishers, packages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from modelyard.core.instants import Instant


class Visibility(Enum):
    """Who may have what is listed: everybody who may use the marketplace, or those whom the owner grants it."""

    OPEN = "open"
    RESTRICTED = "restricted"


class ListingStatus(Enum):
    """Whether a listing is shown."""

    LISTED = "listed"
    WITHDRAWN = "withdrawn"


class RequestState(Enum):
    """What became of a request for access."""

    OPEN = "open"
    GRANTED = "granted"
    DENIED = "denied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One version in the catalogue. `stage`, `framework`, `metrics` and `tags` are the version's own, as they are now.

    `card` is Markdown, and "" where the reader may not see it. `rating` is the mean of all ratings, None before the first.
    """

    listing_id: str
    model: str
    version: str
    digest: str
    project: str
    summary: str
    licence: str
    owner: str
    visibility: Visibility
    status: ListingStatus
    published_by: str
    published_at: Instant
    stage: str
    framework: str
    fetches: int
    ratings: int
    rating: float | None = None
    card: str = ""
    metrics: Mapping[str, float] | None = None
    withdrawn_at: Instant | None = None
    withdrawn_because: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rating:
    """What one person says of a listing: 1 to 5 stars and why."""

    listing_id: str
    rated_by: str
    stars: int
    comment: str
    rated_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRequest:
    """One person's request for what a restricted listing offers."""

    request_id: str
    listing_id: str
    requested_by: str
    reason: str
    requested_at: Instant
    status: RequestState = RequestState.OPEN
    decided_by: str = ""
    decided_at: Instant | None = None
    comment: str = ""
    expires_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much a listing is used: fetches and by how many people, and what the version does here.

    `deployments` counts the rollouts that began, `endpoints` those that it answers on now, and `requests` the requests
    that it has answered there since their present routing began, as this machine's serving processes count them.
    """

    listing_id: str
    fetches: int
    people: int
    deployments: int
    endpoints: int
    requests: int
    last_fetched_at: Instant | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """A yard whose packages are let in: the name that it has here, and its public key (Ed25519, PEM)."""

    name: str
    key_id: str
    public_key: str
    trusted_by: str
    trusted_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishingKey:
    """The key that this yard signs packages with: give it to those who are to trust this yard."""

    key_id: str
    public_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A written package: where it is, its SHA-256 and size, and what it holds."""

    path: str
    sha256: str
    size: int
    model: str
    version: str
    key_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A version that came in by a package. `proved` says that the publisher's log proves its registration there."""

    model: str
    version: str
    digest: str
    publisher: str
    listing_id: str
    sha256: str
    licence: str
    proved: bool
    approvals: tuple[Mapping[str, Any], ...] = ()
