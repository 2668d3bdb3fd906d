"""Checks the whole log: every leaf from its event, every hash from the leaves, every checkpoint from the hashes.

The leaves are taken in complete subtrees of 2^10, each built anew level by level and held against the stored hashes as one
piece of bytes. Where the two differ, and for the leaves behind the last such subtree, they are taken one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from modelyard.audit import chunks, store
from modelyard.audit.chunks import Chunk, Span
from modelyard.audit.findings import MOST_PROBLEMS, Findings
from modelyard.audit.heads import Heads
from modelyard.audit.keyring import Keyring
from modelyard.audit.leaves import Body, EventRow, leaf_bytes, leaf_hashes
from modelyard.audit.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    append,
    fold,
    in_order,
    leaf_hash,
    levels,
    number,
    peaks,
)
from modelyard.audit.notes import Checkpoint
from modelyard.audit.rules import Verification
from modelyard.audit.upkeep import Upkeep
from modelyard.core.errors import Damaged
from modelyard.core.ports import Connection

HEIGHT = 10


class Walk:
    """One pass over the leaves in order, with the tree rebuilt beside it.

    Where an event and its stored hash differ, one of them was changed. The pass then goes on with two trees, one over the
    stored hashes and one over the events as they are; a checkpoint that fits either one clears the leaves around, so
    that what was changed is named and nothing else is.
    """

    rows: Connection
    upkeep: Upkeep

    def __init__(self, keys: Keyring | None, outside: Sequence[Checkpoint] = (), *, height: int = HEIGHT) -> None:
        self.findings = Findings()
        self.heads = Heads(keys, outside, self.findings)
        self.height = height
        self.frontier: list[bytes] = []  # over the events as they are
        self.kept: list[bytes] | None = None  # over the stored hashes, once the two have parted
        self.size = 0
        self._seen_times: list[Any] = []  # of the events of the run of leaves under way, which begins at _run
        self._run = 0

    def result(self, rows: Connection, folder: Path) -> Verification:
        """Walk within one view of the database, and say what was found."""
        self.rows = rows
        self.upkeep = Upkeep(rows, folder)
        self.heads.begin(rows)
        for chunk in self._chunks():
            if not self._at_once(chunk):
                self._one_by_one(chunk)
        self._ends()
        for index, words in self.upkeep.problems():
            self.findings.bad(index, words)
        return self.found(store.count_waiting(rows))

    def unreadable(self, error: Damaged) -> Verification:
        """What was found before the database could not be read any further."""
        self.findings.bad(self.size, f"it or one of the {chunks.PAGE} after it cannot be read ({error})")
        return self.found(0)

    def found(self, waiting: int) -> Verification:
        """The result as far as the walk has come."""
        return Verification(
            ok=not self.findings.problems,
            size=self.size,
            root=(fold(self.frontier) if self.frontier else EMPTY_ROOT).hex(),
            checkpoints=self.heads.count,
            first_bad=self.findings.first_bad,
            problems=tuple(self.findings.problems[:MOST_PROBLEMS]),
            waiting=waiting,
            against=self.heads.against,
        )

    # what is stored

    def _chunks(self) -> Iterator[Chunk]:
        """The leaves in chunks that end at multiples of 2^height; ends early where the runs of leaves do not follow."""
        size, chunk, position, expected, before = 1 << self.height, Chunk(0), 0, 0, None
        for run in chunks.runs(self.rows):
            if before not in (None, run[3]) or (expected and run[1] == position + 1):
                self.heads.expect(expected)  # runs that were integrated together are apart by a gap, and by no time
            before = run[3]
            words = chunks.fault(run, expected, position)
            if words is not None:
                if chunk.count:
                    yield chunk
                self.findings.bad(expected, words)
                return
            index, first, count, integrated_at, *times = run
            expected, position = index + count, first + count - 1
            while count:
                part = min(count, size - chunk.count)
                chunk.spans.append(Span(index, first, part, integrated_at, tuple(times) if part == count else None))
                chunk.count += part
                index, first, count = index + part, first + part, count - part
                if chunk.count == size:
                    yield chunk
                    chunk = Chunk(index)
        if chunk.count:
            yield chunk

    # many leaves at once

    def _at_once(self, chunk: Chunk) -> bool:
        """Check a complete subtree as a whole; False, with nothing done, where something is not as it should be."""
        if chunk.count != 1 << self.height:
            return False
        bodies = self._bodies(chunk)
        if bodies is None:
            return False
        start, stop = number(0, chunk.index), number(0, chunk.index + chunk.count)
        piece, below = chunks.piece(self.rows, start, stop), 2 * chunk.count - 1
        if not piece:
            return False
        try:
            hashes = leaf_hashes([(s.index, s.position, s.count, s.integrated_at) for s in chunk.spans], bodies)
        except Damaged:
            return False
        gone = self.upkeep.expired(chunk.first, chunk.last)
        for index, position, _ in chunk.leaves() if gone else ():
            if position in gone:
                at = (number(0, index) - start) * HASH_BYTES
                hashes[index - chunk.index] = piece[at : at + HASH_BYTES]
        tree = levels(hashes)
        if in_order(tree) != piece[: below * HASH_BYTES]:
            return False
        self._above(chunk, tree[-1][0], piece[(below - 1) * HASH_BYTES :])
        self._heads(chunk, tree)
        self._times(chunk, [body[6] for body in bodies])
        if self.upkeep.asks(bodies, gone):
            leaves = list(chunk.leaves())
            events = [(leaf[1], *body) for leaf, body in zip(leaves, bodies, strict=True)]
            self.upkeep.see((chunk.first, chunk.last), events, leaves, gone)
        return True

    def _bodies(self, chunk: Chunk) -> list[Body] | None:
        """The events of a chunk; None unless one stands at each position."""
        bodies: list[Body] = []
        for first, last in chunk.stretches():
            found = store.bodies_between(self.rows, first, last)
            if len(found) != last - first + 1:
                return None
            bodies += found
        return bodies

    def _times(self, chunk: Chunk, times: Sequence[Any]) -> None:
        """A run tells the earliest and the latest time of its events: what a search by time relies on. None stands for
        an event that is gone."""
        at = 0
        for span in chunk.spans:
            if not self._seen_times:
                self._run = span.index
            self._seen_times += times[at : at + span.count]
            at += span.count
            if span.times is not None:
                seen, self._seen_times = self._seen_times, []
                if self.findings.named < self._run and None not in seen and not _ends_of(seen, span.times):
                    self.findings.bad(self._run, "the times told for its run of leaves are not those of its events")

    def _above(self, chunk: Chunk, top: bytes, stored: bytes) -> None:
        """Go on with the trees above a subtree that is as it was stored."""
        self._before = list(self.frontier), None if self.kept is None else list(self.kept)
        above = append(self.frontier, chunk.index >> self.height, top)
        others = above if self.kept is None else append(self.kept, chunk.index >> self.height, top)
        for n in range(1, len(above)):
            if stored[n * HASH_BYTES : (n + 1) * HASH_BYTES] not in (above[n], others[n]):
                last = chunk.index + chunk.count - 1
                self.findings.bad(last, "a hash of the tree above it is not the hash of its two halves")
        self.size = chunk.index + chunk.count

    def _heads(self, chunk: Chunk, tree: list[list[bytes]]) -> None:
        """Hold the checkpoints that end within a subtree against it."""

        def roots(size: int) -> tuple[bytes, ...]:
            if size == chunk.index + chunk.count:
                return self._roots()
            part = [tree[level][index] for level, index in peaks(size - chunk.index)]
            frontier, kept = self._before
            return tuple(fold(peak + part) for peak in (frontier, kept) if peak is not None)

        self.heads.up_to(self.size, roots)

    # leaf by leaf

    def _one_by_one(self, chunk: Chunk) -> None:
        events = {event[0]: event for event in store.events_between(self.rows, chunk.first, chunk.last)}
        stored = chunks.hashes(self.rows, number(0, chunk.index), number(0, chunk.index + chunk.count))
        gone = self.upkeep.expired(chunk.first, chunk.last)
        for index, position, integrated_at in chunk.leaves():
            self._leaf(index, (position, integrated_at), events.get(position), stored, position in gone)
            self.heads.up_to(self.size, lambda _: self._roots())
        self._times(chunk, [events[at][7] if at in events else None for _, at, _ in chunk.leaves()])
        leaves = [leaf for leaf in chunk.leaves() if leaf[1] in events]
        present = [events[position] for _, position, _ in leaves]
        if self.upkeep.asks(present, gone):
            self.upkeep.see((chunk.first, chunk.last), present, leaves, gone)

    def _leaf(
        self, index: int, place: tuple[int, int], event: EventRow | None, stored: dict[int, bytes], gone: bool
    ) -> None:
        first = number(0, index)
        kept = stored.get(first)
        value = kept if gone and event is not None else self._recomputed(place, event)
        if kept is None:
            self.findings.bad(index, "its hash is missing")
        elif value is not None and value != kept and event is not None:
            self.findings.bad(index, f"event {event[1]} at position {event[0]} is not what was logged")
        if value != kept and self.kept is None:
            self.kept = self.frontier.copy()
        known = append(self.frontier, index, value or EMPTY_ROOT)
        others = known
        if self.kept is not None:
            others = append(self.kept, index, kept if kept is not None else value or EMPTY_ROOT)
        for above in range(1, len(known)):
            if stored.get(first + above) not in (known[above], others[above]):
                self.findings.bad(index, f"hash number {first + above} of the tree is not the hash of its two halves")
        self.size += 1

    def _recomputed(self, place: tuple[int, int], event: EventRow | None) -> bytes | None:
        """The leaf's hash from the event as it stands now, None where there is none to compute."""
        if event is None:
            self.findings.bad(self.size, f"the event at position {place[0]} is gone")
            return None
        try:
            return leaf_hash(leaf_bytes(self.size, place[1], event))
        except Damaged as error:
            self.findings.bad(self.size, str(error))
            return None

    def _roots(self) -> tuple[bytes, ...]:
        """The root over the events, and the one over the stored hashes where it differs."""
        return (fold(self.frontier),) if self.kept is None else (fold(self.frontier), fold(self.kept))

    def _ends(self) -> None:
        """What stands beyond the last leaf or beside the leaves."""
        self.heads.end(self.size)
        if self.findings.first_bad is None and not self._no_more_hashes():
            self.findings.bad(self.size, "the tree has more hashes than leaves make")
        for row in store.intruders(self.rows, MOST_PROBLEMS):
            self.findings.bad(
                row["before_leaf"], f"event {row['event_id']} at position {row['position']} was slipped in"
            )

    def _no_more_hashes(self) -> bool:
        count, last = number(0, self.size), store.last_block(self.rows)
        if last is None:
            return count == 0
        return last[0] * store.IN_BLOCK + len(last[1]) / HASH_BYTES == count


def _ends_of(seen: Sequence[Any], times: tuple[Any, Any]) -> bool:
    """Whether these are the earliest and the latest of the times; a time that is no number is named by its leaf."""
    return any(type(time) is not int for time in seen) or times == (min(seen), max(seen))
