"""An e-detector: a mixture of e-processes that begin at every moment, for a fault that starts after a long clean time.

A plain e-process must first win back what a clean history took from it. Here more of them begin as events come in, and
their sum is kept by the Shiryaev-Roberts recursion S = (S + what begins now) times the step's likelihood ratio, one number
a bet (Shin, Ramdas, Rinaldo 2023, arXiv 2203.03532). What begins is weighted so that all that will ever begin adds up to
1: the sum is itself an e-process, and its false alarms have a bound over an unlimited horizon, not a run length.

The weights: what is still to begin after n events falls as 1 / sqrt(1 + n / 300). A fault after n events then costs the log
of 600 (1 + n / 300)^1.5 in evidence: 2,600 after 500 events, 45,000 after 5,000.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.stats.eprocess import log_sum_exp

TYPICAL = 300.0  # events; half of the weight has begun after three times as many
NOTHING = -1e9  # the log of a sum to which nothing has been added; JSON has no infinity


def begun_by(events: float, typical: float = TYPICAL) -> float:
    """The weight of everything that has begun by the time of so many events; it rises to 1 and stays below.

    >>> begun_by(0), begun_by(900), begun_by(1e12) < 1
    (0.0, 0.5, True)
    """
    return 1 - 1 / math.sqrt(1 + events / typical)


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
