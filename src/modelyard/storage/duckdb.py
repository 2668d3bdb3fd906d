"""Parquet files and SQL over them, through DuckDB: no Arrow package needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from modelyard.core.errors import Damaged


def read_parquet(path: Path) -> Any:
    """The file (or `folder/*.parquet` pattern) as a pandas frame."""
    try:
        with duckdb.connect() as connection:
            return connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).df()
    except duckdb.Error as error:
        raise Damaged(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def write_parquet(frame: Any, path: Path) -> None:
    """Write a pandas frame as one zstd-compressed Parquet file; it appears whole or not at all."""
    part = path.with_name(path.name + ".part")
    with duckdb.connect() as connection:
        connection.register("rows_to_write", frame)
        target = str(part).replace("'", "''")
        connection.execute(f"COPY rows_to_write TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
    part.replace(path)
