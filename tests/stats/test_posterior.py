"""Posteriors against sampling and closed forms; rounds of changing shares by simulation."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.stats import adaptive, posterior
from modelyard.stats.group_sequential import bounds, chance_of_crossing, inflation
from modelyard.stats.sequential import sequence_z

COUNTS = st.tuples(st.integers(0, 400), st.integers(0, 400))


@given(COUNTS, COUNTS, COUNTS)
@settings(max_examples=20)
def test_chances_and_losses_are_those_of_a_million_draws(a, b, c):
    arms = [posterior.beta(k, k + rest) for k, rest in (a, b, c)]
    random = np.random.default_rng(0)
    drawn = np.array([random.beta(1 + k, 1 + rest, 200_000) for k, rest in (a, b, c)])
    best = np.bincount(drawn.argmax(axis=0), minlength=3) / drawn.shape[1]
    assert posterior.chances_of_best(arms) == pytest.approx(best, abs=0.006)
    losses = (drawn.max(axis=0) - drawn).mean(axis=1)
    assert posterior.expected_losses(arms) == pytest.approx(losses, abs=0.003)


def test_normal_laws_have_their_closed_forms():
    a, b = posterior.normal(1.0, 0.04), posterior.normal(1.5, 0.09)
    sd = math.sqrt(0.13)
    assert posterior.chance_above(a, b) == pytest.approx(scipy.stats.norm.cdf(0.5 / sd), abs=1e-4)
    assert posterior.difference_interval(a, b, 0.9) == pytest.approx(
        (0.5 - 1.6448536 * sd, 0.5 + 1.6448536 * sd), abs=2e-3
    )
    loss = sd * scipy.stats.norm.pdf(0.5 / sd) - 0.5 * scipy.stats.norm.cdf(-0.5 / sd)
    assert posterior.expected_losses([a, b])[1] == pytest.approx(loss, abs=1e-5)
    assert posterior.normal(3.0, 1.0, prior=(1.0, 1.0)).mean == 2.0


def test_the_credible_interval_of_a_lift_is_that_of_draws():
    c, t = posterior.beta(1000, 10_000), posterior.beta(1100, 10_000)
    random = np.random.default_rng(1)
    drawn = random.beta(1101, 8901, 400_000) / random.beta(1001, 9001, 400_000) - 1
    assert posterior.lift_interval(c, t, 0.95) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=2e-3)
    assert posterior.lift_interval(posterior.normal(0.1, 1.0), t, 0.95) is None


def test_an_impossible_posterior_is_refused():
    with pytest.raises(Invalid):
        posterior.beta(3, 2)
    with pytest.raises(Invalid):
        posterior.normal(1.0, 1.0, prior=(0.0, 0.0))


@given(st.lists(st.floats(0.001, 1), min_size=2, max_size=6))
def test_shares_add_up_and_keep_the_floor_and_the_order(chances):
    total = sum(chances)
    chances = [chance / total for chance in chances]
    least = 0.2 / len(chances)
    found = adaptive.shares(chances, least)
    assert sum(found) == pytest.approx(1)
    assert min(found) >= least - 1e-9
    assert all(
        a >= b - 1e-9
        for (x, a) in zip(chances, found, strict=True)
        for (y, b) in zip(chances, found, strict=True)
        if x > y
    )


def adaptive_run(random, rates, rounds=20, units=400):
    """Every round's difference by Thompson sampling, and what plain totals say at the end."""
    seen, share, stretches, crossed = np.zeros((2, 2)), 0.5, [], False
    for _ in range(rounds):
        treated = random.binomial(units, share)
        n = np.array([units - treated, treated])
        k = random.binomial(n, rates)
        pooled = k.sum() / units
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / n).sum())
        stretches.append(adaptive.Round(difference=k[1] / n[1] - k[0] / n[0], error=error, units=units, share=share))
        found = adaptive.together(stretches)
        crossed |= abs(found.z) >= sequence_z(found.information / (rounds * units / 4))
        seen += [k, n]
        draws = random.beta(1 + seen[0][:, None], 1 + (seen[1] - seen[0])[:, None], (2, 2000))
        share = adaptive.shares([(draws[0] > draws[1]).mean(), (draws[1] > draws[0]).mean()], 0.1)[1]
    return crossed, found, seen[0] / seen[1], share


def test_rounds_put_together_are_unbiased_and_rarely_wrong_where_plain_totals_are_biased():
    random = np.random.default_rng(9)
    runs = [adaptive_run(random, (0.3, 0.3)) for _ in range(400)]
    assert np.mean([crossed for crossed, *_ in runs]) <= 0.05
    zs = np.array([found.z for _, found, *_ in runs])
    assert abs(zs.mean()) < 3 / math.sqrt(400)
    assert 1.0 < zs.std() < 1.25  # more than one look's: shares that follow the score keep its extremes
    low = np.mean([rates.min() - 0.3 for *_, rates, _ in runs])
    high = np.mean([rates.max() - 0.3 for *_, rates, _ in runs])
    assert low + high < -0.002  # the arm that is left early stays at its bad luck


def test_rounds_find_a_better_arm_and_send_units_there():
    random = np.random.default_rng(10)
    runs = [adaptive_run(random, (0.3, 0.36)) for _ in range(40)]
    assert np.mean([crossed for crossed, *_ in runs]) > 0.6
    assert np.mean([share for *_, share in runs]) > 0.8
    assert np.mean([found.difference for _, found, *_ in runs]) == pytest.approx(0.06, abs=0.01)


def test_looks_that_are_paid_for_keep_the_power_in_simulation():
    times = [0.25, 0.5, 0.75, 1.0]
    limits = np.array(bounds(times))
    drift = (1.959964 + 0.841621) * math.sqrt(inflation(4))
    random = np.random.default_rng(11)
    steps = random.normal(drift / 4, 0.5, (20_000, 4))
    z = np.cumsum(steps, axis=1) / np.sqrt(times)
    found = (np.abs(z) >= limits).any(axis=1).mean()
    assert found == pytest.approx(0.8, abs=0.01)
    assert chance_of_crossing(times, list(limits), drift) == pytest.approx(0.8, abs=1e-3)
    assert chance_of_crossing(times, list(limits), 0.0) == pytest.approx(0.05, abs=1e-4)
