"""Removal for good of what was deleted long ago. Deletion itself is soft; this is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.operations import operation
from modelyard.core.ports import Row
from modelyard.core.refs import Resource
from modelyard.core.work import Work
from modelyard.tracking import files, model_store, rules, store
from modelyard.tracking.experiments import millis
from modelyard.tracking.run_files import RunFiles
from modelyard.tracking.runs import OURS, in_store

DAYS = 30.0
SHOWN = 100  # reasons that an answer tells
TOGETHER = 200  # rows looked at at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed: runs, logged models and stored files that nothing names any more; and what was kept, and why."""

    runs: int
    logged_models: int
    files: int
    kept: int
    reasons: tuple[str, ...]


class Collecting(RunFiles):
    """Removing deleted runs and logged models for good."""

    @operation("POST", "/tracking/collect", needs="tracking.write")
    def collect_deleted(self, *, older_than_days: float = DAYS, user: str = "system") -> Collected:
        """What was removed for good of the runs and logged models that were deleted longer ago: their rows and files.

        Kept is what a legal hold lies on, itself or its experiment, and the run that a registered version names. Each removal
        is an event with the digest of the record. The bytes of files go once nobody has stored them for a day.

        >>> from modelyard.tracking import ExperimentTracker
        >>> tracker = ExperimentTracker(folder)
        >>> run = tracker.create_run("0")
        >>> tracker.delete_run(run.run_id)
        >>> tracker.collect_deleted().runs, tracker.collect_deleted(older_than_days=0).runs
        (0, 1)
        """
        if isinstance(older_than_days, bool) or not 0 <= older_than_days <= 36_500:
            raise Invalid(f"older_than_days is {older_than_days!r}. Give a number of days from 0 to 36,500.")
        before = millis(self.store.clock.now() - timedelta(days=older_than_days))
        runs, kept = self._each("runs", before, _remove_run, user)
        models, kept_too = self._each("logged_models", before, _remove_model, user)
        reasons = [*kept, *kept_too]
        return Collected(
            runs=runs,
            logged_models=models,
            files=self.files.collect(),
            kept=len(reasons),
            reasons=tuple(reasons[:SHOWN]),
        )

    def _each(self, table: str, before: int, remove: Callable[[Work, Row], None], user: str) -> tuple[int, list[str]]:
        """Remove each row in a transaction of its own; (how many, why others were kept)."""
        number, removed, kept = 0, 0, list[str]()
        while True:
            with self.store.reading() as rows:
                found = store.deleted(rows, table, before=before, after=number, limit=TOGETHER)
            if not found:
                return removed, kept
            for row in found:
                number = row["number"]
                try:
                    with self.store.work(user) as work:
                        if store.is_deleted(work.rows, table, number):  # it may have been restored meanwhile
                            remove(work, row)
                            removed += 1
                except Conflict as error:
                    kept.append(str(error))


def _remove_run(work: Work, row: Row) -> None:
    run = store.runs_from(work.rows, [row])[0]
    told: dict[str, Any] = {"experiment_id": run.experiment_id, "name": run.name}
    told["digest"] = rules.record_digest(run)
    told["files"] = _remove_files(work, run.artifact_uri)
    work.emit(EventType.RUN_REMOVED, Resource("run", run.run_id), told)
    store.remove_run(work.rows, row["number"])


def _remove_model(work: Work, row: Row) -> None:
    told: dict[str, Any] = {name: row[name] for name in ("name", "source_run_id")}
    told["experiment_id"] = str(row["experiment_id"])
    told["files"] = _remove_files(work, row["artifact_location"])
    work.emit(EventType.LOGGED_MODEL_REMOVED, Resource("logged_model", row["model_id"]), told)
    model_store.remove_model(work.rows, row["number"])


def _remove_files(work: Work, location: str) -> int:
    """How many files of ours lay at a location, and do no longer."""
    if not location.startswith(OURS):
        return 0
    return files.remove(work.rows, in_store(location, ""))
