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
from modelyard.ab_testing.metrics import Metric, covariates
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.core.errors import Unavailable
from modelyard.core.ports import Connection
from modelyard.core.work import Store

log = logging.getLogger("modelyard.ab_testing")

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
                add(work.rows, map(journal.parsed, waiting.lines))
                store.save_folded(work.rows, name, waiting.end)
        if one.abandoned:
            one.path.unlink(missing_ok=True)
            with self._store.work() as work:
                store.forget_journal(work.rows, name)


def add(rows: Connection, results: Iterable[Result]) -> None:
    """Add results to the tallies of their arms. A result whose id was counted before is left out."""
    fresh: dict[tuple[str, str, int], Tally] = defaultdict(Tally)
    units: dict[tuple[str, str, str], tuple[int, Unit, Unit]] = {}
    plans: dict[str, tuple[Metric, ...]] = {}
    for result in results:
        if result.result_id and not store.result_is_new(rows, result.test_id, result.result_id):
            continue
        plan = plans.get(result.test_id)
        if plan is None:
            plan = plans[result.test_id] = _plan(rows, result.test_id)
        tally, numbers = fresh[result.test_id, result.variant, result.number], result.numbers
        tally.spot(numbers, plan)
        if not result.unit:
            tally.count_result(result.success, numbers, plan)
            continue
        key = (result.test_id, result.variant, result.unit)
        if key not in units:
            before = store.find_unit(rows, *key)
            units[key] = (result.number, before, before.copy())
        units[key][2].add(result.success, numbers, covariates(plan))
    for (test_id, variant, _), (number, before, after) in units.items():
        fresh[test_id, variant, number].count_unit(before, after, plans[test_id])
    store.save_units(rows, ((*key, after) for key, (_, _, after) in units.items()))
    for (test_id, variant, number), tally in fresh.items():
        tally.merge(store.arm_tally(rows, test_id, variant, number))
        store.save_tally(rows, test_id, variant, number, tally)


def _plan(rows: Connection, test_id: str) -> tuple[Metric, ...]:
    test = store.find_test(rows, test_id)
    return test.metrics if test else ()
