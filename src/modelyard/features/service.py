"""FeatureStore: definitions, values online and at any moment of the past, and the upkeep of what is stored."""

from __future__ import annotations

from datetime import datetime

from modelyard.core.operations import operation
from modelyard.features.columns import instant, keys_of
from modelyard.features.reading import Reading
from modelyard.features.values import Compacted
from modelyard.features.writing import Writing


class FeatureStore(Writing, Reading):
    """Features of entities: defined once, written once, read as they are now or as they were known at any moment.

    Values live in Parquet segments, the one source of truth; the newest of each entity are also held for reading in
    microseconds: in a file beside the database, in the database itself where that is a server, or in the Redis
    that `online` names (redis://host:port/0). Times without a zone are UTC, and are kept to the microsecond.
    """

    @operation("POST", "/features/materialize", needs="features.write")
    def materialize(self, features: list[str] | None = None, *, up_to: datetime | None = None) -> int:
        """How many rows were put online: the newest stored values of the features (all of them unless given).

        Needed after the online store was lost while a program ran; a program that starts does it by itself. Only values
        with an event time of `up_to` or before are looked at; nothing newer is overwritten, so it may be repeated, and
        then puts the same rows in once more.

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
        self._catalogue().check_kind(entity_type)
        keys = [key for key in keys_of(entity_ids) if key is not None]
        return self._stored.forget(entity_type, keys, user)
