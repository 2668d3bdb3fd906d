"""The confidence sequence of a bounded mean: how often it errs at any of many looks, and that it says something."""

import numpy as np
import pytest

from modelyard.stats.bounded import SLOPES, Running


def path(values):
    many, found = Running(), []
    for value in values:
        many = many.after(float(value))
        found.append(many)
    return found


@pytest.mark.parametrize("law", ["even", "rare", "coins", "drifting", "dependent"])
def test_the_bounds_hold_at_every_look_at_once(law):
    random, alpha, runs, n = np.random.default_rng(5), 0.1, 100, 300
    missed = 0
    for _ in range(runs):
        if law == "even":
            means, values = np.full(n, 0.5), random.random(n)
        elif law == "rare":
            means, values = np.full(n, 0.02), random.random(n) < 0.02
        elif law == "coins":
            means, values = np.full(n, 0.5), random.random(n) < 0.5
        elif law == "drifting":
            means = np.linspace(0.1, 0.9, n)
            values = random.random(n) < means
        else:  # the next mean is the last value's doing
            values, means = np.zeros(n), np.zeros(n)
            for i in range(n):
                means[i] = 0.3 if i == 0 else 0.2 + 0.6 * values[i - 1]
                values[i] = random.random() < means[i]
        running = np.cumsum(means) / np.arange(1, n + 1)
        looks = [(many.bounds(alpha / 2), running[i]) for i, many in enumerate(path(values)) if i % 20 == 19]
        missed += any(not low <= mean <= high for (low, high), mean in looks)
    assert missed / runs <= alpha


def test_the_bound_is_near_what_a_fixed_sample_would_say():
    values = np.random.default_rng(6).normal(0.5, 0.05, 2000).clip(0, 1)
    low, high = path(values)[-1].bounds(0.025)
    fixed = 1.96 * values.std() / np.sqrt(len(values))
    assert fixed < (high - low) / 2 < 3.5 * fixed
    assert low < 0.5 < high


def test_one_value_and_none_say_nothing():
    assert Running().bounds(0.05) == (0.0, 1.0)
    low, high = Running().after(1.0).bounds(0.05)
    assert low == 0.0
    assert high == 1.0


def test_every_slope_alone_is_a_supermartingale_for_two_values():
    """The expected factor of two coin flips, enumerated, guesses included."""
    for p in (0.01, 0.3, 0.5, 0.97):
        for s in SLOPES:
            expected = 0.0
            for first in (0, 1):
                for second in (0, 1):
                    many = Running().after(first).after(second)
                    chance = (p if first else 1 - p) * (p if second else 1 - p)
                    log = s * (many.total - 2 * p) - (-np.log1p(-s) - s) * many.spread
                    expected += chance * np.exp(log)
            assert expected <= 1 + 1e-12
