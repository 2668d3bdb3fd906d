"""What is stored: the segments, which are the truth, and the online rows, which are kept in step with them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from pathlib import Path

import modelyard.features.store as sql
from modelyard.core import plugins
from modelyard.core.errors import Unavailable
from modelyard.core.events import EventType
from modelyard.core.ports import OnlineStore
from modelyard.core.refs import Resource
from modelyard.core.work import Store, Work
from modelyard.features.online import MANY_MARKS, Online, Plan, packed, view_of
from modelyard.features.rules import Catalogue, Layout, runs
from modelyard.features.segments import Batch, Segments
from modelyard.features.store import Segment
from modelyard.features.values import Compacted, Written

EVERY, SMALL = 100, 100_000  # after so many segments, those of fewer rows are merged
LARGEST = 5_000_000  # rows of one merged segment: some hundred megabytes in memory


class Stored:
    """The segments and the online store of one feature store.

    A write lists its segments in one transaction, then puts the newest rows online and marks the segments as in. Whatever
    stops it in between, the first use by a later program finds the segments that are not marked, and puts them in.
    """

    def __init__(self, store: Store, online_url: str) -> None:
        self.store = store
        self.segments = Segments(store)
        self._online_url = online_url
        self._cleaned = False
        self.plans: dict[
            tuple[tuple[str, ...], str | None], Plan
        ] = {}  # by what is asked for, until definitions change

    @cached_property
    def online(self) -> Online:
        """The online store, with everything in it that is in the segments."""
        online = Online(self._port())
        with self.store.reading() as rows:
            catalogue = sql.catalogue(rows)
        floor = online.floor(catalogue.identity)
        with self.store.reading() as rows:
            segments = sql.segments(rows, after=floor)
        missing = online.missing(catalogue.identity, segments)
        self._put(online, catalogue, missing, None)
        if missing or len(segments) > MANY_MARKS:
            online.raise_floor(catalogue.identity, segments)
        return online

    def append(self, prepare: Callable[[Catalogue], list[Batch]], user: str) -> Written:
        """Store the batches that `prepare` makes of the present definitions: all of them or none."""
        while True:
            with self.store.reading() as rows:
                catalogue = sql.catalogue(rows)
            batches = [batch for batch in prepare(catalogue) if len(batch.events)]
            if not batches:
                return Written(rows=0, segments=0, online=0)
            _ = self.online  # opened before anything is stored: it may refuse
            added = self._listed_now(catalogue, batches, user)
            if added is not None:
                break
        if any(segment.layout not in catalogue.layouts for segment in added):
            self.announce({batch.entity_type for batch in batches})
        with self._in_step():
            changed = self._put_batches(catalogue, added, batches)
            self.online.mark(catalogue.identity, added)
        if any(segment.segment_id % EVERY == 0 for segment in added):
            self.compact(user, SMALL)
        return Written(rows=sum(len(x.events) for x in batches), segments=len(added), online=changed)

    def materialize(self, features: Sequence[str] | None, up_to: int | None) -> int:
        """Put the newest stored rows online, each if it is newer; returns how many were."""
        with self.store.reading() as rows:
            catalogue, segments = sql.catalogue(rows), sql.segments(rows)
        layouts = set(catalogue.layouts)
        if features is not None:
            layouts = {x for column in catalogue.columns(features) for x in catalogue.layouts_with(column.feature)}
        with self._in_step():
            return self._put(self.online, catalogue, [x for x in segments if x.layout in layouts], up_to)

    def compact(self, user: str, largest: int = LARGEST) -> Compacted:
        """Merge small segments and remove files that nothing needs."""
        _ = self.online  # a segment's rows are online before it is merged away
        with self.store.work(user) as work:
            segments = sql.segments(work.rows)
            told = [(x.rows, x.layout.layout_id, frozenset(x.layout.features)) for x in segments]
            found = [[segments[at] for at in run] for run in runs(told, largest)]
            for run in found:
                self.segments.merge(work, run)
            removed = self.segments.clean(work)
        return Compacted(merged=sum(map(len, found)), into=len(found), removed=removed)

    def forget(self, entity_type: str, keys: Sequence[str], user: str) -> int:
        """Remove every row of some entities, online and from the segments, whose old files go at once; returns how many rows."""
        with self.store.work(user) as work:
            catalogue = sql.catalogue(work.rows)
            segments = [x for x in sql.segments(work.rows) if x.layout.entity_type == entity_type]
            pairs = [(x, self.segments.merge(work, [x], without=keys)) for x in segments]
            removed = sum(before.rows - after.rows for before, after in pairs if after is not None)
            details = {"entity_type": entity_type, "entities": len(keys), "rows": removed}
            work.emit(EventType.FEATURES_FORGOTTEN, Resource("entity_type", entity_type), details)
        with self.store.work(user) as work:
            self.segments.clean(work, kept=timedelta(microseconds=-1))
        layouts = [layout.layout_id for layout in catalogue.layouts if layout.entity_type == entity_type]
        with self._in_step():
            for layout in layouts:
                self.online.port.delete(view_of(catalogue, entity_type), [f"{layout}/{key}" for key in keys])
        return removed

    def announce(self, entity_types: Iterable[str]) -> None:
        """Let other processes know that the catalogue has changed."""
        self.plans = {}
        with self.store.reading() as rows:
            catalogue = sql.catalogue(rows)
        with self._in_step():
            for entity_type in entity_types:
                self.online.announce(view_of(catalogue, entity_type), catalogue.generation)

    def close(self) -> None:
        """Give connections back."""
        if "online" in self.__dict__:
            self.online.port.close()

    def _listed_now(self, catalogue: Catalogue, batches: list[Batch], user: str) -> list[Segment] | None:
        """The batches as segments; None if the definitions they were made with have changed meanwhile."""
        with tempfile.TemporaryDirectory(prefix="modelyard-") as scratch:
            files = [self.segments.written(batch, Path(scratch)) for batch in batches]
            with self.store.work(user) as work:
                if sql.generation(work.rows) != catalogue.generation:
                    return None
                if not self._cleaned:
                    self.segments.clean(work)
                    self._cleaned = True
                layouts = self._layouts(work, catalogue, batches)
                return [self.segments.add(work, *parts) for parts in zip(layouts, files, batches, strict=True)]

    def _layouts(self, work: Work, catalogue: Catalogue, batches: Sequence[Batch]) -> list[Layout]:
        """Each batch's layout, a new one where its set of features is new."""
        known = {(layout.entity_type, layout.features): layout for layout in catalogue.layouts}
        keys = [(batch.entity_type, tuple(feature.name for feature in batch.features)) for batch in batches]
        fresh = [key for key in dict.fromkeys(keys) if key not in known]
        for key in fresh:
            known[key] = Layout(sql.insert_layout(work.rows, *key), *key)
        if fresh:
            sql.next_generation(work.rows)
        return [known[key] for key in keys]

    def _put_batches(self, catalogue: Catalogue, added: Sequence[Segment], batches: Sequence[Batch]) -> int:
        changed = 0
        for segment, batch in zip(added, batches, strict=True):
            rows = packed(
                segment.layout,
                entities=batch.entities,
                events=batch.events,
                created=batch.created,
                written=segment.written,
                columns=batch.columns,
            )
            changed += self.online.put(view_of(catalogue, batch.entity_type), rows)
        return changed

    def _put(self, online: Online, catalogue: Catalogue, segments: Sequence[Segment], up_to: int | None) -> int:
        changed = 0
        for layout in dict.fromkeys(segment.layout for segment in segments):
            members = [segment for segment in segments if segment.layout == layout]
            rows = self.segments.newest(layout, members, catalogue, up_to)
            changed += online.put(view_of(catalogue, layout.entity_type), rows)
        return changed

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """Where the online store fails, the next use opens it anew and puts in what is missing."""
        try:
            yield
        except Unavailable:
            self.__dict__.pop("online", None)
            raise

    def _port(self) -> OnlineStore:
        url = self._online_url
        if url:
            port: OnlineStore = plugins.load("online_store", url.partition("://")[0])(url)
        elif "://" in self.store.database.url:
            port = plugins.load("online_store", "database")(self.store.database)
        else:
            port = plugins.load("online_store", "sqlite")(self.store.folder)
        return port
