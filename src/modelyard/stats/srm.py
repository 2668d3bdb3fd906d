"""Is the split what it should be? A sample-ratio check that may be read after every unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelyard.core.errors import Invalid
from modelyard.stats.eprocess import log_mean_exp

CONCENTRATIONS = (100.0, 10_000.0)  # how near the null the alternatives lie: a coarse fault soon, a fine one in time


def log_ratio_evidence(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The log e-value against 'units fall on the arms with these shares': hold what rests on the split at log(1/alpha).

    A Dirichlet-multinomial mixture centred on the shares, against the multinomial (Lindon, Malek 2022, arXiv
    2011.03567): a test martingale, so P(it ever reaches 1/alpha) <= alpha. `shares` are positive and add up to 1.

    >>> log_ratio_evidence([500, 500], [0.5, 0.5]) < 0 < math.log(1000) < log_ratio_evidence([600, 400], [0.5, 0.5])
    True
    """
    if len(counts) != len(shares) or any(n < 0 for n in counts):
        raise Invalid(f"{len(counts)} counts do not fit {len(shares)} shares; counts are never negative.")
    if any(not 0 < share <= 1 for share in shares) or abs(sum(shares) - 1) > 1e-9:
        raise Invalid(f"Shares must be above 0 and add up to 1, not {list(shares)}.")
    if len(counts) < 2:
        return 0.0
    null = sum(n * math.log(share) for n, share in zip(counts, shares, strict=True))
    return log_mean_exp([_log_mixture(counts, shares, concentration) - null for concentration in CONCENTRATIONS])


def _log_mixture(counts: Sequence[int], shares: Sequence[float], concentration: float) -> float:
    """The log probability of one sequence with these counts when shares come from a Dirichlet around the null."""
    total = math.lgamma(concentration) - math.lgamma(concentration + sum(counts))
    return total + sum(
        math.lgamma(concentration * share + n) - math.lgamma(concentration * share)
        for n, share in zip(counts, shares, strict=True)
    )
