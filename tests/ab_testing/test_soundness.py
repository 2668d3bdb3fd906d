"""What analyses promise, held against exact enumeration, simulation and regression: levels, coverage, looks, guardrails."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import scipy.stats

from modelyard.ab_testing import rules, strata
from modelyard.ab_testing.comparing import clustering, compared, guarded, rate_of
from modelyard.ab_testing.design import Look, ruler
from modelyard.ab_testing.experiments import ABTest, TestStatus, TrafficSplitStrategy, Variant
from modelyard.ab_testing.metrics import Role, layout, parsed
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.stats import ratios
from modelyard.stats.cross import Cross, exact
from modelyard.stats.group_sequential import bounds, sequential_p
from modelyard.stats.proportions import equality_p, lift_interval, score_test
from modelyard.stats.ratios import Estimate
from modelyard.stats.sketch import bucket

START = datetime(2026, 1, 1, tzinfo=UTC)


def plan(*metrics, split=0.5, **options):
    variants = (
        Variant(name="control", model="m:v1", share=1 - split),
        Variant(name="treatment", model="m:v2", share=split),
    )
    given = {"strategy": TrafficSplitStrategy.RANDOM, "status": TestStatus.RUNNING, **options}
    made = ABTest(test_id="t", name="t", description="", variants=variants, created_by="me", created_at=START, **given)
    return replace(made, metrics=parsed(metrics)) if metrics else made


def counted(successes, n):
    made = Tally()
    made.count(1, successes)
    made.count(0, n - successes)
    return made


def summed(name, values, n=None):
    """An arm whose units brought these values, as a mean over units."""
    made, sums = counted(0, n or len(values)), Cross(1)
    for value in values:
        sums.add([exact(float(value))])
    made.metrics[name] = sums
    return made


GOAL = {"name": "x", "kind": "mean", "role": "goal"}


# Intervals of a rate's lift


def coverage(control_n, rate, treatment_n, lift):
    """The exact chance that the 95 % interval holds the truth, over a grid of all counts that matter."""

    def counts(n, p):
        sd = math.sqrt(n * p * (1 - p))
        low, high = max(0, math.floor(n * p - 5 * sd)), min(n, math.ceil(n * p + 5 * sd))
        grid = np.unique(np.linspace(low, high, min(high - low + 1, 60)).round()).astype(int)
        weights = scipy.stats.binom.pmf(grid, n, p)
        return zip(grid.tolist(), (weights / weights.sum()).tolist(), strict=True)

    treated, held = list(counts(treatment_n, rate * (1 + lift))), 0.0
    for c, chance in counts(control_n, rate):
        for t, other in treated:
            low, high = lift_interval(c, control_n, t, treatment_n)
            held += chance * other * (low <= lift <= high)
    return held


@pytest.mark.parametrize(
    ("control_n", "rate", "treatment_n", "lift"),
    [
        (20_000, 0.001, 20_000, 1.0),
        (95_000, 0.004, 5_000, 0.0),
        (95_000, 0.996, 5_000, 0.0),  # twenty failures in the smaller arm: a log ratio's normal law covers 94.0 %
        (20_000, 0.99, 1_000, 0.0),  # ten failures: 93.0 %
    ],
)
def test_the_interval_of_a_lift_covers_the_truth_near_zero_near_one_and_at_lopsided_splits(
    control_n, rate, treatment_n, lift
):
    assert 0.945 < coverage(control_n, rate, treatment_n, lift) < 0.96


def test_the_interval_of_a_lift_leaves_zero_out_just_where_the_score_test_rejects():
    random = np.random.default_rng(1)
    for _ in range(300):
        n, m = random.integers(20, 3000, 2).tolist()
        c, t = int(random.integers(1, n)), int(random.integers(1, m))
        low, high = lift_interval(c, n, t, m)
        assert (low > 0 or high < 0) == (score_test(c, n, t, m)[1] < 0.05)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [  # statsmodels: confint_proportions_2indep(compare="ratio", method="score", correction=False)
        ((12, 100_000, 31, 100_000), (0.3424978642637375, 3.971117863352529)),
        ((20, 20_000, 20, 20_000), (-0.4566405440548909, 0.8404023138989452)),
        ((30, 100, 45, 120), (-0.1378717656668031, 0.8328614589824597)),
    ],
)
def test_the_interval_of_a_lift_is_statsmodels(counts, expected):
    assert lift_interval(*counts) == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [(99_900, 100, 80), (99_900, 100, 160), (95_000, 5_000, 12), (95_000, 5_000, 40), (50, 10, 6)],
)
def test_equal_rates_are_called_different_no_more_often_than_alpha_however_lopsided_the_split(n, m, expected):
    """By the score test alone 13 % of comparisons with a thousandth of 160 events."""
    rate, rejected = expected / (n + m), 0.0
    treated = range(int(scipy.stats.binom.isf(1e-6, m, rate)) + 1)
    chances = scipy.stats.binom.pmf(list(treated), m, rate)
    controls = np.unique(np.linspace(*scipy.stats.binom.ppf([1e-4, 1 - 1e-4], n, rate), 40).round()).astype(int)
    weights = scipy.stats.binom.pmf(controls, n, rate)
    for c, weight in zip(controls.tolist(), (weights / weights.sum()).tolist(), strict=True):
        rejected += weight * sum(chances[t] for t in treated if equality_p(c, n, t, m) < 0.05)
    assert rejected <= 0.052


def test_successes_everywhere_still_leave_room_and_no_events_leave_an_end_open():
    low, high = lift_interval(1, 1, 1, 1)
    assert low < -0.7
    assert high > 3
    assert lift_interval(0, 10, 5, 10)[1] == math.inf
    assert lift_interval(5, 10, 0, 10)[0] == -1.0
    assert lift_interval(0, 10, 0, 10) == (-1.0, math.inf)
    found, _ = rules.analyze(
        plan({"name": "success", "role": "guardrail", "margin": 0.1}, GOAL),
        {"control": counted(1, 1), "treatment": counted(1, 1)},
    )
    assert found["comparisons"]["treatment"]["guardrails"] == {"success": "open"}


# Looking again and again


def found_at_any_look(random, rate, split, runs, first):
    """How often equal arms of yes-or-no values are called different under a confidence sequence of 4,000 units."""
    test, hits = plan(GOAL, split=split, horizon=4000), 0
    goal = test.goals[0]
    sizes = np.unique(np.geomspace(first, 4000, 40).astype(int))
    for _ in range(runs):
        treated, values = random.random(4000) < split, random.random(4000) < rate
        for n in sizes:
            arms = []
            for chosen in (~treated[:n], treated[:n]):
                units, ones = int(chosen.sum()), int((values[:n] & chosen).sum())
                arm, arm.metrics["x"] = counted(0, units), Cross(1)
                arm.metrics["x"].add([(1, 0)], ones)
                arms.append(arm)
            held = ruler(test, int(n), (), 0.95)
            if compared(goal, *arms, held).beyond(held, held.each):
                hits += 1
                break
    return hits / runs


@pytest.mark.parametrize(("rate", "split"), [(0.02, 0.05), (0.5, 0.5)])
def test_rare_values_in_a_small_arm_and_the_first_units_are_not_taken_for_a_difference(rate, split):
    """By each arm's own spread alone 52 % of these lopsided comparisons and 11 % of the even ones found a difference."""
    assert found_at_any_look(np.random.default_rng(3), rate, split, 40, 4) <= 0.05


def test_units_that_all_succeeded_are_not_as_many_independent_successes_as_they_made_requests():
    control, treatment = Tally(), Tally()
    for arm, good in ((control, 9), (treatment, 10)):
        for unit in range(10):
            arm.count_unit(Unit(), Unit(100, 100 * (unit < good)))
    assert rate_of(treatment).n <= 10
    found, _ = rules.analyze(plan(), {"control": control, "treatment": treatment})
    assert not found["statistically_significant"]
    assert found["p_value"] > 0.2


def test_a_secondary_metric_of_a_planned_test_pays_for_its_looks():
    random = np.random.default_rng(4)
    times = np.arange(1, 11) / 10
    walk = np.cumsum(random.normal(size=(1000, 10)) * math.sqrt(0.1), axis=1) / np.sqrt(times)
    plain = (np.abs(walk) >= 1.96).any(axis=1).mean()
    paid = np.mean([any(sequential_p(times[: k + 1], z) <= 0.05 for k, z in enumerate(run)) for run in walk])
    assert plain > 0.15
    assert paid <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)


@pytest.mark.parametrize("times", [[1.0], [0.3, 1.0], [0.2, 0.4, 0.6], [0.5, 1.3]])
def test_the_p_value_that_pays_for_looks_turns_the_bounds_around(times):
    for alpha in (0.3, 0.05, 0.013, 0.002):
        assert sequential_p(times, bounds(times, alpha)[-1]) == pytest.approx(alpha, rel=0.02)


def test_what_the_looks_of_a_plan_have_shown_of_a_secondary_metric_is_kept():
    test = plan({"name": "x", "kind": "mean"}, planned_units=4000)
    spread = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)

    def arms(shift):
        return {name: summed("x", spread + by) for name, by in (("control", 5.0), ("treatment", 5.0 + shift))}

    first, look = rules.analyze(test, arms(0.3))
    one = first["comparisons"]["treatment"]["metrics"]["x"]
    assert one["p_value"] < one["sequential_p_value"] < 0.05
    assert one["p_value_holm"] == one["sequential_p_value"]
    again, spent = rules.analyze(test, arms(0.0), [look])
    assert spent is None
    assert again["comparisons"]["treatment"]["metrics"]["x"]["sequential_p_value"] == one["sequential_p_value"]


def test_a_lax_look_decides_nothing_for_a_strict_one():
    arms = {"control": counted(100, 1000), "treatment": counted(121, 1000)}
    test = plan(planned_units=2000)
    lax, look = rules.analyze(test, arms, confidence_level=0.8)
    assert lax["statistically_significant"]
    strict, _ = rules.analyze(test, arms, [look], confidence_level=0.95)
    assert not strict["statistically_significant"]


def test_a_late_last_look_is_told_by_its_true_size():
    assert bounds([0.5, 2.0])[1] > bounds([0.5, 1.0])[1]
    found, look = rules.analyze(
        plan(planned_units=1000), {"control": counted(100, 1000), "treatment": counted(130, 1000)}
    )
    assert look.fraction == 2.0
    assert found["design"] == "fixed"


def test_a_ramp_counts_the_units_that_tell_its_arms_apart():
    arms = {"control": counted(900, 1000), "treatment": counted(9, 10)}
    even, _ = rules.analyze(plan(planned_units=2020), arms)
    ramp, _ = rules.analyze(plan(planned_units=2020, strategy=TrafficSplitStrategy.RAMP, ramp_seconds=9.0), arms)
    assert even["information"] == 0.5
    assert ramp["information"] == pytest.approx(4 * 1000 * 10 / 1010 / 2020)


# Guardrails


def test_a_guardrail_is_shown_at_looks_that_count_and_stays_shown():
    guard = replace(
        parsed([{"name": "x", "kind": "mean", "role": "guardrail", "margin": 0.05}])[1], role=Role.GUARDRAIL
    )
    test = plan({"name": "x", "kind": "mean", "role": "guardrail", "margin": 0.05}, planned_units=2000)
    spread = 100 + scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)
    good, bad = (
        compared(guard, summed("x", spread), summed("x", spread - by), ruler(test, 1000, (), 0.95)) for by in (0, 20)
    )
    counts = ruler(test, 1000, (), 0.95)
    assert [guarded(one, counts, "treatment") for one in (good, bad)] == ["held", "broken"]
    look = Look(fraction=0.5, alpha=0.05, guardrails={"treatment:x": "held"})
    soon = ruler(test, 1001, [look], 0.95)
    assert not soon.open
    assert guarded(bad, soon, "treatment") == "held"
    later = ruler(test, 1500, [look], 0.95)
    assert guarded(bad, later, "treatment") == "broken"


def test_a_guardrail_of_a_negative_mean_is_a_part_of_its_size():
    control = Estimate(n=99, value=-10.0, variance=0.01)
    low, high = ratios.lift(control, replace(control, value=-8.0), 1.96)
    assert low < 0.2 < high
    assert low > 0.15
    tests = [{"name": "x", "kind": "mean", "role": "guardrail", "margin": 0.1}]
    spread = scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)
    for shift, state in ((2.0, "held"), (-2.0, "broken")):
        arms = {"control": summed("x", spread - 10), "treatment": summed("x", spread - 10 + shift)}
        found, _ = rules.analyze(plan(*tests), arms)
        assert found["comparisons"]["treatment"]["guardrails"] == {"x": state}


# Means, ratios, covariates


def test_a_lift_of_large_means_with_a_small_spread_keeps_its_digits():
    control, treatment = (Estimate(n=99, value=value, variance=0.01) for value in (1e12, 1e12 + 3))
    low, high = ratios.lift(control, treatment, 1.96)
    assert (low, high) == pytest.approx(((3 - 1.96 * 0.02**0.5) / 1e12, (3 + 1.96 * 0.02**0.5) / 1e12), rel=1e-6)


def test_the_error_with_a_covariate_is_the_regressions():
    random = np.random.default_rng(7)
    n = 8
    z = random.normal(size=2 * n)
    variant = np.repeat([0, 1], n)
    x = 2 * z + 0.5 * variant + random.normal(size=2 * n)
    design = np.column_stack([np.ones(2 * n), variant, z])
    slopes, squares, *_ = np.linalg.lstsq(design, x, rcond=None)
    error = math.sqrt(squares[0] / (2 * n - 3) * np.linalg.inv(design.T @ design)[1, 1])
    arms = []
    for one in (0, 1):
        sums = Cross(2)
        for pair in zip(x[variant == one], z[variant == one], strict=True):
            sums.add([exact(float(value)) for value in pair])
        arms.append(ratios.mean(sums.spread()))
    found = ratios.difference(*ratios.adjusted(*arms)[:2])
    assert (found.value, found.error) == pytest.approx((slopes[1], error))


def test_a_covariate_that_one_arm_never_told_moves_no_answer_and_is_reported():
    random = np.random.default_rng(8)
    test, arms = plan({**GOAL, "covariate": "z"}), {}
    for name, told in (("control", True), ("treatment", False)):
        arms[name], sums = counted(0, 400), Cross(2)
        for _ in range(400):
            z = random.gamma(4, 2)
            sums.add([exact(z + random.normal()), exact(z if told else 0.0)])
        arms[name].metrics["x"] = sums
    found, _ = rules.analyze(test, arms)
    one = found["comparisons"]["treatment"]["metrics"]["x"]
    assert one["difference"] == pytest.approx(one["treatment"] - one["control"])
    assert found["covariate_mismatch"] == ["x of treatment"]
    assert "differed before the test" in found["conclusion"]


def test_a_ratio_whose_denominator_may_be_zero_decides_nothing():
    test = plan({"name": "r", "numerator": "a", "denominator": "b", "role": "goal"})
    arms = {}
    for name, ratio in (("control", 1), ("treatment", 9)):
        arms[name], sums = counted(0, 50), Cross(2)
        for unit in range(50):
            sums.add([exact(float(ratio * (unit < 2))), exact(float(unit < 2))])
        arms[name].metrics["r"] = sums
    found, _ = rules.analyze(test, arms)
    assert not found["statistically_significant"]
    assert not found["comparisons"]["treatment"]["metrics"]["r"]["enough_units"]
    assert "denominator" in found["conclusion"]


def grouped(random, units, shift, groups=4):
    """Units of groups that differ far more than units of one group do; three in ten bring nothing."""
    group = random.integers(0, groups, units)
    return group, (random.random(units) < 0.7) * (10.0 * group + random.normal(0, 1, units) + shift)


def grouped_arm(test, group, values):
    """The arm as it is counted, result by result."""
    made, how = Tally(), layout(test.metrics)
    for g, value in zip(group.tolist(), values.tolist(), strict=True):
        made.count_result(1, {"x": value, "g": float(g)}, how)
    return made


def test_groups_known_before_the_test_are_compared_each_with_its_own():
    random = np.random.default_rng(11)
    test = plan({**GOAL, "strata": "g"}, planned_units=500)
    drawn = [grouped(random, n, shift) for n, shift in ((200, 0.0), (300, 1.0))]
    found = compared(test.metrics[1], *(grouped_arm(test, *one) for one in drawn), ruler(test, 500, (), 0.95))
    value = variance = 0.0
    for g in range(4):
        parts = [values[group == g] for group, values in drawn]
        weight = sum(map(len, parts)) / 500
        value += weight * (parts[1].mean() - parts[0].mean())
        variance += weight**2 * sum(part.var(ddof=1) / len(part) for part in parts)
    assert found.difference == pytest.approx(value)
    assert found.difference / found.z == pytest.approx(math.sqrt(variance), rel=0.02)  # z is Student's
    plain = compared(plan(GOAL).metrics[1], *(grouped_arm(test, *one) for one in drawn), ruler(test, 500, (), 0.95))
    assert found.reduced > 0.3
    assert abs(plain.difference - found.difference) > 0


def test_intervals_within_groups_cover_the_truth():
    random = np.random.default_rng(12)
    test, hits = plan({**GOAL, "strata": "g"}, planned_units=160), 0
    held = ruler(test, 160, (), 0.95)
    for _ in range(90):
        arms = [grouped_arm(test, *grouped(random, 80, 0.0)) for _ in range(2)]
        low, high = compared(test.metrics[1], *arms, held).interval
        hits += low <= 0 <= high
    assert hits / 90 > 0.87


def test_small_groups_are_put_together_and_a_unit_may_be_put_right():
    test = plan({**GOAL, "strata": "g"})
    how, arm = layout(test.metrics), Tally()
    for group in (0, 1, 2, 0.5, 5000):
        arm.count_result(1, {"x": 1.0, "g": float(group)}, how, 9)
    told, right = Unit(), Unit()
    told.add(1, {"x": 3.0, "g": 1.0}, how)
    right.add(1, {"x": 3.0, "g": 2.0}, how)
    arm.count_unit(Unit(), told, how)
    arm.count_unit(told, right, how)
    by_group = {name.rsplit(" ", 1)[1]: sums.n for name, sums in arm.metrics.items() if name != "x"}
    assert by_group == {"0": 9, "1": 9, "2": 10, "-1": 18}
    assert arm.metrics["x"].n == 46
    one, other = strata.estimates(test.metrics[1], arm, arm)
    assert one == other
    assert one.value == pytest.approx(48 / 46)


# Quantiles


def clustered_arm(random, test, units, each, spread):
    """Units whose values share a part: an arm as it is counted, and its values."""
    arm, how, values = Tally(), layout(test.metrics), []
    for _ in range(units):
        own, unit = random.normal(0, spread), Unit()
        for _ in range(each):
            values.append(math.exp(own + random.normal(0, 0.5)))
            arm.spot({"x": values[-1]}, how)
            unit.add(1, {"x": values[-1]}, how)
        arm.count_unit(Unit(), unit, how)
    return arm, np.array(values).reshape(units, each)


def test_the_design_effect_of_a_share_of_values_is_the_delta_methods_over_units():
    test = plan({"name": "q", "numerator": "x", "quantile": 0.5})
    arm, values = clustered_arm(np.random.default_rng(9), test, 60, 5, 1.0)
    for share in (0.3, 0.5, 0.9):
        index = bucket(np.quantile(values, share) * 1e6)
        low = np.array([[bucket(value * 1e6) <= index for value in unit] for unit in values])
        over_units = ((low.sum(axis=1) - low.mean() * 5) ** 2).sum() / 300**2
        independent = low.mean() * (1 - low.mean()) / 300
        assert clustering((arm,), "x", index) == pytest.approx(over_units / independent)
        assert clustering((arm,), "x", index) > 2
    alone = Tally(histograms={"x": arm.histograms["x"]})
    assert clustering((alone,), "x", index) == 1.0


def test_the_interval_of_a_quantile_covers_the_truth_where_units_bring_several_values():
    random = np.random.default_rng(10)
    test = plan({"name": "q", "numerator": "x", "quantile": 0.9}, planned_units=160)
    held, hits = ruler(test, 160, (), 0.95), 0
    for _ in range(70):
        arms = [clustered_arm(random, test, 80, 3, 1.0)[0] for _ in range(2)]
        low, high = compared(test.metrics[1], *arms, held).lift_interval
        hits += low <= 0 <= high
    assert hits / 70 > 0.89


def test_the_largest_of_a_hundred_values_is_no_bound_of_their_99th_percentile():
    test = plan({"name": "q", "numerator": "x", "quantile": 0.99}, planned_units=200)
    arms = [clustered_arm(np.random.default_rng(seed), test, 100, 1, 0.0)[0] for seed in (1, 2)]
    found, _ = rules.analyze(test, dict(zip(("control", "treatment"), arms, strict=True)))
    one = found["comparisons"]["treatment"]["metrics"]["q"]
    assert one["interval"][1] is None
    assert one["relative_interval"][1] is None


# Sentences


def concluded(test, arms, looks=(), level=0.95):
    return rules.analyze(test, arms, looks, confidence_level=level)[0]["conclusion"]


def test_a_finished_plan_without_an_answer_says_what_it_could_have_shown():
    told = concluded(plan(planned_units=4000), {"control": counted(1794, 2000), "treatment": counted(1810, 2000)})
    assert told == (
        "No difference was shown with the planned 4,000 units: treatment's success rate lies from 1.16% below to 3.00% "
        "above the control's. 4,000 units would show a lift of 2.8% in four of five tests. Keep m:v1, or plan a larger test."
    )


def test_a_look_that_comes_too_soon_says_so():
    look = Look(fraction=0.5, alpha=0.05)
    told = concluded(plan(planned_units=2000), {"control": counted(450, 501), "treatment": counted(300, 501)}, [look])
    assert "Nothing is decided at this look: the next one that counts comes at 1,020 units." in told
    told = concluded(plan(planned_units=2000), {"control": counted(1, 2), "treatment": counted(1, 2)})
    assert "the next one that counts comes at 20 units." in told


def test_a_better_treatment_with_a_broken_guardrail_is_told_as_both():
    spread = 100 + scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    guard = {"name": "x", "kind": "mean", "direction": "down", "role": "guardrail", "margin": 0.05}
    arms = {"control": summed("x", spread), "treatment": summed("x", spread + 20)}
    for arm, good in zip(arms.values(), (1200, 1600), strict=True):
        arm.successes, arm.ss, arm.ns = good, good, good
    told = concluded(plan(guard), arms)
    assert told.startswith("treatment succeeds more often (80.00% against 60.00%, +33.33%, between +")
    assert "but is worse on x by more than its margin of 5% (now +20.00%, between +" in told
    assert told.endswith("Stop the test and keep m:v1.")


def test_goals_that_went_both_ways_are_left_to_people():
    spread = 100 + scipy.stats.norm.ppf((np.arange(2000) + 0.5) / 2000)
    arms = {"control": summed("x", spread), "treatment": summed("x", spread - 20)}
    for arm, good in zip(arms.values(), (1200, 1600), strict=True):
        arm.successes, arm.ss, arm.ns = good, good, good
    test = plan({"name": "success", "role": "goal"}, GOAL)
    found, _ = rules.analyze(test, arms)
    assert found["winner"] is None
    assert "has a worse x" in found["conclusion"]
    assert found["conclusion"].endswith("Weigh one against the other, or keep m:v1.")


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (TestStatus.RUNNING, "Go on recording."),
        (TestStatus.DRAFT, "Start the test."),
        (TestStatus.STOPPED, "The test has ended: keep m:v1, or create a new test."),
    ],
)
def test_what_to_do_next_is_what_can_be_done(status, end):
    told = concluded(plan(status=status), {"control": counted(45, 50), "treatment": counted(44, 50)})
    assert told.endswith(end)


def test_rates_too_near_each_other_for_two_digits_are_written_with_more():
    told = concluded(
        plan(horizon=10_000_000), {"control": counted(4_999_000, 5_000_000), "treatment": counted(4_999_700, 5_000_000)}
    )
    assert "99.994% against 99.980%" in told


def test_a_rate_that_cannot_rise_enough_is_told():
    told = concluded(plan(), {"control": counted(999, 1000), "treatment": counted(1000, 1000)})
    assert "10,000 units could not even show a rise to 100% in four of five tests." in told


def test_units_that_are_all_the_same_bound_nothing():
    test = plan({"name": "x", "kind": "mean", "role": "guardrail", "margin": 0.05})
    found, _ = rules.analyze(test, {name: summed("x", [1.0] * 20) for name in ("control", "treatment")})
    one = found["comparisons"]["treatment"]["metrics"]["x"]
    assert (one["interval"], one["relative_interval"], one["guardrail"]) == ([None, None], None, "open")


def test_a_change_of_what_may_be_zero_is_told_in_its_own_unit():
    spread = scipy.stats.norm.ppf((np.arange(1000) + 0.5) / 1000)
    arms = {"control": summed("x", spread), "treatment": summed("x", spread + 0.5)}
    told = concluded(plan(GOAL), arms)
    assert ", +0.5, between +0.3" in told
    assert "%," not in told.split("more than chance")[0]
