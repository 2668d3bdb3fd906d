"""The bounds that promotion rests on: fair by exact enumeration, bounds at every look by simulation, near what is possible."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.stats.eprocess import log_sum_exp
from modelyard.stats.harm import BASELINE, CANARY, FEWER, excess_bound, log_evidence_below, ratio_bound
from modelyard.stats.sequential import rate_difference


def test_bets_are_mixed_with_weights_that_add_up_to_one():
    for bets in (FEWER, CANARY, BASELINE):
        assert sum(weight for *_, weight in bets) == pytest.approx(1)


@pytest.mark.parametrize(("share", "ratio"), [(0.05, 1.0), (0.5, 1.0), (0.3, 0.6), (0.1, 3.0)])
def test_the_ratio_is_bounded_too_low_no_more_often_than_stated_over_all_that_can_happen(share, ratio):
    """Exact: where 60 events may go, look by look, the walk ends where the bound falls below the true ratio."""
    alpha, chance = 0.1, share * ratio / (share * ratio + 1 - share)
    alive, missed = {0: 1.0}, 0.0
    for n in range(1, 61):
        after: dict[int, float] = {}
        for k, p in alive.items():
            after[k + 1] = after.get(k + 1, 0) + p * chance
            after[k] = after.get(k, 0) + p * (1 - chance)
        gone = [k for k in after if ratio_bound(k, n - k, share, alpha) < ratio]
        missed += sum(after.pop(k) for k in gone)
        alive = after
    assert 0 < missed <= alpha or (missed == 0 and share < 0.2)


def test_the_ratio_is_the_one_at_which_the_mixture_of_binomial_likelihoods_reaches_one_over_alpha():
    k, m, w = 30, 1000, 0.05
    r = ratio_bound(k, m, w, 0.05)
    q0 = w * r / (w * r + 1 - w)
    direct = 0.0
    for part, weight in FEWER:
        q = w * r * part / (w * r * part + 1 - w)
        direct += weight * (q / q0) ** k * ((1 - q) / (1 - q0)) ** m
    assert direct == pytest.approx(20, rel=1e-3)


@pytest.mark.parametrize(("rate", "excess"), [(0.1, 0.05), (0.0, 0.1), (0.3, -0.1)])
def test_the_evidence_against_an_excess_is_fair_where_it_is_just_that_much(rate, excess):
    """Exact: its expectation over both binomial laws is one at most, so it passes 1/alpha with alpha at most."""

    def law(n, p):
        return [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]

    n, m = 18, 36
    pairs = [(k, j, p * q) for k, p in enumerate(law(n, rate + excess)) for j, q in enumerate(law(m, rate)) if p * q]
    assert sum(p * math.exp(log_evidence_below(excess, (j, m), (k, n))) for k, j, p in pairs) <= 1 + 1e-6


def test_the_worst_baseline_rate_is_found_as_by_trying_them_all():
    for baseline, canary, excess in (
        ((30, 2000), (3, 200), 0.01),
        ((0, 500), (0, 90), 0.05),
        ((90, 900), (4, 90), -0.02),
    ):
        worst = math.inf
        for p in np.linspace(max(0, -excess), 1 - max(excess, 0), 20_001).tolist():
            new = [
                math.log(w) - s * canary[0] - canary[1] * math.log1p((p + excess) * math.expm1(-s)) for s, w in CANARY
            ]
            old = [math.log(w) + s * baseline[0] - baseline[1] * math.log1p(p * math.expm1(s)) for s, w in BASELINE]
            worst = min(worst, log_sum_exp(new) + log_sum_exp(old))
        assert log_evidence_below(excess, baseline, canary) == pytest.approx(worst, abs=1e-3)


@settings(max_examples=25)
@given(st.integers(0, 50), st.integers(0, 5000), st.integers(0, 9), st.integers(0, 500))
def test_the_bound_lies_above_the_estimate_and_more_failures_never_lower_it(m, more, k, others):
    n, total = k + others, m + more
    bound = excess_bound(m, total, k, n, alpha=0.05)
    if n and total:
        assert bound >= k / n - m / total - 1e-6
    if others:
        assert excess_bound(m, total, k + 1, n, alpha=0.05) >= bound - 1e-6


def test_a_step_takes_fewer_units_than_two_bounds_apart_and_less_than_twice_what_is_possible():
    """Wald's bound: log(1/alpha) over the information of a unit where the baseline's rate were known."""
    for rate, margin, units in ((0.0, 0.005, 830), (0.001, 0.005, 1390), (0.01, 0.005, 5450), (0.01, 0.01, 1545)):
        known = (rate * math.log(rate / (rate + margin)) if rate else 0) + (1 - rate) * math.log(
            (1 - rate) / (1 - rate - margin)
        )
        counts = rate * 19 * units, 19 * units, rate * units, units
        assert excess_bound(*counts, alpha=0.05) <= margin < rate_difference(*counts)[1]
        assert units < 2 * math.log(20) / known
