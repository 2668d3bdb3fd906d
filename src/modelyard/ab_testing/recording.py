"""Recording results and folding journals into tallies."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from modelyard.ab_testing import journal
from modelyard.ab_testing.journal import Journal, Opened
from modelyard.ab_testing.store import folded, forget_journal, save_folded
from modelyard.core.errors import YardError
from modelyard.core.ports import Connection
from modelyard.core.work import Store

if TYPE_CHECKING:
    from modelyard.ab_testing.counting import Counting
    from modelyard.ab_testing.runs import Shelf

log = logging.getLogger("modelyard.ab_testing")

FOLD_EVERY = 8192  # results: bounds what an analysis in another process has to read to some milliseconds
FOLD_AFTER = 60.0  # seconds: bounds what an analysis on another machine cannot see yet, as long as results come
LARGEST = 16 * 1024 * 1024  # bytes of a journal that is not started anew


class Recorder:
    """Appends results to this process's journal and folds journals into the database."""

    def __init__(self, area_store: Store) -> None:
        self._store = area_store
        self._folder: Path = area_store.folder / "ab_testing"
        self._journal: Journal | None = None
        self._since = 0
        self._shelf: Shelf | None = None
        self._fresh()
        _RECORDERS.add(self)

    def append(self, line: bytes, count: int = 1) -> None:
        """Keep the results of a call; now and then also fold what this process has kept."""
        with self._mutex:
            kept = self._journal
            if kept is None:
                kept = self._journal = Journal(self._folder)
            if not kept.append(line):  # what follows a cut would never be read, or be taken for the line before
                log.error("%s was cut by something else. Results go on in another file.", kept.path)
                self._retire()
                self._journal = Journal(self._folder)
                self._journal.append(line)
            self._since += count
        if self._since >= FOLD_EVERY:
            self.fold_own()

    def fold_own(self) -> None:
        """Fold what this process has kept."""
        with self._mutex:
            kept, self._since, self._due = self._journal, 0, time.monotonic() + FOLD_AFTER
            if kept is None:
                return
            if kept.size > LARGEST or not kept.path.exists():
                self._retire()
        self._fold(kept.path)

    def fold_late(self) -> None:
        """Fold what this process has kept if that was not done for a minute."""
        if self._since and time.monotonic() > self._due:
            self.fold_own()

    def fold(self) -> None:
        """Bring every journal of the folder into the database, and begin a new one."""
        self.close()
        for one in journal.opened(self._folder):
            self._fold_one(one)

    def blank(self, rows: Connection) -> None:
        """Overwrite what living processes' journals hold of results that are folded: nobody reads it again."""
        for path in self._folder.glob(f"*{journal.SUFFIX}"):
            with suppress(FileNotFoundError), path.open("r+b") as file:
                file.write(b"\0" * folded(rows, path.name))

    def close(self) -> None:
        """Give the journal up, so that whoever folds next can remove it."""
        with self._mutex:
            self._retire()

    def counting(self, rows: Connection) -> Counting:
        """What counts within a transaction."""
        from modelyard.ab_testing.counting import Counting  # needs numpy

        return Counting(rows, self.shelf)

    @property
    def shelf(self) -> Shelf:
        """What this process has read of what is remembered."""
        from modelyard.ab_testing.runs import Shelf  # needs numpy

        if self._shelf is None:
            self._shelf = Shelf()
        return self._shelf

    def _fresh(self) -> None:
        """Start with no journal: when made, and in a forked child, where its parent's lock may be taken for ever."""
        self._mutex, self._due = threading.Lock(), time.monotonic() + FOLD_AFTER
        self._journal, self._since, self._shelf = None, 0, None

    def _retire(self) -> None:
        if self._journal is not None:
            if not self._journal.path.exists():  # it is locked, so no process of ours has removed it
                log.error("%s was removed by something else, and what was not yet counted of it.", self._journal.path)
            self._journal.release()
        self._journal = None

    def _fold(self, path: Path) -> None:
        """Fold one journal. What cannot be folded now is kept, so it is no error of the result just recorded."""
        try:
            one = Opened(path)
        except FileNotFoundError:  # another process has folded and removed it already
            return
        try:
            self._fold_one(one)
        except YardError as error:
            log.warning("results stay in %s for now: %s", path, error)
        finally:
            one.close()

    def _fold_one(self, one: Opened) -> None:
        name = one.path.name
        with self._store.work() as work:
            start = folded(work.rows, name)
            waiting = one.waiting(start)
            if waiting.lines:
                if damaged := fold_lines(self.counting(work.rows), waiting.lines):
                    _set_aside(one.path, damaged)
                save_folded(work.rows, name, waiting.end)
        if one.abandoned:
            one.path.unlink(missing_ok=True)
            with self._store.work() as work:
                forget_journal(work.rows, name)


def _set_aside(path: Path, damaged: bytes) -> None:
    """Keep what cannot be read where a person finds it; the other results must not wait for it."""
    beside = path.with_suffix(".damaged")
    with beside.open("ab") as file:
        file.write(damaged)
    log.error("%d bytes of %s cannot be read and count nothing. They are kept in %s.", len(damaged), path, beside)


def fold_lines(counting: Counting, lines: bytes) -> bytes:
    """Add a journal's lines to the tallies; returns those that a disk has damaged."""
    try:
        found, damaged = counting.read(lines), b""
    except (ValueError, LookupError):
        each = [line + b"\n" for line in lines.split(b"\n")[:-1]]
        whole = [_is_whole(counting, line) for line in each]
        damaged = b"".join([line for line, good in zip(each, whole, strict=True) if not good])
        found = counting.read(b"".join([line for line, good in zip(each, whole, strict=True) if good]))
    counting.add(found)
    counting.write()
    return damaged


def _is_whole(counting: Counting, line: bytes) -> bool:
    try:
        counting.read(line)
    except (ValueError, LookupError):
        return False
    return True


_RECORDERS: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork() -> None:
    for recorder in list(_RECORDERS):
        recorder._fresh()


os.register_at_fork(after_in_child=_after_fork)
