"""What precision, recall and F1 share: a ratio of one class, or the mean over all."""

from __future__ import annotations

from collections.abc import Callable

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally
from modelyard.stats.two_sample import wilson

Ratio = Callable[[int, int, int], tuple[int, int]]


def over_classes(name: str, tally: Tally, ratio: Ratio) -> Measurement:
    """The ratio (hits, predicted, true) -> (numerator, denominator): of the last of two classes, else averaged."""
    classes = tally.classes
    if not classes:
        return Measurement(name=name, value=None, note="no labelled predictions of classes")
    if set(classes) <= {"0", "1"}:
        classes = ["0", "1"]
    used = classes[-1:] if len(classes) == 2 else classes
    parts = [part for part in (ratio(*_counts(tally, c)) for c in used) if part[1]]
    if not parts:
        return Measurement(name=name, value=None, note=f"undefined: class {used[-1]} was never there to count")
    value = sum(a / b for a, b in parts) / len(parts)
    low, high = wilson(*parts[0]) if len(used) == 1 else (None, None)
    return Measurement(name=name, value=value, low=low, high=high, n=sum(b for _, b in parts))


def _counts(tally: Tally, name: str) -> tuple[int, int, int]:
    """Hits, predicted and true rows of a class."""
    hit = tally.pairs[name, name]
    said = sum(n for (_, p), n in tally.pairs.items() if p == name)
    truth = sum(n for (t, _), n in tally.pairs.items() if t == name)
    return hit, said, truth
