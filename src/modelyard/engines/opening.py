"""Opens a model file of any kind, running whatever code it holds. Only for the child process of a sandbox."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.packages import signature_of
from modelyard.engines.loading import load_model

PLAIN = (str, int, float, bool, type(None))


def opened(path: str, order: Mapping[str, Any]) -> Any:
    """The model: an object with `predict`, unpickled where the file is a pickle."""
    kind = str(order["format"]).rpartition("+")[2]
    if kind == "pickle":
        # joblib reads plain pickles too, and compressed ones by their content
        return importlib.import_module("joblib").load(path)
    if kind == "skops":
        return plugins.load("opener", "skops")(path)
    signature = signature_of(order["signature"]) if order.get("signature") else None
    return load_model(Path(path), signature)


def answered(model: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Predictions, and probabilities where the model has them, as plain JSON values."""
    table = plugins.load("tables", "pandas").frame(asked["columns"]) if "columns" in asked else np.array(asked["rows"])
    answer = {"predictions": _plain(model.predict(table))}
    task = getattr(getattr(model, "signature", None), "task", "")
    if hasattr(model, "predict_proba") and task != "regression":
        answer["probabilities"] = _plain(model.predict_proba(table))
    return answer


def _plain(values: Any) -> Any:
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    waiting = [found]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif not isinstance(item, PLAIN):
            raise TypeError(f"it answers with a {type(item).__name__}, which is no plain value")
    return found
