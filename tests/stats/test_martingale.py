"""The conformal test martingale: exact p-values, a fair game, and no alarm on exchangeable rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from modelyard.stats.martingale import BINS, SUMS, _p_values, conformal_sums, log_restart_weight, log_wealth


def test_p_values_are_the_smoothed_ranks_among_all_earlier_rows():
    rng = np.random.default_rng(0)
    bag, rows, uniform = rng.integers(0, 5, 6), rng.integers(0, 6, 40), rng.random(40)
    found = _p_values(bag, rows, uniform)
    pool = [cell for cell, n in enumerate(bag) for _ in range(n)]
    for row, u, p in zip(rows, uniform, found, strict=True):
        pool.append(row)
        assert p == pytest.approx((sum(c < row for c in pool) + u * sum(c == row for c in pool)) / len(pool))


def test_the_bag_takes_every_row_in_and_blocks_do_not_matter():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 8, 9000)
    bag = np.full(8, 100)
    sums = conformal_sums(bag, rows, np.random.default_rng(2))
    assert (bag == 100 + np.bincount(rows, minlength=8)).all()
    assert sums[0] == 9000
    assert sums[3:].sum() == 9000


def test_p_values_of_exchangeable_rows_are_uniform():
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(20))
    cells = rng.choice(20, 6000, p=shares)
    p = _p_values(np.bincount(cells[:1000], minlength=20), cells[1000:], rng.random(5000))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_bet_is_fair_its_mean_wealth_on_uniform_p_values_is_one():
    rng = np.random.default_rng(4)
    p = rng.random((40_000, 3))
    z = stats.norm.ppf(p)
    sums = np.zeros((40_000, SUMS))
    sums[:, 0], sums[:, 1], sums[:, 2] = 3, z.sum(axis=1), (z**2).sum(axis=1)
    for column in range(3):
        sums[np.arange(40_000), 3 + np.minimum((p[:, column] * BINS).astype(int), BINS - 1)] += 1
    wealth = np.exp(log_wealth(sums))
    # the wide bets' wealth is heavy-tailed: bound the mean from above, and hold Ville's bound at the end
    assert wealth.mean() == pytest.approx(1.0, abs=0.15)
    assert (wealth >= 20).mean() <= 0.05


def test_restart_weights_sum_to_one():
    total = sum(np.exp(log_restart_weight(k)) for k in range(1, 10_001))
    assert total == pytest.approx(1 - 1 / 10_001)


def test_wealth_grows_on_a_shift_and_on_a_change_of_spread():
    rng = np.random.default_rng(5)
    reference = np.sort(rng.normal(size=5000))
    edges = reference[78::79][:63]
    for moved in (rng.normal(0.3, 1, 1500), rng.normal(0, 1.3, 1500)):
        bag = np.bincount(np.searchsorted(edges, reference), minlength=64)
        assert log_wealth(conformal_sums(bag, np.searchsorted(edges, moved), rng)) > np.log(1000)
