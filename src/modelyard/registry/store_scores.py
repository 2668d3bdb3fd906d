"""The rows of scores: one a version, data set and metric, with the numbers as packed doubles in the order of row ids."""

from __future__ import annotations

from modelyard.core.instants import from_micros
from modelyard.core.models import ModelVersion
from modelyard.core.ports import Connection
from modelyard.registry.checks import canonical_version
from modelyard.registry.comparison import Scores


def put(rows: Connection, scores: Scores, packed: bytes, *, now: int) -> None:
    """Write scores, in place of those of the same data set and metric."""
    rows.run(
        "INSERT INTO model_scores (name, canonical, dataset, metric, n, mean, rows_digest, packed, created_by, created_at)"
        " VALUES (:name, :canonical, :dataset, :metric, :n, :mean, :rows_digest, :packed, :created_by, :created_at)"
        " ON CONFLICT (name, canonical, dataset, metric) DO UPDATE SET n = excluded.n, mean = excluded.mean,"
        " rows_digest = excluded.rows_digest, packed = excluded.packed, created_by = excluded.created_by,"
        " created_at = excluded.created_at",
        name=scores.name,
        canonical=canonical_version(scores.version),
        dataset=scores.dataset,
        metric=scores.metric,
        n=scores.n,
        mean=scores.mean,
        rows_digest=scores.rows_digest,
        packed=packed,
        created_by=scores.created_by,
        created_at=now,
    )


def all_of(rows: Connection, model: ModelVersion) -> list[Scores]:
    """What is kept of a version's scores, without the numbers."""
    found = rows.all(
        "SELECT dataset, metric, n, mean, rows_digest, created_by, created_at FROM model_scores"
        " WHERE name = :name AND canonical = :canonical ORDER BY dataset, metric",
        name=model.name,
        canonical=canonical_version(model.version),
    )
    return [
        Scores(
            name=model.name,
            version=model.version,
            dataset=row["dataset"],
            metric=row["metric"],
            n=row["n"],
            mean=row["mean"],
            rows_digest=row["rows_digest"],
            created_by=row["created_by"],
            created_at=from_micros(row["created_at"]),
        )
        for row in found
    ]


def bytes_of(rows: Connection, model: ModelVersion, scores: Scores) -> bytes:
    """The packed numbers."""
    row = rows.one(
        "SELECT packed FROM model_scores WHERE name = :name AND canonical = :canonical AND dataset = :dataset"
        " AND metric = :metric",
        name=model.name,
        canonical=canonical_version(model.version),
        dataset=scores.dataset,
        metric=scores.metric,
    )
    return b"" if row is None else bytes(row["packed"])
