"""Which arm answers, when a guard trips, and what traffic is refused."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.assignment import position, unit_hash
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.traffic import Arm, ArmCounts, Guard, Traffic, TrafficCounts
from modelyard.serving import rules
from modelyard.stats.rollback import strongest, up_to_now

weights = st.lists(st.integers(0, 100), min_size=1, max_size=8).filter(sum)


def traffic(*given: tuple[str, float], generation: int = 1, **more: object) -> Traffic:
    arms = tuple(Arm(name=name, model="m", version=f"v{i}", weight=weight) for i, (name, weight) in enumerate(given))
    return Traffic(endpoint="e", generation=generation, arms=arms, **more)


@given(weights, st.floats(0, 1, exclude_max=True))
def test_every_place_falls_on_an_arm_with_weight(parts: list[int], place: float) -> None:
    shares = [part / sum(parts) for part in parts]
    assert shares[rules.arm_at(rules.bounds(shares), place)] > 0


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.49), st.integers(0, 2**32))
def test_a_unit_that_met_the_canary_stays_with_it_when_its_share_grows(low: float, more: float, unit: int) -> None:
    place = position(unit_hash("s", str(unit)))
    before = rules.arm_at(rules.bounds([1 - low, low]), place)
    after = rules.arm_at(rules.bounds([1 - low - more, low + more]), place)
    assert after >= before


def test_hashed_units_fall_on_arms_in_proportion_to_their_weights() -> None:
    ends = rules.bounds([0.7, 0.25, 0.05])
    seen = Counter(rules.arm_at(ends, position(unit_hash("salt", f"user{i}"))) for i in range(40_000))
    expected = np.array([28_000, 10_000, 2_000])
    observed = np.array([seen[i] for i in range(3)])
    assert ((observed - expected) ** 2 / expected).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_another_salt_places_units_anew() -> None:
    first = [position(unit_hash("a", f"u{i}")) for i in range(2000)]
    second = [position(unit_hash("b", f"u{i}")) for i in range(2000)]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def judged(guard: Guard, k: int, m: int) -> bool:
    tests = up_to_now(guard.carried, {"errors": ((k,), (m,))}, guard.share, ())
    return rules.trips(guard, strongest(tests)[0])


def test_four_errors_of_a_five_percent_canary_trip_at_one_in_a_thousand_and_three_do_not() -> None:
    guard = Guard(rollout_id="r", step=0, share=0.05, alpha=0.001)
    assert judged(guard, 4, 0)
    assert not judged(guard, 3, 0)


def test_a_slow_canary_trips_by_latency_and_the_decision_says_from_what() -> None:
    guard = Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p50": 1.0, "p95": 2.0, "p99": 4.0})
    answers = ((50, 110, 25, 15), (900, 810, 72, 18))
    tests = up_to_now({}, {"errors": ((0,), (0,)), "answers": answers}, 0.1, rules.quantiles_of(guard))
    arms = {
        "canary": ArmCounts(requests=200, units=200, slower={"p50": 150, "p95": 40, "p99": 15}, tests=tests),
        "baseline": ArmCounts(requests=1800, units=1800, slower={"p50": 900, "p95": 90, "p99": 18}),
    }
    counts = TrafficCounts(endpoint="e", generation=1, arms=arms)
    trip = rules.trip_of(traffic(("baseline", 0.9), ("canary", 0.1), guards=(guard,)), counts=counts, at=0.0)
    assert (trip.metric, trip.share, trip.threshold) == ("latency", 0.1, 1000)
    assert trip.e_value == pytest.approx(math.exp(trip.evidence["answers"]))
    assert trip.e_value > 1000
    assert "40 against 90 above 2 ms (p95)" in trip.reason
    assert trip.counts.arms["canary"].tests == tests


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (traffic(("baseline", 0.5)), "sum to 0.5"),
        (traffic(("baseline", 1.5), ("b", -0.5)), "outside 0 to 1"),
        (traffic(("a", 0.5), ("a", 0.5)), "two arms of one name"),
        (Traffic(endpoint="e", generation=1, arms=()), "0 arms"),
        (Traffic(endpoint="../e", generation=1, arms=traffic(("a", 1.0)).arms), "endpoint name"),
        (traffic(("a", 1.0), guards=(Guard(rollout_id="r", step=0, share=0.1),)), "baseline and canary"),
        (
            traffic(("baseline", 0.9), ("canary", 0.1), guards=(Guard(rollout_id="../r", step=0, share=0.1),)),
            "rollout id",
        ),
        (
            traffic(("baseline", 0.9), ("canary", 0.1), guards=(Guard(rollout_id="r", step=0, share=0.1, alpha=2),)),
            "alpha",
        ),
        (
            traffic(
                ("a", 0.5),
                ("b", 0.5),
                guards=tuple(Guard(rollout_id="r", step=n, share=0.1, arm="b", control="a") for n in (0, 1)),
            ),
            "differ in rollout_id, step",
        ),
        (
            traffic(
                ("a", 0.5), ("b", 0.5), guards=(Guard(rollout_id="r", step=0, share=0.1, arm="b", control="a"),) * 2
            ),
            "watch one arm",
        ),
        (traffic(("a", 1.0), guards=(Guard(rollout_id="r", step=0, share=0.1, arm="a", control="a"),)), "a and a"),
        (
            traffic(
                ("baseline", 0.9),
                ("canary", 0.1),
                guards=(Guard(rollout_id="r", step=0, share=0.1, latency_ms={"p90": 1.0}),),
            ),
            "p90",
        ),
        (traffic(("a", math.nan)), "outside"),
        (traffic(("a", 1.0), shadow_share=2.0), "shadow_share"),
    ],
)
def test_traffic_that_cannot_be_carried_out_is_refused_with_its_fault(bad: Traffic, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        rules.checked_traffic(bad, None)


def test_an_older_generation_does_not_replace_a_newer_one() -> None:
    with pytest.raises(Conflict, match="generation 3"):
        rules.checked_traffic(traffic(("a", 1.0), generation=2), traffic(("a", 1.0), generation=2))
