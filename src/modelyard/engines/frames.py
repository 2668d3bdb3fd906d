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
CSV, JSON, PARQUET = (".csv", ".gz"), (".json", ".jsonl", ".ndjson"), (".parquet", ".pq")  # files, by their ending


class PandasTables:
    """Reads, writes and converts tables. A frame is a pandas DataFrame; columns are name -> 1-D array."""

    @staticmethod
    def read(path: str | Path) -> pd.DataFrame:
        """The table in a .csv, .parquet, .json or .jsonl file."""
        file = Path(path)
        if not file.exists():
            raise NotFound(f"There is no file {file}. Check the path.")
        PandasTables.check_ending(file)
        suffix = file.suffix.lower()
        try:
            if suffix in CSV:
                return pd.read_csv(file)
            if suffix in JSON:
                return pd.read_json(file, lines=suffix != ".json")
        except (ValueError, UnicodeDecodeError, OSError) as error:
            raise Damaged(f"{file} cannot be read as {suffix[1:].upper()}: {error}") from error
        frame: pd.DataFrame = plugins.load("parquet", "read")(file)
        return frame

    @staticmethod
    def write(frame: pd.DataFrame, path: str | Path) -> None:
        """Write a .csv, .parquet, .json or .jsonl file."""
        file = Path(path)
        PandasTables.check_ending(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        suffix = file.suffix.lower()
        if suffix in PARQUET:
            plugins.load("parquet", "write")(frame, file)
        elif suffix in JSON:
            frame.to_json(file, orient="records", lines=suffix != ".json", date_format="iso", date_unit="us")
        else:
            frame.to_csv(file, index=False)

    @staticmethod
    def check_ending(path: str | Path) -> None:
        """Invalid for a file whose name ends as no table's does."""
        suffix = Path(path).suffix.lower()
        if suffix not in (*CSV, *JSON, *PARQUET):
            raise Invalid(f"{path} has the unknown ending {suffix!r}. Use .csv, .parquet, .json or .jsonl.")

    @staticmethod
    def frame(table: Any) -> pd.DataFrame:
        """A DataFrame from a frame, a mapping of columns, or a list of records."""
        if isinstance(table, pd.DataFrame):
            return table
        if isinstance(table, (Mapping, Sequence)) and not isinstance(table, str):
            try:
                return pd.DataFrame(table if isinstance(table, Mapping) else list(table))
            except (ValueError, TypeError, AttributeError) as error:
                raise Invalid(f"These columns or records make no table: {error}.") from error
        raise Invalid(
            f"A {type(table).__name__} is no table. Pass a DataFrame, a mapping of columns or a list of records."
        )

    @staticmethod
    def columns(table: Any) -> Columns:
        """Name -> 1-D NumPy array: numbers and bools as they are, everything else as objects with None for missing."""
        frame = PandasTables.frame(table)
        return {str(name): _plain_array(frame[name]) for name in frame.columns}

    @staticmethod
    def masked(table: Any, name: str) -> np.ma.MaskedArray[Any, Any]:
        """One column without any loss: integers and bools keep their type beside nulls; everything else is objects."""
        column = PandasTables.frame(table)[name]
        missing = column.isna().to_numpy(dtype=bool)
        kind, dtype = pd.api.types, column.dtype
        if kind.is_bool_dtype(dtype) or kind.is_numeric_dtype(dtype):
            bare = column.astype(dtype).array
            data = (
                bare.to_numpy(dtype=_width(dtype), na_value=0)
                if kind.is_extension_array_dtype(dtype)
                else bare.to_numpy()
            )
            return np.ma.MaskedArray(data, mask=missing)
        values = column.astype(object).to_numpy(dtype=object, copy=True)
        values[missing] = None
        return np.ma.MaskedArray(values, mask=missing)

    @staticmethod
    def instants(table: Any, name: str) -> np.ma.MaskedArray[Any, Any]:
        """A column of times as whole microseconds since 1970 UTC, rounded down; times without a zone are UTC.

        Takes datetimes of any unit and zone (mixed too) and ISO 8601 text. Invalid for plain numbers, whose unit is unknown.
        """
        column = PandasTables.frame(table)[name]
        if pd.api.types.is_numeric_dtype(column.dtype) and not column.isna().all():
            raise Invalid(
                f"Column {name!r} holds numbers, not times. Convert it: pandas.to_datetime(column, unit='s')."
            )
        try:
            if isinstance(column.dtype, pd.DatetimeTZDtype):
                times = column.dt.tz_convert("UTC")
            else:
                times = pd.to_datetime(column, utc=True, format=None if column.dtype.kind == "M" else "ISO8601")
        except (ValueError, TypeError) as error:
            why = str(error).partition(". ")[0].rstrip(".")  # behind it pandas talks to programmers
            raise Invalid(f"Column {name!r} holds what is no time: {why}. Use ISO 8601 or datetimes.") from error
        missing = times.isna().to_numpy(dtype=bool)
        bare = times.dt.tz_localize(None).to_numpy()
        return np.ma.MaskedArray(bare.astype("datetime64[us]").astype(np.int64), mask=missing)

    @staticmethod
    def joined(table: Any, columns: Mapping[str, np.ma.MaskedArray[Any, Any]]) -> pd.DataFrame:
        """The table with further columns: floats with NaN for null; integers and bools as Int64 and boolean; text with None."""
        return PandasTables.frame(table).assign(**{name: _series_values(column) for name, column in columns.items()})


def _width(dtype: Any) -> Any:
    """The NumPy type that holds an extension type's values exactly."""
    if pd.api.types.is_bool_dtype(dtype):
        return np.bool_
    if pd.api.types.is_integer_dtype(dtype):
        return np.uint64 if pd.api.types.is_unsigned_integer_dtype(dtype) else np.int64
    return np.float64


def _series_values(column: np.ma.MaskedArray[Any, Any]) -> Any:
    data, missing = np.ma.getdata(column), np.ma.getmaskarray(column)
    if data.dtype.kind == "b":
        return pd.arrays.BooleanArray(data, missing)
    if data.dtype.kind in "iu":
        return pd.arrays.IntegerArray(data, missing)
    if data.dtype.kind == "f":
        return np.where(missing, np.nan, data)
    values = data.astype(object)
    values[missing] = None
    return values


def _plain_array(column: pd.Series[Any]) -> np.ndarray:
    if pd.api.types.is_bool_dtype(column.dtype) or pd.api.types.is_numeric_dtype(column.dtype):
        if column.hasnans or pd.api.types.is_extension_array_dtype(column.dtype):
            return column.to_numpy(dtype=float, na_value=np.nan)
        return column.to_numpy()
    values = column.astype(object)
    return values.where(column.notna(), None).to_numpy(dtype=object)
