"""Parquet files and SQL over them, through DuckDB: no Arrow package needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from modelyard.core.errors import Damaged, Invalid, NotFound

SQL_TYPES = {"float": "DOUBLE", "int": "BIGINT", "bool": "BOOLEAN", "string": "VARCHAR"}
PLAIN_TYPES = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), "int"),
    **dict.fromkeys(("FLOAT", "DOUBLE", "DECIMAL", "HUGEINT", "UBIGINT", "UHUGEINT"), "float"),
    "BOOLEAN": "bool",
}
ORDER = 'ORDER BY "at", request_id, "row"'


def read_parquet(path: Path) -> Any:
    """The file (or `folder/*.parquet` pattern) as a pandas frame."""
    try:
        with duckdb.connect() as connection:
            return connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).df()
    except duckdb.Error as error:
        raise Damaged(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def parquet_from_lines(source: Path, path: Path, types: Mapping[str, str], metadata: Mapping[str, str]) -> None:
    """Write a file of JSON objects, one a line, as Parquet with columns of these DuckDB types, and texts beside them."""
    columns = ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in types.items())
    beside = ", ".join(f"{identifier(name)}: {literal(value)}" for name, value in metadata.items())
    with working() as session:
        session.execute(
            f"COPY (SELECT * FROM read_json({literal(str(source))}, format = 'newline_delimited', columns = {{{columns}}}, "
            f"maximum_object_size = 16777216)) TO {literal(str(path))} "
            f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{beside}}})"
        )


def write_parquet(frame: Any, path: Path) -> None:
    """Write a pandas frame as one zstd-compressed Parquet file; it appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    with duckdb.connect() as connection:
        connection.register("rows_to_write", frame)
        connection.execute(f"COPY rows_to_write TO {literal(str(part))} (FORMAT parquet, COMPRESSION zstd)")
    part.replace(path)


class Segment:
    """A Parquet file of rows with a moment column `at`, and a text beside them. Damaged where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def beside(self, key: str) -> str | None:
        """The text that stands beside the rows under a key."""
        found = self._asked("SELECT value FROM parquet_kv_metadata($file) WHERE key = $key", key=key.encode())
        return found[0][0].decode() if found else None

    def rows(
        self, *, since: int, until: int, equal: Mapping[str, str], after: tuple[int, str, int] | None, limit: int
    ) -> list[dict[str, Any]]:
        """So many rows from a moment on and before another, ordered by time, request id and row; moments in microseconds.

        `equal` says what columns are; with `after`, only rows behind that (time, request id, row).
        """
        where, values = _filter(since, until, equal)
        if after is not None:
            where += (
                ' AND "at" >= make_timestamptz(CAST($behind AS BIGINT)) AND '
                '("at" > make_timestamptz(CAST($behind AS BIGINT)) OR (request_id, "row") > ($id, $number))'
            )
            values |= {"behind": after[0], "id": after[1], "number": after[2]}
        return self._mappings(f'{where} ORDER BY "at", request_id, "row" LIMIT $limit', limit=limit, **values)

    def count_hashed(self, *, column: str, salt: str, digest: str, until: int) -> int:
        """How many rows up to a moment have a column whose salted SHA-256 is this."""
        found = self._asked(
            f"SELECT count(*) FROM read_parquet($file) WHERE {_hashed(column)}", salt=salt, digest=digest, until=until
        )
        return int(found[0][0])

    def write_without(self, path: Path, *, key: str, column: str, salt: str, digest: str, until: int) -> int:
        """How many rows were written to another file: all but those of `count_hashed`, with the text beside them.

        OSError where the file cannot be written.
        """
        told = f"{identifier(key)}: {literal(self.beside(key) or 'null')}"
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            try:
                copied = session.execute(
                    f"COPY (SELECT * FROM read_parquet($file) WHERE NOT coalesce({_hashed(column)}, false)) "
                    f"TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{told}}})",
                    {"file": str(self._path), "salt": salt, "digest": digest, "until": until},
                ).fetchall()
            except duckdb.IOException as error:
                raise OSError(_line(error)) from error
            return int(copied[0][0])

    def request_ids(self) -> list[str]:
        """The request id of each row."""
        return [one for (one,) in self._asked("SELECT request_id FROM read_parquet($file)")]

    def among(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows whose request id is one of these; moments in microseconds."""
        return self._mappings("request_id IN (SELECT unnest($ids::VARCHAR[]))", ids=list(ids))

    def _mappings(self, where: str, **values: Any) -> list[dict[str, Any]]:
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            answer = session.execute(
                f'SELECT * REPLACE (epoch_us("at") AS "at") FROM read_parquet($file) WHERE {where}',
                {"file": str(self._path), **values},
            )
            names = [column[0] for column in answer.description]
            return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def _asked(self, sql: str, **values: Any) -> list[Any]:
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            return session.execute(sql, {"file": str(self._path), **values}).fetchall()  # type: ignore[no-any-return]


class Rows:
    """A Parquet file of any columns, read by ranges of rows. Damaged where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def types(self) -> dict[str, str]:
        """Column -> float, int or bool; string for everything else."""
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            told = session.execute("DESCRIBE SELECT * FROM read_parquet($file)", {"file": str(self._path)}).fetchall()
        return {name: PLAIN_TYPES.get(kind.partition("(")[0], "string") for name, kind, *_ in told}

    def count(self) -> int:
        """How many rows there are."""
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            found = session.execute("SELECT count(*) FROM read_parquet($file)", {"file": str(self._path)}).fetchall()
        return int(found[0][0])

    def slice(self, columns: Sequence[str], first: int, count: int) -> Mapping[str, Any]:
        """Some rows' columns as masked arrays, in the file's order."""
        types = self.types()
        chosen = ", ".join(
            f"CAST({identifier(name)} AS {SQL_TYPES[types[name]]}) AS {identifier(name)}" for name in columns
        )
        with _reading(self._path), _engine(os.getpid()).cursor() as session:
            return arrays(
                session,
                f"SELECT {chosen} FROM read_parquet({literal(str(self._path))}) LIMIT {int(count)} OFFSET {int(first)}",
            )


def write_segment(
    path: Path,
    columns: Mapping[str, np.ndarray],
    types: Mapping[str, str],
    *,
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]],
    beside: Mapping[str, str],
) -> None:
    """Write columns as Parquet, and texts beside them; masked entries are null.

    Types are float, int, bool, string or moment (microseconds since 1970). A list column is a matrix and how many of its
    entries each row has; none is null. OSError where the file cannot be written.
    """
    rows, select = _selected(columns, types, lists)
    told = ", ".join(f"{identifier(name)}: {literal(value)}" for name, value in beside.items())
    with _engine(os.getpid()).cursor() as session:
        session.register("rows_to_write", rows)
        try:
            session.execute(
                f"COPY (SELECT {select} FROM rows_to_write) TO {literal(str(path))} "
                f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{told}}})"
            )
        except duckdb.IOException as error:
            raise OSError(_line(error)) from error


def _selected(
    columns: Mapping[str, np.ndarray],
    types: Mapping[str, str],
    lists: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, Any], str]:
    """What is to be registered, and what is selected of it."""
    rows, chosen = dict(columns), []
    for name in columns:
        kind = types[name]
        taken = (
            f"make_timestamptz({identifier(name)})"
            if kind == "moment"
            else f"CAST({identifier(name)} AS {SQL_TYPES[kind]})"
        )
        chosen.append(f"{taken} AS {identifier(name)}")
    for name, (matrix, widths) in lists.items():
        parts = [f"{name} {n}" for n in range(matrix.shape[1])]
        rows |= {part: np.ascontiguousarray(matrix[:, n]) for n, part in enumerate(parts)} | {f"{name} n": widths}
        listed = ", ".join(map(identifier, parts)) or "NULL::DOUBLE"
        n = identifier(f"{name} n")
        chosen.append(f"CASE WHEN {n} > 0 THEN list_value({listed})[1:{n}] END AS {identifier(name)}")
    return rows, ", ".join(chosen)


class Chosen:
    """The rows of many segments, in files and in memory, that a filter lets through: as a frame, or as another file."""

    def __init__(
        self,
        files: Sequence[Path],
        tables: Sequence[
            tuple[Mapping[str, np.ndarray], Mapping[str, str], Mapping[str, tuple[np.ndarray, np.ndarray]]]
        ],
        *,
        since: int,
        until: int,
        equal: Mapping[str, str],
        columns: Sequence[str] = (),
    ) -> None:
        self._files, self._tables = files, tables
        self._where = _filter(since, until, equal)
        self._columns = ", ".join(map(identifier, columns)) or "*"

    def frame(self) -> Any:
        """A pandas frame, oldest first; `at` is a time in UTC."""
        with self._asked() as (session, sql, values):
            return _framed(session, f"SELECT {self._columns} FROM ({sql} {ORDER})", values)

    @staticmethod
    def empty(types: Mapping[str, str]) -> Any:
        """A frame of no rows."""
        sql = {**SQL_TYPES, "moment": "TIMESTAMPTZ"}
        chosen = ", ".join(f"CAST(NULL AS {sql[kind]}) AS {identifier(name)}" for name, kind in types.items())
        with _engine(os.getpid()).cursor() as session:
            return _framed(session, f"SELECT {chosen} LIMIT 0", {})

    def write(self, path: Path) -> int:
        """How many rows were written to a .parquet or .csv file, which appears whole; what is in memory stays small."""
        part = path.with_name(path.name + ".part")
        form = "FORMAT csv, HEADER" if path.suffix.lower() == ".csv" else "FORMAT parquet, COMPRESSION zstd"
        try:
            with self._asked() as (session, sql, values):
                session.execute("SET TimeZone = 'UTC'")
                copied = session.execute(f"COPY ({sql}) TO {literal(str(part))} ({form})", values).fetchall()
            part.replace(path)
        except duckdb.IOException as error:
            raise OSError(_line(error)) from error
        finally:
            part.unlink(missing_ok=True)
        return int(copied[0][0])

    @contextmanager
    def _asked(self) -> Iterator[tuple[Any, str, dict[str, Any]]]:
        where, values = self._where
        sources = [f"SELECT * FROM {scan(self._files)}"] if self._files else []
        with _engine(os.getpid()).cursor() as session:
            for number, table in enumerate(self._tables):
                rows, select = _selected(*table)
                session.register(f"raw_{number}", rows)
                sources.append(f"SELECT {select} FROM raw_{number}")
            try:
                sql = " UNION ALL BY NAME ".join(sources)
                yield session, f"SELECT * FROM ({sql}) WHERE {where}", values
            except duckdb.IOException as error:
                gone = [path for path in self._files if not path.exists()]
                if gone:
                    raise NotFound(f"{gone[0]} is gone. Restore it from a backup.") from error
                raise
            except duckdb.InvalidInputException as error:
                raise Damaged(f"A segment cannot be read: {_line(error)}. Move it out of the folder.") from error
            except duckdb.BinderException as error:
                raise Invalid(f"The log has no such column: {_line(error)}") from error


def _framed(session: Any, sql: str, values: Mapping[str, Any]) -> Any:
    """The answer as a pandas frame, its times in UTC."""
    told = session.execute(f"DESCRIBE {sql}", values).fetchall()
    times = [name for name, kind, *_ in told if kind == "TIMESTAMP WITH TIME ZONE"]
    # a time with a zone makes DuckDB call what pandas deprecates
    bare = "".join(f"{identifier(name)} AT TIME ZONE 'UTC' AS {identifier(name)}, " for name in times).removesuffix(
        ", "
    )
    frame = session.execute(f"SELECT *{bare and f' REPLACE ({bare})'} FROM ({sql})", values).df()
    for name in times:
        frame[name] = frame[name].dt.tz_localize("UTC")
    return frame


def _filter(since: int, until: int, equal: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The condition, and the values that it names."""
    moments = [
        f'"at" {sign} make_timestamptz(CAST(${name} AS BIGINT))' for sign, name in ((">=", "since"), ("<", "until"))
    ]
    values: dict[str, Any] = {"since": since, "until": until}
    for number, (name, value) in enumerate(equal.items()):
        moments.append(f"{identifier(name)} = $equal_{number}")
        values[f"equal_{number}"] = value
    return " AND ".join(moments), values


def _hashed(column: str) -> str:
    return f'sha256($salt || {identifier(column)}) = $digest AND "at" <= make_timestamptz(CAST($until AS BIGINT))'


def merge_segments(sources: Sequence[Path], path: Path, beside: Mapping[str, str]) -> None:
    """Write one Parquet file with the rows of several segments, in the order of time. OSError where it cannot be written."""
    files = ", ".join(literal(str(one)) for one in sources)
    told = ", ".join(f"{identifier(name)}: {literal(value)}" for name, value in beside.items())
    with _engine(os.getpid()).cursor() as session:
        try:
            session.execute(
                f"COPY (SELECT * FROM read_parquet([{files}], union_by_name = true) "
                f'ORDER BY "at", request_id, "row") TO {literal(str(path))} '
                f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{{told}}})"
            )
        except duckdb.IOException as error:
            raise OSError(_line(error)) from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        if not path.exists():
            raise NotFound(f"{path} is gone. Restore it from a backup.") from error
        raise Damaged(f"{path} cannot be read as Parquet: {_line(error)}. Move it out of the folder.") from error


def arrays(session: Any, sql: str) -> dict[str, Any]:
    """The columns of what a query gives."""
    found: dict[str, Any] = session.execute(sql).fetchnumpy()
    return found


def scan(segments: Sequence[Path]) -> str:
    """The segments as one table. file_index follows the list's order, which is the writing order."""
    files = ", ".join(literal(str(path)) for path in segments)
    return f"read_parquet([{files}], union_by_name = true)"


def identifier(column: str) -> str:
    """A column's name as SQL has it."""
    return '"' + column.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as SQL has it."""
    return "'" + value.replace("'", "''") + "'"


@cache
def _engine(process: int) -> Any:  # noqa: ARG001  a forked process needs its own
    """One engine a process: starting it takes longer than a small write."""
    return duckdb.connect()


@contextmanager
def working() -> Iterator[Any]:
    """A session of this process's engine."""
    try:
        with _engine(os.getpid()).cursor() as session:
            yield session
    except duckdb.IOException as error:
        if "No files found" in str(error):
            raise NotFound(f"A feature segment is gone: {_line(error)}. Restore it from a backup.") from error
        raise Damaged(f"A feature segment cannot be read: {_line(error)}. Restore it from a backup.") from error
    except duckdb.InvalidInputException as error:
        raise Damaged(f"A feature segment cannot be read: {_line(error)}. Restore it from a backup.") from error


def _line(error: Exception) -> str:
    return str(error).splitlines()[0]
