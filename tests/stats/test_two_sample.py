"""Two-sample statistics against SciPy, and their false alarm rates by seeded simulation."""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modelyard.stats.two_sample import (
    anderson_darling,
    fisher,
    homogeneity,
    jensen_shannon,
    kolmogorov_smirnov,
    mean_difference,
    population_stability,
    rate_difference,
    wasserstein,
    wilson,
)

counts = st.lists(st.integers(0, 40), min_size=2, max_size=12)


def binned(*samples):
    """Counts of each sample with every distinct value as a cell: exact."""
    cells = np.unique(np.concatenate(samples))
    return [np.bincount(np.searchsorted(cells, sample), minlength=len(cells)) for sample in samples]


@pytest.mark.parametrize(("n", "m", "shift"), [(40, 60, 0.0), (500, 300, 0.2), (3000, 2000, 0.05)])
def test_kolmogorov_smirnov_agrees_with_scipy_when_every_value_is_a_cell(n, m, shift):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), rng.normal(shift, size=m)
    distance, p_value = kolmogorov_smirnov(*binned(x, y))
    expected = stats.ks_2samp(x, y)
    assert distance == pytest.approx(expected.statistic, abs=1e-12)
    assert p_value == pytest.approx(expected.pvalue, rel=0.15, abs=0.02)


def test_coarser_cells_never_enlarge_the_kolmogorov_smirnov_distance():
    rng = np.random.default_rng(1)
    first, second = binned(rng.integers(0, 50, 400), rng.integers(3, 50, 300))
    pairs = [c[: len(c) // 2 * 2].reshape(-1, 2).sum(axis=1) for c in (first, second)]
    assert kolmogorov_smirnov(*pairs)[0] <= kolmogorov_smirnov(first, second)[0]


@pytest.mark.parametrize("shift", [0.12, 0.2, 0.25])
def test_anderson_darling_agrees_with_scipy(shift):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=400), rng.normal(shift, size=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy renames an argument, and caps its p-value to 0.001 .. 0.25
        expected = stats.anderson_ksamp([x, y]).pvalue
    assert np.clip(anderson_darling(*binned(x, y))[1], 0.001, 0.25) == pytest.approx(expected, rel=0.05)


def test_the_anderson_darling_statistic_is_its_definition_summed_over_distinct_values():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 9, 30), rng.integers(2, 12, 20)
    pooled, total = np.concatenate([x, y]), 0.0
    for sample in (x, y):
        for z in np.unique(pooled):
            ties = (pooled == z).sum()
            b = (pooled < z).sum() + ties / 2
            m = (sample < z).sum() + (sample == z).sum() / 2
            total += ties / 50 * (50 * m - len(sample) * b) ** 2 / (b * (50 - b) - 50 * ties / 4) / len(sample)
    assert anderson_darling(*binned(x, y))[0] == pytest.approx(total * 49 / 50, rel=1e-9)


@pytest.mark.parametrize(("z", "p"), [(1.933, 0.10), (2.492, 0.05), (3.070, 0.025), (3.857, 0.01), (5.9724, 0.001)])
def test_anderson_darling_has_the_published_critical_values(z, p):
    from modelyard.stats.two_sample import _anderson_darling_tail

    assert _anderson_darling_tail(z) == pytest.approx(p, rel=0.03)


def test_the_anderson_darling_tail_is_smooth_and_falls_where_its_two_forms_meet():
    from modelyard.stats.two_sample import _anderson_darling_tail

    tails = [_anderson_darling_tail(z) for z in np.linspace(0.05, 40, 4000)]
    assert all(a >= b for a, b in pairwise(tails))
    assert _anderson_darling_tail(6.001) == pytest.approx(_anderson_darling_tail(5.999), rel=0.05)


@settings(max_examples=60, deadline=None)
@given(counts, counts)
def test_homogeneity_is_pearsons_chi_square_where_no_cell_is_small(first, second):
    size = min(len(first), len(second))
    x, y = np.array(first[:size]) + 20, np.array(second[:size]) + 20
    statistic, p_value = homogeneity(x, y)
    expected = stats.chi2_contingency([x, y], correction=False)
    assert statistic == pytest.approx(expected.statistic, abs=1e-9)
    assert p_value == pytest.approx(expected.pvalue, abs=1e-9)


@settings(max_examples=80, deadline=None)
@given(st.tuples(*[st.integers(0, 30)] * 4))
def test_fisher_agrees_with_scipy(cells):
    a, b, c, d = cells
    if a + b and c + d:
        assert fisher((a, b), (c, d)) == pytest.approx(stats.fisher_exact([[a, b], [c, d]]).pvalue, rel=1e-6)


@settings(max_examples=80, deadline=None)
@given(counts, counts)
def test_garbage_tables_never_raise_and_p_values_are_chances(first, second):
    size = min(len(first), len(second))
    x, y = np.array(first[:size]), np.array(second[:size])
    for test in (kolmogorov_smirnov, anderson_darling, homogeneity):
        statistic, p_value = test(x, y)
        assert statistic >= 0
        assert 0 <= p_value <= 1


@pytest.mark.parametrize(("levels", "n", "m"), [(1000, 1000, 1000), (1000, 4000, 400), (50, 500, 500), (3, 30, 30)])
def test_homogeneity_holds_its_level_with_many_rare_levels(levels, n, m):
    rng = np.random.default_rng(levels + n)
    shares = 1 / np.arange(1, levels + 1)
    shares /= shares.sum()
    p_values = [homogeneity(rng.multinomial(n, shares), rng.multinomial(m, shares))[1] for _ in range(300)]
    assert stats.binomtest(int((np.array(p_values) <= 0.05).sum()), 300, 0.05, alternative="greater").pvalue > 0.001


@pytest.mark.parametrize("zeros", [0.0, 0.4, 0.95])
def test_anderson_darling_holds_its_level_with_and_without_ties(zeros):
    rng = np.random.default_rng(17)
    p_values = []
    for _ in range(300):
        x, y = (np.where(rng.random(k) < zeros, 0, rng.exponential(size=k)) for k in (600, 300))
        p_values.append(anderson_darling(*binned(x, y))[1])
    assert stats.binomtest(int((np.array(p_values) <= 0.05).sum()), 300, 0.05, alternative="greater").pvalue > 0.001


def test_a_missing_level_is_found_by_homogeneity():
    assert homogeneity(np.array([500, 500, 0]), np.array([480, 480, 40]))[1] < 1e-8


def test_magnitudes_agree_with_scipy():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    p, q = rng.integers(1, 50, 12), rng.integers(1, 50, 12)
    assert jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q, base=2))
    x, y = rng.normal(size=300), rng.exponential(size=200)
    assert wasserstein((x, np.ones(300)), (y, np.ones(200))) == pytest.approx(stats.wasserstein_distance(x, y))
    assert population_stability(p, p) == 0


def test_intervals_agree_with_scipy_and_published_examples():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert rate_difference((48, 80), (56, 70))[1:3] == pytest.approx(
        (0.0524, 0.3339), abs=1e-4
    )  # the same, part II, (a)
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=50), rng.normal(0.3, 2, size=80)
    summed = [(float(v.sum()), float((v**2).sum()), len(v)) for v in (x, y)]
    expected = stats.ttest_ind(y, x, equal_var=False)
    difference, low, high, p_value = mean_difference(*summed)
    assert p_value == pytest.approx(expected.pvalue)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval()))
    assert difference == pytest.approx(y.mean() - x.mean())
