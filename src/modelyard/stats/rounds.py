"""Rounds: comparisons of units that begin anew, for a fault that starts after a long clean time.

A unit stays on its arm, so what it does again is no new evidence to a comparison that has counted it, but it is to one that
has not. A round counts, of each unit, the first failure and the first answer since the round began, whatever was before:
then each of them falls on the canary with the canary's share while the versions are equal, as in a rollout that begins
with the round, and a canary that is no worse has no more of them at any moment. Rounds share their units, so nothing is
multiplied or summed over them: each has a weight, the weights add up to 1, and each is held against its own part of alpha.

Series of several lengths run side by side, two of each half a round apart: a round should begin shortly before the fault
and outlast its proof. Rounds begin by the clock, not by what was counted, which depends on the arms.
"""

from __future__ import annotations

import math

LENGTHS = (30.0, 120.0, 600.0, 3600.0)  # seconds
SERIES = tuple((length, phase) for length in LENGTHS for phase in (0.0, 0.5))


def number_at(series: int, seconds: float) -> int:
    """How many rounds of a series have begun so many seconds after the first moment, with which none begins.

    >>> [number_at(0, seconds) for seconds in (0, 29, 30, 90)], [number_at(1, seconds) for seconds in (0, 14, 15, 45)]
    ([0, 0, 1, 3], [0, 0, 1, 2])
    """
    length, phase = SERIES[series]
    return max(0, math.floor(seconds / length + phase))


def weight_of(number: float) -> float:
    """The weight of a series' round by its number (1, 2, ...); all that will ever begin add up to 1.

    >>> sum(weight_of(number) for number in range(1, 1000)) < 1
    True
    """
    return 1 / (number * (number + 1))
