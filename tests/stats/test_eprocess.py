"""The rollback test: fair under every 'no worse', by full enumeration; its detector by brute force; its budget by sums."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.detector import NOTHING, Detector, begun_by
from modelyard.stats.eprocess import RATES, log_e_value, log_wealth
from modelyard.stats.rollback import (
    ANSWERS,
    PARTS,
    State,
    bets_of,
    events_of,
    log_evidence,
    steps,
    strongest,
    up_to_now,
)

ANY = ("p50", "p95", "p99")
SUBSETS = [part for size in (1, 2, 3) for part in itertools.combinations(ANY, size)]


@given(st.integers(0, 30), st.integers(0, 200), st.floats(0.01, 0.99))
def test_the_e_value_is_the_plain_mixture_of_binomial_likelihoods(k, m, w):
    direct = 0.0
    for bet in RATES:
        (r,) = bet.ratios
        q = w * r / (w * r + 1 - w)
        direct += bet.weight * (q / w) ** k * ((1 - q) / (1 - w)) ** m
    if 1e-290 < direct < 1e290:
        assert log_e_value(k, m, w) == pytest.approx(math.log(direct), abs=1e-9)


def test_the_e_process_of_errors_is_a_fair_bet_under_the_null():
    """Its expectation after any number of failures is one: computed over the whole binomial law, not simulated."""
    for n, w in ((1, 0.05), (20, 0.05), (50, 0.3)):
        law = [math.comb(n, k) * w**k * (1 - w) ** (n - k) for k in range(n + 1)]
        assert sum(p * math.exp(log_e_value(k, n - k, w)) for k, p in enumerate(law)) == pytest.approx(1.0)


@pytest.mark.parametrize("quantiles", SUBSETS)
def test_bets_on_answers_never_fall_from_better_to_worse_and_their_weights_add_up(quantiles):
    bets = bets_of(ANSWERS, quantiles)
    assert sum(bet.weight for bet in bets) == pytest.approx(1)
    for bet in bets:
        assert len(bet.ratios) == len(quantiles) + 1
        assert all(a <= b + 1e-12 for a, b in itertools.pairwise(bet.ratios))


def laws(length):
    return st.lists(st.floats(0.001, 1), min_size=length, max_size=length).map(lambda x: [one / sum(x) for one in x])


@given(laws(4), st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0.01, 0.99))
def test_no_canary_that_is_stochastically_no_worse_wins_a_bet_in_expectation(baseline, better, share):
    """One request's expected factor, over every canary made from the baseline by moving outcomes to better categories."""
    canary = list(baseline)
    for place, part in enumerate(better):
        moved = canary[place + 1] * part
        canary[place] += moved
        canary[place + 1] -= moved
    for bet in range(len(bets_of(ANSWERS))):
        expected = 0.0
        for place in range(4):
            one = tuple(int(place == each) for each in range(4))
            none = (0, 0, 0, 0)
            expected += share * canary[place] * math.exp(log_wealth(bets_of(ANSWERS), one, none, share)[bet])
            expected += (1 - share) * baseline[place] * math.exp(log_wealth(bets_of(ANSWERS), none, one, share)[bet])
        assert expected <= 1 + 1e-9


def test_the_parts_of_all_tests_add_up_to_the_budget():
    assert sum(part.now + part.late for part in PARTS.values()) <= 1 + 1e-12


@given(st.floats(0, 1e12), st.floats(1, 4))
def test_what_begins_never_adds_up_to_more_than_one(events, more):
    assert 0 <= begun_by(events) <= begun_by(events * more) < 1


def test_the_detector_is_the_sum_of_e_processes_that_began_at_every_look():
    looks = [(0, 30), (1, 20), (4, 0), (0, 1), (2, 2)]
    late = State.of(()).late
    for k, m in looks:
        late = late.after(log_wealth(RATES, (k,), (m,), 0.1), events_of((k,), (m,)))
    before = np.concatenate([[0], np.cumsum([k + m for k, m in looks])[:-1]])
    weights = np.diff([0.0, *(begun_by(events) for events in before)])
    for place, bet in enumerate(RATES):
        direct = 0.0
        for begin, weight in enumerate(weights):
            k, m = (sum(look[side] for look in looks[begin:]) for side in (0, 1))
            direct += weight * math.exp(log_wealth([bet], (k,), (m,), 0.1)[0])
        assert late.logs[place] == pytest.approx(math.log(direct))


def test_the_detector_is_a_fair_bet_over_all_that_may_happen():
    """The exact expectation of the sum, over every sequence of 22 failures, is the weight of what has begun."""
    share, bets = 0.3, RATES[2:4]
    paths = [(1.0, Detector((NOTHING,) * len(bets)))]
    for _ in range(16):
        paths = [(p, late.after((0.0,) * len(bets), 1)) for p, late in paths]
    for _ in range(6):
        after = []
        for p, late in paths:
            after.append((p * share, late.after(log_wealth(bets, (1,), (0,), share), 1)))
            after.append((p * (1 - share), late.after(log_wealth(bets, (0,), (1,), share), 1)))
        paths = after
    assert sum(p for p, _ in paths) == pytest.approx(1)
    for place in range(len(bets)):
        assert sum(p * math.exp(late.logs[place]) for p, late in paths) == pytest.approx(begun_by(21))


def test_steps_of_other_shares_multiply_bet_by_bet():
    first = up_to_now({}, {"errors": ((2,), (10,))}, 0.05, ())
    both = up_to_now(first, {"errors": ((1,), (2,))}, 0.25, ())
    expected = np.add(log_wealth(RATES, (2,), (10,), 0.05), log_wealth(RATES, (1,), (2,), 0.25))
    assert State.of(both["errors"]).logs == pytest.approx(expected)
    assert State.of(both["errors"]).numbers == both["errors"]


def test_more_evidence_of_one_test_is_never_hidden_by_the_others():
    clean = {"errors": ((0,), (0,)), "answers": ((100, 90, 8, 2), (1900, 1710, 152, 38))}
    tests = up_to_now({}, {**clean, "errors": ((12,), (3,))}, 0.05, ANY)
    assert strongest(tests) == (log_evidence(tests)["errors"], "errors")


def test_a_healthy_canary_is_rarely_taken_back_however_often_it_is_looked_at():
    """Errors and answers together, a look after every tenth of 600 requests; the budget here is 5 %."""
    random, share, taken, runs = np.random.default_rng(4), 0.1, 0, 120
    base, quantiles = [0.45, 0.4, 0.08, 0.02, 0.05], ANY  # the last is failures
    for _ in range(runs):
        kinds, new = random.choice(5, 600, p=base), random.random(600) < share
        cells = np.zeros((600, 2, 5), int)
        cells[np.arange(600), np.where(new, 0, 1), kinds] = 1
        sums, late = np.cumsum(cells, axis=0), {}
        for look in range(9, 600, 10):
            pairs = [(*arm[:3], arm[3] + arm[4]) for arm in sums[look].tolist()]
            counts = {"errors": ((sums[look, 0, 4],), (sums[look, 1, 4],)), "answers": tuple(pairs)}
            step = cells[look - 9 : look + 1].sum(axis=0).tolist()
            more = {
                "errors": ((step[0][4],), (step[1][4],)),
                "answers": tuple((*arm[:3], arm[3] + arm[4]) for arm in step),
            }
            for test, grown in steps(more, share, quantiles).items():
                late[test] = late.get(test, State.of(()).late).after(grown, events_of(*more[test]))
            if strongest(up_to_now({}, counts, share, quantiles, late))[0] >= math.log(20):
                taken += 1
                break
    assert taken / runs <= 0.05
