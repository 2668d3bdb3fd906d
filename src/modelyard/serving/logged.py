"""Logged rows in two forms: the columns of a Parquet segment, and mappings. `reading` finds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.serving import segments
from modelyard.serving.segments import Columns, Layout

PREFIX = "feature_"
BASE = {
    "request_id": "string",
    "row": "int",
    "at": "moment",
    "endpoint": "string",
    "arm": "string",
    "model": "string",
    "version": "string",
    "unit": "string",
    "latency_ms": "float",
    "sampling": "float",
    "split": "string",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows in typed columns, as they stand in Parquet. `beside` says which column is which feature of which version."""

    columns: Mapping[str, np.ndarray]
    types: Mapping[str, str]
    probabilities: tuple[np.ndarray, np.ndarray]  # (rows, most classes), and how many classes each row has
    beside: Mapping[str, Any]


def table(blocks: Sequence[Columns], endpoint: str) -> Table:
    """One table of many blocks: a column for each feature that any version takes, null for the rows of the others."""
    rows = [len(one.request_id) for one in blocks]
    layouts = list(dict.fromkeys(one.layout for one in blocks))
    places = _places(layouts)
    columns: dict[str, np.ndarray] = {
        "request_id": _texts(one.request_id for one in blocks),
        "row": np.concatenate([one.row for one in blocks]),
        "at": np.round(np.concatenate([one.at for one in blocks]) * 1e6).astype(np.int64),
        "endpoint": _texts([endpoint] * n for n in rows),
        "arm": _texts([one.layout.arm] * n for one, n in zip(blocks, rows, strict=True)),
        "model": _texts([one.layout.model] * n for one, n in zip(blocks, rows, strict=True)),
        "version": _texts([one.layout.version] * n for one, n in zip(blocks, rows, strict=True)),
        "unit": _texts(one.unit for one in blocks),
        "latency_ms": np.concatenate([one.latency_ms for one in blocks]),
        "sampling": np.repeat([one.layout.share for one in blocks], rows),
        "split": _texts([one.layout.split] * n for one, n in zip(blocks, rows, strict=True)),
    }
    types = dict(BASE)
    columns["prediction"], types["prediction"] = _predictions(blocks)
    for name, column in places.items():
        kind = _common({dict(zip(one.names, one.kinds, strict=True)).get(name) for one in layouts} - {None})
        columns[column], types[column] = _feature(blocks, name, kind), kind
    versions = [{"model": one.model, "version": one.version, "features": list(one.names)} for one in layouts]
    seen = list({json.dumps(one): one for one in versions}.values())
    beside = {
        "features": {column: name for name, column in places.items()},
        "versions": seen,
        "types": types,
        "from": int(columns["at"].min()),
    }
    order = np.argsort(columns["at"], kind="stable")  # so that a reader of some minutes skips most of the file
    columns = {name: values[order] for name, values in columns.items()}
    matrix, widths = _probabilities(blocks)
    return Table(columns=columns, types=types, probabilities=(matrix[order], widths[order]), beside=beside)


def _places(layouts: Sequence[Layout]) -> dict[str, str]:
    """Feature -> its column. Readers that know no case (DuckDB) tell `Age` from `age` by a number."""
    places: dict[str, str] = {}
    taken: set[str] = set()
    for name in (name for one in layouts for name in one.names):
        if name in places:
            continue
        column, number = PREFIX + name, 1
        while column.lower() in taken:
            number += 1
            column = f"{PREFIX}{name}_{number}"
        taken.add(column.lower())
        places[name] = column
    return places


def _common(kinds: set[Any]) -> str:
    if len(kinds) == 1:
        return str(next(iter(kinds)))
    return "float" if kinds == {"float", "int"} else "string"


def _texts(parts: Any) -> np.ndarray:
    values = [value for part in parts for value in part]
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _feature(blocks: Sequence[Columns], name: str, kind: str) -> np.ndarray:
    """One feature of all rows: masked where it is missing or not taken; text for kinds that do not go together."""
    values: list[Any] = []
    for one in blocks:
        n = len(one.request_id)
        taken = one.batch[:, one.layout.names.index(name)] if name in one.layout.names else np.full(n, np.nan)
        if kind == "string":
            values.extend(None if _missing(value) else str(value) for value in taken.tolist())
        else:
            values.append(taken.astype(np.float64))
    if kind == "string":
        return _texts([values])
    numbers = np.concatenate(values)
    mask = np.isnan(numbers)
    kinds = {"float": np.float64, "int": np.int64, "bool": np.bool_}
    return np.ma.masked_array(np.where(mask, 0, numbers).astype(kinds[kind]), mask)


def _predictions(blocks: Sequence[Columns]) -> tuple[np.ndarray, str]:
    kinds = {one.predictions.dtype.kind for one in blocks}
    if kinds <= set("iu"):
        return np.concatenate([one.predictions.astype(np.int64) for one in blocks]), "int"
    if kinds == {"b"}:
        return np.concatenate([one.predictions for one in blocks]), "bool"
    if kinds <= set("iuf"):
        return np.concatenate([one.predictions.astype(np.float64) for one in blocks]), "float"
    return _texts([None if v is None else str(v) for v in one.predictions.tolist()] for one in blocks), "string"


def _probabilities(blocks: Sequence[Columns]) -> tuple[np.ndarray, np.ndarray]:
    widths = [0 if one.probabilities is None else one.probabilities.shape[1] for one in blocks]
    rows = [len(one.request_id) for one in blocks]
    matrix = np.zeros((sum(rows), max(widths, default=0)))
    at = 0
    for one, width, n in zip(blocks, widths, rows, strict=True):
        if one.probabilities is not None:
            matrix[at : at + n, :width] = one.probabilities
        at += n
    return matrix, np.repeat(widths, rows).astype(np.int32)


def rows_of(block: Columns, endpoint: str, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """Some of a block's rows, by their places, as mappings."""
    block = segments.taken(block, places)
    layout = block.layout
    batch = block.batch.tolist()
    shares = None if block.probabilities is None else block.probabilities.tolist()
    row, at, latency, predictions = (
        values.tolist() for values in (block.row, block.at, block.latency_ms, block.predictions)
    )
    casts = [_CASTS[kind] for kind in layout.kinds]
    for n, request_id in enumerate(block.request_id):
        yield {
            "request_id": request_id,
            "row": row[n],
            "at": round(at[n] * 1e6) / 1e6,
            "endpoint": endpoint,
            "arm": layout.arm,
            "model": layout.model,
            "version": layout.version,
            "unit": block.unit[n],
            "features": {
                name: None if _missing(value) else cast(value)
                for name, value, cast in zip(layout.names, batch[n], casts, strict=True)
            },
            "prediction": predictions[n],
            "probabilities": None if shares is None else shares[n],
            "latency_ms": latency[n],
            "sampling": layout.share,
            "split": layout.split,
        }


def _missing(value: Any) -> bool:
    return value is None or bool(value != value)  # noqa: PLR0124 - only not-a-number differs from itself


_CASTS: dict[str, Any] = {"float": float, "int": int, "bool": bool, "string": str}


def raw(folder: Path) -> list[Path]:
    """The raw segments whose rows do not stand in Parquet yet, as `opened` takes them, in the order of writing."""
    stems = {path.stem for path in folder.glob("*+*") if path.suffix in (".open", ".rows")}
    return [folder / stem for stem in sorted(stems) if not (folder / f"{stem}.parquet").exists()]


def opened(path: Path) -> segments.Segment:
    """A raw segment, whether or not its writer has closed it meanwhile."""
    try:
        return segments.read(path.with_name(path.name + ".open"))
    except FileNotFoundError:
        return segments.read(path.with_name(path.name + ".rows"))
