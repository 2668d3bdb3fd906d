"""Online values: one packed row an entity and layout, behind the port, kept in step with the segments.

A packed row is 16 bytes that decide between equal event times (created time, then writing order, both big-endian), and
the values as one MessagePack array in the layout's order. A layout's own row means that features written together are
read together, and that two writers of different features never touch the same row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from modelyard.core.ports import OnlineStore
from modelyard.features.columns import Masked
from modelyard.features.rules import Catalogue, Column, Layout
from modelyard.features.store import Segment

HEADER = struct.Struct(">QQ")
SIGN = 1 << 63  # moves signed times to where their big-endian bytes sort as they do
GENERATION, FLOOR = "generation", "floor"
NOBODY = "0/"  # no layout has id 0: the key of an unknown entity
MANY_MARKS = 100

NEVER = -(1 << 63)  # earlier than any event

Rows = list[tuple[str, int, bytes]]
Sources = tuple[tuple[int, int], ...]  # (layout's index in the plan, position in its packed values)
Winners = dict[tuple[int, ...], list[tuple[Any, int]]]  # by layouts: each entity's (row or None, layout)

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list).decode


@dataclass(frozen=True, slots=True)
class Plan:
    """How a request is read: which layouts, and for each column the (layout, position) pairs that may hold it."""

    view: str
    entity_type: str
    generation: int
    prefixes: tuple[str, ...]
    columns: tuple[tuple[str, int | None, Sources], ...]  # output, ttl, sources
    versions: Mapping[str, int]


def plan(catalogue: Catalogue, columns: Sequence[Column]) -> Plan:
    """The plan for columns of one kind of entity."""
    kind = columns[0].feature.entity_type
    used: dict[int, int] = {}
    spots = []
    for column in columns:
        sources = []
        for layout in catalogue.layouts_with(column.feature):
            index = used.setdefault(layout.layout_id, len(used))
            sources.append((index, layout.features.index(column.feature.name)))
        spots.append((column.output, column.ttl, tuple(sources)))
    prefixes = tuple(f"{layout}/" for layout in used)
    versions = {column.output: column.feature.version for column in columns}
    return Plan(view_of(catalogue, kind), kind, catalogue.generation, prefixes, tuple(spots), versions)


def view_of(catalogue: Catalogue, entity_type: str) -> str:
    """The view that holds one kind of entity. The identity keeps stores apart that share a server."""
    return f"{catalogue.identity}/{entity_type}"


class Online:
    """The online store, with what was written to it."""

    def __init__(self, port: OnlineStore) -> None:
        self.port = port

    def read(self, plan: Plan, keys: Sequence[str | None], now: int) -> tuple[int, list[list[Any]]]:
        """The catalogue generation that the store knows of, and each column's values in the order of the keys."""
        asked = [GENERATION]
        for prefix in plan.prefixes:
            asked += [NOBODY if key is None else prefix + key for key in keys]
        found = self.port.read(plan.view, asked)
        generation = found[0][0] if found[0] else 0
        count = len(keys)
        if not count:
            return generation, [[] for _ in plan.columns]
        blocks = [
            [row and (row[0], row[1], _decode(row[1][16:])) for row in found[start : start + count]]
            for start in range(1, len(found), count)
        ]
        winners = _winners(blocks, plan, count)
        return generation, [_column(winners, ttl, sources, now) for _, ttl, sources in plan.columns]

    def put(self, view: str, rows: Rows) -> int:
        """Store packed rows, each if it is newer; returns how many were."""
        return self.port.write(view, rows)

    def announce(self, view: str, generation: int) -> None:
        """Let other processes know that the catalogue has changed."""
        self.port.write(view, [(GENERATION, generation, HEADER.pack(0, 0))])

    def mark(self, identity: str, segments: Iterable[Segment]) -> None:
        """Note that the rows of these segments are in."""
        self.port.write(identity, [(_mark(x.segment_id), 0, HEADER.pack(0, 0)) for x in segments])

    def floor(self, identity: str) -> int:
        """The segment id up to which everything is in."""
        found = self.port.read(identity, [FLOOR])[0]
        return found[0] if found else 0

    def missing(self, identity: str, segments: Sequence[Segment]) -> list[Segment]:
        """The segments whose rows are not noted as in."""
        marks = self.port.read(identity, [_mark(x.segment_id) for x in segments]) if segments else []
        return [segment for segment, mark in zip(segments, marks, strict=True) if mark is None]

    def raise_floor(self, identity: str, segments: Sequence[Segment]) -> None:
        """Note once that all these segments and everything before them are in, instead of one by one."""
        self.port.write(identity, [(FLOOR, max(x.segment_id for x in segments), HEADER.pack(0, 0))])
        self.port.delete(identity, [_mark(x.segment_id) for x in segments])


def packed(
    layout: Layout,
    *,
    entities: np.ndarray,
    events: np.ndarray,
    created: np.ndarray,
    written: int | np.ndarray,
    columns: Mapping[str, Masked],
) -> Rows:
    """The newest row of each entity, packed for the online store. Of equal times the later row wins."""
    order = np.lexsort((created, events))
    newest = np.fromiter(dict(zip(entities[order].tolist(), order.tolist(), strict=True)).values(), dtype=np.int64)
    values = zip(*(_items(columns[name], newest) for name in layout.features), strict=True)
    stamps = zip((created[newest].tolist()), np.broadcast_to(written, len(events))[newest].tolist(), strict=True)
    prefix = f"{layout.layout_id}/"
    return [
        (prefix + entity, event, HEADER.pack(at + SIGN, order) + _encode(row))
        for entity, event, (at, order), row in zip(
            entities[newest].tolist(), events[newest].tolist(), stamps, values, strict=True
        )
    ]


def _items(column: Masked, chosen: np.ndarray) -> list[Any]:
    items: list[Any] = np.ma.getdata(column)[chosen].tolist()
    for position in np.flatnonzero(np.ma.getmaskarray(column)[chosen]).tolist():
        items[position] = None
    return items


def _column(winners: Winners, ttl: int | None, sources: Sources, now: int) -> list[Any]:
    """One column's values: of each entity's newest row among the column's layouts."""
    position = dict(sources)
    oldest = None if ttl is None else now - ttl
    return [
        row[2][position[block]] if row and (oldest is None or row[0] >= oldest) else None
        for row, block in winners[tuple(position)]
    ]


def _winners(blocks: list[list[Any]], plan: Plan, count: int) -> Winners:
    """For each set of layouts that a column may be in: each entity's newest row among them, and its layout."""
    found: Winners = {(): [(None, 0)] * count}
    for _, _, sources in plan.columns:
        among = tuple(block for block, _ in sources)
        if among in found:
            continue
        if len(among) == 1:
            found[among] = [(row, among[0]) for row in blocks[among[0]]]
        else:
            rows = zip(*(blocks[block] for block in among), strict=True)
            found[among] = [max(zip(row, among, strict=True), key=_newness) for row in rows]
    return found


def _newness(held: tuple[Any, int]) -> tuple[int, bytes]:
    row = held[0]
    return (row[0], row[1][:16]) if row else (NEVER, b"")


def _mark(segment_id: int) -> str:
    return f"segment/{segment_id}"
