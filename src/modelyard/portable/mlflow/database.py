"""MLflow's SQLite database, opened for reading only."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelyard.core.errors import Damaged, Invalid
from modelyard.portable.mlflow import answers
from modelyard.portable.mlflow.local import LocalFiles
from modelyard.portable.mlflow.values import FoundModel, FoundVersion
from modelyard.tracking import DatasetInput, Experiment, LoggedModel, Metric, ModelMetric, ModelOutput, Run
from modelyard.tracking.values import Point

Row = sqlite3.Row
RUNS, VALUES = 500, 10_000  # at a time
DELETED = "Deleted_Internal"
BESIDE = ("mlartifacts", "mlruns")  # where MLflow keeps files if it is not told


class Database(LocalFiles):
    """A database file. Files are read below its own folder and below `artifacts`."""

    parallel = 1

    def __init__(self, file: Path, artifacts: Path | None = None) -> None:
        if not file.is_file():
            raise Invalid(f"There is no file {file}. Write sqlite:////absolute/path.db or sqlite:///relative/path.db.")
        proxied = artifacts or next((file.parent / one for one in BESIDE if (file.parent / one).is_dir()), None)
        super().__init__([file.parent, *([artifacts] if artifacts else [])], proxied)
        self.place = f"sqlite:///{file.resolve()}"
        self._rows = sqlite3.connect(f"file:{quote(str(file.resolve()))}?mode=ro", uri=True)
        self._rows.row_factory = sqlite3.Row
        try:
            found = self._all("SELECT name FROM sqlite_master WHERE type = 'table'")
        except sqlite3.DatabaseError as error:
            raise Invalid(f"{file} is no SQLite database: {error}.") from error
        self._tables = {row["name"] for row in found}
        if not {"experiments", "runs", "metrics", "latest_metrics"} <= self._tables:
            raise Invalid(f"{file} is no database of MLflow's: it has no experiments and runs.")

    def close(self) -> None:
        """Close the database."""
        self._rows.close()

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment, deleted ones too."""
        tags = self._entries("experiment_tags", "experiment_id", "key", "value")
        for row in self._all("SELECT * FROM experiments ORDER BY experiment_id"):
            told = [{"key": key, "value": text} for key, text in tags[row["experiment_id"]].items()]
            yield answers.experiment({**dict(row), "tags": told})

    def runs(self, experiment_id: str) -> Iterator[Run]:
        """The runs of an experiment, deleted ones too."""
        after = ""
        sql = "SELECT * FROM runs WHERE experiment_id = ? AND run_uuid > ? ORDER BY run_uuid LIMIT ?"
        while found := self._all(sql, int(experiment_id), after, RUNS):
            yield from self._whole(found)
            after = found[-1]["run_uuid"]

    def history(self, run: Run, key: str) -> Iterator[list[Point]]:
        """Every value of a metric, some at a time."""
        cursor = self._rows.execute(
            "SELECT key, CASE WHEN is_nan THEN NULL ELSE value END, timestamp, step FROM metrics WHERE run_uuid = ? AND +key = ?",
            (run.run_id, key),  # the plus has the index by run used, not the one by key, which has every run
        )
        while found := cursor.fetchmany(VALUES):
            yield [(one[0], float("nan") if one[1] is None else float(one[1]), one[2], one[3]) for one in found]

    def logged_models(self, experiment_id: str) -> Iterator[LoggedModel]:
        """The logged models of an experiment."""
        if "logged_models" not in self._tables:
            return
        sql = "SELECT * FROM logged_models WHERE experiment_id = ? AND lifecycle_stage = 'active' ORDER BY model_id"
        for row in self._all(sql, int(experiment_id)):
            one = row["model_id"]
            yield answers.logged_model_of(
                {
                    **dict(row),
                    "creation_timestamp": row["creation_timestamp_ms"],
                    "last_updated_timestamp": row["last_updated_timestamp_ms"],
                },
                tags=self._entries("logged_model_tags", "model_id", "tag_key", "tag_value", [one])[one],
                params=self._entries("logged_model_params", "model_id", "param_key", "param_value", [one])[one],
                metrics=tuple(
                    ModelMetric(
                        model_id=one,
                        key=metric["metric_name"],
                        value=float("nan") if metric["metric_value"] is None else float(metric["metric_value"]),
                        timestamp=metric["metric_timestamp_ms"],
                        step=metric["metric_step"],
                        run_id=metric["run_id"],
                        dataset_name=metric["dataset_name"] or None,
                        dataset_digest=metric["dataset_digest"] or None,
                    )
                    for metric in self._all("SELECT * FROM logged_model_metrics WHERE model_id = ?", one)
                ),
            )

    def models(self) -> Iterator[FoundModel]:
        """The registered models."""
        if "registered_models" not in self._tables:
            return
        tags = self._entries("registered_model_tags", "name", "key", "value")
        aliases = self._entries("registered_model_aliases", "name", "alias", "version")
        for row in self._all("SELECT name, description FROM registered_models ORDER BY name"):
            name = row["name"]
            numbers = {alias: int(number) for alias, number in aliases[name].items()}
            yield FoundModel(name=name, description=row["description"] or "", tags=tags[name], aliases=numbers)

    def versions(self, name: str) -> Iterator[FoundVersion]:
        """The versions of a registered model, the oldest first."""
        tags: dict[int, dict[str, str]] = defaultdict(dict)
        for row in self._all("SELECT version, key, value FROM model_version_tags WHERE name = ?", name):
            tags[row["version"]][row["key"]] = row["value"] or ""
        sql = "SELECT * FROM model_versions WHERE name = ? AND current_stage <> ? ORDER BY version"
        for row in self._all(sql, name, DELETED):
            yield answers.version_of(dict(row), tags[row["version"]])

    def _whole(self, found: Sequence[Row]) -> Iterator[Run]:
        ids = [row["run_uuid"] for row in found]
        params, tags = (self._entries(table, "run_uuid", "key", "value", ids) for table in ("params", "tags"))
        latest: dict[str, list[Metric]] = defaultdict(list)
        for row in self._listed("SELECT * FROM latest_metrics WHERE run_uuid IN ({})", ids):
            value = float("nan") if row["is_nan"] else float(row["value"])
            latest[row["run_uuid"]].append(Metric(row["key"], value, row["timestamp"], row["step"] or 0))
        datasets, inputs, outputs = self._inputs(ids)
        for row in found:
            one = row["run_uuid"]
            yield answers.run_of(
                {**dict(row), "run_name": row["name"]},
                tags=tags[one],
                params=params[one],
                latest_metrics=tuple(latest[one]),
                datasets=tuple(datasets[one]),
                model_inputs=tuple(inputs[one]),
                model_outputs=tuple(outputs[one]),
            )

    def _inputs(
        self, ids: Sequence[str]
    ) -> tuple[dict[str, list[DatasetInput]], dict[str, list[str]], dict[str, list[ModelOutput]]]:
        """Datasets, and logged models used and made, by run."""
        datasets: dict[str, list[DatasetInput]] = defaultdict(list)
        inputs: dict[str, list[str]] = defaultdict(list)
        outputs: dict[str, list[ModelOutput]] = defaultdict(list)
        if "inputs" not in self._tables:
            return datasets, inputs, outputs
        used = self._listed(
            "SELECT i.input_uuid, i.destination_id AS run, d.* FROM inputs i JOIN datasets d ON d.dataset_uuid = i.source_id "
            "WHERE i.source_type = 'DATASET' AND i.destination_type = 'RUN' AND i.destination_id IN ({})",
            ids,
        )
        tags = self._entries("input_tags", "input_uuid", "name", "value", [row["input_uuid"] for row in used])
        for row in used:
            told = {key: row[f"dataset_{key}"] for key in ("source_type", "source", "schema", "profile")}
            dataset = answers.dataset({**told, "name": row["name"], "digest": row["digest"]})
            datasets[row["run"]].append(DatasetInput(dataset=dataset, tags=tags[row["input_uuid"]]))
        sql = "SELECT * FROM inputs WHERE source_type = 'RUN_INPUT' AND source_id IN ({})"
        for row in self._listed(sql, ids):
            inputs[row["source_id"]].append(row["destination_id"])
        sql = "SELECT * FROM inputs WHERE source_type = 'RUN_OUTPUT' AND source_id IN ({})"
        for row in self._listed(sql, ids):
            outputs[row["source_id"]].append(ModelOutput(model_id=row["destination_id"], step=row["step"] or 0))
        return datasets, inputs, outputs

    def _entries(
        self, table: str, of: str, key: str, value: str, ids: Sequence[str] | None = None
    ) -> dict[Any, dict[str, str]]:
        """Keys and values by what they belong to; of everything, or of some ids."""
        found: dict[Any, dict[str, str]] = defaultdict(dict)
        if table in self._tables:
            sql = f"SELECT {of} AS of, {key} AS key, {value} AS value FROM {table}"
            rows = self._all(sql) if ids is None else self._listed(f"{sql} WHERE {of} IN ({{}})", ids)
            for row in rows:
                found[row["of"]][row["key"]] = "" if row["value"] is None else str(row["value"])
        return found

    def _listed(self, sql: str, ids: Sequence[str]) -> list[Row]:
        return self._all(sql.format(", ".join("?" * len(ids))), *ids) if ids else []

    def _all(self, sql: str, *values: Any) -> list[Row]:
        try:
            return self._rows.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            raise Damaged(
                f"The database cannot be read ({error}). It is of a version of MLflow whose tables are others: start "
                "`mlflow server` on it and import its address."
            ) from error
