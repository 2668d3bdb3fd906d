"""One part of a batch prediction: the answers to a chunk's rows, in the columns that all parts share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.models import Signature
from modelyard.serving.batch_files import Rows
from modelyard.serving.loaded import LoadedModel, ModelFailed, Refusal

OWN = ("file", "row", "prediction", "probabilities")


def write_part(
    path: Path,
    model: LoadedModel,
    rows: Rows,
    *,
    file: str,
    batch: np.ndarray,
    fine: list[int],
    carried: Mapping[str, str],
) -> None:
    """Write the answers to a chunk's rows: `batch` is what the model takes of them, `fine` which of them that are, and
    `carried` maps the columns that go along to their types."""
    predictions, shares = _answers(model, batch)
    kind, values = _typed(predictions, model.signature)
    columns: dict[str, np.ndarray] = {
        "file": _objects([file] * len(fine)),
        "row": np.array([rows.row[place] for place in fine], dtype=np.int64),
    }
    types = {"file": "string", "row": "int"}
    for name, wanted in carried.items():
        column = column_of(name)
        columns[column], types[column] = _carried(rows.carried.get(name), fine, wanted), wanted
    columns["prediction"], types["prediction"] = values, kind
    widths = np.full(len(fine), shares.shape[1], dtype=np.int32)
    plugins.load("parquet", "write_segment")(
        path, columns, types, lists={"probabilities": (shares, widths)}, beside={"modelyard": json.dumps("batch")}
    )


def column_of(name: str) -> str:
    """Where a carried column stands among the answers."""
    return f"input_{name}" if name.lower() in OWN else name


def _answers(model: LoadedModel, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (n,) and probabilities (n, classes), without columns where there are none."""
    if not len(batch):
        classes = 0 if model.signature.task == "regression" else len(model.signature.classes)
        return np.empty(0, dtype=object), np.empty((0, classes))
    try:
        output = model.answer(batch)
    except (ModelFailed, Refusal) as error:
        raise Invalid(f"{error}. No row of this chunk is answered; mend the model or leave its rows out.") from error
    shares = output.probabilities
    empty = np.empty((len(batch), 0))
    return output.predictions, empty if shares is None else np.asarray(shares, dtype=np.float64)


def _typed(predictions: np.ndarray, signature: Signature) -> tuple[str, np.ndarray]:
    """The answers' type, which all parts share, and the answers in it: the classes' where they are known."""
    kinds = {type(one) for one in signature.classes}
    if signature.task == "regression":
        return "float", predictions.astype(np.float64)
    if kinds == {bool} or predictions.dtype.kind == "b":
        return "bool", predictions.astype(np.bool_)
    if kinds == {int} or (not kinds and predictions.dtype.kind in "iu"):
        return "int", predictions.astype(np.int64)
    if (kinds and kinds <= {int, float}) or (not kinds and predictions.dtype.kind == "f"):
        return "float", predictions.astype(np.float64)
    return "string", _objects([str(one) for one in predictions.tolist()])


def _objects(values: list[Any]) -> np.ndarray:
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


def _carried(values: list[Any] | None, fine: list[int], kind: str) -> np.ndarray:
    taken = [None if values is None else values[place] for place in fine]
    if kind == "string":
        return _objects([value if value is None or isinstance(value, str) else str(value) for value in taken])
    mask = np.array([value is None for value in taken], dtype=bool)
    numbers = {"int": np.int64, "float": np.float64, "bool": np.bool_}
    return np.ma.masked_array(np.array([value or 0 for value in taken], dtype=numbers[kind]), mask)
