"""How much a value of a series is like the one before, at several lengths: how many neighbours are the evidence of one.

Means of 1, 2, 4, ... values that follow each other are a series each, with a correlation of neighbours. Where a series
wanders (a queue, a cache, a day), its values are alike, and so are means of few; means of as many as it takes to wander
there and back are not. Bets that take each value for news are then to be placed on such means (batch means: Conway 1963;
Fishman 1978, Management Science 24, who doubles the batches until neighbours correlate no more).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = 8  # means of up to 128 values
KNOWN = 20  # values of a series before its correlation is looked at: until then it is known to a quarter
ALIKE = 0.35  # neighbours that correlate by more are not the evidence of two
_NONE = -1e9  # in place of a value that waits for its neighbour
_FRESH = (0.0, 0.0, 0.0, 0.0, 0.0, _NONE)
_SIZE = len(_FRESH)
NUMBERS = LEVELS * _SIZE


@dataclass(frozen=True, slots=True)
class Likeness:
    """Of each series of means: how many, their sum, that of squares and of products with the one before, the last one,
    and the one that waits for its neighbour.

    >>> import math
    >>> wandering = Likeness()
    >>> for n in range(400): wandering = wandering.after(math.sin(n / 5))
    >>> [round(wandering.correlation(level), 1) for level in range(3)], needed(wandering)
    ([1.0, 0.9, 0.7], 8)
    """

    levels: tuple[tuple[float, ...], ...] = (_FRESH,) * LEVELS

    def after(self, value: float) -> Likeness:
        """With one value more."""
        levels = list(self.levels)
        for level, (n, total, squares, products, last, waiting) in enumerate(levels):
            pair = n + 1, total + value, squares + value * value, products + value * last, value
            alone = waiting == _NONE
            levels[level] = (*pair, value if alone else _NONE)
            if alone:
                break
            value = (waiting + value) / 2
        return Likeness(tuple(levels))

    def correlation(self, level: int) -> float | None:
        """How neighbours among the means of 2**level values correlate; None while too little is known."""
        n, total, squares, products, *_ = self.levels[level]
        if n < KNOWN:
            return None
        mean = total / n
        variance = squares / n - mean * mean
        return (products / (n - 1) - mean * mean) / variance if variance > 1e-12 else 0.0

    @property
    def numbers(self) -> tuple[float, ...]:
        """It as plain numbers."""
        return tuple(one for level in self.levels for one in level)

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Likeness:
        """What `numbers` wrote."""
        return cls(tuple(tuple(numbers[at : at + _SIZE]) for at in range(0, len(numbers), _SIZE)))


def needed(*series: Likeness) -> int:
    """How many values' mean is one piece of evidence, where each of the series would have to be alike for it to be more.

    The least length whose means are not alike, or of which too little is known.
    """
    for level in range(LEVELS):
        found = [one.correlation(level) for one in series]
        if any(one is None or one <= ALIKE for one in found):
            return int(2**level)
    return int(2**LEVELS)
