"""What features there are: each defined once for a kind of entity, in versions, and named together in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import modelyard.features.store as sql
from modelyard.core.area import Area
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.ids import checked_list
from modelyard.core.instants import SYSTEM_CLOCK, micros
from modelyard.core.operations import operation
from modelyard.core.ports import Clock
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.features.rules import Catalogue, admitted, feature_type_of, next_group, updated
from modelyard.features.stored import Stored
from modelyard.features.values import Feature, FeatureGroup, FeatureType


class Definitions(Area):
    """Defines features and groups of them; what is stored and read goes by these definitions."""

    def __init__(self, storage_path: str | Path | Store, *, online: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        super().__init__(storage_path, clock=clock)
        self._stored = Stored(self.store, online)

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
        if feature_type is not None:
            fields["feature_type"] = feature_type_of(feature_type)
        if isinstance(ttl, (int, float)) and ttl < 0:
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
        return self._catalogue().feature(name, entity_type)

    @operation("GET", "/features", needs="features.read")
    def list_features(self, *, entity_type: str | None = None) -> list[Feature]:
        """The present definition of every feature, ordered by entity type and name.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).list_features()
        []
        """
        held = self._catalogue().features
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
        members = tuple(checked_list(features, "features"))
        asked = FeatureGroup(name=name, entity_type=entity_type, features=members, description=description)
        with self.store.work(created_by) as work:
            catalogue = sql.catalogue(work.rows)
            group = next_group(asked, catalogue)
            if group is None:
                return catalogue.groups[name][-1]
            sql.insert_group(work.rows, group, at=micros(work.now), by=created_by)
            sql.next_generation(work.rows)
            details = {"group": name, "features": group.features, "version": group.version}
            work.emit(EventType.FEATURE_REGISTERED, Resource("feature_group", name), details)
        self._stored.announce([entity_type])
        return group

    @operation("GET", "/feature-groups", needs="features.read")
    def list_groups(self) -> list[FeatureGroup]:
        """The present version of every group, ordered by name.

        >>> from modelyard.features import FeatureStore
        >>> FeatureStore(folder).list_groups()
        []
        """
        return [versions[-1] for _, versions in sorted(self._catalogue().groups.items())]

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
        self._stored.announce([feature.entity_type])
        return feature

    def _catalogue(self) -> Catalogue:
        with self.store.reading() as rows:
            return sql.catalogue(rows)
