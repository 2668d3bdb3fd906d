"""Bootstrap intervals without loops over resamples: category counts are redrawn, not rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.measures import Measurement

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
    """The percentile interval of mean(second - first) over the same n rows, with a two-sided bootstrap p value.

    `first` and `second` are scores of two models, row by row, shape (n,). Pairs are redrawn whole, so what is common to
    a row cancels.

    >>> rows = np.arange(100.0)
    >>> paired_bootstrap(rows, rows + 1.0).low
    1.0
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise Invalid(f"A paired bootstrap needs two flat arrays of one length, not {a.shape} and {b.shape}.")
    difference, counts = np.unique(b - a, return_counts=True)
    means = _resampled_means(difference, counts, resamples, np.random.default_rng(seed))
    below, above = (means <= 0).sum() + 1, (means >= 0).sum() + 1  # +1: a resample is never the whole truth
    p_value = float(min(1.0, 2 * min(below, above) / (resamples + 1)))
    method = f"paired bootstrap, {resamples} resamples"
    return _interval(name, float((b - a).mean()), means, n=len(a), level=level, method=method, p_value=p_value)


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


def _interval(
    name: str, value: float, values: Array, *, n: int, level: float, method: str, p_value: float | None = None
) -> Measurement:
    usable = values[np.isfinite(values)]
    if not len(usable) or not np.isfinite(value):
        return Measurement(name=name, value=None, n=n, method=method, note="undefined on these counts")
    low, high = np.quantile(usable, [(1 - level) / 2, (1 + level) / 2])
    return Measurement(name=name, value=value, low=float(low), high=float(high), n=n, method=method, p_value=p_value)
