"""Checks the whole log: every leaf from its event, every hash from the leaves, every checkpoint from the hashes."""

from __future__ import annotations

from collections.abc import Iterator

from modelyard.audit import store
from modelyard.audit.merkle import EMPTY_ROOT, append, fold, leaf_hash, number
from modelyard.audit.notes import Checkpoint, PublicKey, checkpoint
from modelyard.audit.rules import Verification, leaf_bytes
from modelyard.core.errors import Damaged
from modelyard.core.ports import Connection, Row

PAGE = 5_000
MOST_PROBLEMS = 100


class Walk:
    """One pass over the leaves in order, with the tree rebuilt beside it.

    Where an event was changed but its stored hash was not, the pass goes on with the stored hash, so that each changed
    event is named and nothing else is.
    """

    def __init__(self, rows: Connection, key: PublicKey | None, outside: Checkpoint | None = None) -> None:
        self.rows = rows
        self.key = key
        self.outside = outside
        self.frontier: list[bytes] = []
        self.size = 0
        self.sound = 0  # leaves covered by the last checkpoint that fitted
        self.checkpoints = 0
        self.first_bad: int | None = None
        self.problems: list[str] = []

    def result(self) -> Verification:
        """Walk, and say what was found."""
        self._leaves()
        self._ends()
        waiting = self.rows.one(
            "SELECT count(*) AS n FROM events WHERE position > (SELECT coalesce(max(position), 0) FROM audit_leaves)"
        )
        return Verification(
            ok=self.first_bad is None,
            size=self.size,
            root=(fold(self.frontier) if self.frontier else EMPTY_ROOT).hex(),
            checkpoints=self.checkpoints,
            first_bad=self.first_bad,
            problems=tuple(self.problems[:MOST_PROBLEMS]),
            waiting=waiting["n"] if waiting else 0,
            against=self.outside.size if self.outside else None,
        )

    def _bad(self, index: int, words: str) -> None:
        index = max(index, 0)
        self.first_bad = index if self.first_bad is None else min(self.first_bad, index)
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"leaf {index}: {words}")

    def _leaves(self) -> None:
        notes = self._notes()
        note = next(notes, None)
        while page := self._page():
            stored = self._stored(page)
            for row in page:
                if row["leaf_index"] != self.size:
                    self._bad(
                        self.size, "the leaf is missing" if row["leaf_index"] > self.size else "the leaf is doubled"
                    )
                    return
                self._leaf(row, stored)
                while note is not None and note["size"] <= self.size:
                    self._signed(note)
                    note = next(notes, None)
                if self.outside is not None and self.outside.size == self.size:
                    self._against(self.outside)
        while note is not None:
            self._bad(self.size, f"a checkpoint signs {note['size']} leaves, but only {self.size} are there")
            note = next(notes, None)

    def _page(self) -> list[Row]:
        try:
            return store.leaves(self.rows, self.size, PAGE)
        except Damaged as error:
            self._bad(self.size, f"it or one of the {PAGE} after it cannot be read ({error})")
            return []

    def _stored(self, page: list[Row]) -> dict[int, bytes]:
        last = self.size + len(page)
        found = store.nodes(self.rows, number(0, self.size), number(0, last))
        return {row["number"]: row["hash"] for row in found}

    def _leaf(self, row: Row, stored: dict[int, bytes]) -> None:
        index, first = self.size, number(0, self.size)
        value, kept = self._recomputed(row), stored.get(first)
        if kept is None:
            self._bad(index, "its hash is missing")
        elif value is not None and value != kept:
            self._bad(index, f"event {row['event_id']} at position {row['position']} is not what was logged")
        known = append(self.frontier, index, kept if isinstance(kept, bytes) else value or b"")
        for above, computed in enumerate(known[1:], start=1):
            if stored.get(first + above) != computed:
                self._bad(index, f"hash number {first + above} of the tree is not the hash of its two halves")
        self.size += 1

    def _recomputed(self, row: Row) -> bytes | None:
        """The leaf's hash from the event as it stands now, None where there is none to compute."""
        if row["event_id"] is None:
            self._bad(self.size, f"the event at position {row['position']} is gone")
            return None
        try:
            return leaf_hash(leaf_bytes(self.size, row["integrated_at"], row))
        except Damaged as error:
            self._bad(self.size, str(error))
            return None

    def _notes(self) -> Iterator[Row]:
        after = -(2**62)
        while page := store.checkpoints(self.rows, after, PAGE):
            yield from page
            after = page[-1]["size"]

    def _signed(self, note: Row) -> None:
        """Hold a stored checkpoint against the tree rebuilt up to it: a root that fits all leaves before it also shows
        that it continues the checkpoint before it."""
        self.checkpoints += 1
        if self.key is None:
            self._bad(self.sound, "there is no public key to check the checkpoints with")
            return
        try:
            signed = checkpoint(note["note"], self.key)
        except Damaged as error:
            self._bad(self.sound, f"the checkpoint at {note['size']} leaves is not the log's: {error}")
            return
        if signed.size != note["size"] or signed.size != self.size:
            self._bad(self.sound, f"a checkpoint of {signed.size} leaves stands as one of {note['size']}")
        elif signed.root != fold(self.frontier):
            self._bad(
                self.sound, f"the first {self.size} leaves are not the ones that the checkpoint at {self.size} signed"
            )
        else:
            self.sound = self.size

    def _against(self, outside: Checkpoint) -> None:
        if outside.root != (fold(self.frontier) if self.size else EMPTY_ROOT):
            self._bad(
                0, f"the log was rewritten: its first {outside.size} leaves are not what the outside checkpoint signed"
            )

    def _ends(self) -> None:
        """What stands beyond the last leaf or beside the leaves."""
        if self.outside is not None and self.outside.size > self.size:
            self._bad(self.size, f"the log was cut: the outside checkpoint signs {self.outside.size} leaves")
        if self.size and self.first_bad is None and self.sound != self.size:
            self._bad(self.sound, "no checkpoint signs this leaf and those after it")
        if self.first_bad is None and store.last_node(self.rows) != number(0, self.size) - 1:
            self._bad(self.size, "the tree has more hashes than leaves make")
        for row in store.intruders(self.rows, MOST_PROBLEMS):
            self._bad(row["before_leaf"], f"event {row['event_id']} at position {row['position']} was slipped in")
