"""What is counted of predictions: a tally that merges exactly, so that minutes add up to any window."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.monitoring.values import LoggedPrediction
from modelyard.stats.cross import Exact, exact, nearest_float, plus, reduced
from modelyard.stats.sketch import bucket

GRID = 1000  # probabilities are counted in thousandths
MAX_CLASSES = 100


@dataclass(slots=True)
class Tally:
    """Counts of one minute or many, from which an outcome that was wrong can be taken out again.

    `pairs` counts (truth, prediction), for classes; `exactly` holds count, sum, sum of squares and sum of fourth powers
    of prediction - truth, for numbers; `scored` counts (truth is positive, thousandth of the probability) of labelled rows;
    `unscored` counts (prediction, thousandth) of all rows with a probability, labelled or not.
    """

    count: int = 0
    failed: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    exactly: list[Exact] = field(default_factory=lambda: [(0, 0)] * 4)
    scored: Counter[tuple[str, int]] = field(default_factory=Counter)
    unscored: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, entry: LoggedPrediction) -> None:
        """Count one prediction, and its outcome if it is known."""
        self.count += 1
        self.failed += entry.failed
        if entry.latency_ms is not None:
            self.latency[bucket(entry.latency_ms * 1000)] += 1
        if entry.probability is not None and not entry.failed:
            self.unscored[label(entry.prediction), thousandth(entry.probability)] += 1
        if entry.outcome is not None:
            self.settle(entry, entry.outcome)

    def settle(self, entry: LoggedPrediction, outcome: Any, times: int = 1) -> None:
        """Count the outcome of a prediction that was counted before, or with -1 take it out."""
        if entry.failed or entry.prediction is None:
            return
        if is_class(entry.prediction) and is_class(outcome):
            pair = label(outcome), label(entry.prediction)
            if pair in self.pairs or (times > 0 and len(self.pairs) <= MAX_CLASSES**2):
                _count(self.pairs, pair, times)
        if is_number(entry.prediction) and is_number(outcome):
            number, power = plus(exact(float(entry.prediction)), exact(-float(outcome)))
            powers = [(times * number**n, power * n) for n in (0, 1, 2, 4)]
            self.exactly = [reduced(plus(a, b)) for a, b in zip(self.exactly, powers, strict=True)]
        if entry.probability is not None:
            _count(self.scored, (label(outcome), thousandth(entry.probability)), times)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            count=self.count + other.count,
            failed=self.failed + other.failed,
            latency=self.latency + other.latency,
            pairs=self.pairs + other.pairs,
            exactly=[reduced(plus(a, b)) for a, b in zip(self.exactly, other.exactly, strict=True)],
            scored=self.scored + other.scored,
            unscored=self.unscored + other.unscored,
        )

    @property
    def labelled(self) -> int:
        """How many predictions have an outcome that can be compared with them."""
        return max(self.pairs.total(), self.exactly[0][0])

    @property
    def errors(self) -> list[float]:
        """Count, sum, sum of squares and sum of fourth powers of prediction - truth, each rounded once."""
        return [nearest_float(number) for number in self.exactly]

    @property
    def classes(self) -> list[str]:
        """The classes seen, in order; the last of two is the positive one."""
        return sorted({name for pair in self.pairs for name in pair}, key=_class_order)


def _count(counts: Counter[tuple[str, Any]], cell: tuple[str, Any], times: int) -> None:
    counts[cell] += times
    if not counts[cell]:
        del counts[cell]


def label(value: Any) -> str:
    """A class as text: 1, 1.0 and True are one."""
    if is_number(value) and float(value).is_integer():
        return str(int(value))
    return str(value)


def is_number(value: Any) -> bool:
    """True for numbers and bools, NumPy's included."""
    return not isinstance(value, str) and hasattr(value, "__float__")


def is_class(value: Any) -> bool:
    """True for what can be a class: text, a bool, a whole number."""
    return isinstance(value, str) or (is_number(value) and float(value).is_integer())


def thousandth(probability: float) -> int:
    """The cell of a probability."""
    return min(int(probability * GRID), GRID - 1)


def written(tally: Tally) -> str:
    """The tally as JSON text."""
    return json.dumps(
        {
            "count": tally.count,
            "failed": tally.failed,
            "latency": list(tally.latency.items()),
            "pairs": [[*pair, n] for pair, n in tally.pairs.items()],
            "errors": [[f"{number:x}", power] for number, power in tally.exactly],
            "scored": [[*cell, n] for cell, n in tally.scored.items()],
            "unscored": [[*cell, n] for cell, n in tally.unscored.items()],
        }
    )


def read(text: str) -> Tally:
    """The tally that `written` wrote."""
    value: Mapping[str, Any] = json.loads(text)
    return Tally(
        count=value["count"],
        failed=value["failed"],
        latency=Counter(dict(value["latency"])),
        pairs=Counter({(a, b): n for a, b, n in value["pairs"]}),
        exactly=[(int(number, 16), power) for number, power in value["errors"]],
        scored=Counter({(a, b): n for a, b, n in value["scored"]}),
        unscored=Counter({(a, b): n for a, b, n in value["unscored"]}),
    )


def _class_order(name: str) -> tuple[int, float, str]:
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)
