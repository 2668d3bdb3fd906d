"""Features of entities: defined once, written once, read online or as they were known at any moment."""

from modelyard.features.service import FeatureStore
from modelyard.features.values import (
    Compacted,
    Feature,
    FeatureGroup,
    FeatureStatistics,
    FeatureType,
    FeatureValue,
    OnlineFeatures,
    Written,
)

__all__ = [
    "Compacted",
    "Feature",
    "FeatureGroup",
    "FeatureStatistics",
    "FeatureStore",
    "FeatureType",
    "FeatureValue",
    "OnlineFeatures",
    "Written",
]
