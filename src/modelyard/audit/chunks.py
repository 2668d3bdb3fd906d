"""What is stored of the leaves, in the pieces in which it is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from modelyard.audit import store
from modelyard.audit.merkle import HASH_BYTES
from modelyard.core.ports import Connection, Row

PAGE = 5_000


@dataclass(frozen=True, slots=True)
class Span:
    """Leaves of one run that belong to one chunk: the first one's index, its event's position, how many, when they were
    integrated, and what the run tells of the times of its events, if this is the end of it."""

    index: int
    position: int
    count: int
    integrated_at: int
    times: tuple[Any, Any] | None


@dataclass(slots=True)
class Chunk:
    """Leaves that are checked together."""

    index: int
    count: int = 0
    spans: list[Span] = field(default_factory=list)

    @property
    def first(self) -> int:
        """The position of the first event."""
        return self.spans[0].position

    @property
    def last(self) -> int:
        """The position of the last event."""
        return self.spans[-1].position + self.spans[-1].count - 1

    def stretches(self) -> list[tuple[int, int]]:
        """(first, last) of the positions that follow each other without a gap."""
        found: list[tuple[int, int]] = []
        for span in self.spans:
            last = span.position + span.count - 1
            if found and found[-1][1] + 1 == span.position:
                found[-1] = found[-1][0], last
            else:
                found.append((span.position, last))
        return found

    def leaves(self) -> Iterator[tuple[int, int, int]]:
        """(index, position, integrated_at) of each leaf."""
        for span in self.spans:
            for n in range(span.count):
                yield span.index + n, span.position + n, span.integrated_at


def runs(rows: Connection) -> Iterator[tuple[Any, ...]]:
    """Every run of leaves, in order."""
    after = -(2**62)
    while page := store.runs(rows, after, PAGE):
        yield from page
        after = page[-1][0]


def notes(rows: Connection) -> Iterator[Row]:
    """Every stored checkpoint, in the order of sizes."""
    after = -(2**62)
    while page := store.checkpoints(rows, after, PAGE):
        yield from page
        after = page[-1]["size"]


def hashes(rows: Connection, start: int, stop: int) -> dict[int, bytes]:
    """The stored hashes with numbers from start up to, not including, stop: those that are there."""
    found: dict[int, bytes] = {}
    for block, data in store.blocks(rows, start // store.IN_BLOCK, (stop - 1) // store.IN_BLOCK + 1):
        if type(data) is bytes:
            low = block * store.IN_BLOCK
            for at in range(0, len(data), HASH_BYTES):
                found[low + at // HASH_BYTES] = data[at : at + HASH_BYTES]
    return found


def piece(rows: Connection, start: int, stop: int) -> bytes:
    """The stored hashes with numbers from start up to, not including, stop, as one; b"" unless all are there."""
    first, size = start // store.IN_BLOCK, store.IN_BLOCK * HASH_BYTES
    found = store.blocks(rows, first, (stop - 1) // store.IN_BLOCK + 1)
    whole = all(
        block == first + n and type(data) is bytes and (len(data) == size or n == len(found) - 1)
        for n, (block, data) in enumerate(found)
    )
    low = first * store.IN_BLOCK
    data = b"".join(data for _, data in found)[(start - low) * HASH_BYTES : (stop - low) * HASH_BYTES] if whole else b""
    return data if len(data) == (stop - start) * HASH_BYTES else b""


def fault(run: tuple[Any, ...], expected: int, position: int) -> str | None:
    """What is wrong with a run of leaves that should begin at an index, behind a position."""
    index, first, count, integrated_at, *_ = run
    if any(type(value) is not int for value in (first, count, integrated_at)) or count < 1:
        return "the run of leaves holds a number that no modelyard wrote"
    if index != expected:
        return "the leaf is missing" if index > expected else "the leaf is doubled"
    if first <= position:
        return f"its event's position {first} does not follow that of the leaf before, {position}"
    return None
