"""The rows of logged models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelyard.core.ports import Connection, Row
from modelyard.tracking.store import chunks, places
from modelyard.tracking.values import Lifecycle, LoggedModel, LoggedModelStatus, ModelMetric

COLUMNS = (
    "model_id, experiment_id, name, source_run_id, model_type, status, lifecycle_stage, artifact_location, "
    "creation_time, last_update_time"
)


def add_model(rows: Connection, model: LoggedModel) -> int:
    """Write a new logged model with its parameters and tags; returns its number."""
    row = rows.one(
        f"INSERT INTO logged_models ({COLUMNS}) VALUES ({', '.join(':' + name for name in COLUMNS.split(', '))}) "
        "RETURNING number",
        model_id=model.model_id,
        experiment_id=int(model.experiment_id),
        name=model.name,
        source_run_id=model.source_run_id,
        model_type=model.model_type,
        status=model.status.value,
        lifecycle_stage=model.lifecycle_stage.value,
        artifact_location=model.artifact_location,
        creation_time=model.creation_time,
        last_update_time=model.last_update_time,
    )
    assert row is not None  # RETURNING always answers
    add_params(rows, row["number"], model.params)
    put_tags(rows, row["number"], model.tags)
    return int(row["number"])


def find_model_row(rows: Connection, model_id: str) -> Row | None:
    """A logged model's own row."""
    return rows.one("SELECT * FROM logged_models WHERE model_id = :model_id", model_id=model_id)


def change_model(rows: Connection, number: int, *, status: str, stage: str, updated: int) -> None:
    """Write a logged model's status and stage."""
    rows.run(
        "UPDATE logged_models SET status = :status, lifecycle_stage = :stage, last_update_time = :updated "
        "WHERE number = :number",
        number=number,
        status=status,
        stage=stage,
        updated=updated,
    )


def models_from(rows: Connection, found: Sequence[Row]) -> list[LoggedModel]:
    """The logged models of rows with what belongs to them, in the same order."""
    whole: dict[int, dict[str, Any]] = {row["number"]: {"params": {}, "tags": {}, "metrics": []} for row in found}
    names = {row["number"]: row["model_id"] for row in found}
    for part in chunks(list(whole)):
        listed, values = places(part)
        for table in ("params", "tags"):
            sql = f"SELECT model, key, value FROM logged_model_{table} WHERE model IN ({listed}) ORDER BY model, key"
            for row in rows.all(sql, **values):
                whole[row["model"]][table][row["key"]] = row["value"]
        sql = (
            f"SELECT * FROM logged_model_metrics WHERE model IN ({listed}) ORDER BY model, key, timestamp, step, run_id"
        )
        for row in rows.all(sql, **values):
            whole[row["model"]]["metrics"].append(_metric_from(row, names[row["model"]]))
    return [
        replace(
            model_from(row),
            params=whole[row["number"]]["params"],
            tags=whole[row["number"]]["tags"],
            metrics=tuple(whole[row["number"]]["metrics"]),
        )
        for row in found
    ]


def model_from(row: Row) -> LoggedModel:
    """The logged model of a row, without what belongs to it."""
    return LoggedModel(
        model_id=row["model_id"],
        experiment_id=str(row["experiment_id"]),
        name=row["name"],
        source_run_id=row["source_run_id"],
        model_type=row["model_type"],
        status=LoggedModelStatus(row["status"]),
        lifecycle_stage=Lifecycle(row["lifecycle_stage"]),
        artifact_location=row["artifact_location"],
        creation_time=row["creation_time"],
        last_update_time=row["last_update_time"],
    )


def _metric_from(row: Row, model_id: str) -> ModelMetric:
    return ModelMetric(
        model_id=model_id,
        key=row["key"],
        value=math.nan if row["is_nan"] else row["value"],
        timestamp=row["timestamp"],
        step=row["step"],
        run_id=row["run_id"],
        dataset_name=row["dataset_name"],
        dataset_digest=row["dataset_digest"],
    )


def numbers_of(rows: Connection, model_ids: Sequence[str]) -> dict[str, int]:
    """The numbers of those models that exist."""
    found: dict[str, int] = {}
    for part in chunks(list(dict.fromkeys(model_ids))):
        listed, values = places(part)
        sql = f"SELECT model_id, number FROM logged_models WHERE model_id IN ({listed})"
        found |= {row["model_id"]: row["number"] for row in rows.all(sql, **values)}
    return found


def add_metrics(rows: Connection, points: Iterable[Mapping[str, Any]]) -> None:
    """Add values measured on logged models; the first of a (key, time, step, run) stays."""
    rows.many(
        "INSERT INTO logged_model_metrics (model, key, timestamp, step, run_id, value, is_nan, dataset_name, dataset_digest) "
        "VALUES (:model, :key, :timestamp, :step, :run_id, :value, :is_nan, :dataset_name, :dataset_digest) "
        "ON CONFLICT DO NOTHING",
        points,
    )


def find_params(rows: Connection, number: int) -> dict[str, str]:
    """A logged model's parameters."""
    sql = "SELECT key, value FROM logged_model_params WHERE model = :number"
    return {row["key"]: row["value"] for row in rows.all(sql, number=number)}


def add_params(rows: Connection, number: int, params: Mapping[str, str]) -> None:
    """Add parameters, those that exist stay."""
    rows.many(
        "INSERT INTO logged_model_params (model, key, value) VALUES (:model, :key, :value) ON CONFLICT (model, key) DO NOTHING",
        [{"model": number, "key": key, "value": value} for key, value in params.items()],
    )


def put_tags(rows: Connection, number: int, tags: Mapping[str, str]) -> None:
    """Set tags."""
    rows.many(
        "INSERT INTO logged_model_tags (model, key, value) VALUES (:model, :key, :value) "
        "ON CONFLICT (model, key) DO UPDATE SET value = excluded.value",
        [{"model": number, "key": key, "value": value} for key, value in tags.items()],
    )


def drop_tag(rows: Connection, number: int, key: str) -> bool:
    """Remove a tag; True if it was there."""
    return bool(rows.run("DELETE FROM logged_model_tags WHERE model = :number AND key = :key", number=number, key=key))


def remove_model(rows: Connection, number: int) -> None:
    """Remove a logged model with all that belongs to it."""
    for table in ("metrics", "params", "tags"):
        rows.run(f"DELETE FROM logged_model_{table} WHERE model = :number", number=number)
    rows.run("DELETE FROM logged_models WHERE number = :number", number=number)
