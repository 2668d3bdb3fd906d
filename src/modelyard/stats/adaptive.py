"""Comparing two arms whose shares change with what they have shown: rounds of fixed shares, put together.

A round's shares are set before it begins. So its difference over its standard error is a standard normal whatever came
before (Zhang, Janson & Murphy 2020, arXiv 2002.03217), and their sum, weighted by what was known before each round, is
a martingale whose variance is the sum of the squared weights: the confidence sequence holds it at every look. The plain
means over all rounds are biased (a lucky arm is given more units, an unlucky one is left at its bad luck) and their
intervals too narrow. The z score of one look is not standard normal either (its deviation was 1.12 in 400 runs of equal
arms): shares that follow the score keep its extremes. Only the sequence's bounds hold.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: treatment less control and its standard error, and the units that its shares gave to both arms."""

    difference: float
    error: float
    units: float
    share: float  # the treatment's among the two arms, set before the round


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """All rounds: the z score, the information (effective units an arm) and the difference with its standard error."""

    z: float
    information: float
    difference: float | None
    error: float | None


def together(rounds: Sequence[Round]) -> Together:
    """The rounds' differences put together with weights sqrt(n p (1 - p)): as precise as if the arms were pooled.

    >>> found = together([Round(difference=1.0, error=0.5, units=100, share=0.5), Round(difference=2.0, error=0.5, units=100, share=0.5)])
    >>> round(found.z, 3), found.difference, round(found.error, 3)
    (4.243, 1.5, 0.354)
    """
    weighed = [(math.sqrt(one.units * one.share * (1 - one.share)), one) for one in rounds]
    information = sum(weight * weight for weight, _ in weighed)
    if not information:
        return Together(z=0.0, information=0.0, difference=None, error=None)
    score = sum(weight * one.difference / one.error for weight, one in weighed if one.error)
    slope = sum(weight / one.error for weight, one in weighed if one.error)
    z = score / math.sqrt(information)
    if not slope:
        return Together(z=0.0, information=information, difference=None, error=None)
    return Together(z=z, information=information, difference=score / slope, error=math.sqrt(information) / slope)


def shares(chances: Sequence[float], least: float) -> list[float]:
    """Thompson sampling's shares: each arm's chance of being the best, none below `least` (Thompson 1933).

    The floor keeps every round's comparison estimable: without it, an arm given up is never looked at again.

    >>> [round(share, 3) for share in shares([0.98, 0.02], 0.1)]
    [0.9, 0.1]
    """
    held = [chance < least for chance in chances]
    free = 1 - least * sum(held)
    rest = sum(chance for chance, low in zip(chances, held, strict=True) if not low)
    found = [least if low else chance / rest * free for chance, low in zip(chances, held, strict=True)]
    return found if min(found) >= least - 1e-12 else shares([max(one, 0.0) for one in found], least)
