"""What was deleted long ago is removed for good, unless somebody needs it."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.instants import FixedClock
from modelyard.tracking import Dataset, DatasetInput, ExperimentTracker, View

DAY = 86_400
TABLES = [
    "runs",
    "run_metrics",
    "run_latest_metrics",
    "run_params",
    "run_tags",
    "run_inputs",
    "run_models",
    "run_files",
    "logged_models",
    "logged_model_params",
    "logged_model_tags",
    "logged_model_metrics",
]


def rows_of(tracker: ExperimentTracker) -> int:
    with tracker.store.reading() as rows:
        return sum(int(rows.tuples(f"SELECT count(*) FROM {table}")[0][0]) for table in TABLES)


def fill(tracker: ExperimentTracker) -> tuple[str, str]:
    with tracker.run("fraud", tags={"a": "b"}) as run:
        run.log_params({"depth": 6})
        run.log_metric("auc", 0.9)
        run.log_text("good", "notes.md")
        tracker.log_inputs(
            run.run_id,
            datasets=[DatasetInput(dataset=Dataset(name="c", digest="1", source_type="local", source="c"))],
        )
    model = tracker.create_logged_model(run.experiment_id, source_run_id=run.run_id, params={"a": "1"})
    tracker.files.write(f"{run.experiment_id}/models/{model.model_id}/artifacts/m.txt", io.BytesIO(b"m"))
    return run.run_id, model.model_id


def test_only_what_was_deleted_long_enough_ago_goes_and_all_of_it(tracker: ExperimentTracker) -> None:
    kept = fill(tracker)
    before = rows_of(tracker)
    run_id, model_id = fill(tracker)
    tracker.delete_run(run_id)
    tracker.delete_logged_model(model_id)
    assert (tracker.collect_deleted().runs, rows_of(tracker) > before) == (0, True)
    told = tracker.collect_deleted(older_than_days=0, user="ana")
    assert (told.runs, told.logged_models, told.kept) == (1, 1, 0)
    assert rows_of(tracker) == before
    with pytest.raises(NotFound):
        tracker.get_run(run_id)
    assert tracker.get_run(kept[0]).metrics == {"auc": 0.9}
    assert tracker.collect_deleted(older_than_days=0).runs == 0


def test_the_time_counts_from_the_last_deletion_also_that_of_the_experiment(tmp_path: Path) -> None:
    clock = FixedClock(datetime(2026, 1, 1, tzinfo=UTC))
    tracker = ExperimentTracker(tmp_path, clock=clock)
    run_id, _ = fill(tracker)
    experiment = tracker.get_run(run_id).experiment_id
    tracker.delete_experiment(experiment)
    clock.advance(29 * DAY)
    tracker.restore_experiment(experiment)
    tracker.delete_experiment(experiment)
    clock.advance(29 * DAY)
    assert tracker.collect_deleted().runs == 0
    clock.advance(1 * DAY)
    assert tracker.collect_deleted().runs == 1
    assert tracker.search_runs([experiment], view=View.ALL).items == ()


@pytest.mark.parametrize("days", [-1, True, float("nan"), 1e9])
def test_days_are_a_number_of_days(days: float, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        ExperimentTracker(tmp_path).collect_deleted(older_than_days=days)


def test_what_a_hold_or_a_version_needs_is_kept_and_told(tmp_path: Path, small_model: Path) -> None:
    with Yard(tmp_path / "yard") as yard:
        tracker = yard.tracking
        held, named, model, free = (fill(tracker) for _ in range(4))
        yard.registry.register_model("fraud", "v1.0.0", small_model, "lightgbm", "ana", run_id=named[0])
        first = yard.audit.legal_hold("run", held[0], user="dpo", reason="a case")
        yard.audit.legal_hold("logged_model", model[1], user="dpo", reason="a case")
        for run_id, model_id in (held, named, model, free):
            tracker.delete_run(run_id)
            tracker.delete_logged_model(model_id)
        told = tracker.collect_deleted(older_than_days=0, user="ana")
        assert (told.runs, told.logged_models, told.kept) == (2, 2, 4)
        assert any("fraud v1.0.0 comes from its run" in reason for reason in told.reasons)
        assert any("legal hold" in reason for reason in told.reasons)
        assert {run.run_id for run in tracker.search_runs(["1"], view=View.ALL).items} == {held[0], named[0]}
        (gone,) = [one for one in yard.audit.query_events(EventType.RUN_REMOVED) if one.resource_id == free[0]]
        assert (gone.actor, gone.details["files"], len(gone.details["digest"])) == ("ana", 1, 64)
        with pytest.raises(Conflict, match="legal hold"):
            tracker.files.delete(f"1/{held[0]}/artifacts/notes.md")
        yard.audit.lift_hold(first.hold_id, user="dpo", reason="closed")
        yard.audit.legal_hold("experiment", "1", user="dpo", reason="another case")
        assert tracker.collect_deleted(older_than_days=0).runs == 0
        with pytest.raises(Conflict, match="legal hold"):
            tracker.files.delete(f"1/{held[0]}/artifacts/notes.md")
