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

    Where an event and its stored hash differ, one of them was changed. The pass then goes on with two trees, one over the
    stored hashes and one over the events as they are; a checkpoint that fits either one clears the leaves around, so
    that what was changed is named and nothing else is.
    """

    rows: Connection

    def __init__(self, key: PublicKey | None, outside: Checkpoint | None = None) -> None:
        self.key = key
        self.outside = outside
        self.frontier: list[bytes] = []  # over the events as they are
        self.kept: list[bytes] | None = None  # over the stored hashes, once the two have parted
        self.size = 0
        self.suspect: int | None = None  # the first bad leaf since the last checkpoint that fitted
        self.sound = 0  # leaves covered by the last checkpoint that fitted
        self.checkpoints = 0
        self.first_bad: int | None = None
        self.problems: list[str] = []

    def result(self, rows: Connection) -> Verification:
        """Walk within one view of the database, and say what was found."""
        self.rows = rows
        self._leaves()
        self._ends()
        waiting = self.rows.one(
            "SELECT count(*) AS n FROM events WHERE position > (SELECT coalesce(max(position), 0) FROM audit_leaves)"
        )
        return self.found(waiting["n"] if waiting else 0)

    def unreadable(self, error: Damaged) -> Verification:
        """What was found before the database could not be read any further."""
        self._bad(self.size, f"it or one of the {PAGE} after it cannot be read ({error})")
        return self.found(0)

    def found(self, waiting: int) -> Verification:
        """The result as far as the walk has come."""
        return Verification(
            ok=self.first_bad is None,
            size=self.size,
            root=(fold(self.frontier) if self.frontier else EMPTY_ROOT).hex(),
            checkpoints=self.checkpoints,
            first_bad=self.first_bad,
            problems=tuple(self.problems[:MOST_PROBLEMS]),
            waiting=waiting,
            against=self.outside.size if self.outside else None,
        )

    def _bad(self, index: int, words: str) -> None:
        index = max(index, 0)
        self.first_bad = index if self.first_bad is None else min(self.first_bad, index)
        self.suspect = index if self.suspect is None else self.suspect
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"leaf {index}: {words}")

    def _leaves(self) -> None:
        notes = self._notes()
        note = next(notes, None)
        while page := store.leaves(self.rows, self.size, PAGE):
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
        if value != kept and self.kept is None:
            self.kept = self.frontier.copy()
        known = append(self.frontier, index, value or EMPTY_ROOT)
        others = known
        if self.kept is not None:
            others = append(self.kept, index, kept if isinstance(kept, bytes) else value or EMPTY_ROOT)
        for above in range(1, len(known)):
            if stored.get(first + above) not in (known[above], others[above]):
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
        elif signed.root not in self._roots():
            at = self.sound if self.suspect is None else self.suspect
            self._bad(at, f"the first {self.size} leaves are not the ones that the checkpoint at {self.size} signed")
        else:
            self.sound, self.suspect = self.size, None

    def _roots(self) -> tuple[bytes, ...]:
        """The root over the events, and the one over the stored hashes where it differs."""
        return (fold(self.frontier),) if self.kept is None else (fold(self.frontier), fold(self.kept))

    def _against(self, outside: Checkpoint) -> None:
        if outside.root not in self._roots():
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
