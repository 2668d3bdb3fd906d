"""What the feature store takes and gives: features, values, groups, answers and statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from modelyard.core import plugins


class FeatureType(Enum):
    """How a feature's values are kept: float64, int64, bool or text; each may be null."""

    FLOAT = "float"
    INT = "int"
    BOOL = "bool"
    STRING = "string"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """The definition of one feature of one kind of entity.

    `ttl` is how many seconds a value stays valid after its event time (None: for ever); a value of exactly that age is
    still valid. `version` is given by the store: it rises with each change of the definition.
    """

    name: str
    entity_type: str
    feature_type: FeatureType
    description: str = ""
    source: str = ""
    owner: str = ""
    ttl: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 1

    @property
    def reference(self) -> str:
        """The full name: `entity_type:name`."""
        return f"{self.entity_type}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureGroup:
    """A named list of features of one kind of entity, to ask for together."""

    name: str
    entity_type: str
    features: tuple[str, ...]
    description: str = ""
    version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureValue:
    """One value of one feature of one entity, true from `timestamp` (the event time) on.

    `feature` is a name or `entity_type:name`. `created_at` is when the value arrived and could first have been used; it is
    the event time where it is None. Times without a zone are UTC.
    """

    feature: str
    entity_id: str | int
    value: float | int | bool | str | None
    timestamp: datetime
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did: `rows` stored in `segments` Parquet files, of which `online` entities' newest rows changed."""

    rows: int
    segments: int
    online: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What a compaction did: files merged into fewer, and unused files removed."""

    merged: int
    into: int
    removed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineFeatures:
    """The newest values of some features for some entities.

    `values` has one list a feature, in the order of `entity_ids`; None where the entity is unknown, the value is null or
    older than its feature's ttl. `versions` are the definitions' versions: ask for `name@version` to be refused once
    the definition has changed.
    """

    entity_type: str
    entity_ids: Sequence[Any]
    values: Mapping[str, list[Any]]
    versions: Mapping[str, int]

    def to_dict(self) -> dict[str, list[Any]]:
        """One list an output column: the entity ids under the entity type, then each feature."""
        return {self.entity_type: list(self.entity_ids), **self.values}

    def rows(self) -> list[dict[str, Any]]:
        """One mapping an entity, as a model's input: feature -> value."""
        names = list(self.values)
        return [dict(zip(names, row, strict=True)) for row in zip(*self.values.values(), strict=True)]

    def frame(self) -> Any:
        """A pandas DataFrame of `to_dict()`."""
        return plugins.load("tables", "pandas").frame(self.to_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStatistics:
    """How a feature's stored values are distributed, each (entity, event time) counted once.

    `count` counts values that are not null. For numbers: mean, sample standard deviation (n - 1), extremes, quantiles
    (linear interpolation) and a histogram of equal bins (`edges` has one more element than `counts`), all over the finite
    values; `infinite` counts the others. A bool counts as 0 or 1. For text: the most frequent values.
    """

    feature: str
    feature_type: FeatureType
    version: int
    count: int
    nulls: int
    distinct: int
    entities: int
    first_event: datetime | None = None
    last_event: datetime | None = None
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    infinite: int = 0
    quantiles: Mapping[str, float] = field(default_factory=dict)
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    top: Mapping[str, int] = field(default_factory=dict)
