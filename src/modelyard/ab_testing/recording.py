"""Recording results and folding journals into tallies."""

from __future__ import annotations

import logging
import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from modelyard.ab_testing import journal, store
from modelyard.ab_testing.journal import Journal, Opened, Result
from modelyard.ab_testing.metrics import Layout, layout
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.core.errors import Unavailable
from modelyard.core.ports import Connection
from modelyard.core.work import Store

log = logging.getLogger("modelyard.ab_testing")

ALONE = b"\t\t\t"  # how the line of a result ends that has no unit, no id and no numbers of its own
FOLD_EVERY = 8192  # results: bounds what an analysis in another process has to read to some milliseconds


class Recorder:
    """Appends results to this process's journal and folds journals into the database."""

    def __init__(self, area_store: Store) -> None:
        self._store = area_store
        self._folder: Path = area_store.folder / "ab_testing"
        self._mutex = threading.Lock()
        self._journal: Journal | None = None
        self._since = 0

    def append(self, lines: bytes, count: int = 1) -> None:
        """Keep results; now and then also fold what this process has kept."""
        with self._mutex:
            kept = self._journal
            if kept is None or kept.process != os.getpid():  # a forked child starts a journal of its own
                kept = self._journal = Journal(self._folder)
                self._since = 0
            kept.append(lines)
            self._since += count
            full = self._since >= FOLD_EVERY
            if full:
                self._retire()
        if full:
            self._fold(kept.path)

    def fold(self) -> None:
        """Bring every journal of the folder into the database."""
        for one in journal.opened(self._folder):
            self._fold_one(one)

    def close(self) -> None:
        """Give the journal up, so that whoever folds next can remove it."""
        with self._mutex:
            self._retire()

    def _retire(self) -> None:
        if self._journal is not None:
            self._journal.release()
        self._journal, self._since = None, 0

    def _fold(self, path: Path) -> None:
        """Fold one journal. What cannot be folded now is kept, so it is no error of the result just recorded."""
        try:
            one = Opened(path)
        except FileNotFoundError:  # another process has folded and removed it already
            return
        try:
            self._fold_one(one)
        except Unavailable as error:
            log.warning("results stay in %s for now: %s", path, error)
        finally:
            one.close()

    def _fold_one(self, one: Opened) -> None:
        name = one.path.name
        with self._store.work() as work:
            start = store.folded(work.rows, name)
            waiting = one.waiting(start)
            if waiting.lines:
                fold_lines(work.rows, waiting.lines)
                store.save_folded(work.rows, name, waiting.end)
        if one.abandoned:
            one.path.unlink(missing_ok=True)
            with self._store.work() as work:
                store.forget_journal(work.rows, name)


def fold_lines(rows: Connection, lines: Iterable[bytes]) -> None:
    """Add a journal's lines to the tallies. Results that have a latency at most are counted together."""
    alone: dict[bytes, list[bytes]] = defaultdict(list)
    others: list[Result] = []
    for text in lines:
        if text.endswith(ALONE):
            head, _, latency = text[: -len(ALONE)].rpartition(b"\t")
            alone[head].append(latency)
        else:
            others.append(journal.parsed(text))
    counting = Counting(rows)
    for head, latencies in alone.items():
        test_id, variant, number, success = head.decode().split("\t")
        if counting.layout(test_id).summed:
            others += [journal.parsed(b"\t".join((head, latency)) + ALONE) for latency in latencies]
            continue
        told = [float(latency) for latency in latencies if latency]
        counting.tallies[test_id, variant, int(number)].count_alone(int(success), told, len(latencies))
    counting.add(others)
    counting.write()


def add(rows: Connection, results: Iterable[Result]) -> None:
    """Add results to the tallies of their arms."""
    counting = Counting(rows)
    counting.add(results)
    counting.write()


class Counting:
    """What one transaction counts, before it is written."""

    def __init__(self, rows: Connection) -> None:
        self._rows = rows
        self.tallies: dict[tuple[str, str, int], Tally] = defaultdict(Tally)
        self._units: dict[tuple[str, str, str], tuple[int, Unit, Unit]] = {}
        self._layouts: dict[str, Layout] = {}

    def layout(self, test_id: str) -> Layout:
        """What counting asks of a test's plan."""
        if test_id not in self._layouts:
            test = store.find_test(self._rows, test_id)
            self._layouts[test_id] = layout(test.metrics if test else ())
        return self._layouts[test_id]

    def add(self, results: Iterable[Result]) -> None:
        """Count results. One whose id was counted before is left out."""
        for result in results:
            if result.result_id and not store.result_is_new(self._rows, result.test_id, result.result_id):
                continue
            plan, numbers = self.layout(result.test_id), result.numbers
            tally = self.tallies[result.test_id, result.variant, result.number]
            tally.spot(numbers, plan)
            if not result.unit:
                tally.count_result(result.success, numbers, plan)
                continue
            key = (result.test_id, result.variant, result.unit)
            if key not in self._units:
                before = store.find_unit(self._rows, *key)
                self._units[key] = (result.number, before, before.copy())
            self._units[key][2].add(result.success, numbers, plan.covariates)

    def write(self) -> None:
        """Bring what was counted into the tables."""
        for (test_id, variant, _), (number, before, after) in self._units.items():
            self.tallies[test_id, variant, number].count_unit(before, after, self.layout(test_id))
        store.save_units(self._rows, ((*key, after) for key, (_, _, after) in self._units.items()))
        for (test_id, variant, number), tally in self.tallies.items():
            tally.merge(store.arm_tally(self._rows, test_id, variant, number))
            store.save_tally(self._rows, test_id, variant, number, tally)
