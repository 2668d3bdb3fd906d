"""The checkpoints of a log, and those that others have seen of it, held against the tree as that is rebuilt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from modelyard.audit import chunks, store
from modelyard.audit.findings import Findings
from modelyard.audit.keyring import Keyring
from modelyard.audit.notes import Checkpoint
from modelyard.core.errors import Damaged
from modelyard.core.events import EventType
from modelyard.core.ports import Connection, Row

Roots = Callable[
    [int], tuple[bytes, ...]
]  # over so many leaves: of the events, and of the stored hashes where they differ


class Heads:
    """Every checkpoint in the order of its size, next to the size that the walk has come to."""

    def __init__(self, keys: Keyring | None, outside: Sequence[Checkpoint], findings: Findings) -> None:
        self.keys = keys
        self.findings = findings
        self.against = max((head.size for head in outside), default=None)
        self.count = 0
        self.sound = 0  # leaves covered by the last checkpoint that fitted
        self._outside: list[Checkpoint] = sorted(outside, key=lambda head: head.size)
        self._due: set[int] = set()  # sizes at which a checkpoint must stand, and does
        self._there: set[int] = set()

    def begin(self, rows: Connection) -> None:
        """Read the stored checkpoints from the first."""
        self._cosigners = _cosigners(rows)
        self._notes: Iterator[Row] = chunks.notes(rows)
        self._note = next(self._notes, None)

    def expect(self, size: int) -> None:
        """A checkpoint must stand at so many leaves."""
        self._due.add(size)

    def up_to(self, size: int, roots: Roots) -> None:
        """Hold every checkpoint of at most this many leaves against the tree."""
        while self._note is not None and self._note["size"] <= size:
            self._hold(self._note, size, roots)
            self._note = next(self._notes, None)
        while self._outside and self._outside[0].size <= size:
            outside = self._outside.pop(0)
            if outside.size and outside.root not in roots(outside.size):
                self.findings.bad(
                    0,
                    f"the log was rewritten: its first {outside.size} leaves are not what the outside checkpoint signed",
                )

    def end(self, size: int) -> None:
        """What is wrong once the last leaf was seen: checkpoints beyond it, and those that are not there."""
        while self._note is not None:
            note, self._note = self._note, next(self._notes, None)
            self.count += 1
            self.findings.bad(size, f"a checkpoint signs {note['size']} leaves, but only {size} are there")
        for outside in self._outside:
            self.findings.bad(size, f"the log was cut: the outside checkpoint signs {outside.size} leaves")
        if self.findings.first_bad is None and self._due - self._there:
            self.findings.bad(min(self._due - self._there) - 1, "the checkpoint that was signed behind it is gone")
        if size and self.findings.first_bad is None and self.sound != size:
            self.findings.bad(self.sound, "no checkpoint signs this leaf and those after it")

    def _hold(self, note: Row, size: int, roots: Roots) -> None:
        """Hold a stored checkpoint against the tree rebuilt up to it: a root that fits all leaves before it also shows
        that it continues the checkpoint before it."""
        self.count += 1
        self._there.add(note["size"])
        if self.keys is None:
            self.findings.bad(self.sound, "there is no public key to check the checkpoints with")
            return
        try:
            signed = self.keys.checkpoint(note["note"])
            for cosigner, start in self._cosigners:
                if signed.size >= start:
                    cosigner.check(note["note"], signed)
        except Damaged as error:
            self.findings.bad(self.sound, f"the checkpoint at {note['size']} leaves is not the log's: {error}")
            return
        if signed.size != note["size"] or not 0 < signed.size <= size:
            self.findings.bad(self.sound, f"a checkpoint of {signed.size} leaves stands as one of {note['size']}")
        elif signed.root not in roots(signed.size):
            at = self.sound if self.findings.suspect is None else self.findings.suspect
            self.findings.bad(
                at, f"the first {signed.size} leaves are not the ones that the checkpoint at {signed.size} signed"
            )
        else:
            self.sound = signed.size
            self.findings.suspect = None


def _cosigners(rows: Connection) -> list[tuple[Any, int]]:
    """The ML-DSA keys that sign beside the log's own, and the size from which on each does."""
    told = [json.loads(row["details"]) for row in store.events_of(rows, EventType.CONFIGURATION_CHANGED.value)]
    lines = [(d["cosigner"], d["size"]) for d in told if "cosigner" in d and not d.get("reported")]
    if not lines:
        return []
    from modelyard.audit.cosigning import Cosigner  # needs a newer cryptography than all the rest

    return [(Cosigner.parse(line), size) for line, size in lines]
