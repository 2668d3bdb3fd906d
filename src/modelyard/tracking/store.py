"""The rows of experiments, runs and their metrics: one function a statement, values in and out."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.ports import Connection, Row
from modelyard.tracking.values import (
    DATASET_CONTEXT,
    Dataset,
    DatasetInput,
    Experiment,
    Lifecycle,
    Metric,
    ModelOutput,
    Run,
    RunStatus,
)

CHUNK = 500  # SQLite takes 32,766 parameters a statement, and plans long lists slowly

ADD_METRIC = (
    "INSERT INTO run_metrics (run, key, timestamp, step, value, is_nan) "
    "VALUES (:run, :key, :timestamp, :step, :value, :is_nan) ON CONFLICT DO NOTHING"
)
RAISE_LATEST = (
    "INSERT INTO run_latest_metrics (run, key, timestamp, step, value, is_nan) "
    "VALUES (:run, :key, :timestamp, :step, :value, :is_nan) ON CONFLICT (run, key) DO UPDATE SET "
    "timestamp = excluded.timestamp, step = excluded.step, value = excluded.value, is_nan = excluded.is_nan "
    "WHERE (excluded.step, excluded.timestamp, excluded.value) > "
    "(run_latest_metrics.step, run_latest_metrics.timestamp, run_latest_metrics.value)"
)
ADD_RUN = (
    "INSERT INTO runs (run_id, experiment_id, name, user_id, status, start_time, end_time, lifecycle_stage, artifact_uri) "
    "VALUES (:run_id, :experiment_id, :name, :user_id, :status, :start_time, :end_time, :lifecycle_stage, :artifact_uri) "
    "RETURNING number"
)
HISTORY_ORDER = "timestamp, step, value, is_nan"


def places(values: Sequence[Any], prefix: str = "n") -> tuple[str, dict[str, Any]]:
    """The parameters of a list: (":n0, :n1", {"n0": ..., "n1": ...})."""
    named = {f"{prefix}{index}": value for index, value in enumerate(values)}
    return ", ".join(f":{name}" for name in named), named


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """The values in lists that one statement takes."""
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK]


# experiments


def next_experiment(rows: Connection) -> int:
    """The number that the next experiment gets."""
    row = rows.one("SELECT COALESCE(MAX(experiment_id), 0) + 1 AS number FROM experiments")
    assert row is not None  # an aggregate always answers
    return int(row["number"])


def add_experiment(rows: Connection, number: int, experiment: Experiment) -> bool:
    """Write a new experiment; False if its name is taken."""
    added = rows.run(
        "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time) "
        "VALUES (:number, :name, :location, :stage, :created, :updated) ON CONFLICT (name) DO NOTHING",
        number=number,
        name=experiment.name,
        location=experiment.artifact_location,
        stage=experiment.lifecycle_stage.value,
        created=experiment.creation_time,
        updated=experiment.last_update_time,
    )
    if added:
        for key, value in experiment.tags.items():
            put_experiment_tag(rows, number, key, value)
    return bool(added)


def find_experiment(rows: Connection, number: int) -> Experiment | None:
    """One experiment."""
    row = rows.one("SELECT * FROM experiments WHERE experiment_id = :number", number=number)
    return experiments_from(rows, [row])[0] if row else None


def find_experiment_named(rows: Connection, name: str) -> Experiment | None:
    """The experiment of a name."""
    row = rows.one("SELECT * FROM experiments WHERE name = :name", name=name)
    return experiments_from(rows, [row])[0] if row else None


def experiment_names(rows: Connection) -> list[str]:
    """Some names, for telling the nearest one."""
    return [row["name"] for row in rows.all("SELECT name FROM experiments ORDER BY experiment_id DESC LIMIT 100")]


def experiments_from(rows: Connection, found: Sequence[Row]) -> list[Experiment]:
    """The experiments of rows, with their tags."""
    tags: dict[int, dict[str, str]] = defaultdict(dict)
    for part in chunks([row["experiment_id"] for row in found]):
        listed, values = places(part)
        sql = f"SELECT experiment_id, key, value FROM experiment_tags WHERE experiment_id IN ({listed})"
        for tag in rows.all(sql, **values):
            tags[tag["experiment_id"]][tag["key"]] = tag["value"]
    return [
        Experiment(
            experiment_id=str(row["experiment_id"]),
            name=row["name"],
            artifact_location=row["artifact_location"],
            lifecycle_stage=Lifecycle(row["lifecycle_stage"]),
            creation_time=row["creation_time"],
            last_update_time=row["last_update_time"],
            tags=tags[row["experiment_id"]],
        )
        for row in found
    ]


def change_experiment(rows: Connection, number: int, name: str, stage: str, updated: int) -> None:
    """Write an experiment's name and stage."""
    rows.run(
        "UPDATE experiments SET name = :name, lifecycle_stage = :stage, last_update_time = :updated "
        "WHERE experiment_id = :number",
        number=number,
        name=name,
        stage=stage,
        updated=updated,
    )


def change_all_runs(rows: Connection, experiment: int, stage: str, deleted_at: int | None) -> int:
    """Delete or restore every run of an experiment; returns how many changed."""
    return rows.run(
        "UPDATE runs SET lifecycle_stage = :stage, deleted_at = :deleted_at "
        "WHERE experiment_id = :experiment AND lifecycle_stage <> :stage",
        experiment=experiment,
        stage=stage,
        deleted_at=deleted_at,
    )


def put_experiment_tag(rows: Connection, number: int, key: str, value: str) -> None:
    """Set a tag."""
    rows.run(
        "INSERT INTO experiment_tags (experiment_id, key, value) VALUES (:number, :key, :value) "
        "ON CONFLICT (experiment_id, key) DO UPDATE SET value = excluded.value",
        number=number,
        key=key,
        value=value,
    )


def drop_experiment_tag(rows: Connection, number: int, key: str) -> bool:
    """Remove a tag; True if it was there."""
    sql = "DELETE FROM experiment_tags WHERE experiment_id = :number AND key = :key"
    return bool(rows.run(sql, number=number, key=key))


# runs


def add_run(rows: Connection, run: Run) -> int:
    """Write a new run with its tags; returns its number."""
    row = rows.one(
        ADD_RUN,
        run_id=run.run_id,
        experiment_id=int(run.experiment_id),
        name=run.name,
        user_id=run.user_id,
        status=run.status.value,
        start_time=run.start_time,
        end_time=run.end_time,
        lifecycle_stage=run.lifecycle_stage.value,
        artifact_uri=run.artifact_uri,
    )
    assert row is not None  # RETURNING always answers
    put_tags(rows, row["number"], run.tags)
    return int(row["number"])


def find_run_row(rows: Connection, run_id: str) -> Row | None:
    """A run's own row, without what was logged."""
    return rows.one("SELECT * FROM runs WHERE run_id = :run_id", run_id=run_id)


def change_run(rows: Connection, number: int, *, name: str, status: str, end_time: int | None) -> None:
    """Write what may change of a run."""
    rows.run(
        "UPDATE runs SET name = :name, status = :status, end_time = :end_time WHERE number = :number",
        number=number,
        name=name,
        status=status,
        end_time=end_time,
    )


def move_run(rows: Connection, number: int, stage: str, deleted_at: int | None) -> None:
    """Delete a run at a moment, or restore it."""
    rows.run(
        "UPDATE runs SET lifecycle_stage = :stage, deleted_at = :deleted_at WHERE number = :number",
        number=number,
        stage=stage,
        deleted_at=deleted_at,
    )


_SINCE = {"runs": "deleted_at", "logged_models": "last_update_time"}  # which a deleted logged model's deletion was


def deleted(rows: Connection, table: str, *, before: int, after: int, limit: int) -> list[Row]:
    """Runs or logged models that were deleted before a moment, behind a number and in the order of numbers."""
    return rows.all(
        f"SELECT * FROM {table} WHERE lifecycle_stage = 'deleted' AND {_SINCE[table]} <= :before AND number > :after "
        "ORDER BY number LIMIT :limit",
        before=before,
        after=after,
        limit=limit,
    )


def is_deleted(rows: Connection, table: str, number: int) -> bool:
    """Whether a run or logged model is there, and deleted."""
    found = rows.one(
        f"SELECT 1 AS one FROM {table} WHERE number = :number AND lifecycle_stage = 'deleted'", number=number
    )
    return found is not None


def remove_run(rows: Connection, number: int) -> None:
    """Remove a run with all that it logged."""
    for table in ("metrics", "latest_metrics", "params", "tags", "inputs", "models"):
        rows.run(f"DELETE FROM run_{table} WHERE run = :number", number=number)
    rows.run("DELETE FROM runs WHERE number = :number", number=number)


def runs_from(rows: Connection, found: Sequence[Row]) -> list[Run]:
    """The runs of rows with all that was logged, in the same order: a fixed number of statements for 500 runs."""
    whole: dict[int, dict[str, Any]] = {
        row["number"]: {"params": {}, "tags": {}, "metrics": [], "datasets": [], "input": [], "output": []}
        for row in found
    }
    for part in chunks(list(whole)):
        listed, values = places(part)
        for table in ("params", "tags"):
            sql = f"SELECT run, key, value FROM run_{table} WHERE run IN ({listed}) ORDER BY run, key"
            for row in rows.all(sql, **values):
                whole[row["run"]][table][row["key"]] = row["value"]
        sql = f"SELECT * FROM run_latest_metrics WHERE run IN ({listed}) ORDER BY run, key"
        for row in rows.all(sql, **values):
            whole[row["run"]]["metrics"].append(metric_from(row))
        for row in rows.all(INPUTS.format(listed=listed), **values):
            whole[row["run"]]["datasets"].append(_input_from(row))
        sql = f"SELECT run, direction, model_id, step FROM run_models WHERE run IN ({listed}) ORDER BY step, model_id"
        for row in rows.all(sql, **values):
            whole[row["run"]][row["direction"]].append(ModelOutput(model_id=row["model_id"], step=row["step"]))
    return [_with_logged(run_from(row), whole[row["number"]]) for row in found]


INPUTS = (
    "SELECT i.run, i.tags, d.* FROM run_inputs i JOIN run_datasets d ON d.number = i.dataset "
    "WHERE i.run IN ({listed}) ORDER BY i.run, d.number"
)


def _with_logged(run: Run, logged: Mapping[str, Any]) -> Run:
    return replace(
        run,
        latest_metrics=tuple(logged["metrics"]),
        params=logged["params"],
        tags=logged["tags"],
        datasets=tuple(logged["datasets"]),
        model_inputs=tuple(made.model_id for made in logged["input"]),
        model_outputs=tuple(logged["output"]),
    )


def run_from(row: Row) -> Run:
    """The run of a row, without what was logged."""
    return Run(
        run_id=row["run_id"],
        experiment_id=str(row["experiment_id"]),
        name=row["name"],
        user_id=row["user_id"],
        status=RunStatus(row["status"]),
        start_time=row["start_time"],
        end_time=row["end_time"],
        lifecycle_stage=Lifecycle(row["lifecycle_stage"]),
        artifact_uri=row["artifact_uri"],
    )


def _input_from(row: Row) -> DatasetInput:
    dataset = Dataset(
        name=row["name"],
        digest=row["digest"],
        source_type=row["source_type"],
        source=row["source"],
        schema=row["schema"],
        profile=row["profile"],
    )
    return DatasetInput(dataset=dataset, tags=dict(json.loads(row["tags"])))


# what runs log


def add_metrics(rows: Connection, points: Iterable[Mapping[str, Any]], latest: Iterable[Mapping[str, Any]]) -> None:
    """Add metric rows, a repeated one once, and raise the latest values."""
    rows.many(ADD_METRIC, points)
    rows.many(RAISE_LATEST, latest)


def find_params(rows: Connection, run: int) -> dict[str, str]:
    """A run's parameters."""
    return {row["key"]: row["value"] for row in rows.all("SELECT key, value FROM run_params WHERE run = :run", run=run)}


def add_params(rows: Connection, run: int, params: Mapping[str, str]) -> None:
    """Add parameters, those that exist stay."""
    rows.many(
        "INSERT INTO run_params (run, key, value) VALUES (:run, :key, :value) ON CONFLICT (run, key) DO NOTHING",
        [{"run": run, "key": key, "value": value} for key, value in params.items()],
    )


def put_tags(rows: Connection, run: int, tags: Mapping[str, str]) -> None:
    """Set tags."""
    rows.many(
        "INSERT INTO run_tags (run, key, value) VALUES (:run, :key, :value) "
        "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value",
        [{"run": run, "key": key, "value": value} for key, value in tags.items()],
    )


def drop_tag(rows: Connection, run: int, key: str) -> bool:
    """Remove a tag; True if it was there."""
    return bool(rows.run("DELETE FROM run_tags WHERE run = :run AND key = :key", run=run, key=key))


def add_input(rows: Connection, run: int, experiment: int, used: DatasetInput) -> None:
    """Note that a run used a dataset; the first note of a dataset stays."""
    told = {"experiment": experiment, "name": used.dataset.name, "digest": used.dataset.digest}
    rows.run(
        "INSERT INTO run_datasets (experiment_id, name, digest, source_type, source, schema, profile) "
        "VALUES (:experiment, :name, :digest, :source_type, :source, :schema, :profile) "
        "ON CONFLICT (experiment_id, name, digest) DO NOTHING",
        source_type=used.dataset.source_type,
        source=used.dataset.source,
        schema=used.dataset.schema,
        profile=used.dataset.profile,
        **told,
    )
    rows.run(
        "INSERT INTO run_inputs (run, dataset, tags, context) SELECT :run, number, :tags, :context FROM run_datasets "
        "WHERE experiment_id = :experiment AND name = :name AND digest = :digest ON CONFLICT (run, dataset) DO NOTHING",
        run=run,
        tags=dumps(list(used.tags.items())),
        context=used.tags.get(DATASET_CONTEXT),
        **told,
    )


def add_models(rows: Connection, run: int, direction: str, models: Iterable[ModelOutput]) -> None:
    """Note which logged models a run used or made."""
    rows.many(
        "INSERT INTO run_models (run, direction, model_id, step) VALUES (:run, :direction, :model_id, :step) "
        "ON CONFLICT (run, direction, model_id) DO NOTHING",
        [{"run": run, "direction": direction, "model_id": made.model_id, "step": made.step} for made in models],
    )


# histories


def metric_from(row: Row) -> Metric:
    """The metric of a row."""
    return Metric(row["key"], math.nan if row["is_nan"] else row["value"], row["timestamp"], row["step"])


def history(rows: Connection, run: int, key: str, behind: tuple[int, int, float, int] | None, limit: int) -> list[Row]:
    """Values of a metric in the order of (timestamp, step, value), those behind a position of it."""
    after = f" AND ({HISTORY_ORDER}) > (:timestamp, :step, :value, :is_nan)" if behind else ""
    at = dict(zip(("timestamp", "step", "value", "is_nan"), behind, strict=True)) if behind else {}
    return rows.all(
        f"SELECT * FROM run_metrics WHERE run = :run AND key = :key{after} ORDER BY {HISTORY_ORDER} LIMIT :limit",
        run=run,
        key=key,
        limit=limit,
        **at,
    )


SAMPLE = """
WITH counted AS (
  SELECT key, timestamp, step, value, is_nan,
    NTILE(:most) OVER (ORDER BY step, timestamp, value, is_nan) AS bucket,
    ROW_NUMBER() OVER (ORDER BY step, timestamp, value, is_nan) AS place,
    COUNT(*) OVER () AS whole
  FROM run_metrics WHERE run = :run AND key = :key AND step >= :first AND step <= :last
), ranked AS (
  SELECT counted.*, ROW_NUMBER() OVER (PARTITION BY bucket ORDER BY place) AS within FROM counted
)
SELECT key, timestamp, step, value, is_nan, place FROM ranked WHERE within = 1 OR place = whole ORDER BY place
"""


def sampled(rows: Connection, run: int, key: str, *, most: int, first: int, last: int) -> list[Metric]:
    """At most `most` values of a metric, spread evenly over its (step, timestamp, value) order, with the last one."""
    found = rows.all(SAMPLE, run=run, key=key, most=most, first=first, last=last)
    if len(found) > most:
        del found[-2]  # the last value takes the place of the last bucket's first
    return [metric_from(row) for row in found]
