"""Performance without labels: what calibrated probabilities promise about the window's own predictions.

Confidence-based estimation: a prediction with positive probability p is right with probability p (or 1 - p), so expected
counts give accuracy, precision, recall, F1 and AUC. Where the reference has labels, p is first calibrated on them by
isotonic regression. It follows changes of the inputs; it cannot see a change of the outcome given the inputs.
"""

from __future__ import annotations

import numpy as np

from modelyard.core.measures import Measurement
from modelyard.monitoring.performance.auc import area
from modelyard.monitoring.profile import Array
from modelyard.monitoring.tally import GRID, Tally

BLIND = "An estimate from inputs alone: it cannot see concept drift (a change of the outcome given the inputs)."


def estimated(tally: Tally, reference: Tally) -> dict[str, Measurement]:
    """Estimates by metric; empty without probabilities. `note` says what they cannot see."""
    classes = sorted({said for said, _ in tally.unscored} | {truth for truth, _ in reference.scored})
    if not classes or len(classes) > 2:
        return {}
    positive = "1" if set(classes) <= {"0", "1"} else classes[-1]
    chance = calibrated(reference, positive)
    said_yes, said_no = np.zeros(GRID), np.zeros(GRID)
    for (said, cell), n in tally.unscored.items():
        (said_yes if said == positive else said_no)[cell] += n
    hit, false_alarm = float(said_yes @ chance), float(said_yes @ (1 - chance))
    missed, rejected = float(said_no @ chance), float(said_no @ (1 - chance))
    rows = said_yes + said_no
    values = {
        "accuracy": _ratio(hit + rejected, rows.sum()),
        "precision": _ratio(hit, hit + false_alarm),
        "recall": _ratio(hit, hit + missed),
        "f1": _ratio(2 * hit, 2 * hit + false_alarm + missed),
        "auc": area(rows * chance, rows * (1 - chance)) if hit + missed and false_alarm + rejected else None,
    }
    how = "calibrated on the reference" if reference.scored else "probabilities taken as calibrated"
    return {
        name: Measurement(name=name, value=value, n=int(rows.sum()), method=f"confidence-based, {how}", note=BLIND)
        for name, value in values.items()
    }


def calibrated(reference: Tally, positive: str) -> Array:
    """The chance of the positive class in each thousandth: isotonic on the reference's labels, else the middle."""
    middle = (np.arange(GRID) + 0.5) / GRID
    if not reference.scored:
        return middle
    hits, rows = np.zeros(GRID), np.zeros(GRID)
    for (truth, cell), n in reference.scored.items():
        rows[cell] += n
        hits[cell] += n * (truth == positive)
    seen = np.flatnonzero(rows)
    return np.interp(middle, middle[seen], _isotonic(hits[seen] / rows[seen], rows[seen]))


def _isotonic(values: Array, weights: Array) -> Array:
    """The nondecreasing sequence nearest to the values: pool adjacent violators (Barlow et al. 1972)."""
    blocks: list[tuple[float, float, int]] = []  # (mean, weight, cells)
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, mass, cells = value, weight, 1
        while blocks and blocks[-1][0] >= mean:
            before, heavy, more = blocks.pop()
            mean, mass, cells = (before * heavy + mean * mass) / (heavy + mass), heavy + mass, cells + more
        blocks.append((mean, mass, cells))
    return np.repeat([b[0] for b in blocks], [b[2] for b in blocks])


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None
