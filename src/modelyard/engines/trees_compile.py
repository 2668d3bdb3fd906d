"""Compiles a model of trees into flat arrays, and proves that it answers as the model does."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Parity, Signature
from modelyard.core.ports import Output
from modelyard.engines.trees import LEAF, Ensemble, TreesRuntime, save
from modelyard.stats.parity import parity

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 512 << 20  # bytes
ROWS = 2048  # ordinary rows, and as many with every value on the edge of some split


def compiled(path: Path, framework: str, signature: Signature | None, target: Path) -> Parity:
    """How alike the compiled form answers, once it has been written to `target`; Invalid says why there is none.

    Sample rows are drawn from the thresholds of the trees themselves: beside them, on them, and just past them.
    """
    if path.stat().st_size > LARGEST:
        raise Invalid(f"its file is larger than {LARGEST >> 20} MiB, as no ensemble of trees is that pays to compile")
    opened = cache(lambda: plugins.load("runtime", framework)(path, signature))
    ensemble = plugins.load("trees", framework)(path, opened)
    runtime = opened()
    known = runtime.signature
    if not known.numeric:
        text = ", ".join(spec.name for spec in known.inputs if spec.kind == "string")
        raise Invalid(f"it takes text: {text}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        save(Path(part), ensemble, known)
        rows = probes(ensemble, known.inputs)
        found = parity(
            _told(runtime.predict(rows)), _told(TreesRuntime(Path(part), signature).predict(rows)), sample=ROWS
        )
        if not found.passed:
            raise Invalid(found.reason)
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)
    return found


def probes(ensemble: Ensemble, inputs: tuple[FeatureSpec, ...]) -> Array:
    """Rows (2 ROWS, inputs) that ask every side of the splits: values near thresholds, then values on and just past
    them, some missing where they may be."""
    rng = np.random.default_rng(0)
    rows = np.empty((2 * ROWS, len(inputs)))
    inner = ensemble.left != LEAF
    for place, spec in enumerate(inputs):
        edges = ensemble.threshold[inner & (ensemble.feature == place)]
        edges = edges[np.isfinite(edges)] if len(edges) else edges
        edges = edges if len(edges) else np.zeros(1)
        spread = float(np.std(edges)) or max(float(np.abs(edges).max()), 1.0)
        ordinary = rng.choice(edges, ROWS) + rng.normal(size=ROWS) * spread
        exact = rng.choice(edges, ROWS).astype(np.float32)
        step = rng.choice(np.array([-np.inf, 0.0, np.inf], np.float32), ROWS)
        exact = np.where(step == 0, exact, np.nextafter(exact, step))
        column = np.concatenate([ordinary, exact.astype(np.float64)])
        rows[:, place] = _as_kind(column, spec, rng)
    return rows


def _as_kind(column: Array, spec: FeatureSpec, rng: np.random.Generator) -> Array:
    if spec.kind == "int":
        column = np.rint(column)
    elif spec.kind == "bool":
        column = (column > np.median(column)).astype(np.float64)
    if spec.nullable:
        column[rng.random(len(column)) < 0.1] = np.nan
    return column


def _told(output: Output) -> Array:
    return output.predictions if output.probabilities is None else np.asarray(output.probabilities, dtype=np.float64)
