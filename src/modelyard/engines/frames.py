"""Tables through pandas: files in, frames and plain columns out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from modelyard.core import plugins
from modelyard.core.errors import Damaged, Invalid, NotFound

Columns = dict[str, np.ndarray]


class PandasTables:
    """Reads, writes and converts tables. A frame is a pandas DataFrame; columns are name -> 1-D array."""

    @staticmethod
    def read(path: str | Path) -> pd.DataFrame:
        """The table in a .csv, .parquet, .json or .jsonl file."""
        file = Path(path)
        if not file.exists():
            raise NotFound(f"There is no file {file}. Check the path.")
        suffix = file.suffix.lower()
        try:
            if suffix in (".csv", ".gz"):
                return pd.read_csv(file)
            if suffix in (".json", ".jsonl", ".ndjson"):
                return pd.read_json(file, lines=suffix != ".json")
        except (ValueError, UnicodeDecodeError, OSError) as error:
            raise Damaged(f"{file} cannot be read as {suffix[1:].upper()}: {error}") from error
        if suffix in (".parquet", ".pq"):
            frame: pd.DataFrame = plugins.load("parquet", "read")(file)
            return frame
        raise Invalid(f"{file} has the unknown ending {suffix!r}. Use .csv, .parquet, .json or .jsonl.")

    @staticmethod
    def write(frame: pd.DataFrame, path: str | Path) -> None:
        """Write a .csv or .parquet file."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() in (".parquet", ".pq"):
            plugins.load("parquet", "write")(frame, file)
        else:
            frame.to_csv(file, index=False)

    @staticmethod
    def frame(table: Any) -> pd.DataFrame:
        """A DataFrame from a frame, a mapping of columns, or a list of records."""
        if isinstance(table, pd.DataFrame):
            return table
        if isinstance(table, (Mapping, Sequence)) and not isinstance(table, str):
            return pd.DataFrame(table if isinstance(table, Mapping) else list(table))
        raise Invalid(
            f"A {type(table).__name__} is no table. Pass a DataFrame, a mapping of columns or a list of records."
        )

    @staticmethod
    def columns(table: Any) -> Columns:
        """Name -> 1-D NumPy array: numbers and bools as they are, everything else as objects with None for missing."""
        frame = PandasTables.frame(table)
        return {str(name): _plain_array(frame[name]) for name in frame.columns}


def _plain_array(column: pd.Series[Any]) -> np.ndarray:
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        if column.hasnans or pd.api.types.is_extension_array_dtype(column.dtype):
            return column.to_numpy(dtype=float, na_value=np.nan)
        return column.to_numpy()
    values = column.astype(object)
    return values.where(column.notna(), None).to_numpy(dtype=object)
