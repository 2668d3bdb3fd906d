"""Exact sums of several numbers a unit, and what is estimated from them, against numpy and simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st

from modelyard.stats import ratios
from modelyard.stats.cross import Cross, exact, plus
from modelyard.stats.distributions import normal_sf

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
UNITS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=25)


def crossed(units, size=3):
    made = Cross(size)
    for unit in units:
        made.add([exact(value) for value in unit])
    return made


@given(NUMBERS, NUMBERS)
def test_sums_of_floats_are_exact(a, b):
    number, power = plus(exact(a), exact(b))
    assert number / 2**power == a + b


@given(UNITS, st.randoms())
@settings(max_examples=60)
def test_shards_merged_in_any_order_are_the_same_to_the_last_bit(units, order):
    shards = [crossed([unit]) for unit in order.sample(units, len(units))]
    while len(shards) > 1:
        shards.append(Cross.from_plain(shards.pop(order.randrange(len(shards))).plain()))
        shards[-1].merge(shards.pop(0))
    assert shards[0].plain() == crossed(units).plain()
    assert shards[0].spread() == crossed(units).spread()


@given(UNITS, UNITS)
def test_what_is_taken_out_again_leaves_no_trace(units, others):
    made = crossed(units + others)
    for unit in others:
        made.add([exact(value) for value in unit], -1)
    assert made.plain() == crossed(units).plain()


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=40), st.integers(0, 5))
def test_means_and_products_are_numpys_with_units_of_zeros_counted_in(units, zeros):
    rows = np.array(units + [(0.0, 0.0)] * zeros)
    spread = crossed(units, 2).spread(len(rows))
    assert spread.means == pytest.approx(rows.mean(axis=0), abs=1e-9)
    assert np.array(spread.products) == pytest.approx(np.cov(rows.T) * (len(rows) - 1), abs=1e-6)


@given(st.floats(0.01, 37), st.floats(1, 1e7))
@example(z=29.0, df=1e5)
@example(z=37.0, df=1e7)
@example(z=5.0, df=30.0)
@settings(max_examples=80)
def test_widths_are_students(z, df):
    if z > 6 and df < 30:
        return  # scipy's own quantile gives up there
    expected = scipy.stats.t.isf(normal_sf(z), df)
    assert ratios.wide(z, df) == pytest.approx(expected, rel=5e-5)


def test_a_covariate_changes_no_answer_on_average_and_narrows_it_as_theory_says():
    random, found, reduced = np.random.default_rng(3), [], []
    for _ in range(300):
        z = random.normal(10, 2, 400)
        x = 0.9 * z + random.normal(0, 1, 400)
        x[200:] += 0.3
        pair = [ratios.mean(crossed(zip(x[a:b], z[a:b], strict=True), 2).spread()) for a, b in ((0, 200), (200, 400))]
        control, treatment, part = ratios.adjusted(*pair)
        found.append(treatment.value - control.value)
        reduced.append(part)
    assert np.mean(found) == pytest.approx(0.3, abs=0.02)
    assert np.mean(reduced) == pytest.approx(1.8**2 / (1.8**2 + 1), abs=0.02)
    assert np.std(found) == pytest.approx(math.sqrt(2 / 200), rel=0.12)


def test_fiellers_interval_covers_the_lift_of_a_skewed_mean():
    random, hits = np.random.default_rng(4), 0
    for _ in range(600):
        c, t = random.exponential(1.0, 60), random.exponential(1.2, 60)
        pair = [ratios.mean(crossed(values[:, None], 1).spread()) for values in (c, t)]
        low, high = ratios.lift(*pair, ratios.wide(1.96, ratios.difference(*pair).df))
        hits += low <= 0.2 <= high
    assert 0.92 < hits / 600 < 0.98


def test_a_lift_over_a_mean_that_may_be_zero_has_no_interval():
    control = ratios.Estimate(n=10, value=0.1, variance=1.0)
    assert ratios.lift(control, control, 1.96) is None
    assert ratios.mean(crossed([(1.0,)], 1).spread()) is None
    assert ratios.ratio(crossed([(1.0, 0.0), (2.0, 0.0)], 2).spread()) is None


@given(st.lists(st.floats(-1e50, 1e50) | st.floats(0, 10) | st.floats(-1e-300, 1e-300), min_size=1, max_size=50))
def test_many_values_at_once_are_one_after_another(values):
    at_once = Cross(2)
    at_once.add_values(values)
    assert at_once.plain() == crossed([(value, 1.0) for value in values], 2).plain()
