"""How alike neighbours are, against numpy's correlations and the autoregression's own law."""

import itertools

import numpy as np
import pytest

from modelyard.stats.likeness import ALIKE, LEVELS, Likeness, needed


def series(rho, n, seed):
    random, values = np.random.default_rng(seed), [0.0]
    for _ in range(n - 1):
        values.append(rho * values[-1] + np.sqrt(1 - rho**2) * random.normal())
    return 0.5 + 0.1 * np.array(values)


def likeness_of(values):
    return list(itertools.accumulate(values, Likeness.after, initial=Likeness()))[-1]


def test_each_level_has_the_correlation_of_neighbouring_means():
    values = series(0.8, 2500, 1)
    found = likeness_of(values.tolist())
    for level in range(5):
        means = values[: len(values) // 2**level * 2**level].reshape(-1, 2**level).mean(axis=1)
        assert found.correlation(level) == pytest.approx(np.corrcoef(means[1:], means[:-1])[0, 1], abs=0.05)
    assert found.correlation(LEVELS - 1) is None  # 19 means of 128
    assert Likeness.of(found.numbers) == found


@pytest.mark.parametrize(("rho", "few", "many"), [(0.0, 1, 1), (0.6, 2, 8), (0.9, 8, 64), (0.97, 32, 256)])
def test_as_many_looks_are_one_as_it_takes_until_means_are_not_alike(rho, few, many):
    """Of an autoregression: the correlation of neighbouring means of n by its own law."""
    n = needed(likeness_of(series(rho, 6000, 2).tolist()))
    assert few <= n <= many
    of_means = rho * (1 - rho**n) ** 2 / (n * (1 - rho**2) - 2 * rho * (1 - rho**n))
    assert of_means < ALIKE + 0.1


def test_what_is_constant_or_little_known_is_not_called_alike_and_one_calm_series_suffices():
    wandering, calm = likeness_of(series(0.95, 900, 3).tolist()), likeness_of(series(0.0, 900, 4).tolist())
    assert needed(likeness_of([0.4] * 300)) == needed(Likeness()) == needed(wandering, calm) == needed(calm) == 1
    assert needed(wandering, wandering) > 4
