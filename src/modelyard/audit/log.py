"""What every part of the audit logger shares: the keys, and taking waiting events into the tree."""

from __future__ import annotations

from functools import cached_property

from modelyard.audit import store
from modelyard.audit.integration import integrate, ring
from modelyard.audit.keyring import Keyring
from modelyard.audit.keys import KeyFolder
from modelyard.audit.notes import Checkpoint
from modelyard.core.area import Area
from modelyard.core.errors import Damaged
from modelyard.core.events import Event
from modelyard.core.instants import micros
from modelyard.core.ports import Connection, Row
from modelyard.core.work import event_from_row


class Log(Area):
    """A store's events as leaves of a tree that is signed with the keys in its folder."""

    @cached_property
    def keys(self) -> KeyFolder:
        """Where the signing key lies."""
        return KeyFolder(self.store.folder)

    @cached_property
    def _heads(self) -> dict[str, Checkpoint]:
        return {}

    def integrate(self) -> int:
        """Take every waiting event into the tree and sign it; returns how many there were."""
        total = 0
        while self._is_behind():
            with self.store.work("audit") as work:
                total += integrate(work.rows, self.keys, micros(work.now))
        return total

    def catch_up(self) -> None:
        """Integrate, unless this folder has no key for a log that another one signs."""
        if not self._is_behind():
            return
        if self.keys.signing() is None:
            with self.store.reading() as rows:
                if store.last_checkpoint(rows) is not None:
                    return
        self.integrate()

    def _is_behind(self) -> bool:
        with self.store.reading() as rows:
            return store.behind(rows)

    def _ring(self, rows: Connection) -> Keyring:
        """The log's keys, by the public key in its folder."""
        return ring(rows, self.keys.public())

    def _head(self, rows: Connection) -> tuple[str, Checkpoint] | None:
        """The newest checkpoint's note and what it says; None for an empty log."""
        last = store.last_checkpoint(rows)
        return None if last is None else (last["note"], self._said(rows, last["note"]))

    def _said(self, rows: Connection, note: str) -> Checkpoint:
        """What a checkpoint says. Its signature is checked once: a note that was changed is another note."""
        found = self._heads.get(note)
        if found is None:
            found = self._ring(rows).checkpoint(note)
            self._heads.clear()
            self._heads[note] = found
        return found


def event_of(row: Row) -> Event:
    """The event of a row; Damaged for one that modelyard did not write."""
    try:
        return event_from_row(row)
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"The event at position {row['position']} was changed by other means than modelyard: {error}. "
            "See what was changed: modelyard audit verify"
        ) from error
