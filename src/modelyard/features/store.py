"""The feature store's SQL, one function a statement."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, replace

from modelyard.core.canonical import dumps
from modelyard.core.ports import Connection
from modelyard.features.rules import Catalogue, Layout
from modelyard.features.values import Feature, FeatureGroup, FeatureType


@dataclass(frozen=True, slots=True)
class Segment:
    """One Parquet file of a layout. `written` orders segments by when their rows were written."""

    segment_id: int
    layout: Layout
    blob: str
    rows: int
    written: int


def catalogue(rows: Connection) -> Catalogue:
    """All definitions, groups and layouts; an empty catalogue before the first change."""
    head = rows.one("SELECT identity, generation FROM feature_catalogue")
    if head is None:
        return Catalogue("", 0)
    features: dict[tuple[str, str], tuple[Feature, ...]] = {}
    for row in rows.all("SELECT definition FROM features ORDER BY entity_type, name, version"):
        feature = feature_from(json.loads(row["definition"]))
        key = (feature.entity_type, feature.name)
        features[key] = (*features.get(key, ()), feature)
    groups: dict[str, tuple[FeatureGroup, ...]] = {}
    for row in rows.all("SELECT definition FROM feature_groups ORDER BY name, version"):
        held = json.loads(row["definition"])
        group = FeatureGroup(**{**held, "features": tuple(held["features"])})
        groups[group.name] = (*groups.get(group.name, ()), group)
    return Catalogue(head["identity"], head["generation"], features, groups, tuple(layouts(rows).values()))


def feature_from(held: dict[str, object]) -> Feature:
    """The definition that a stored JSON object holds."""
    feature = replace(Feature(**held), feature_type=FeatureType(held["feature_type"]))  # type: ignore[arg-type]
    return feature if feature.ttl is None else replace(feature, ttl=float(feature.ttl))  # JSON has it as 60


def layouts(rows: Connection) -> dict[int, Layout]:
    """Every layout by its id."""
    return {
        row["layout_id"]: Layout(row["layout_id"], row["entity_type"], tuple(json.loads(row["features"])))
        for row in rows.all("SELECT layout_id, entity_type, features FROM feature_layouts ORDER BY layout_id")
    }


def generation(rows: Connection) -> int:
    """How often the catalogue has changed."""
    row = rows.one("SELECT generation FROM feature_catalogue")
    return row["generation"] if row else 0


def next_generation(rows: Connection) -> None:
    """Count a change of the catalogue, and give the store its random identity at the first."""
    if not rows.run("UPDATE feature_catalogue SET generation = generation + 1"):
        rows.run(
            "INSERT INTO feature_catalogue (identity, generation) VALUES (:identity, 1)", identity=secrets.token_hex(4)
        )


def insert_feature(rows: Connection, feature: Feature, *, at: int, by: str) -> None:
    """A definition's new version."""
    rows.run(
        "INSERT INTO features (entity_type, name, version, definition, created_at, created_by) "
        "VALUES (:entity_type, :name, :version, :definition, :at, :by)",
        entity_type=feature.entity_type,
        name=feature.name,
        version=feature.version,
        definition=dumps(feature),
        at=at,
        by=by,
    )


def insert_group(rows: Connection, group: FeatureGroup, *, at: int, by: str) -> None:
    """A group's new version."""
    rows.run(
        "INSERT INTO feature_groups (name, version, definition, created_at, created_by) "
        "VALUES (:name, :version, :definition, :at, :by)",
        name=group.name,
        version=group.version,
        definition=dumps(group),
        at=at,
        by=by,
    )


def insert_layout(rows: Connection, entity_type: str, features: tuple[str, ...]) -> int:
    """A new layout's id."""
    row = rows.one(
        "INSERT INTO feature_layouts (entity_type, features) VALUES (:entity_type, :features) RETURNING layout_id",
        entity_type=entity_type,
        features=dumps(features),
    )
    assert row is not None  # RETURNING always answers
    return int(row["layout_id"])


def insert_segment(
    rows: Connection, layout: Layout, blob: str, *, digest: str, count: int, first: int, last: int, at: int
) -> Segment:
    """A new segment, written after all others."""
    row = rows.one(
        "INSERT INTO feature_segments (layout_id, blob, digest, rows, first_event, last_event, created_at, written) "
        "SELECT :layout_id, :blob, :digest, :count, :first, :last, :at, coalesce(max(written), 0) + 1 "
        "FROM feature_segments RETURNING segment_id, written",
        layout_id=layout.layout_id,
        blob=blob,
        digest=digest,
        count=count,
        first=first,
        last=last,
        at=at,
    )
    assert row is not None  # RETURNING always answers
    return Segment(row["segment_id"], layout, blob, count, row["written"])


def segments(rows: Connection, *, after: int = 0) -> list[Segment]:
    """The segments in use with an id above `after`, in writing order."""
    known = layouts(rows)
    return [
        Segment(row["segment_id"], known[row["layout_id"]], row["blob"], row["rows"], row["written"])
        for row in rows.all(
            "SELECT segment_id, layout_id, blob, rows, written FROM feature_segments "
            "WHERE retired_at IS NULL AND segment_id > :after ORDER BY written",
            after=after,
        )
    ]


def newest_segment(rows: Connection) -> int:
    """The highest segment id in use, 0 for none."""
    row = rows.one("SELECT coalesce(max(segment_id), 0) AS newest FROM feature_segments WHERE retired_at IS NULL")
    return int(row["newest"]) if row else 0


def replace_segments(rows: Connection, members: list[Segment], merged: Segment, *, at: int) -> None:
    """Retire the members and give the merged segment their place in the writing order."""
    for member in members:
        rows.run("UPDATE feature_segments SET retired_at = :at WHERE segment_id = :id", at=at, id=member.segment_id)
    rows.run(
        "UPDATE feature_segments SET written = :written WHERE segment_id = :id",
        written=members[-1].written,
        id=merged.segment_id,
    )


def blobs_in_use(rows: Connection, *, retired_after: int) -> set[str]:
    """The files that a reader may still need: those in use, and those retired lately."""
    return {
        row["blob"]
        for row in rows.all(
            "SELECT blob FROM feature_segments WHERE retired_at IS NULL OR retired_at >= :since", since=retired_after
        )
    }


def delete_retired(rows: Connection, *, before: int) -> None:
    """Forget segments that were retired long ago."""
    rows.run("DELETE FROM feature_segments WHERE retired_at < :before", before=before)
