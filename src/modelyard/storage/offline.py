"""The offline store of features: SQL over its Parquet segments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.ports import History
from modelyard.storage.duckdb import SQL_TYPES, arrays, identifier, literal, scan, working

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20
MOST_FREQUENT = 20
HUGE = 1e100  # beyond this, squares overflow: moments are then taken of scaled values
NEWEST = "__event DESC, __created DESC, file_index DESC, file_row_number DESC"
COUNTS = """
SELECT count(value) AS count, count(*) - count(value) AS nulls, count(DISTINCT value) AS distinct_values,
       count(DISTINCT __entity) AS entities, min(__event) AS first_event, max(__event) AS last_event
FROM told
"""
TOP = f"""
SELECT value, count(*) AS n FROM told WHERE value IS NOT NULL GROUP BY value ORDER BY n DESC, value LIMIT {MOST_FREQUENT}
"""
RANGE = "SELECT count(*) AS finite, min(value) AS min, max(value) AS max FROM numbers"
MOMENTS = f"""
SELECT favg(value / $scale) AS mean, CASE WHEN count(*) > 1 THEN stddev_samp(value / $scale) END AS std,
       quantile_cont(value / $scale, {list(QUANTILES)}) AS quantiles
FROM numbers
"""
HISTOGRAM = """
SELECT least(CAST(floor((value / $width) - ($low / $width)) AS INTEGER), $bins - 1) AS bin, count(*) AS n
FROM numbers GROUP BY bin
"""


class DuckOfflineStore:
    """`OfflineStore` by DuckDB. "Newest" orders by event time, created time, segment and position in the segment."""

    def write(self, path: Path, columns: Mapping[str, np.ndarray], types: Mapping[str, str]) -> None:
        """Write a segment; types are float, int, bool or string by column. Masked entries are null."""
        casts = ", ".join(
            f"CAST({identifier(name)} AS {SQL_TYPES[types[name]]}) AS {identifier(name)}" for name in columns
        )
        with working() as session:
            session.register("rows_to_write", dict(columns))
            session.execute(
                f"COPY (SELECT {casts} FROM rows_to_write) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
            )

    def at(self, entities: np.ndarray, moments: np.ndarray, history: History, *, created: bool) -> Mapping[str, Any]:
        """Each column's value at (entity, moment), in that order, as masked arrays; see `OfflineStore.at`.

        One ASOF join: a row is visible from the later of its event and created times; in visible order only those rows
        count whose event time is the greatest so far, and one a moment. Without `created` a row is visible from its event time.
        """
        spine = {"n": np.arange(len(entities)), "entity": entities, "moment": moments}
        with working() as session:
            session.register("labels", spine)
            session.execute(
                "CREATE TEMP TABLE spine AS SELECT n, CAST(entity AS VARCHAR) AS entity, CAST(moment AS BIGINT) AS moment FROM labels"
            )
            return arrays(session, _at(history, "greatest(__event, __created)" if created else "__event"))

    def newest(self, history: History, *, up_to: int | None) -> Mapping[str, Any]:
        """The newest row of each entity, with its __entity, __event, __created and __segment (an index), as masked arrays."""
        columns = "".join(f", {identifier(name)}" for name in history.ttl)
        until = "" if up_to is None else f"WHERE __event <= {int(up_to)}"
        with working() as session:
            return arrays(
                session,
                f"SELECT __entity, __event, __created, file_index AS __segment{columns} FROM {scan(history.segments)} {until} "
                f"QUALIFY row_number() OVER (PARTITION BY __entity ORDER BY {NEWEST}) = 1",
            )

    def summary(self, history: Sequence[Path], column: str) -> Mapping[str, Any]:
        """Counts, moments, quantiles and frequent values of one column, each (entity, event time) counted once."""
        with working() as session:
            session.execute(
                f"CREATE TEMP TABLE told AS SELECT __entity, __event, {identifier(column)} AS value FROM {scan(history)} "
                f"QUALIFY row_number() OVER (PARTITION BY __entity, __event ORDER BY {NEWEST}) = 1"
            )
            found = _record(session, COUNTS)
            kind = session.execute("SELECT typeof(value) FROM told LIMIT 1").fetchall()
            if kind and kind[0][0] == SQL_TYPES["string"]:
                return {**found, "top": session.execute(TOP).fetchall()}
            return {**found, **_numbers(session)}

    def merge(self, history: Sequence[Path], path: Path, *, without: Sequence[str] = ()) -> int:
        """Write one segment with the rows of several, in writing order, except those of some entities; returns how many."""
        with working() as session:
            session.execute(
                "CREATE TEMP TABLE left_out AS SELECT unnest(CAST($1 AS VARCHAR[])) AS entity", [list(without)]
            )
            copied = session.execute(
                f"COPY (SELECT * FROM {scan(history)} WHERE __entity NOT IN (SELECT entity FROM left_out) "
                f"ORDER BY file_index, file_row_number) TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
            )
            return int(copied.fetchall()[0][0])


def _at(history: History, visible: str) -> str:
    columns = "".join(f", {identifier(name)}" for name in history.ttl)
    answers = "".join(
        f", {identifier(name)}"
        if ttl is None
        else f", CASE WHEN spine.moment - seen.__event <= {int(ttl)} THEN {identifier(name)} END AS {identifier(name)}"
        for name, ttl in history.ttl.items()
    )
    return f"""
        WITH asked AS (SELECT entity, max(moment) AS last FROM spine GROUP BY entity),
        told AS (
            SELECT __entity, __event, {visible} AS visible{columns}
            FROM {scan(history.segments)} JOIN asked ON __entity = asked.entity
            WHERE {visible} <= asked.last
            QUALIFY row_number() OVER (PARTITION BY __entity, visible ORDER BY {NEWEST}) = 1
        ),
        seen AS (
            SELECT * FROM told
            QUALIFY __event >= max(__event) OVER (PARTITION BY __entity ORDER BY visible ROWS UNBOUNDED PRECEDING)
        )
        SELECT spine.n{answers} FROM spine ASOF LEFT JOIN seen
        ON spine.entity = seen.__entity AND spine.moment >= seen.visible
        ORDER BY spine.n
    """


def _numbers(session: Any) -> dict[str, Any]:
    session.execute(
        "CREATE TEMP TABLE numbers AS SELECT CAST(value AS DOUBLE) AS value FROM told "
        "WHERE value IS NOT NULL AND isfinite(CAST(value AS DOUBLE))"
    )
    found = _record(session, RANGE)
    if not found["finite"]:
        return found
    low, high = found["min"], found["max"]
    scale = max(abs(low), abs(high))
    scale = scale if scale > HUGE else 1.0
    moments = _record(session, MOMENTS, scale=scale)
    quantiles = zip(QUANTILES, moments["quantiles"], strict=True)
    return {
        **found,
        "mean": moments["mean"] * scale,
        "std": None if moments["std"] is None else moments["std"] * scale,
        "quantiles": {f"p{round(q * 100)}": value * scale for q, value in quantiles},
        **_histogram(session, low, high),
    }


def _histogram(session: Any, low: float, high: float) -> dict[str, Any]:
    """Equal bins from the lowest to the highest value; one bin where they are equal."""
    bins = BINS if high > low else 1
    width = (high / bins - low / bins) or 1.0
    edges = [low + n * width for n in range(bins)] + [high]
    counts = [0] * bins
    for position, n in session.execute(HISTOGRAM, {"low": low, "width": width, "bins": bins}).fetchall():
        counts[max(position, 0)] += n
    return {"edges": tuple(edges), "counts": tuple(counts)}


def _record(session: Any, sql: str, **values: float) -> dict[str, Any]:
    answer = session.execute(sql, values or None)
    return dict(zip([column[0] for column in answer.description], answer.fetchall()[0], strict=True))
