"""Experiments, runs and logged models of another tracker, written as they were: with their ids, times and people.

No event tells of each: who brings them over tells once of all, with a digest over their records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelyard.core.ports import Connection
from modelyard.core.work import Work
from modelyard.tracking import model_store, rules, store
from modelyard.tracking.experiments import millis
from modelyard.tracking.values import Experiment, Lifecycle, LoggedModel, Metric, ModelOutput, Point, Run

Value = tuple[int, int, float, int]  # (timestamp, step, value, is_nan), as it is kept


def experiment_here(rows: Connection, found: Experiment) -> tuple[Experiment | None, Experiment | None]:
    """What stands here for an experiment of another tracker, and what stands in its way.

    An experiment is the same if it has the name or the id, and was made in the same millisecond. Everybody has the
    experiment 0 called Default: those are the same.
    """
    named = store.find_experiment_named(rows, found.name)
    numbered = store.find_experiment(rows, rules.experiment_number(found.experiment_id))
    for known in (numbered, named):
        if known is not None and known.creation_time == found.creation_time:
            return known, None
    if named is not None and named.experiment_id == found.experiment_id == "0":
        return named, None
    return None, named


def check_experiment(found: Experiment) -> Experiment:
    """The experiment itself if it can be kept here."""
    rules.checked_experiment_name(found.name)
    rules.checked_location(found.artifact_location)
    rules.checked_texts(found.tags, "tag of an experiment", rules.LONGEST_EXPERIMENT_TAG)
    rules.experiment_number(found.experiment_id)
    return found


def free_number(rows: Connection, experiment_id: str) -> int:
    """The id itself as a number if no experiment has it, else the next one."""
    number = rules.experiment_number(experiment_id)
    return number if store.find_experiment(rows, number) is None else store.next_experiment(rows)


def write_experiment(work: Work, made: Experiment) -> None:
    """Write an experiment of another tracker under its id here."""
    store.add_experiment(work.rows, int(made.experiment_id), made)


def add_experiment_tags(work: Work, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an experiment that was here already."""
    for key, value in tags.items():
        store.put_experiment_tag(work.rows, int(experiment_id), key, value)


def checked_run(run: Run) -> Run:
    """The run itself if it can be kept here."""
    rules.checked_text(run.run_id, "The id of the run", rules.LONGEST_KEY)
    rules.checked_text(run.name, "The name of the run", rules.LONGEST_TAG)
    rules.checked_texts(run.tags, "tag", rules.LONGEST_TAG)
    rules.checked_texts(run.params, "parameter", rules.LONGEST_PARAMETER)
    rules.checked_time(run.start_time, "start_time")
    rules.checked_time(run.end_time, "end_time")
    for used in run.datasets:
        rules.checked_dataset(used)
    return run


def checked_values(key: str, points: Iterable[Point]) -> list[Value]:
    """Values of one metric as they are kept."""
    rows, _ = rules.metric_rows(0, points)
    rules.checked_key(key, "metric")
    return [(row["timestamp"], row["step"], row["value"], row["is_nan"]) for row in rows]


def latest(values: Iterable[Value]) -> Value:
    """The latest of some values."""
    return max(values, key=lambda one: (one[1], one[0], one[2]))


def runs_here(rows: Connection, run_ids: Sequence[str]) -> dict[str, Run]:
    """Those of the runs that are here, by id."""
    found = []
    for part in store.chunks(run_ids):
        listed, named = store.places(part)
        found += rows.all(f"SELECT * FROM runs WHERE run_id IN ({listed})", **named)
    return {run.run_id: run for run in store.runs_from(rows, found)}


def values_of(rows: Connection, run_ids: Sequence[str]) -> dict[str, int]:
    """How many values of metrics each of the runs has."""
    counts: dict[str, int] = {}
    for part in store.chunks(run_ids):
        listed, named = store.places(part)
        sql = (
            "SELECT r.run_id, COUNT(m.run) AS counted FROM runs r LEFT JOIN run_metrics m ON m.run = r.number "
            f"WHERE r.run_id IN ({listed}) GROUP BY r.run_id"
        )
        counts |= {row["run_id"]: row["counted"] for row in rows.all(sql, **named)}
    return counts


def write_run(work: Work, run: Run, values: Iterator[tuple[str, list[Value]]], newest: Mapping[str, Value]) -> None:
    """Write a run with all that it logged; one that is here already and was not over then gets what is missing."""
    known = store.find_run_row(work.rows, run.run_id)
    if known is None:
        number = store.add_run(work.rows, run)
    else:
        number = int(known["number"])
        store.put_tags(work.rows, number, run.tags)
        store.change_run(
            work.rows,
            number,
            name=run.name,
            status=run.status.value,
            end_time=run.end_time,
        )
    if run.lifecycle_stage is Lifecycle.DELETED or known is not None:
        gone = millis(work.now) if run.lifecycle_stage is Lifecycle.DELETED else None
        store.move_run(work.rows, number, run.lifecycle_stage.value, gone)
    store.add_params(work.rows, number, run.params)
    for used in run.datasets:
        store.add_input(work.rows, number, int(run.experiment_id), used)
    store.add_models(work.rows, number, "input", [ModelOutput(model_id=one) for one in run.model_inputs])
    store.add_models(work.rows, number, "output", run.model_outputs)
    for key, some in values:
        store.add_metrics(work.rows, [_row(number, key, one) for one in some], [])
    store.add_metrics(work.rows, [], [_row(number, key, one) for key, one in newest.items()])


def as_metrics(newest: Mapping[str, Value]) -> tuple[Metric, ...]:
    """The latest values as a run tells them."""
    rows = (_row(0, key, one) for key, one in sorted(newest.items()))
    return tuple(store.metric_from(row) for row in rows)


def record_digest(run: Run) -> str:
    """The digest over a run's record."""
    return rules.record_digest(run)


def same_record(one: Run, other: Run) -> bool:
    """Whether two runs are one, as the digests over their records tell."""
    return rules.record_digest(one) == rules.record_digest(other)


def models_here(rows: Connection, model_ids: Sequence[str]) -> dict[str, LoggedModel]:
    """Those of the logged models that are here, by id."""
    found = [row for one in model_ids if (row := model_store.find_model_row(rows, one)) is not None]
    return {model.model_id: model for model in model_store.models_from(rows, found)}


def checked_model(model: LoggedModel) -> LoggedModel:
    """The logged model itself if it can be kept here."""
    rules.checked_model_name(model.name)
    rules.checked_text(model.model_id, "The id of the logged model", rules.LONGEST_KEY)
    rules.checked_texts(model.tags, "tag", rules.LONGEST_TAG)
    rules.checked_texts(model.params, "parameter", rules.LONGEST_PARAMETER)
    for one in model.metrics:
        rules.metric_rows(0, [(one.key, one.value, one.timestamp, one.step)])
    return model


def write_model(work: Work, model: LoggedModel) -> None:
    """Write a logged model with all that belongs to it."""
    number = model_store.add_model(work.rows, replace(model, metrics=()))
    points: list[dict[str, Any]] = []
    for one in model.metrics:
        ((timestamp, step, value, is_nan),) = checked_values(one.key, [(one.key, one.value, one.timestamp, one.step)])
        more = {"run_id": one.run_id, "dataset_name": one.dataset_name, "dataset_digest": one.dataset_digest}
        point = {"key": one.key, "timestamp": timestamp, "step": step, "value": value, "is_nan": is_nan}
        points.append({"model": number, **point, **more})
    model_store.add_metrics(work.rows, points)


def _row(number: int, key: str, value: Value) -> dict[str, Any]:
    timestamp, step, figure, is_nan = value
    return {"run": number, "key": key, "timestamp": timestamp, "step": step, "value": figure, "is_nan": is_nan}
