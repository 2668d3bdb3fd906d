"""Rounds: comparisons of units that begin anew, for a fault that starts after a long clean time.

A unit stays on its arm, so what it does again is no new evidence to a comparison that has counted it, but it is to one that
has not. A round counts, of each unit, the first failure and the first answer since the round began, whatever was before:
then each of them falls on the canary with the canary's share while the versions are equal, as in a rollout that begins
with the round, and a canary that is no worse has no more of them at any moment. Rounds share their units, so nothing is
multiplied or summed over them: each has a weight, the weights add up to 1, and each is held against its own part of alpha.

A round begins every ten seconds, by the clock, not by what was counted, which depends on the arms. When it ends may depend
on anything, for a supermartingale may be left at any time: it takes the place of that round which has the least evidence.
For one bet that is always the right one to give up: the evidence of two rounds differs by what they do not share, which is
over. So few places do as much as if no round had ever ended, and a slow proof has all the time that it needs.
"""

from __future__ import annotations

from modelyard.stats.detector import begun_by

SPACING = 10.0  # seconds; twice as many rounds would each have half the weight
SERIES = range(8)  # the places of rounds that are kept side by side
# Most weight is for faults that show within minutes, which a round of the last ten seconds sees best. One that takes an
# hour to show, where little is asked, can as well begin with every 30th round: those few have the rest to themselves.
SOON, COARSE = 0.8, 30
TYPICAL, TYPICAL_COARSE = 30.0, 12.0  # half of the weight has begun by three times as many rounds: 15 minutes, 3 hours


def number_at(seconds: float) -> int:
    """How many rounds have begun so many seconds after the first moment, with which none begins.

    >>> [number_at(seconds) for seconds in (0, 9, 10, 500)]
    [0, 0, 1, 50]
    """
    return max(0, int(seconds // SPACING))


def weight_of_round(number: int) -> float:
    """The weight of a round by its number in the rollout (1, 2, ...); all that will ever begin add up to 1.

    >>> sum(weight_of_round(number) for number in range(1, 10_000)) < 1 < 10 * weight_of_round(30) / weight_of_round(29)
    True
    """
    soon = begun_by(number, TYPICAL) - begun_by(number - 1, TYPICAL)
    if number % COARSE:
        return SOON * soon
    place = number // COARSE
    return SOON * soon + (1 - SOON) * (begun_by(place, TYPICAL_COARSE) - begun_by(place - 1, TYPICAL_COARSE))


def weight_of(number: float) -> float:
    """The weight of what begins anew as often as it likes, by its number (1, 2, ...); they add up to 1.

    >>> sum(weight_of(number) for number in range(1, 1000)) < 1
    True
    """
    return 1 / (number * (number + 1))
