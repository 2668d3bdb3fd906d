"""How values are read: the newest ones, those of any moment of the past, and how they are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import modelyard.features.store as sql
from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.events import EventType
from modelyard.core.instants import micros
from modelyard.core.operations import operation
from modelyard.core.refs import Resource
from modelyard.features.columns import entity_keys, keys_of
from modelyard.features.definitions import Definitions
from modelyard.features.online import Plan, plan
from modelyard.features.rules import TIME, check_spine
from modelyard.features.values import FeatureStatistics, OnlineFeatures


class Reading(Definitions):
    """Answers what entities are like now, and what was known of them at any moment."""

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
        keys = keys_of(entity_ids)
        asked = self._plan(features, entity_type)
        now = micros(self.store.clock.now())
        generation, found = self._stored.online.read(asked, keys, now)
        if generation > asked.generation:  # another process has changed the catalogue
            self._stored.plans = {}
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
        tables.check_ending(output_path)
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

    def _plan(self, features: Sequence[str], entity_type: str | None) -> Plan:
        key = (tuple(features), entity_type)
        found = self._stored.plans.get(key)
        if found is None:
            catalogue = self._catalogue()
            columns = catalogue.columns(features, entity_type)
            kinds = sorted({column.feature.entity_type for column in columns})
            if len(kinds) > 1:
                raise Invalid(
                    f"One call answers for one kind of entity, and these features belong to {' and '.join(kinds)}."
                )
            found = self._stored.plans[key] = plan(catalogue, columns)
        return found
