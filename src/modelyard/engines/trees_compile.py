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
from modelyard.core.ports import Output, Runtime
from modelyard.engines.flat import Flat, Front, Lines, Lookup, save
from modelyard.engines.flat import opened as opened_flat
from modelyard.engines.trees import LEAF, Ensemble
from modelyard.stats.parity import parity

Array = np.ndarray[Any, np.dtype[Any]]

LARGEST = 512 << 20  # bytes
ROWS = 2048  # ordinary rows, and as many with every value on the edge of some split

HALF = 0.5
MOST = 3e38  # scikit-learn's trees refuse what a float32 cannot hold


def compiled(path: Path, framework: str, signature: Signature | None, target: Path, *more: Any) -> Parity:
    """How alike the compiled form answers, once it has been written to `target`; Invalid says why there is none.

    Sample rows are drawn from the thresholds of the trees themselves: beside them, on them, and just past them. `more` is
    what else the framework's runtime is opened with.
    """
    if path.stat().st_size > LARGEST:
        raise Invalid(f"its file is larger than {LARGEST >> 20} MiB, as no model is that pays to compile")
    opened = cache(lambda: plugins.load("runtime", framework)(path, signature, *more))
    found = plugins.load("trees", framework)(path, opened)
    runtime = opened()
    known = runtime.signature
    if isinstance(found, Ensemble):
        found = Flat(front=Front(numbers=tuple(range(len(known.inputs)))), core=found)
    if not known.numeric and found.front.plain(len(known.inputs)):
        text = ", ".join(spec.name for spec in known.inputs if spec.kind == "string")
        raise Invalid(f"it takes text: {text}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".part")
    os.close(handle)
    try:
        save(Path(part), found, known)
        rows = probes(found, known.inputs)
        alike = parity(_native(runtime, rows), _told(opened_flat(Path(part), known).predict(rows)), sample=ROWS)
        if not alike.passed:
            raise Invalid(alike.reason)
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)
    return alike


def probes(flat: Flat, inputs: tuple[FeatureSpec, ...]) -> Array:
    """Rows (2 ROWS, inputs) that ask every side of the splits: values near thresholds, then values on and just past
    them, some missing where they may be; and every category, known or not."""
    rng = np.random.default_rng(0)
    text = any(spec.kind == "string" for spec in inputs)
    rows = np.empty((2 * ROWS, len(inputs)), dtype=object if text else np.float64)
    lookups = {one.source: one for one in flat.front.lookups}
    for place, spec in enumerate(inputs):
        if place in lookups:
            rows[:, place] = _categories(lookups[place], spec, rng)
        elif spec.kind == "string":
            rows[:, place] = spec.categories[0] if spec.categories else ""
        else:
            rows[:, place] = _as_kind(_around(_edges(flat, place), rng), spec, rng)
    return rows


def _edges(flat: Flat, place: int) -> Array:
    """Values of an input at which answers change; of lines, any that make a difference."""
    numbers = flat.front.numbers
    if place not in numbers:
        return np.zeros(1)
    column = numbers.index(place)
    if isinstance(flat.core, Lines):
        weight = float(np.abs(flat.core.weights[column]).max()) or 1.0
        fill = 0.0 if flat.front.fills is None else float(np.nan_to_num(flat.front.fills[column]))
        return fill + np.linspace(-3.0, 3.0, 13) / weight
    core = flat.core
    edges = core.threshold[(core.left != LEAF) & (core.feature == column)]
    if flat.front.holes is not None:
        edges = np.concatenate([edges, flat.front.holes[:, column]])
    edges = edges[np.isfinite(edges)]
    return edges if len(edges) else np.zeros(1)


def _around(edges: Array, rng: np.random.Generator) -> Array:
    with np.errstate(over="ignore"):
        spread = min(float(np.std(edges)), MOST) or max(float(np.abs(edges).max()), 1.0)
    ordinary = np.clip(rng.choice(edges, ROWS) + rng.normal(size=ROWS) * spread, -MOST, MOST)
    step = rng.choice(np.array([-np.inf, 0.0, np.inf]), ROWS)
    near = rng.choice(edges, ROWS)
    double = np.where(step == 0, near, np.nextafter(near, step))
    with np.errstate(over="ignore"):
        near, step = near.astype(np.float32), step.astype(np.float32)
        single = np.where(step == 0, near, np.nextafter(near, step)).astype(np.float64)
    exact = np.where((rng.random(ROWS) < HALF) & np.isfinite(single), single, double)
    return np.concatenate([ordinary, exact])


def _categories(lookup: Lookup, spec: FeatureSpec, rng: np.random.Generator) -> Array:
    choices: list[Any] = list(lookup.known)
    if spec.nullable and not lookup.refuses[0]:
        choices.append(None if spec.kind == "string" else np.nan)
    if not lookup.refuses[1] and (spec.categories is None or spec.kind != "string"):
        choices.append("\0other" if spec.kind == "string" else max([*lookup.known, 0.0]) + 1.5)
    found = np.empty(len(choices), dtype=object)
    found[:] = choices
    return found[rng.integers(0, len(choices), 2 * ROWS)]


def _as_kind(column: Array, spec: FeatureSpec, rng: np.random.Generator) -> Array:
    if spec.kind == "int":
        column = np.rint(column)
    elif spec.kind == "bool":
        column = (column > np.median(column)).astype(np.float64)
    if spec.nullable:
        column[rng.random(len(column)) < 0.1] = np.nan
    return column


def _native(runtime: Runtime, rows: Array) -> Array:
    try:
        return _told(runtime.predict(rows))
    except (ValueError, TypeError) as error:
        raise Invalid(f"it does not answer the rows that it was tried with: {error}") from error


def _told(output: Output) -> Array:
    return output.predictions if output.probabilities is None else np.asarray(output.probabilities, dtype=np.float64)
