"""The pipeline's SQL: runs and their metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from modelyard.core.canonical import dumps
from modelyard.core.instants import Instant, from_micros, micros
from modelyard.core.ports import Connection, Row
from modelyard.pipeline.results import PipelineStatus, RunRecord

_COLUMNS = """r.run_id, r.name, r.status, r.created_by, r.started_at, r.completed_at, r.data_source, r.data_digest,
    r.model_type, r.model_class, r.config, r.best_params, r.artifacts, r.failed_stage, r.error"""


def insert_run(rows: Connection, run: RunRecord) -> None:
    """Write a run that has started."""
    rows.run(
        """
        INSERT INTO pipeline_runs (run_id, name, status, created_by, started_at, completed_at, data_source, data_digest,
            model_type, model_class, config, best_params, artifacts, failed_stage, error)
        VALUES (:run_id, :name, :status, :created_by, :started_at, NULL, :data_source, '',
            :model_type, :model_class, :config, '{}', '{}', '', '')
        """,
        run_id=run.run_id,
        name=run.name,
        status=run.status.value,
        created_by=run.created_by,
        started_at=micros(run.started_at),
        data_source=run.data_source,
        model_type=run.model_type,
        model_class=run.model_class,
        config=dumps(run.config),
    )


def complete_run(
    rows: Connection,
    run_id: str,
    *,
    at: Instant,
    data_digest: str,
    best_params: Mapping[str, Any],
    artifacts: Mapping[str, str],
) -> None:
    """Mark a run completed, with what it gave."""
    rows.run(
        """
        UPDATE pipeline_runs SET status = 'completed', completed_at = :at, data_digest = :data_digest,
            best_params = :best_params, artifacts = :artifacts
        WHERE run_id = :run_id
        """,
        run_id=run_id,
        at=micros(at),
        data_digest=data_digest,
        best_params=dumps(best_params),
        artifacts=dumps(artifacts),
    )


def fail_run(rows: Connection, run_id: str, *, at: Instant, stage: str, error: str) -> None:
    """Mark a run failed, with the stage and the reason."""
    rows.run(
        """
        UPDATE pipeline_runs SET status = 'failed', completed_at = :at, failed_stage = :stage, error = :error
        WHERE run_id = :run_id
        """,
        run_id=run_id,
        at=micros(at),
        stage=stage,
        error=error,
    )


def insert_metrics(rows: Connection, run_id: str, metrics: Mapping[str, float]) -> None:
    """Write a run's metrics."""
    rows.many(
        "INSERT INTO pipeline_metrics (run_id, metric, value) VALUES (:run_id, :metric, :value)",
        [{"run_id": run_id, "metric": name, "value": value} for name, value in metrics.items()],
    )


def run_by_id(rows: Connection, run_id: str) -> RunRecord | None:
    """One run, or None."""
    row = rows.one(f"SELECT {_COLUMNS} FROM pipeline_runs r WHERE r.run_id = :run_id", run_id=run_id)
    return None if row is None else _record(rows, row)


def runs(rows: Connection, *, name: str, status: str, limit: int) -> list[RunRecord]:
    """The newest runs; an empty name or status matches every one."""
    found = rows.all(
        f"""
        SELECT {_COLUMNS} FROM pipeline_runs r
        WHERE (:name = '' OR r.name = :name) AND (:status = '' OR r.status = :status)
        ORDER BY r.started_at DESC, r.run_id LIMIT :limit
        """,
        name=name,
        status=status,
        limit=limit,
    )
    return [_record(rows, row) for row in found]


def lowest_run(rows: Connection, *, name: str, metric: str, sign: int) -> RunRecord | None:
    """The completed run of a name whose metric times sign is least; the earlier of two alike."""
    row = rows.one(
        f"""
        SELECT {_COLUMNS} FROM pipeline_runs r JOIN pipeline_metrics m ON m.run_id = r.run_id
        WHERE r.name = :name AND m.metric = :metric AND r.status = 'completed'
        ORDER BY m.value * :sign, r.started_at LIMIT 1
        """,
        name=name,
        metric=metric,
        sign=sign,
    )
    return None if row is None else _record(rows, row)


def metric_names(rows: Connection, name: str) -> list[str]:
    """The metrics that any run of a name has."""
    found = rows.all(
        """
        SELECT DISTINCT m.metric FROM pipeline_metrics m JOIN pipeline_runs r ON r.run_id = m.run_id
        WHERE r.name = :name ORDER BY m.metric
        """,
        name=name,
    )
    return [row["metric"] for row in found]


def run_names(rows: Connection) -> list[str]:
    """The names that runs have."""
    return [row["name"] for row in rows.all("SELECT DISTINCT name FROM pipeline_runs ORDER BY name")]


def _record(rows: Connection, row: Row) -> RunRecord:
    metrics = rows.all(
        "SELECT metric, value FROM pipeline_metrics WHERE run_id = :run_id ORDER BY metric", run_id=row["run_id"]
    )
    return RunRecord(
        run_id=row["run_id"],
        name=row["name"],
        status=PipelineStatus(row["status"]),
        created_by=row["created_by"],
        started_at=from_micros(row["started_at"]),
        completed_at=None if row["completed_at"] is None else from_micros(row["completed_at"]),
        data_source=row["data_source"],
        data_digest=row["data_digest"],
        model_type=row["model_type"],
        model_class=row["model_class"],
        config=json.loads(row["config"]),
        metrics={entry["metric"]: entry["value"] for entry in metrics},
        best_params=json.loads(row["best_params"]),
        artifacts=json.loads(row["artifacts"]),
        failed_stage=row["failed_stage"],
        error=row["error"],
    )
