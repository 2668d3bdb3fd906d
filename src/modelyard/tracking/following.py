"""A training that another part of the yard carries out and records, as a run: under that training's own id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelyard.core.errors import NotFound
from modelyard.core.instants import Instant
from modelyard.core.runlog import metric_key, plain_settings
from modelyard.tracking import rules, store
from modelyard.tracking.experiments import active_experiment, millis
from modelyard.tracking.runs import emit_started, new_run
from modelyard.tracking.values import DATASET_CONTEXT, Dataset, DatasetInput, Run, RunStatus

if TYPE_CHECKING:
    from modelyard.tracking.service import ExperimentTracker


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is known of a training: at its start what it was given, at its end also what came out."""

    run_id: str
    experiment: str
    user: str
    started: Instant
    ended: Instant | None = None
    status: RunStatus = RunStatus.RUNNING
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    dataset: Dataset | None = None
    files: tuple[str, ...] = ()


def follow(tracker: ExperimentTracker, training: Training) -> Run:
    """The run, as far as the training has come. Telling the same again changes nothing, and a run that is over stays so.

    Conflict for one that was deleted, and for an experiment that was.
    """
    try:
        run = tracker.get_run(training.run_id)
    except NotFound:
        run = _begun(tracker, training)
    if training.ended is None or run.status.ended:
        return run
    moment = millis(training.ended)
    if training.dataset is not None:
        used = DatasetInput(dataset=training.dataset, tags={DATASET_CONTEXT: "training"})
        tracker.log_inputs(run.run_id, datasets=[used], user=training.user)
    tracker.log_batch(
        run.run_id,
        metrics=[(metric_key(name), value, moment, 0) for name, value in training.metrics.items()],
        params=_texts(training.params),
        tags={key: text[: rules.LONGEST_TAG] for key, text in training.tags.items()},
        user=training.user,
    )
    for file in training.files:
        if Path(file).exists():
            tracker.log_artifact(run.run_id, file)
    return tracker.update_run(run.run_id, status=training.status, end_time=moment, user=training.user)


def _begun(tracker: ExperimentTracker, training: Training) -> Run:
    experiment = tracker.experiment_named(training.experiment, user=training.user)
    name, tags = rules.named_tags("", {})
    with tracker.store.work(training.user) as work:
        run = new_run(
            active_experiment(work.rows, experiment.experiment_id), training.run_id, name, tags, training.user
        )
        run = replace(run, start_time=millis(training.started))
        number = store.add_run(work.rows, run)
        store.add_params(work.rows, number, _texts(training.params))
        emit_started(work, run)
    return run


def _texts(params: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in plain_settings(params).items()}
