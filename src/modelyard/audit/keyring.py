"""Which key signs which sizes of the log: a key names its successor in a statement that both sign.

A statement is a signed note (https://c2sp.org/signed-note) whose text is the line `modelyard.audit/key-rotation@v1`, the
log's name, the old and the new key as `name+hash+key`, and the first size that only the new key signs. From any key that
someone trusts, the statements lead to every other key of the log, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from modelyard.audit.notes import Checkpoint, PublicKey, SigningKey, checkpoint, opened
from modelyard.core.errors import Damaged, Invalid

STATEMENT = "modelyard.audit/key-rotation@v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """One key's hand-over to the next: the new key signs every tree of `size` leaves or more."""

    old: PublicKey
    new: PublicKey
    size: int

    def text(self) -> str:
        """What both keys sign."""
        return f"{STATEMENT}\n{self.old.name}\n{self.old}\n{self.new}\n{self.size}\n"

    def signed(self, old: SigningKey, new: SigningKey) -> str:
        """The statement with both signatures."""
        return old.sign(self.text()) + new.line(self.text())


def rotation(note: str) -> Rotation:
    """The hand-over that a statement tells of, both signatures checked; Damaged for anything else."""
    lines = note.partition("\n\n")[0].split("\n")
    if len(lines) != 5 or lines[0] != STATEMENT or not lines[4].isdecimal() or not lines[4].isascii():
        raise Damaged("This is no statement of a new key: five lines must stand before its signatures.")
    try:
        old, new = PublicKey.parse(lines[2]), PublicKey.parse(lines[3])
    except Invalid as error:
        raise Damaged(f"A statement of a new key names no key: {error}") from error
    if old.name != lines[1] or new.name != lines[1] or old == new:
        raise Damaged("A statement of a new key is not about two keys of one log.")
    found = Rotation(old=old, new=new, size=int(lines[4]))
    for key in (old, new):
        if opened(note, key) != found.text():
            raise Damaged("A statement of a new key is not in its standard form.")
    return found


@dataclass(frozen=True, slots=True)
class Keyring:
    """A log's keys in their order, each but the first with the size from which on it signs."""

    first: PublicKey
    later: tuple[Rotation, ...] = ()

    @classmethod
    def around(cls, trusted: PublicKey, statements: Iterable[str]) -> Keyring:
        """The chain of keys that the trusted one is in; statements of other logs' keys are passed over.

        Damaged where a statement is not signed by both its keys, or two name different successors of one key.
        """
        hops = [rotation(note) for note in dict.fromkeys(statements)]
        after = {hop.old: hop for hop in hops}
        before = {hop.new: hop for hop in hops}
        if len(after) != len(hops) or len(before) != len(hops):
            raise Damaged("Two statements name different successors of one key. Keep to the copy kept elsewhere.")
        first = trusted
        while first in before and before[first].old != trusted:
            first = before[first].old
        chain: list[Rotation] = []
        key = first
        while key in after and len(chain) < len(hops):
            chain.append(after[key])
            key = after[key].new
        sizes = [hop.size for hop in chain]
        if sizes != sorted(set(sizes)):
            raise Damaged("The statements of new keys contradict each other in their sizes.")
        return cls(first, tuple(chain))

    @classmethod
    def parse(cls, text: str) -> Keyring:
        """The keys in a public key file: the trusted key's line, and behind a blank line any statements."""
        head, _, rest = text.strip().partition("\n\n")
        return cls.around(PublicKey.parse(head), split_statements(rest))

    @property
    def newest(self) -> PublicKey:
        """The key that signs now."""
        return self.later[-1].new if self.later else self.first

    def at(self, size: int) -> PublicKey:
        """The key that signs a tree of this size."""
        key = self.first
        for hop in self.later:
            if size >= hop.size:
                key = hop.new
        return key

    def checkpoint(self, note: str) -> Checkpoint:
        """The checkpoint in a signed note, signed by the key whose turn it is at its size; else Damaged."""
        lines = note.split("\n", 2) if isinstance(note, str) else []
        size = int(lines[1]) if len(lines) > 1 and lines[1].isascii() and lines[1].isdecimal() else 0
        return checkpoint(note, self.at(size))


def split_statements(text: str) -> list[str]:
    """Statements that stand one behind the other, each one apart."""
    parts = text.split(STATEMENT + "\n")
    return [f"{STATEMENT}\n{part.strip()}\n" for part in parts if part.strip()]
