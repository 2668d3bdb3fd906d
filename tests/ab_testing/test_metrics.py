"""Metrics of an experiment: goals, guardrails, covariates, quantiles, holdouts, posteriors and rounds."""

from datetime import UTC, datetime

import numpy as np
import pytest
import scipy.stats
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import ABTestManager, assignment, planning, rules, store
from modelyard.ab_testing.counting import Counting
from modelyard.ab_testing.journal import key, record
from modelyard.ab_testing.metrics import parsed
from modelyard.ab_testing.runs import Shelf
from modelyard.core.errors import Conflict, Invalid, NotFound
from modelyard.core.instants import FixedClock

START = datetime(2026, 1, 1, tzinfo=UTC)
MODELS = {"control_variant": "shop:v1.0.0", "treatment_variant": "shop:v2.0.0"}


@pytest.fixture
def manager(tmp_path):
    return ABTestManager(tmp_path / "yard", clock=FixedClock(START))


def running(manager, **options):
    test = manager.create_test("shop", **{**MODELS, **options})
    return manager.start_test(test.test_id)


def fill(manager, test, users, numbers, success=lambda random, treated: True, seed=0):
    """Each user's results, drawn by `numbers(random, treated)`, which gives one mapping a result."""
    random = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        variant = manager.get_variant(test.test_id, f"u{user}")
        treated = variant == "treatment"
        for one in numbers(random, treated):
            latency = one.pop("latency", None)
            rows.append(
                {
                    "variant": variant,
                    "success": success(random, treated),
                    "unit_id": f"u{user}",
                    "latency": latency,
                    "custom_metrics": one,
                }
            )
    manager.record_many(test.test_id, rows)
    return rows


def test_a_mean_over_units_counts_each_unit_once_whatever_its_results(manager):
    test = running(manager, metrics=[{"name": "revenue", "kind": "mean", "role": "goal"}])
    rows = fill(
        manager,
        test,
        400,
        lambda random, treated: [
            {"revenue": random.exponential(2 + 3 * treated)} for _ in range(random.integers(1, 6))
        ],
    )
    found = manager.analyze_test(test.test_id)
    totals = {}
    for row in rows:
        key = (row["variant"], row["unit_id"])
        totals[key] = totals.get(key, 0.0) + row["custom_metrics"]["revenue"]
    arms = [[x for (variant, _), x in totals.items() if variant == name] for name in ("control", "treatment")]
    expected = scipy.stats.ttest_ind(arms[1], arms[0], equal_var=False)
    metric = found["comparisons"]["treatment"]["metrics"]["revenue"]
    assert metric["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert found["winner"] == "treatment"
    assert found["conclusion"].startswith("treatment has a better revenue (")


def test_a_covariate_narrows_the_interval_and_a_unit_tells_it_once(manager):
    plain = {"name": "spent", "kind": "mean"}
    test = running(manager, metrics=[plain, {**plain, "name": "less", "numerator": "spent", "covariate": "before"}])

    def numbers(random, treated):
        before = random.gamma(2, 5)
        return [{"spent": before / 3 + random.gamma(1, 0.5), "before": before} for _ in range(3)]

    fill(manager, test, 400, numbers)
    found = manager.analyze_test(test.test_id)["comparisons"]["treatment"]["metrics"]
    assert set(found) == {"spent", "less"}
    widths = [found[name]["interval"][1] - found[name]["interval"][0] for name in ("spent", "less")]
    assert widths[1] < widths[0] / 3
    assert found["less"]["variance_reduction"] > 0.9


def test_a_ratio_of_two_recorded_numbers_is_one_over_units(manager):
    test = running(manager, metrics=[{"name": "ctr", "numerator": "clicks", "denominator": "views", "role": "goal"}])

    def numbers(random, treated):
        views = int(random.integers(1, 30))
        return [{"views": views, "clicks": int(random.binomial(views, 0.1 + 0.1 * treated))}]

    rows = fill(manager, test, 600, numbers)
    found = manager.analyze_test(test.test_id)
    sums = {"control": [0, 0], "treatment": [0, 0]}
    for row in rows:
        sums[row["variant"]][0] += row["custom_metrics"]["clicks"]
        sums[row["variant"]][1] += row["custom_metrics"]["views"]
    metric = found["comparisons"]["treatment"]["metrics"]["ctr"]
    assert metric["control"] == pytest.approx(sums["control"][0] / sums["control"][1])
    assert found["winner"] == "treatment"


def test_a_guardrail_that_is_open_or_broken_keeps_a_better_treatment_from_winning(manager):
    guard = {"name": "slow", "numerator": "latency", "quantile": 0.95, "role": "guardrail", "margin": 0.2}
    told = {}
    for name, slower, users in (("held", 1.0, 4000), ("broken", 2.0, 4000), ("open", 1.0, 400)):
        test = running(manager, metrics=[guard], strategy="hash_based", horizon=4000)
        fill(
            manager,
            test,
            users,
            lambda random, treated, slower=slower: [
                {"latency": random.lognormal(-3, 0.4) * (slower if treated else 1)}
            ],
            lambda random, treated: random.random() < (0.95 if treated else 0.6),
        )
        told[name] = manager.analyze_test(test.test_id)
    states = {name: one["comparisons"]["treatment"]["guardrails"]["slow"] for name, one in told.items()}
    assert states == {"held": "held", "broken": "broken", "open": "open"}
    assert told["held"]["winner"] == "treatment"
    assert told["broken"]["winner"] == "control"
    assert told["open"]["winner"] is None
    assert "but is not shown yet to be no worse on slow by more than its margin of 20%" in told["open"]["conclusion"]


def test_two_goals_share_alpha_by_holms_steps(manager):
    goals = [{"name": name, "kind": "mean", "role": "goal"} for name in ("a", "b")]
    test = running(manager, metrics=goals, planned_units=1000, strategy="random")
    spread = scipy.stats.norm.ppf((np.arange(500) + 0.5) / 500)
    for variant, a, b in (("control", 0.0, 0.0), ("treatment", 1.0, 0.134)):
        rows = [{"variant": variant, "success": True, "custom_metrics": {"a": x + a, "b": x + b}} for x in spread]
        manager.record_many(test.test_id, rows)
    one = manager.analyze_test(test.test_id)["comparisons"]["treatment"]
    assert 0.025 < one["metrics"]["b"]["p_value"] < 0.05  # past the second step's bound, not past the first's
    assert one["goals"] == {"a": "sure", "b": "sure"}
    again = manager.analyze_test(test.test_id)
    assert again["comparisons"]["treatment"]["goals"] == {"a": "sure", "b": "sure"}


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "mean"},
        {"name": "a", "kind": "meen"},
        {"name": "a", "knd": "mean"},
        {"name": "a", "role": "guardrail"},
        {"name": "a", "margin": 0.1},
        {"name": "a", "kind": "ratio"},
        {"name": "a", "kind": "quantile"},
        {"name": "a", "quantile": 1.5},
        {"name": "a", "kind": "rate"},
        {"name": "a", "covariate": "b"},
        {"name": "a", "kind": "mean", "covariate": "latency"},
        {"name": "a", "kind": "mean", "strata": "latency"},
        {"name": "a", "strata": "b"},
        {"name": "a", "denominator": "b", "covariate": "c"},
        {"name": "latency", "quantile": 0.9},
        {"name": "success", "direction": "down"},
        {"name": "a", "direction": "sideways"},
        {"name": "success", "role": "secondary"},
    ],
)
def test_an_odd_metric_is_refused_with_what_to_do(bad):
    with pytest.raises(Invalid):
        parsed([bad])


RECORDED = st.lists(
    st.tuples(
        st.sampled_from(["control", "treatment"]),
        st.booleans(),
        st.none() | st.floats(1e-6, 10),
        st.sampled_from(["", "u1", "u2", "u3"]),
        st.fixed_dictionaries(
            {},
            optional={
                "x": st.floats(0, 1e6),
                "d": st.floats(0, 1e3),
                "z": st.floats(-5, 5),
                "g": st.sampled_from([0.0, 1.0]),
            },
        ),
    ),
    min_size=1,
    max_size=25,
)


@given(RECORDED, st.randoms())
@settings(max_examples=15, deadline=None, phases=[Phase.generate])
def test_the_same_results_give_the_same_analysis_in_any_order_and_in_any_number_of_folds(tmp_path_factory, rows, order):
    """Whole folds through the database, with units that come again, against all at once."""
    manager = ABTestManager(tmp_path_factory.mktemp("order"), clock=FixedClock(START))
    metrics = [
        {"name": "r", "numerator": "x", "denominator": "d", "covariate": "z", "covariate_denominator": "one"},
        {"name": "m", "numerator": "x", "kind": "mean", "covariate": "z"},
        {"name": "q", "numerator": "x", "quantile": 0.5},
        {"name": "s", "numerator": "x", "kind": "mean", "strata": "g"},
    ]
    found = []
    for parts in (1, 4):
        test = running(manager, metrics=metrics, strategy="random")
        mixed = order.sample(rows, len(rows))
        results = [
            record(test.test_id, v, 0, s, t, unit=key(test.test_id, u) if u else "", metrics=n) + b"\n"
            for v, s, t, u, n in mixed
        ]
        for part in range(parts):
            with manager.store.work() as work:
                counting = Counting(work.rows, Shelf())
                counting.add(counting.read(b"".join(results[part::parts])))
                counting.write()
        with manager.store.reading() as rows_:
            tallies = {name: store.arm_tally(rows_, test.test_id, name) for name in test.shares}
        told, _ = rules.analyze(test, tallies)
        found.append({**told, "test_id": ""})
    assert found[0] == found[1]


def test_a_result_told_twice_counts_once(manager):
    test = running(manager)
    for _ in range(3):
        manager.record_request(test.test_id, "control", success=True, result_id="answer-7")
        assert manager.analyze_test(test.test_id)["control"]["requests"] == 1
    manager.record_many(test.test_id, [{"variant": "control", "success": True, "result_id": "answer-8"}] * 3)
    assert manager.analyze_test(test.test_id)["control"]["requests"] == 2


def test_a_draft_is_bound_by_the_holdouts_that_hold_when_it_starts(manager):
    drafts = []
    for name in ("ended", "lasting"):
        drafts.append(manager.create_test(name, **MODELS))
        manager.hold_out(name, 0.1)
    manager.end_holdout("ended")
    assert [[held.name for held in manager.start_test(one.test_id).holdouts] for one in drafts] == [["lasting"]] * 2
    assert [held.name for held in manager.get_test(drafts[0].test_id).holdouts] == ["lasting"]


def test_held_out_units_take_part_in_no_later_test_and_random_needs_to_know_the_unit(manager):
    early = running(manager)
    manager.hold_out("all-year", 0.2)
    late = running(manager, strategy="random")
    users = [f"u{i}" for i in range(1000)]
    out = [user for user in users if manager.get_variant(late.test_id, user) is None]
    assert 150 < len(out) < 250
    assert all(manager.get_variant(early.test_id, user) for user in out)
    with pytest.raises(Invalid, match="holdout"):
        manager.record_request(late.test_id, "control", success=True, unit_id=out[0])
    with pytest.raises(Invalid, match="pass user_id"):
        manager.get_variant(late.test_id)
    with pytest.raises(Conflict, match="get_variant"):
        manager.traffic(late.test_id, "shop")
    with pytest.raises(Conflict, match="already"):
        manager.hold_out("all-year", 0.1)
    manager.end_holdout("all-year")
    with pytest.raises(NotFound):
        manager.end_holdout("all-year")
    assert not manager.create_test("next", **MODELS).holdouts


def test_a_ramp_on_an_endpoint_has_the_part_reached_now(manager):
    test = running(manager, strategy="ramp", ramp_seconds=100.0, traffic_split=0.5)
    manager.store.clock.advance(50)
    assert [arm.weight for arm in manager.traffic(test.test_id, "shop").arms] == pytest.approx([0.25, 0.75])


# Bayesian and Thompson sampling


def test_a_bayesian_test_states_its_prior_and_chooses_by_chance_and_loss(manager):
    test = running(manager, inference="bayesian", strategy="random", prior=[2, 3], horizon=4000)
    counts = {"control": (200, 2000), "treatment": (300, 2000)}
    for variant, (successes, n) in counts.items():
        manager.record_many(test.test_id, [{"variant": variant, "success": i < successes} for i in range(n)])
    found = manager.analyze_test(test.test_id)
    assert found["bayesian"]["prior"] == "Beta(2, 3) for every variant's rate"
    one = found["bayesian"]["variants"]["treatment"]
    draws = np.random.default_rng(0)
    c, t = draws.beta(202, 1803, 200_000), draws.beta(302, 1703, 200_000)
    assert one["mean"] == pytest.approx(302 / 2005)
    assert one["chance_to_beat_control"] == pytest.approx((t > c).mean(), abs=2e-3)
    assert one["difference_interval"] == pytest.approx(np.quantile(t - c, [0.025, 0.975]), abs=5e-4)
    assert found["winner"] == "treatment"
    assert "is the best with over 99.9% probability" in found["conclusion"]


def test_a_bayesian_test_without_evidence_says_so(manager):
    test = running(manager, inference="bayesian", metrics=[{"name": "x", "kind": "mean", "role": "goal"}])
    manager.record_request(test.test_id, manager.get_variant(test.test_id, "u"), success=True, unit_id="u")
    assert manager.analyze_test(test.test_id)["conclusion"].startswith("Not enough evidence")


@pytest.mark.parametrize(
    "bad",
    [
        {"prior": [1, 1]},
        {"inference": "bayesian", "planned_units": 1000},
        {"inference": "bayesian", "prior": [0, 1]},
        {"inference": "bayesian", "prior": [1]},
        {"inference": "bayesian", "tolerated_loss": 0},
        {"inference": "thompson", "round_units": 5},
        {"inference": "thompson", "strategy": "random"},
        {"inference": "bayesian", "metrics": [{"name": n, "role": "goal"} for n in "ab"]},
    ],
)
def test_settings_that_do_not_go_with_the_inference_are_refused(manager, bad):
    with pytest.raises(Invalid):
        running(manager, **bad)
    assert manager.list_tests() == []


def test_thompson_sampling_moves_new_units_to_the_better_arm_and_keeps_the_old_ones(manager, monkeypatch):
    monkeypatch.setattr(planning, "new_id", "{}_1".format)  # else another split each time, and 95 % of them well
    test = running(manager, inference="thompson", round_units=150, horizon=900)
    random, first = np.random.default_rng(5), {}
    for user in range(900):
        variant = manager.get_variant(test.test_id, f"u{user}")
        first[f"u{user}"] = variant
        good = bool(random.random() < (0.8 if variant == "treatment" else 0.4))
        manager.record_request(test.test_id, variant, success=good, unit_id=f"u{user}")
    assert all(manager.get_variant(test.test_id, user) == variant for user, variant in first.items())
    found = manager.analyze_test(test.test_id)
    shares = [one["shares"]["treatment"] for one in found["rounds"]]
    assert shares[0] == 0.5
    assert shares[-1] == pytest.approx(0.9)
    assert found["winner"] == "treatment"
    assert not found["sample_ratio"]["mismatch"]
    low, high = found["improvement"]["absolute_interval"]
    assert low < 0.4 < high
    with pytest.raises(Invalid, match="never assigned"):
        manager.record_request(test.test_id, "control", success=True, unit_id="stranger")
    with pytest.raises(Invalid, match="pass unit_id"):
        manager.record_request(test.test_id, "control", success=True)
    with pytest.raises(Conflict, match="rounds"):
        manager.record_counts(test.test_id, "control", source="w", generation=1, requests=1, errors=0)


def test_a_share_is_a_range_of_places():
    assert [assignment.within({"a": 0.2, "b": 0.8}, place) for place in (0.0, 0.199, 0.2, 0.999)] == [
        "a",
        "a",
        "b",
        "b",
    ]


def test_sizing_says_how_many_days_and_refuses_what_cannot_be(manager):
    alone = manager.plan_test(lift=0.05, base_rate=0.1, units_per_day=10_000)
    assert (alone.units, alone.days) == (115_520, 12)
    three = manager.plan_test(lift=0.05, base_rate=0.1, treatments=3, traffic_split=0.25)
    assert three.units > 2 * alone.units
    less = manager.plan_test(lift=0.05, base_rate=0.1, covariate_correlation=0.5)
    assert less.units == pytest.approx(0.75 * alone.units, abs=2)
    assert alone.units_at_any_time > alone.units
    assert "planned_units=115520" in alone.conclusion
    for bad in ({"treatments": 2}, {"looks": 0}, {"mean": 1.0}, {"base_rate": None}, {"units_per_day": 0}):
        with pytest.raises(Invalid):
            manager.plan_test(**{"lift": 0.05, "base_rate": 0.1, **bad})
