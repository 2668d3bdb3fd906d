"""Tests that stay valid however often they are looked at: by simulation, by published tables, by brute force."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf
from modelyard.stats.group_sequential import bounds, obrien_fleming_spending
from modelyard.stats.sequential import lower_rate, rate_difference, sequence_p, sequence_z, upper_rate
from modelyard.stats.srm import log_ratio_evidence


@pytest.mark.parametrize(
    ("looks", "expected"),
    [  # Lan-DeMets O'Brien-Fleming-like spending, two-sided 0.05 (Jennison & Turnbull 2000; also R's gsDesign, ldbounds)
        (1, [1.960]),
        (2, [2.963, 1.969]),
        (3, [3.710, 2.511, 1.993]),
        (5, [4.877, 3.357, 2.680, 2.290, 2.031]),
    ],
)
def test_group_sequential_bounds_are_the_published_ones(looks, expected):
    assert bounds([k / looks for k in range(1, looks + 1)]) == pytest.approx(expected, abs=6e-4)


def test_a_hundred_looks_underflow_nowhere_and_spend_just_alpha():
    times = np.arange(1, 101) / 100
    limits = bounds(list(times))
    assert all(math.isfinite(limit) and limit > 1.9 for limit in limits)
    random = np.random.default_rng(0)
    walk = np.cumsum(random.normal(size=(20_000, 100)) / 10, axis=1)
    rejected = (np.abs(walk) / np.sqrt(times) >= np.array(limits)).any(axis=1).mean()
    assert 0.044 < rejected < 0.056


def test_looks_must_go_forward():
    with pytest.raises(Invalid, match="rising"):
        bounds([0.5, 0.5])


@given(st.floats(0.01, 1.0), st.floats(0.001, 0.2))
def test_spending_never_passes_alpha(fraction, alpha):
    assert 0 <= obrien_fleming_spending(fraction, alpha) <= alpha * (1 + 1e-9)


def test_the_confidence_sequence_errs_less_than_alpha_over_a_hundred_looks():
    random = np.random.default_rng(1)
    walk = np.cumsum(random.normal(size=(20_000, 100)) / 10, axis=1)
    times = np.arange(1, 101) / 100
    limits = np.array([sequence_z(t) for t in times])
    assert (np.abs(walk) / np.sqrt(times) >= limits).any(axis=1).mean() < 0.05
    assert all(limit > normal_isf(0.025) for limit in limits)


@given(st.floats(0.001, 10), st.floats(0, 8))
def test_the_sequential_p_value_says_the_same_as_the_bound(information, z):
    assert (sequence_p(z, information) <= 0.05) == (z >= sequence_z(information) - 1e-9)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.05, 0.5])
def test_the_rate_bounds_hold_at_every_sample_size_at_once(rate):
    random, alpha, misses = np.random.default_rng(2), 0.1, 0
    sizes = [10, 30, 100, 300, 1000, 3000]
    for _ in range(150):
        seen = np.cumsum(random.random(3000) < rate)
        misses += any(upper_rate(int(seen[n - 1]), n, alpha) < rate for n in sizes)
        misses += any(lower_rate(int(seen[n - 1]), n, alpha) > rate for n in sizes)
    assert misses / 300 <= alpha


def test_the_rate_bounds_hold_for_the_running_mean_of_a_rate_that_drifts():
    random = np.random.default_rng(3)
    rates = np.linspace(0.001, 0.2, 2000)
    means = np.cumsum(rates) / np.arange(1, 2001)
    misses = 0
    for _ in range(300):
        seen = np.cumsum(random.random(2000) < rates)
        misses += any(upper_rate(int(seen[n - 1]), n, 0.1) < means[n - 1] for n in (50, 200, 800, 2000))
    assert misses / 300 <= 0.1


@given(st.integers(0, 200), st.integers(0, 5000), st.integers(0, 200), st.integers(0, 5000))
def test_bounds_hold_the_estimate_between_them(k, extra, j, more):
    n, m = k + extra + 1, j + more + 1
    low, high = rate_difference(j, m, k, n)
    assert -1 <= low <= k / n - j / m <= high <= 1


@given(st.integers(0, 300), st.integers(0, 300), st.floats(0.05, 0.95))
def test_the_sample_ratio_check_of_two_arms_is_a_beta_binomial_mixture(a, b, share):
    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    logs = []
    for c in (100.0, 10_000.0):
        mixture = log_beta(c * share + a, c * (1 - share) + b) - log_beta(c * share, c * (1 - share))
        logs.append(mixture - a * math.log(share) - b * math.log(1 - share))
    direct = np.logaddexp(*logs) - math.log(2)
    assert log_ratio_evidence([a, b], [share, 1 - share]) == pytest.approx(direct, abs=1e-6)


def test_the_sample_ratio_check_is_quiet_on_good_splits_and_loud_on_bad_ones():
    random = np.random.default_rng(6)
    loud = 0
    for _ in range(300):
        counts = np.cumsum(random.random(2000) < 0.1)
        loud += any(
            log_ratio_evidence([int(counts[n - 1]), n - int(counts[n - 1])], [0.1, 0.9]) > math.log(100)
            for n in range(100, 2001, 100)
        )
    assert loud / 300 <= 0.01
    assert log_ratio_evidence([800, 9200], [0.1, 0.9]) > math.log(1000)


def test_counting_statistics_load_neither_scipy_nor_numpy():
    import subprocess
    import sys

    code = (
        "import sys, modelyard.stats, modelyard.stats.rollback, modelyard.stats.sketch, modelyard.stats.sequential;"
        "import modelyard.stats.proportions, modelyard.stats.means, modelyard.stats.srm;"
        "assert 'numpy' not in sys.modules and 'scipy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
