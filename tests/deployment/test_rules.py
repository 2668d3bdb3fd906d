"""The decisions of a rollout, as properties over made-up counts."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.decisions import Verdict
from modelyard.core.errors import Invalid
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import ArmCounts, ShadowCounts, TrafficCounts
from modelyard.deployment import DeploymentStatus, DeploymentStrategy, PerformanceMetrics, RollbackConfig, rules
from modelyard.deployment.rollouts import Progress, Rollout, Step, Terms
from modelyard.deployment.strategies import blue_green, canary, direct, rolling, shadow
from modelyard.stats.harm import excess_bound
from modelyard.stats.rollback import State, strongest
from modelyard.stats.sketch import bucket

START = datetime(2026, 1, 1, tzinfo=UTC)
PLANS = {"direct": direct, "shadow": shadow, "canary": canary, "blue_green": blue_green, "rolling": rolling}
ROLLOUT = Rollout(
    deployment_id="dep_1",
    endpoint="fraud",
    candidate=ModelRef("fraud", "v2.0.0"),
    baseline=ModelRef("fraud", "v1.0.0"),
    strategy=DeploymentStrategy.CANARY,
    status=DeploymentStatus.RUNNING,
    steps=canary.plan(),
    terms=Terms(margin=0.02, minimum_units=200),
    step=0,
    generation=1,
    step_started_at=START,
    progress=Progress(),
)


def seen(baseline, new, *, slower=(), histogram=None):
    arms = {}
    for place, (name, (n, bad)) in enumerate((("baseline", baseline), ("canary", new))):
        above = {"p95": slower[place]} if slower else {}
        arms[name] = ArmCounts(requests=n, errors=bad, slower=above, latency=histogram[place] if histogram else {})
    return TrafficCounts(endpoint="fraud", generation=1, arms=arms)


ARMS = st.tuples(st.integers(0, 100_000), st.floats(0, 1)).map(lambda pair: (pair[0], int(pair[0] * pair[1] ** 3)))


@given(ARMS, ARMS, st.sampled_from([0, 1, 2]), st.floats(0, 8))
@settings(max_examples=300)
def test_what_the_evidence_calls_worse_is_taken_back_and_never_promoted(baseline, new, step, carried):
    before = State((carried,) * len(State.of(()).logs), State.of(()).late).numbers
    rollout = replace(ROLLOUT, step=step, progress=Progress(carried={"errors": before}))
    counts = seen(baseline, new)
    decision = rules.advance(rollout, counts, START)
    beyond = strongest(rules.tests_now(rollout, counts))[0] >= -math.log(rules.GUARD_PART * rollout.terms.alpha)
    assert not beyond or decision.verdict is Verdict.ROLL_BACK
    if decision.verdict is Verdict.PROMOTE:
        assert excess_bound(baseline[1], baseline[0], new[1], new[0], alpha=0.05) <= rollout.terms.margin
        assert new[0] >= rollout.terms.minimum_units
    assert decision.reasons


@given(ARMS, ARMS)
def test_a_paused_or_ended_rollout_is_never_promoted(baseline, new):
    for status in DeploymentStatus:
        verdict = rules.advance(replace(ROLLOUT, status=status), seen(baseline, new), START).verdict
        assert (
            status is DeploymentStatus.RUNNING or verdict is not Verdict.PROMOTE or status is DeploymentStatus.WAITING
        )
        assert status.active or verdict is Verdict.HOLD


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (seen((0, 0), (0, 0)), "not enough evidence: 0 of 200 units"),
        (seen((4000, 0), (150, 0)), "not enough evidence: 150 of 200 units"),
        (seen((4000, 2), (210, 1)), "errors not yet inside the margin"),
        (seen((4000, 0), (1000, 0)), "sample ratio mismatch: the canary got 20.00%"),
    ],
)
def test_a_hold_names_what_is_missing(counts, reason):
    decision = rules.advance(ROLLOUT, counts, START)
    assert decision.verdict is Verdict.HOLD
    assert decision.reasons[0].startswith(reason)


def test_a_canary_without_errors_finishes_its_step_with_the_documented_number_of_units():
    for margin, units in ((0.005, 830), (0.01, 415), (0.02, 207)):
        rollout = replace(ROLLOUT, terms=Terms(margin=margin, minimum_units=1))
        assert rules.advance(rollout, seen((units * 19, 0), (units, 0)), START).verdict is Verdict.PROMOTE
        few = int(units * 0.95)
        assert rules.advance(rollout, seen((few * 19, 0), (few, 0)), START).verdict is Verdict.HOLD


def test_an_incident_of_both_arms_does_not_roll_back():
    decision = rules.advance(ROLLOUT, seen((19_000, 950), (1_000, 50)), START)
    assert decision.verdict is Verdict.HOLD


def test_minimum_time_is_waited_for():
    rollout = replace(ROLLOUT, terms=replace(ROLLOUT.terms, minimum_seconds=60.0))
    counts = seen((19_000, 0), (1_000, 0))
    assert (
        rules.advance(rollout, counts, START + timedelta(seconds=59)).reasons[0].startswith("not enough time: 59 of 60")
    )
    assert rules.advance(rollout, counts, START + timedelta(seconds=60)).verdict is Verdict.PROMOTE


def test_a_slower_canary_is_taken_back_on_the_frozen_quantile_and_an_equal_one_is_promoted():
    rollout = replace(ROLLOUT, progress=Progress(latency_ms={"p95": 10.0}))
    slow = {bucket(5_000): 900, bucket(15_000): 100}
    well = {bucket(5_000): 960, bucket(15_000): 40}
    old = {bucket(5_000): 18_000, bucket(10_500): 1_000}
    worse = rules.advance(rollout, seen((19_000, 0), (1_000, 0), slower=(950, 100), histogram=(old, slow)), START)
    assert worse.verdict is Verdict.ROLL_BACK
    assert "answers slower than the baseline's quantiles" in worse.reasons[0]
    assert "100 against 950 above 10 ms (p95)" in worse.reasons[0]
    held = rules.advance(rollout, seen((19_000, 0), (1_000, 0), slower=(1000, 40), histogram=(old, well)), START)
    assert held.reasons[0].startswith("latency not yet inside the margin")
    equal = {bucket(5_000): 945, bucket(10_500): 55}
    fine = rules.advance(rollout, seen((19_000, 0), (1_000, 0), slower=(1000, 0), histogram=(old, equal)), START)
    assert fine.verdict is Verdict.PROMOTE


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_starts_small_ends_whole_and_splits_traffic_into_one(name):
    steps = PLANS[name].plan()
    rollout = replace(ROLLOUT, steps=steps)
    shares = [step.share for step in steps]
    assert shares == sorted(shares)
    for step in range(len(steps)):
        traffic = rules.traffic_of(replace(rollout, step=step))
        assert math.fsum(arm.weight for arm in traffic.arms) == pytest.approx(1)
        assert (traffic.guard is not None) == (0 < steps[step].share <= 1)


@pytest.mark.parametrize("shares", [[], [0.5], [0.5, 0.2, 1.0], [0.0, 1.0], [0.1, float("nan"), 1.0], [1.5]])
def test_steps_that_do_not_rise_to_one_are_refused(shares):
    with pytest.raises(Invalid, match="must rise"):
        canary.plan(shares)


def test_a_shadow_passes_on_agreement_and_falls_on_errors():
    rollout = replace(
        ROLLOUT,
        strategy=DeploymentStrategy.SHADOW,
        steps=(Step(share=0, shadow_share=1), Step(share=0)),
        terms=Terms(margin=0.02, minimum_units=200, minimum_agreement=0.9),
    )

    def judged(**shadow_counts):
        arms = {"baseline": ArmCounts(requests=2000)}
        counts = TrafficCounts(endpoint="fraud", generation=1, arms=arms, shadow=ShadowCounts(**shadow_counts))
        return rules.advance(rollout, counts, START)

    assert judged(compared=100, agreed=100).reasons[0] == "not enough evidence: 100 of 200 units"
    assert judged(compared=2000, agreed=1980).verdict is Verdict.PROMOTE
    assert judged(compared=2000, agreed=1700).reasons[0].startswith("agreement not yet shown")
    assert judged(compared=2000, agreed=2000, errors=400).verdict is Verdict.ROLL_BACK
    assert judged(compared=0, errors=20).verdict is Verdict.ROLL_BACK, "one that ends its process is never compared"
    assert judged(compared=0, errors=1).reasons[0] == "not enough evidence: 0 of 200 units"
    assert judged(compared=9, dropped=70).reasons[0] == "not enough evidence: 9 of 200 units, 70 copies dropped"


@given(st.floats(0, 1), st.floats(0, 10), st.integers(0, 5000))
def test_reported_metrics_roll_back_only_on_a_broken_limit_and_enough_requests(error_rate, latency, requests):
    limits = RollbackConfig(error_rate_threshold=0.1, latency_threshold_multiplier=2.0, min_requests_before_check=1000)
    metrics, base = PerformanceMetrics(error_rate=error_rate, latency_p95=latency), PerformanceMetrics(latency_p95=1.0)
    verdict = rules.health(metrics, base, limits, requests).verdict
    if requests < 1000:
        assert verdict is Verdict.HOLD
    else:
        assert (verdict is Verdict.ROLL_BACK) == (error_rate > 0.1 or latency > 2.0)


@pytest.mark.parametrize("bad", [{"error_rate": 1.5}, {"latency_p95": -1.0}, {"error_rate": float("nan")}])
def test_impossible_metrics_are_refused(bad):
    with pytest.raises(Invalid):
        PerformanceMetrics(**bad)
