"""Bootstrap intervals without loops over resamples: category counts are redrawn, not rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.measures import Measurement
from modelyard.stats.distributions import normal_isf, normal_sf, t_isf, t_sf

Array = np.ndarray


def counts_bootstrap(
    counts: Array,
    statistic: Callable[[Array], Array],
    *,
    name: str = "statistic",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Measurement:
    """The percentile interval of a function of category counts.

    `counts` has shape (categories,), for example a confusion matrix laid flat; `statistic` maps (resamples, categories)
    to (resamples,). Resampling n rows with replacement is one multinomial draw of the counts (Efron 1979).

    >>> accuracy = counts_bootstrap(np.array([90, 10]), lambda c: c[:, 0] / c.sum(axis=1), seed=1)
    >>> accuracy.value, 0.82 < accuracy.low < 0.86, 0.94 < accuracy.high < 0.97
    (0.9, True, True)
    """
    counts = np.asarray(counts, dtype=np.int64)
    n = int(counts.sum())
    if counts.ndim != 1 or n == 0 or (counts < 0).any():
        raise Invalid("A bootstrap of counts needs a flat array of counts, at least one of them above zero.")
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.asarray(statistic(drawn), dtype=float)
        value = float(np.asarray(statistic(counts[None, :]), dtype=float)[0])
    return _interval(name, value, values, n=n, level=level, method=f"multinomial bootstrap, {resamples} resamples")


def paired_bootstrap(
    first: Array,
    second: Array,
    *,
    name: str = "mean difference",
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Measurement:
    """The interval of mean(second - first) over the same n rows, with the two-sided p value that belongs to it.

    `first` and `second` are scores of two models, row by row, shape (n,). Pairs are redrawn whole, so what is common to
    a row cancels. The interval is bias-corrected and accelerated (Efron 1987, eq. 2.3), for differences are often skewed,
    with its tails widened as Student's t is beside the normal (Hesterberg 2015, section 4.3), for few rows.
    Where all rows differ by the same the interval has no width, and `note` says so.

    >>> rows = np.arange(100.0)
    >>> paired_bootstrap(rows, rows + 1.0).low
    1.0
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise Invalid(f"A paired bootstrap needs two flat arrays of one length, not {a.shape} and {b.shape}.")
    difference, counts = np.unique(b - a, return_counts=True)
    means = _resampled_means(difference, counts, resamples, np.random.default_rng(seed))
    value = float((b - a).mean())
    tails = _Tails.of(difference, counts, means, value)
    low, high = np.quantile(means, [tails.share((1 - level) / 2), tails.share((1 + level) / 2)])
    below, above = (means <= 0).sum() + 1, (means >= 0).sum() + 1  # +1: a resample is never the whole truth
    one_sided = min(tails.level(below / (resamples + 2)), 1 - tails.level(1 - above / (resamples + 2)))
    return Measurement(
        name=name,
        value=value,
        low=float(low),
        high=float(high),
        n=len(a),
        method=f"paired BCa bootstrap, {resamples} resamples",
        p_value=float(min(1.0, 2 * one_sided)),
        note="every row differs by the same" if len(difference) == 1 else "",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tails:
    """Which share of the resamples lies below a limit that a share of all samples is to lie below, and back."""

    bias: float  # z0
    acceleration: float
    rows: int

    @classmethod
    def of(cls, values: Array, counts: Array, means: Array, value: float) -> _Tails:
        """Those of a mean of n rows, whose jackknife is known: a sixth of its skewness (Efron 1987, eq. 4.4)."""
        n, far = int(counts.sum()), values - value
        spread = float((counts * far**2).sum())
        skew = float((counts * far**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
        below = ((means < value).sum() + (means == value).sum() / 2) / len(means)
        edge = 1 / (len(means) + 1)
        return cls(bias=-normal_isf(min(max(float(below), edge), 1 - edge)), acceleration=skew, rows=n)

    def share(self, level: float) -> float:
        """The share of the resamples for a level such as 0.025."""
        t = t_isf(1 - level, self._freedom) if level > 0.5 else -t_isf(level, self._freedom)
        moved = self.bias + self._widening * t
        bent = 1 - self.acceleration * moved
        return normal_sf(-(self.bias + moved / bent)) if bent > 0 else float(moved > 0)

    def level(self, share: float) -> float:
        """The level that a share of the resamples stands for: what `share` undoes."""
        moved = -normal_isf(share) - self.bias
        bent = 1 + self.acceleration * moved
        return t_sf((self.bias - moved / bent) / self._widening, self._freedom) if bent > 0 else float(moved > 0)

    @property
    def _freedom(self) -> int:
        return max(1, self.rows - 1)  # a single row has no spread, whatever the tails are

    @property
    def _widening(self) -> float:
        return math.sqrt((self._freedom + 1) / self._freedom)


def _resampled_means(values: Array, counts: Array, resamples: int, random: np.random.Generator) -> Array:
    """Means of resamples of values that occur so often: drawn as counts where values repeat, else row by row."""
    n, means = int(counts.sum()), np.empty(resamples)
    few = len(values) * 8 < n  # a multinomial draw costs about eight times as much a category as an index a row
    rows = values if few else np.repeat(values, counts)
    chunk = max(1, 4_000_000 // len(rows))  # bounds the memory to 32 MB
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        if few:
            means[start : start + size] = random.multinomial(n, counts / n, size=size) @ values / n
        else:
            means[start : start + size] = rows[random.integers(0, n, size=(size, n))].mean(axis=1)
    return means


def _interval(name: str, value: float, values: Array, *, n: int, level: float, method: str) -> Measurement:
    usable = values[np.isfinite(values)]
    if not len(usable) or not np.isfinite(value):
        return Measurement(name=name, value=None, n=n, method=method, note="undefined on these counts")
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Measurement(name=name, value=value, low=float(low), high=float(high), n=n, method=method)
