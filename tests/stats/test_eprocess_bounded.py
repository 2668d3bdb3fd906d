"""The confidence sequence of a bounded mean: how often it errs at any of many looks, and that it says something."""

import numpy as np
import pytest

from modelyard.stats.bounded import SLOPES, STAKES, Risen, Running


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


def test_the_evidence_of_a_rise_is_the_sum_of_bets_that_begin_with_every_value():
    values, limit = np.random.default_rng(8).random(30), 0.55
    found = Risen()
    for value in values.tolist():
        found = found.after(value, limit)
    direct = 0.0
    for stake in STAKES:
        for begin in range(30):
            weight = 1 / ((begin + 1) * (begin + 2))
            direct += weight * np.prod(1 + stake * (values[begin:] / limit - 1)) / len(STAKES)
    assert found.log_evidence == pytest.approx(np.log(direct))


def test_values_that_are_expected_to_be_at_the_limit_win_nothing_whatever_they_depend_on():
    """Exact, over every sequence of ten coins whose chance depends on the last: the expectation is what has begun."""
    limit, paths = 0.55, [(1.0, 0.0, Risen())]
    for _ in range(10):
        after = []
        for p, last, found in paths:
            low, high = (0.4, 1.0) if last else (0.0, 0.7)  # two outcomes whose mean is the limit
            chance = (limit - low) / (high - low)
            after.append((p * chance, high, found.after(high, limit)))
            after.append((p * (1 - chance), low, found.after(low, limit)))
        paths = after
    assert sum(p * np.exp(found.log_evidence) for p, _, found in paths) == pytest.approx(1 - 1 / 11)
