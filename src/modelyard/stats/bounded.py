"""Values that lie between known bounds: their mean, bounded at every sample size at once, and a test that they have risen.

For values x_i in [0, 1] and any guess g_i of x_i made before it is seen, exp(s sum(x_i - m_i) - (-log(1 - s) - s)
sum (x_i - g_i)^2) is a supermartingale for 0 <= s < 1, m_i being the expectation of x_i given the past: values may depend on
each other and their mean may drift (Howard, Ramdas, McAuliffe, Sekhon 2021, Annals of Statistics 49, theorem 4; Fan, Grama,
Liu 2015). The bound is for the running mean of the m_i. The state is three numbers; the guess is the mean so far.

Of values that are expected to be at most a limit each, given those before, a bet of s / limit multiplies its wealth with
1 + s (x_i / limit - 1), one at most in expectation (Waudby-Smith & Ramdas 2024, Journal of the Royal Statistical Society B
86). Bets begin with every value, those with the n-th with a part 1 / (n (n + 1)) of all money: their sum is an e-process,
and sees a rise after a long calm nearly as soon as one at the beginning (stats.detector).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelyard.stats.detector import NOTHING
from modelyard.stats.eprocess import log_mean_exp, log_sum_exp
from modelyard.stats.rounds import weight_of

SLOPES = tuple(0.9 * 2.0**-power for power in range(10))  # one suits about 8 / s^2 / variance values


STAKES = tuple(0.7 * 2.0**-power for power in range(7))


@dataclass(frozen=True, slots=True)
class Risen:
    """Evidence that values in [0, 1] are expected above a limit, from the first on or lately: the log sums of the bets.

    >>> seen = Risen()
    >>> for n in range(100): seen = seen.after(0.5, 0.6)
    >>> calm = seen.log_evidence
    >>> for n in range(60): seen = seen.after(0.9, 0.6)
    >>> calm < 0 < math.log(1000) < seen.log_evidence
    True
    """

    n: int = 0
    logs: tuple[float, ...] = (NOTHING,) * len(STAKES)

    def after(self, value: float, limit: float) -> Risen:
        """With one value more; the limit lies above 0 and is always the same."""
        begins = math.log(weight_of(self.n + 1))
        grown = [math.log1p(stake * (value / limit - 1)) for stake in STAKES]
        return Risen(
            self.n + 1, tuple(log_sum_exp((old, begins)) + more for old, more in zip(self.logs, grown, strict=True))
        )

    @property
    def log_evidence(self) -> float:
        """The log e-value: it reaches log(1/alpha) with probability alpha at most, ever."""
        return log_mean_exp(self.logs)


@dataclass(frozen=True, slots=True)
class Running:
    """So many values in [0, 1]: their sum, and the sum of squared distances from what was guessed before each.

    >>> many = Running()
    >>> for n in range(200): many = many.after(0.7 if n % 2 else 0.8)
    >>> low, high = many.bounds(0.05)
    >>> low < 0.75 < high < 0.82
    True
    """

    n: int = 0
    total: float = 0.0
    spread: float = 0.0

    def after(self, value: float) -> Running:
        """With one value more."""
        guess = (0.5 + self.total) / (1 + self.n)
        return Running(self.n + 1, self.total + value, self.spread + (value - guess) ** 2)

    def bounds(self, alpha: float) -> tuple[float, float]:
        """Bounds of the running mean; each side errs, ever, with probability at most alpha."""
        return self._lower(self.total, alpha), 1 - self._lower(self.n - self.total, alpha)

    def _lower(self, total: float, alpha: float) -> float:
        """The smallest mean that is not rejected: the evidence against a mean falls as the mean rises."""
        if self._log_evidence(total, 0.0) < -math.log(alpha):
            return 0.0
        low, high = 0.0, 1.0
        for _ in range(45):
            half = (low + high) / 2
            low, high = (half, high) if self._log_evidence(total, half) >= -math.log(alpha) else (low, half)
        return low

    def _log_evidence(self, total: float, mean: float) -> float:
        excess = total - self.n * mean
        return log_mean_exp([s * excess - (-math.log1p(-s) - s) * self.spread for s in SLOPES])
