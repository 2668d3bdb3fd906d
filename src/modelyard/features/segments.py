"""Offline values: Parquet segments among the store's blobs, listed in a table, so that a segment is seen whole or not at all."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.events import EventType
from modelyard.core.instants import from_micros, micros
from modelyard.core.ports import Connection, History, OfflineStore
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.features import store as sql
from modelyard.features.columns import DTYPES, Masked
from modelyard.features.online import Rows, packed
from modelyard.features.rules import Catalogue, Column, Layout
from modelyard.features.store import Segment
from modelyard.features.values import Feature, FeatureStatistics

PREFIX = "features/"
KEPT = timedelta(hours=1)  # a reader that has listed a segment opens it within this time


Groups = dict[tuple[Any, ...], list[Column]]  # columns by (entity type, the segments that have them)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of features of one kind of entity, to be written together. Arrays of one length; times in microseconds."""

    entity_type: str
    features: tuple[Feature, ...]
    entities: np.ndarray
    events: np.ndarray
    created: np.ndarray
    columns: dict[str, Masked]


class Segments:
    """Writes, lists and reads the segments of one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @cached_property
    def engine(self) -> OfflineStore:
        """What reads and writes Parquet."""
        engine: OfflineStore = plugins.load("offline_store", "duckdb")()
        return engine

    def written(self, batch: Batch, folder: Path) -> Path:
        """The batch as a Parquet file in a scratch folder."""
        path = folder / f"{secrets.token_hex(16)}.parquet"
        times = {"__event": batch.events, "__created": batch.created}
        kinds = {feature.name: feature.feature_type.value for feature in batch.features}
        self.engine.write(
            path,
            {"__entity": batch.entities, **times, **batch.columns},
            {"__entity": "string", "__event": "int", "__created": "int", **kinds},
        )
        return path

    def add(self, work: Work, layout: Layout, file: Path, batch: Batch) -> Segment:
        """List a scratch file as a new segment, in the transaction that tells of it."""
        segment = self._admit(
            work, layout, file, count=len(batch.events), first=batch.events.min(), last=batch.events.max()
        )
        details = {
            "entity_type": batch.entity_type,
            "features": {feature.name: feature.version for feature in batch.features},
            "rows": len(batch.events),
            "first_event": from_micros(int(batch.events.min())),
            "last_event": from_micros(int(batch.events.max())),
            "segment": segment.segment_id,
            "blob": segment.blob,
        }
        work.emit(EventType.FEATURES_WRITTEN, Resource("feature_segment", str(segment.segment_id)), details)
        return segment

    def merge(self, work: Work, members: Sequence[Segment], *, without: Sequence[str] = ()) -> Segment | None:
        """Put one segment in the place of several of one layout, without the rows of some entities.

        None, and nothing changes, where one segment would be replaced by the same.
        """
        before = sum(member.rows for member in members)
        with tempfile.TemporaryDirectory(prefix="modelyard-") as scratch:
            file = Path(scratch) / f"{secrets.token_hex(16)}.parquet"
            count = self.engine.merge(self.paths(members), file, without=without)
            if len(members) == 1 and count == before:
                return None
            merged = self._admit(work, members[0].layout, file, count=count, first=0, last=0)
        sql.replace_segments(work.rows, list(members), merged, at=micros(work.now))
        return replace(merged, rows=count)

    def clean(self, work: Work, *, kept: timedelta = KEPT) -> int:
        """Remove files that no segment in use needs: left by a killed writer, or replaced a while ago. Returns how many.

        Files appear only within a transaction that no other writer shares, so within this one every unlisted file is an orphan.
        """
        since = micros(work.now - kept)
        needed = sql.blobs_in_use(work.rows, retired_after=since)
        orphans = [key for key in self.store.blobs.keys(PREFIX) if key not in needed]
        for key in orphans:
            self.store.blobs.delete(key)
        sql.delete_retired(work.rows, before=since)
        return len(orphans)

    def paths(self, segments: Iterable[Segment]) -> list[Path]:
        """Local files of the segments."""
        return [self.store.blobs.path(segment.blob) for segment in segments]

    def at(
        self, groups: Groups, entities: dict[str, np.ndarray], moments: Masked, *, created: bool
    ) -> dict[str, Masked]:
        """Every column's values at (entity, moment): one join for all features that stand in the same segments."""
        found: dict[str, Masked] = {}
        for (kind, *members), together in groups.items():
            answer: Any = {}
            if members:
                ttl = {column.feature.name: column.ttl for column in together}
                history = History(segments=self.paths(members), ttl=ttl)
                answer = self.engine.at(entities[kind], moments, history, created=created)
            for column in together:
                found[column.output] = _as_typed(answer.get(column.feature.name), column.feature, len(moments))
        return found

    def holding(self, rows: Connection, feature: Feature) -> list[Segment]:
        """The segments with values of a feature, in writing order."""
        return _holding(sql.segments(rows), feature)

    def newest(self, layout: Layout, segments: Sequence[Segment], catalogue: Catalogue, up_to: int | None) -> Rows:
        """The newest row of each entity in segments of one layout, packed for the online store."""
        features = [catalogue.feature(f"{layout.entity_type}:{name}") for name in layout.features]
        history = History(segments=self.paths(segments), ttl=dict.fromkeys(layout.features))
        found = self.engine.newest(history, up_to=up_to)
        written = np.array([segment.written for segment in segments], dtype=np.int64)
        return packed(
            layout,
            entities=np.ma.getdata(found["__entity"]),
            events=np.ma.getdata(found["__event"]),
            created=np.ma.getdata(found["__created"]),
            written=written[np.ma.getdata(found["__segment"]).astype(np.int64)],
            columns={feature.name: _as_typed(found[feature.name], feature, 0) for feature in features},
        )

    def statistics(self, feature: Feature, segments: Sequence[Segment]) -> FeatureStatistics:
        """How a feature's values in the segments are distributed."""
        about: dict[str, Any] = {
            "feature": feature.reference,
            "feature_type": feature.feature_type,
            "version": feature.version,
        }
        if not segments:
            return FeatureStatistics(**about, count=0, nulls=0, distinct=0, entities=0)
        found = dict(self.engine.summary(self.paths(segments), feature.name))
        return FeatureStatistics(
            **about,
            count=found["count"],
            nulls=found["nulls"],
            distinct=found["distinct_values"],
            entities=found["entities"],
            first_event=from_micros(found["first_event"]),
            last_event=from_micros(found["last_event"]),
            mean=found.get("mean"),
            std=found.get("std"),
            min=found.get("min"),
            max=found.get("max"),
            infinite=found["count"] - found["finite"] if "finite" in found else 0,
            quantiles=found.get("quantiles", {}),
            edges=found.get("edges", ()),
            counts=found.get("counts", ()),
            top=dict(found.get("top", ())),
        )

    def together(self, rows: Connection, columns: Sequence[Column]) -> Groups:
        """The columns by (entity type, the segments that have them)."""
        listed = sql.segments(rows)
        groups: Groups = {}
        for column in columns:
            key = (column.feature.entity_type, *_holding(listed, column.feature))
            groups.setdefault(key, []).append(column)
        return groups

    def _admit(self, work: Work, layout: Layout, file: Path, *, count: int, first: int, last: int) -> Segment:
        blob = f"{PREFIX}{layout.entity_type}/{file.name}"
        with file.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            source.seek(0)
            self.store.blobs.put(blob, source)
        return sql.insert_segment(
            work.rows, layout, blob, digest=digest, count=count, first=int(first), last=int(last), at=micros(work.now)
        )


def _holding(segments: Iterable[Segment], feature: Feature) -> list[Segment]:
    layouts = ((x, x.layout) for x in segments)
    return [x for x, layout in layouts if layout.entity_type == feature.entity_type and feature.name in layout.features]


def _as_typed(values: Masked | None, feature: Feature, count: int) -> Masked:
    """The engine's answer in the feature's own type; all null where there is none."""
    dtype = DTYPES[feature.feature_type]
    if values is None:
        return np.ma.MaskedArray(np.zeros(count, dtype=dtype), mask=np.ones(count, dtype=bool))
    return np.ma.MaskedArray(np.ma.getdata(values).astype(dtype), mask=np.ma.getmaskarray(values))
