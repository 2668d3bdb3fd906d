"""FeatureStore: definitions, values online and at any moment of the past, and how they are distributed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import modelyard.features.store as sql
from modelyard.core import plugins
from modelyard.core.area import Area
from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.events import EventType
from modelyard.core.instants import SYSTEM_CLOCK, micros
from modelyard.core.operations import operation
from modelyard.core.ports import Clock
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.features.columns import entity_key, entity_keys, instant
from modelyard.features.online import Plan, plan
from modelyard.features.rules import TIME, Catalogue, admitted, check_spine, feature_type_of, next_group, updated
from modelyard.features.segments import Batch
from modelyard.features.stored import Stored
from modelyard.features.tables import batch_of_frame, batches_of_values
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


class FeatureStore(Area):
    """Features of entities: defined once, written once, read as they are now or as they were known at any moment.

    Values live in Parquet segments, the one source of truth; the newest of each entity are also held for reading in
    microseconds: in a file beside the database, in the database itself where that is a server, or in the Redis
    that `online` names (redis://host:port/0). Times without a zone are UTC, and are kept to the microsecond.
    """

    def __init__(self, storage_path: str | Path | Store, *, online: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._stored = Stored(self.store, online)
        self._plans: dict[tuple[Any, ...], Plan] = {}

    # Definitions

    def register_feature(self, feature: Feature, *, created_by: str = "system") -> Feature:
        """The definition as stored, version 1; the same one again if exactly it stands already.

        Raises Conflict if the entity type has the name with another definition: use update_feature.
        """

        return self._define(lambda _, catalogue: admitted(feature, catalogue), created_by) or self.get_feature(
            feature.reference
        )

    @operation("POST", "/features", needs="features.write")
    def define_feature(
        self,
        name: str,
        entity_type: str,
        feature_type: FeatureType,
        *,
        description: str = "",
        source: str = "",
        owner: str = "",
        ttl: float | None = None,
        tags: dict[str, str] | None = None,
        created_by: str = "system",
    ) -> Feature:
        """The definition of a new feature; `register_feature` with plain values. `ttl` is in seconds.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> store.define_feature("amount", "card", FeatureType.FLOAT, ttl=86400).reference
        'card:amount'
        """
        feature = Feature(
            name=name,
            entity_type=entity_type,
            feature_type=feature_type_of(feature_type),
            description=description,
            source=source,
            owner=owner,
            ttl=ttl,
            tags=tags or {},
        )
        return self.register_feature(feature, created_by=created_by)

    @operation("PATCH", "/features/{name}", needs="features.write")
    def update_feature(
        self,
        name: str,
        *,
        entity_type: str | None = None,
        feature_type: FeatureType | None = None,
        description: str | None = None,
        source: str | None = None,
        owner: str | None = None,
        ttl: float | None = None,
        tags: dict[str, str] | None = None,
        created_by: str = "system",
    ) -> Feature:
        """The definition's next version, with the given fields changed; the present one if nothing differs.

        A `ttl` below zero takes the limit away. Raises Conflict for another type once values are stored.
        A reader that asked for `name@version` is refused from now on if the type, the source or the ttl changed.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> store.update_feature("amount", owner="fraud-team").version
        2
        """
        given = {
            "feature_type": feature_type,
            "description": description,
            "source": source,
            "owner": owner,
            "ttl": ttl,
            "tags": tags,
        }
        fields: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        if ttl is not None and ttl < 0:
            fields["ttl"] = None

        def change(work: Work, catalogue: Catalogue) -> Feature | None:
            if "@" in name:
                raise Invalid(f"{name!r} names one version, and only the newest can be changed. Leave out the @.")
            old = catalogue.feature(name, entity_type)
            return updated(old, replace(old, **fields), has_values=bool(self._stored.segments.holding(work.rows, old)))

        return self._define(change, created_by) or self.get_feature(name, entity_type=entity_type)

    @operation("GET", "/features/{name}", needs="features.read")
    def get_feature(self, name: str, *, entity_type: str | None = None) -> Feature:
        """The definition that `name`, `entity_type:name` or either with `@version` means.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> store.get_feature("card:amount@1").feature_type
        <FeatureType.FLOAT: 'float'>
        """
        return self._fresh().feature(name, entity_type)

    @operation("GET", "/features", needs="features.read")
    def list_features(self, *, entity_type: str | None = None) -> list[Feature]:
        """The present definition of every feature, ordered by entity type and name.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).list_features()
        []
        """
        held = self._fresh().features
        return [versions[-1] for (kind, _), versions in sorted(held.items()) if entity_type in (None, kind)]

    @operation("POST", "/feature-groups", needs="features.write")
    def register_group(
        self, name: str, entity_type: str, features: list[str], *, description: str = "", created_by: str = "system"
    ) -> FeatureGroup:
        """The group as stored: a name for features of one kind of entity, to ask for together. Again with other features: its next version.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> store.register_group("fraud_inputs", "card", ["amount"]).version
        1
        """
        asked = FeatureGroup(name=name, entity_type=entity_type, features=tuple(features), description=description)
        with self.store.work(created_by) as work:
            catalogue = sql.catalogue(work.rows)
            group = next_group(asked, catalogue)
            if group is None:
                return catalogue.groups[name][-1]
            sql.insert_group(work.rows, group, at=micros(work.now), by=created_by)
            sql.next_generation(work.rows)
            details = {"group": name, "features": group.features, "version": group.version}
            work.emit(EventType.FEATURE_REGISTERED, Resource("feature_group", name), details)
        self._plans = {}
        self._stored.announce([entity_type])
        return group

    @operation("GET", "/feature-groups", needs="features.read")
    def list_groups(self) -> list[FeatureGroup]:
        """The present version of every group, ordered by name.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).list_groups()
        []
        """
        return [versions[-1] for _, versions in sorted(self._fresh().groups.items())]

    # Writing

    def write_online_features(self, values: Iterable[FeatureValue], *, user: str = "system") -> Written:
        """Store values: in the history, and online where they are the newest. All of them, or none if one is refused.

        Of values with the same feature, entity and times the last one stands.
        """
        items = list(values)
        return self._stored.append(lambda catalogue: batches_of_values(items, catalogue), user)

    def write_features(
        self,
        frame: Any,
        *,
        features: Sequence[str] | None = None,
        entity_type: str | None = None,
        entity_column: str | None = None,
        timestamp_column: str = TIME,
        created_column: str | None = None,
        user: str = "system",
    ) -> Written:
        """Store a whole table: one row an entity and event time, one column a feature. Hundreds of thousands of rows a second or two.

        `frame` is a DataFrame, a mapping of columns or a list of records; `entity_column` is the entity type's name unless
        given; `features` are all other columns unless given. A null is a value: it hides the older one. Where
        `created_column` is absent or null, a row arrived at its event time. Raises Invalid for a null entity or event time.
        """

        def prepare(catalogue: Catalogue) -> list[Batch]:
            return batch_of_frame(
                frame,
                catalogue,
                features=features,
                entity_type=entity_type,
                entity_column=entity_column,
                timestamp_column=timestamp_column,
                created_column=created_column,
            )

        return self._stored.append(prepare, user)

    @operation("POST", "/features/{entity_type}/values", needs="features.write")
    def write_rows(
        self,
        entity_type: str,
        rows: list[dict[str, Any]],
        *,
        timestamp_column: str = TIME,
        created_column: str | None = None,
        user: str = "system",
    ) -> Written:
        """Store records, each with the entity (under the entity type's name), the event time (ISO 8601) and features.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> store.write_rows("card", [{"card": "c1", "event_timestamp": "2026-01-01T00:00:00Z", "amount": 9.5}]).rows
        1
        """
        return self.write_features(
            rows, entity_type=entity_type, timestamp_column=timestamp_column, created_column=created_column, user=user
        )

    @operation("POST", "/features/{entity_type}/ingest", needs="features.write")
    def ingest(
        self,
        path: str | Path,
        entity_type: str,
        *,
        entity_column: str | None = None,
        timestamp_column: str = TIME,
        created_column: str | None = None,
        features: list[str] | None = None,
        user: str = "system",
    ) -> Written:
        """Store the table in a .csv, .parquet, .json or .jsonl file; as `write_features`.

        A CSV file has no types: an id written 007 is read as the number 7. Use Parquet for such ids.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> _ = (folder / "rows.csv").write_text("card,event_timestamp,amount\\nc1,2026-01-01,9.5\\n")
        >>> store.ingest(folder / "rows.csv", "card").online
        1
        """
        return self.write_features(
            plugins.load("tables", "pandas").read(path),
            features=features,
            entity_type=entity_type,
            entity_column=entity_column,
            timestamp_column=timestamp_column,
            created_column=created_column,
            user=user,
        )

    # Reading

    @operation("POST", "/features/online", needs="features.read")
    def get_online_features(
        self, entity_ids: list[str], features: list[str], *, entity_type: str | None = None
    ) -> OnlineFeatures:
        """The newest value of each feature for each entity, None where there is none or it is older than the ttl.

        Newest by event time, then created time, then writing order. `features` are names, `entity_type:name`, group names,
        or names with `@version`, which are refused with Conflict once the definition has changed its meaning.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> _ = store.write_rows("card", [{"card": "c1", "event_timestamp": "2026-01-01", "amount": 9.5}])
        >>> store.get_online_features(["c1", "nobody"], ["amount"]).to_dict()
        {'card': ['c1', 'nobody'], 'amount': [9.5, None]}
        """
        if isinstance(entity_ids, str):
            raise Invalid(f"Entities are a list of ids. Pass [{entity_ids!r}].")
        keys = [entity_key(x) for x in entity_ids]
        asked = self._plan(features, entity_type)
        now = micros(self.store.clock.now())
        generation, found = self._stored.online.read(asked, keys, now)
        if generation > asked.generation:  # another process has changed the catalogue
            self._plans = {}
            asked = self._plan(features, entity_type)
            found = self._stored.online.read(asked, keys, now)[1]
        names = [name for name, _, _ in asked.columns]
        return OnlineFeatures(
            entity_type=asked.entity_type,
            entity_ids=tuple(entity_ids),
            values=dict(zip(names, found, strict=True)),
            versions=asked.versions,
        )

    def get_offline_features(
        self, spine: Any, features: Sequence[str], *, as_known: bool = True, user: str = "system"
    ) -> Any:
        """The spine as a DataFrame, row for row, with each feature's value as it was at the row's `event_timestamp`.

        The spine (DataFrame, mapping of columns or records) has a column named as the entity type of each feature. A value
        counts if its event time is not after the row's, its age is within the ttl, and, `as_known`, if it had arrived by
        then too (its created time is not after the row's). Unknown entities, null keys and null times give nulls.
        Integers come as Int64, bools as boolean, so that nulls leave them exact.
        """
        tables = plugins.load("tables", "pandas")
        frame = tables.frame(spine)
        with self.store.reading() as rows:
            columns = sql.catalogue(rows).columns(features)
            groups = self._stored.segments.together(rows, columns)
            newest = sql.newest_segment(rows)
        check_spine([str(name) for name in frame.columns], columns)
        moments = tables.instants(frame, TIME)
        kinds = {column.feature.entity_type for column in columns}
        entities = {kind: entity_keys(tables.masked(frame, kind)) for kind in kinds}
        found = self._stored.segments.at(groups, entities, moments, created=as_known)
        with self.store.work(user) as work:
            details = {
                "features": {column.output: column.feature.version for column in columns},
                "rows": len(frame),
                "up_to_segment": newest,
                "as_known": as_known,
            }
            work.emit(EventType.FEATURES_READ, Resource("feature_history", ",".join(sorted(kinds))), details)
        return tables.joined(frame, {column.output: found[column.output] for column in columns})

    @operation("POST", "/features/history", needs="features.read")
    def export_history(
        self,
        spine_path: str | Path,
        features: list[str],
        output_path: str | Path,
        *,
        as_known: bool = True,
        user: str = "system",
    ) -> int:
        """How many rows were written to `output_path`: the spine file's rows with each feature as it was then; as `get_offline_features`.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> _ = (folder / "spine.csv").write_text("card,event_timestamp\\nc1,2026-01-01\\n")
        >>> store.export_history(folder / "spine.csv", ["amount"], folder / "training.parquet")
        1
        """
        tables = plugins.load("tables", "pandas")
        frame = self.get_offline_features(tables.read(spine_path), features, as_known=as_known, user=user)
        tables.write(frame, output_path)
        return len(frame)

    @operation("GET", "/features/{name}/statistics", needs="features.read")
    def compute_feature_statistics(self, name: str, *, entity_type: str | None = None) -> FeatureStatistics:
        """How a feature's stored values are distributed.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> _ = store.write_rows("card", [{"card": f"c{n}", "event_timestamp": "2026-01-01", "amount": n} for n in (1, 2, 6)])
        >>> store.compute_feature_statistics("amount").mean
        3.0
        """
        with self.store.reading() as rows:
            feature = sql.catalogue(rows).feature(name, entity_type)
            segments = self._stored.segments.holding(rows, feature)
        return self._stored.segments.statistics(feature, segments)

    # Upkeep

    @operation("POST", "/features/materialize", needs="features.write")
    def materialize(self, features: list[str] | None = None, *, up_to: datetime | None = None) -> int:
        """How many online rows changed: the newest stored values of the features (all of them unless given) put online.

        Needed after the online store was lost while a program ran; a program that starts does it by itself. Only values
        with an event time of `up_to` or before are looked at; nothing newer is overwritten, so it may be repeated.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).materialize()
        0
        """
        limit = None if up_to is None else instant(up_to)
        return self._stored.materialize(features, limit)

    @operation("POST", "/features/compact", needs="features.write")
    def compact(self, *, user: str = "system") -> Compacted:
        """What was merged and removed: many small segments become few, and files that nothing needs go.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).compact()
        Compacted(merged=0, into=0, removed=0)
        """
        return self._stored.compact(user)

    @operation("POST", "/features/{entity_type}/forget", needs="features.write")
    def forget_entities(self, entity_type: str, entity_ids: list[str], *, user: str = "system") -> int:
        """How many stored rows were removed: everything about some entities, online and in the history, as erasure requests ask.

        The event that tells of it holds their number, not their ids. A history that is being read meanwhile may have to be
        read again.

        >>> from modelyard.features import FeatureStore, FeatureType
        >>> store = FeatureStore(folder)
        >>> _ = store.define_feature("amount", "card", FeatureType.FLOAT)
        >>> _ = store.write_rows("card", [{"card": "c1", "event_timestamp": "2026-01-01", "amount": 9.5}])
        >>> store.forget_entities("card", ["c1"])
        1
        """
        known = sorted({kind for kind, _ in self._fresh().features})
        if entity_type not in known:
            raise NotFound(f"There is no entity type {entity_type!r}. {nearest(entity_type, known)}")
        if isinstance(entity_ids, str):
            raise Invalid(f"Entities are a list of ids. Pass [{entity_ids!r}].")
        keys = [key for key in map(entity_key, entity_ids) if key is not None]
        return self._stored.forget(entity_type, keys, user)

    def close(self) -> None:
        """Give connections back. Not closing loses nothing."""
        self._stored.close()
        super().close()

    def _define(self, change: Callable[[Work, Catalogue], Feature | None], by: str) -> Feature | None:
        with self.store.work(by) as work:
            feature = change(work, sql.catalogue(work.rows))
            if feature is None:
                return None
            sql.insert_feature(work.rows, feature, at=micros(work.now), by=by)
            sql.next_generation(work.rows)
            work.emit(EventType.FEATURE_REGISTERED, Resource("feature", feature.reference), {"definition": feature})
        self._plans = {}
        self._stored.announce([feature.entity_type])
        return feature

    def _fresh(self) -> Catalogue:
        with self.store.reading() as rows:
            return sql.catalogue(rows)

    def _plan(self, features: Sequence[str], entity_type: str | None) -> Plan:
        key = (tuple(features), entity_type)
        found = self._plans.get(key)
        if found is None:
            catalogue = self._fresh()
            columns = catalogue.columns(features, entity_type)
            kinds = sorted({column.feature.entity_type for column in columns})
            if len(kinds) > 1:
                raise Invalid(
                    f"One call answers for one kind of entity, and these features belong to {' and '.join(kinds)}."
                )
            found = self._plans[key] = plan(catalogue, columns)
        return found
