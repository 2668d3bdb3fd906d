"""How values come in: single values, tables, records and files, each as wide rows of one kind of entity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.ids import checked_list
from modelyard.core.operations import operation
from modelyard.features.definitions import Definitions
from modelyard.features.rules import TIME, Catalogue
from modelyard.features.segments import Batch
from modelyard.features.tables import batch_of_frame, batches_of_values
from modelyard.features.values import FeatureValue, Written


class Writing(Definitions):
    """Stores values in the history, and online where they are the newest."""

    def write_online_features(self, values: Iterable[FeatureValue], *, user: str = "system") -> Written:
        """Store values: in the history, and online where they are the newest. All of them, or none if one is refused.

        Of values with the same feature, entity and times the last one stands.
        """
        items = checked_list(values, "values")
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
