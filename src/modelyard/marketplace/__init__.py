"""A catalogue of models across projects, and signed packages that carry them from one yard to another."""

from modelyard.marketplace.service import Marketplace
from modelyard.marketplace.values import (
    AccessRequest,
    Fetched,
    Listing,
    ListingStatus,
    Packed,
    Publisher,
    PublishingKey,
    Rating,
    RequestState,
    Usage,
    Visibility,
)

__all__ = [
    "AccessRequest",
    "Fetched",
    "Listing",
    "ListingStatus",
    "Marketplace",
    "Packed",
    "Publisher",
    "PublishingKey",
    "Rating",
    "RequestState",
    "Usage",
    "Visibility",
]
