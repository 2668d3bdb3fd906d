"""An e-detector: a mixture of e-processes that begin at every moment, for a fault that starts after a long clean time.

A plain e-process must first win back what a clean history took from it. Here more of them begin as events come in, and
their sum is kept by the Shiryaev-Roberts recursion S = (S + what begins now) times the step's likelihood ratio, one number
a bet (Shin, Ramdas, Rinaldo 2023, arXiv 2203.03532). What begins is weighted so that all that will ever begin adds up to
1: the sum is itself an e-process, and its false alarms have a bound over an unlimited horizon, not a run length.

The weights: the first 16 events begin nothing (the plain e-process is young too); the events up to 16, 32, ... 16,384 share
85 % of the weight, each doubling a tenth of it; each doubling after those gets ever less of the last 15 %. So a fault
after n events costs the log of about 11.8 n in evidence, up to 16,384 events.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.stats.eprocess import log_sum_exp

FIRST, DOUBLINGS, LAST_PART = 16, 10, 0.15
NOTHING = -1e9  # the log of a sum to which nothing has been added; JSON has no infinity


def begun_by(events: float) -> float:
    """The weight of everything that has begun by the time of so many events; it rises to 1 and stays below.

    >>> begun_by(16), round(begun_by(32), 3), round(begun_by(16 * 2**10), 3), begun_by(1e300) < 1
    (0.0, 0.085, 0.85, True)
    """
    if events <= FIRST:
        return 0.0
    doubling = math.floor(math.log2(events / FIRST))
    part = events / FIRST / 2.0**doubling - 1
    return _by_doubling(doubling) + part * (_by_doubling(doubling + 1) - _by_doubling(doubling))


def _by_doubling(doublings: int) -> float:
    if doublings <= DOUBLINGS:
        return (1 - LAST_PART) * doublings / DOUBLINGS
    return 1 - LAST_PART / (doublings - DOUBLINGS + 1)


@dataclass(frozen=True, slots=True)
class Detector:
    """The log sums of one detector, one a bet; how many events it has seen, and how many had been at its last step."""

    logs: tuple[float, ...]
    events: int = 0
    begun: int = 0

    def after(self, step: Sequence[float], events: int) -> Detector:
        """The detector after a step in which the bets' log wealth grew by `step` and so many events came in.

        What begins with this step was settled by the events before it, so that the step cannot choose its own weight.
        """
        new = begun_by(self.events) - begun_by(self.begun)
        log = math.log(new) if new > 0 else NOTHING
        sums = tuple(log_sum_exp((old, log)) + more for old, more in zip(self.logs, step, strict=True))
        return Detector(sums, self.events + events, self.events)
