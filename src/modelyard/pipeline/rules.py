"""What a training run decides: what is wrong with a table, which trial is best, whether an export may answer. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from modelyard.core.models import FeatureSpec, Task
from modelyard.pipeline.columns import Array, as_float32, is_date, missing
from modelyard.pipeline.config import LOWER_IS_BETTER
from modelyard.pipeline.results import Finding, Trial

LEAKING_AUC = 0.995  # one column that ranks the target this well usually was made from it
LEAKING_R2 = 0.9999
RARE_CLASS = 0.05


def column_findings(spec: FeatureSpec, values: Array) -> list[Finding]:
    """Missing values, a constant, or an identifier."""
    found = []
    lacking = missing(values)
    share = float(lacking.mean())
    if share > 0:
        text = f"{spec.name} is missing in {share:.1%} of the rows."
        found.append(
            Finding(kind="missing_values", severity=_weight(share > 0.5), message=text, column=spec.name, value=share)
        )
    levels = len(set(values[~lacking].tolist()))
    if spec.kind != "string" and len(np.unique(as_float32(values[~lacking]))) < levels:
        text = (
            f"{spec.name} has values that differ by less than float32 can tell (7 digits). Take differences, or parts."
        )
        found.append(Finding(kind="precision", severity="warning", message=text, column=spec.name))
    if levels <= 1:
        text = f"{spec.name} has one value in all rows, so nothing can be learnt from it."
        found.append(Finding(kind="constant", severity="warning", message=text, column=spec.name))
    if is_identifier(spec, values):
        remedy = "It is left out." if spec.kind == "string" else "Name it in exclude_columns if it is one."
        text = f"{spec.name} has a value of its own in nearly every row, as an identifier has. {remedy}"
        found.append(
            Finding(kind="identifier", severity="warning", message=text, column=spec.name, value=float(levels))
        )
    return found


def _weight(grave: bool) -> Literal["info", "warning"]:
    return "warning" if grave else "info"


def is_identifier(spec: FeatureSpec, values: Array) -> bool:
    """True for text or consecutive whole numbers that differ in at least 95 % of 50 or more rows; dates are none."""
    count = len(values)
    if count < 50 or spec.kind not in ("string", "int"):
        return False
    present = values[~missing(values)]
    levels = set(present.tolist())
    if len(levels) < 0.95 * count:
        return False
    if spec.kind == "string":
        return not is_date(values)
    return bool(max(levels) - min(levels) < 1.1 * count)  # row numbers; measured amounts leave gaps


def leakage_findings(spec: FeatureSpec, values: Array, y: Array, task: Task) -> list[Finding]:
    """One column that tells the target nearly alone."""
    if task == "regression":
        score, limit, what = _fit(values, y), LEAKING_R2, "R2"
    else:
        score, limit, what = max(separation(values, y == code) for code in np.unique(y)), LEAKING_AUC, "AUC"
    if score <= limit:
        return []
    text = f"{spec.name} alone predicts the target with {what} {score:.4f}. Was it known before the target was?"
    return [Finding(kind="leakage", severity="warning", message=text, column=spec.name, value=score)]


def separation(values: Array, positive: Array) -> float:
    """The area under the ROC curve of one column used as a score, in its better direction; a missing value ranks lowest.

    Text is ranked by the share of positives of its category, unless categories are so many that this proves nothing.

    >>> separation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    1.0
    """
    positives = int(positive.sum())
    if positives in (0, len(positive)):
        return 0.5
    if values.dtype.kind == "f":
        score = np.where(np.isnan(values), -np.inf, values)
    else:
        _, codes = np.unique([value or "" for value in values.tolist()], return_inverse=True)
        counts = np.bincount(codes)
        if len(counts) > 0.2 * len(values):
            return 0.5
        score = (np.bincount(codes, weights=positive) / counts)[codes]
    _, places, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # ties share their mean rank (Mann and Whitney 1947)
    u = ranks[places][positive].sum() - positives * (positives + 1) / 2
    auc = float(u / (positives * (len(positive) - positives)))
    return max(auc, 1 - auc)


def _fit(values: Array, y: Array) -> float:
    """The squared correlation of a numeric column with the target; 0 for text."""
    if values.dtype.kind != "f":
        return 0.0
    known = ~np.isnan(values)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(y[known]) == 0:
        return 0.0
    return float(np.corrcoef(values[known], y[known])[0, 1] ** 2)


def row_findings(keys: Array, y: Array, task: Task) -> list[Finding]:
    """Rows that occur twice, and classes that are rare. `keys` (n,) is one hash a row, target included."""
    found = []
    twice = len(keys) - len(np.unique(keys))
    if twice:
        text = f"{twice} rows repeat an earlier row in every column."
        found.append(Finding(kind="duplicates", severity="info", message=text, value=twice / len(keys)))
    if task != "regression":
        share = np.bincount(y).min() / len(y)
        if share < RARE_CLASS:
            text = f"The rarest class has {share:.2%} of the rows. Judge by auc_roc, recall and log_loss, not accuracy."
            found.append(Finding(kind="imbalance", severity="warning", message=text, value=float(share)))
    return found


def shared_rows(keys: Array, kept: Array, held: Array, part: str) -> list[Finding]:
    """Rows of the training part that occur again in a held-out part."""
    share = float(np.isin(keys[held], keys[kept]).mean()) if len(held) else 0.0
    if share == 0:
        return []
    text = f"{share:.1%} of the {part} rows are also training rows, so their scores flatter the model."
    return [Finding(kind="shared_rows", severity=_weight(share > 0.01), message=text, value=share)]


def cost(metric: str, scores: Mapping[str, float]) -> float:
    """The score as something to make small."""
    return scores[metric] if metric in LOWER_IS_BETTER else -scores[metric]


def best(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The trial with the best value, the earlier of two alike; None if every trial failed."""
    told = [trial for trial in trials if trial.value is not None and math.isfinite(trial.value)]
    return min(told, key=lambda trial: cost(metric, {metric: trial.value or 0.0}), default=None)


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of one trial, whichever worker runs it and whenever.

    >>> trial_seed(42, 0), trial_seed(42, 1)
    (3444837047, 3329053876)
    """
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def first_params(
    space: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The learner's own settings as the first trial, where every one of them lies in the space; else None."""
    found = {}
    for name, spec in space.items():
        value = given.get(name, defaults.get(name))
        if spec["type"] == "categorical":
            fits = value in spec["choices"]
        else:
            fits = (
                isinstance(value, (int, float)) and not isinstance(value, bool) and spec["low"] <= value <= spec["high"]
            )
        if not fits:
            return None
        found[name] = value
    return found


def boundary_rows(batch: Array, specs: Sequence[FeatureSpec]) -> Array:
    """Rows at the edges: each column in turn at its least, its greatest, zero, missing where it may be, and unseen text.

    Numbers are rounded to float32, which is what an exported graph takes.
    """
    rows = []
    for position, spec in enumerate(specs):
        column = batch[:, position]
        if spec.kind == "string":
            edges: list[Any] = ["", "a category that no row had"]
            if is_date(column):
                edges = [""] if spec.nullable else []
        else:
            known = column.astype(np.float64)
            known = known[~np.isnan(known)]
            edges = [known.min(), known.max(), 0.0] if len(known) else []
            edges += [np.nan] if spec.nullable else []
        for number, edge in enumerate(edges):
            row = batch[(position * 4 + number) % len(batch)].copy()
            row[position] = edge
            rows.append(row)
    found = np.array(rows, dtype=batch.dtype).reshape(-1, len(specs))
    numeric = [position for position, spec in enumerate(specs) if spec.kind != "string"]
    found[:, numeric] = as_float32(found[:, numeric].astype(np.float64))
    return found
