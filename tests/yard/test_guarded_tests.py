"""The guard of a live A/B test: what it takes back and what not, how that is recorded, and who else ends the test meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelyard import Yard
from modelyard.ab_testing import ABTestManager
from modelyard.ab_testing.experiments import ABTest
from modelyard.ab_testing.guarding import guards_of
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventType
from modelyard.core.traffic import GuardTrip
from modelyard.serving import guard
from modelyard.serving.counters import Counters
from modelyard.serving.guard import Reporter
from modelyard.serving.nodes_yard import Watched
from modelyard.stats.rollback import QUANTILES
from modelyard.yard import RECORD_TRIP

MODEL = f"{Path(__file__).parents[1] / 'serving' / 'local_models.py'}:Linear@{{}}"
ANA = "ana@example.com"


def opened(place: str, files: str | None = None) -> Yard:
    """A yard where v1.0.0 answers the endpoint, and others may."""
    yard = Yard(place, files=files)
    yard.serving.configure("fraud", {"trusted_code": True})
    for number in range(1, 5):
        yard.serving.install("fraud", "fraud", f"v{number}.0.0", MODEL, "python")
    yard.deployments.start("fraud", "v1.0.0", strategy="direct")
    return yard


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Yard]:
    with opened(str(tmp_path / "yard")) as yard:
        yield yard


def running(yard: Yard, *treatments: str, **terms: Any) -> ABTest:
    """A test of these versions on the endpoint."""
    models = [f"fraud:{version}" for version in treatments or ("v2.0.0",)]
    shares = [0.25] * len(models)
    test = yard.ab_tests.create_test(
        "New", control_variant="fraud:v1.0.0", treatment_variant=models, traffic_split=shares, created_by=ANA, **terms
    )
    return yard.ab_tests.run_test(test.test_id, "fraud", user=ANA)


class Process:
    """A serving process as far as it counts answers and judges them."""

    def __init__(self, yard: Yard) -> None:
        self.places, self.traffic = yard.serving.places, yard.serving.traffic("fraud")
        counters = Counters(self.places.counters("fraud", self.traffic.generation), 0)
        counters.warm_up()
        self.names = [arm.name for arm in self.traffic.arms]
        watched = {self.names.index(one.arm): one for one in self.traffic.guards}
        self.route = Watched(self.traffic, counters, watched, self.names.index("control") if watched else 0)

    def answers(self, arm: str, *, failed: bool = False, above: int = 0, unit: int | None = None) -> bool:
        """Count an answer, above so many of the frozen quantiles, and judge; whether all goes to the control now."""
        place, counters = self.names.index(arm), self.route.counters
        counters.answered(place, 1000.0)
        if counters.outcome(place, unit, failed=failed, above=range(above)) and place in self.route.watched:
            guard.check(self.places, self.route)
        return counters.tripped


def tripped(yard: Yard, arm: str = "treatment") -> GuardTrip:
    """The decision of the serving processes that an arm fails too often; nobody has recorded it."""
    process = Process(yard)
    assert any(process.answers(arm, failed=True) for _ in range(100))
    (trip,) = yard.serving.trips()
    return trip


def recorded(yard: Yard) -> GuardTrip:
    trip = tripped(yard)
    report(yard)
    return trip


def report(yard: Yard) -> None:
    """What any serving process does with a decision that is not recorded."""
    Reporter(yard.serving.places, str(yard.store.folder), RECORD_TRIP).look()


def stops(yard: Yard, test: ABTest) -> list[tuple[str, str]]:
    """How the test's end was told: by whom and how loudly, once each time."""
    found = yard.audit.query_events(EventType.AB_TEST_STOPPED, resource_id=test.test_id)
    return [(event.actor, event.severity.value) for event in found]


def answering(yard: Yard) -> dict[str, float]:
    return {arm.version: arm.weight for arm in yard.serving.traffic("fraud").arms if arm.weight}


def test_a_decision_that_nobody_lived_to_record_ends_the_test_once_when_somebody_does(
    place: tuple[str, str | None],
) -> None:
    live = opened(*place)
    test = running(live)
    trip = tripped(live)
    assert live.ab_tests.get_test(test.test_id).status.value == "running"
    for _ in range(2):
        if place[1] is None:
            report(live)
        live.serving.record(trip)
        with live.store.work() as work:
            work.rows.run("DELETE FROM event_cursors WHERE reader IN ('wiring.settle', 'wiring.release')")
        live.dispatch()
    ended = live.ab_tests.get_test(test.test_id)
    assert (ended.status.value, ended.taken_back, ended.winner) == ("stopped", "treatment", "")
    assert ended.conclusion == f"The guard took treatment (fraud:v2.0.0) back on fraud: {trip.reason}"
    assert stops(live, test) == [("guard", "error")]
    assert answering(live) == {"v1.0.0": 1.0}
    assert live.serving.traffic("fraud").guards == ()
    assert live.roll_out("fraud", "v3.0.0", steps=[0.1, 1.0]).status.active
    live.close()


def test_the_event_has_the_numbers_that_the_decision_rests_on(live: Yard) -> None:
    test = running(live)
    trip = recorded(live)
    (event,) = live.audit.query_events(EventType.AB_TEST_STOPPED, resource_id=test.test_id)
    told = event.details["taken_back"]
    assert (told["variant"], told["metric"], told["threshold"]) == ("treatment", "errors", 1000.0)
    assert told["e_value"] >= told["threshold"]
    assert told["share"] == pytest.approx(0.25)
    assert told["arms"]["treatment"]["errors"] == trip.counts.arms["treatment"].errors
    assert told["arms"]["control"]["errors"] == 0


def test_the_analysis_says_what_the_guard_saw_before_what_the_results_say(live: Yard) -> None:
    test = running(live, "v2.0.0", "v3.0.0")
    for number in range(400):  # where requests that fail bring no result, the treatment looks perfect
        unit = f"user-{number}"
        variant = live.ab_tests.get_variant(test.test_id, unit)
        assert variant is not None
        live.ab_tests.record_request(test.test_id, variant, success=variant == "treatment", unit_id=unit)
    assert live.ab_tests.analyze_test(test.test_id)["winner"] == "treatment"
    recorded(live)
    told = live.ab_tests.analyze_test(test.test_id)
    assert (told["winner"], told["taken_back"]) == (None, "treatment")
    assert told["conclusion"].startswith("The guard took treatment (fraud:v2.0.0) back on fraud: ")
    assert told["conclusion"].endswith("To go on with treatment_2, create a new test without treatment.")


def test_treatments_share_the_budget_and_only_the_worse_one_is_named(live: Yard) -> None:
    test = running(live, "v2.0.0", "v3.0.0")
    assert [(one.arm, one.control, one.share, one.alpha) for one in live.serving.traffic("fraud").guards] == [
        ("treatment", "control", pytest.approx(1 / 3), 0.0005),
        ("treatment_2", "control", pytest.approx(1 / 3), 0.0005),
    ]
    process = Process(live)
    for _ in range(100):
        for arm in ("treatment", "treatment_2", "control", "control"):
            process.answers(arm)
        if process.answers("treatment_2", failed=True):
            break
    (trip,) = live.serving.trips()
    assert (trip.rollout_id, trip.arm, trip.threshold) == (test.test_id, "treatment_2", 2000.0)
    assert "failed on the treatment_2, 0 of " in trip.reason


def test_a_fault_of_all_arms_ends_no_test(live: Yard) -> None:
    running(live, "v2.0.0", "v3.0.0")
    process, random = Process(live), np.random.default_rng(3)
    for arm in random.choice(["treatment", "treatment_2", "control"], 1500, p=[0.25, 0.25, 0.5]).tolist():
        assert not process.answers(arm, failed=bool(random.random() < 0.9))


def test_one_user_who_always_fails_is_evidence_once(live: Yard) -> None:
    running(live)
    process = Process(live)
    assert not any(process.answers("treatment", failed=True, unit=7) for _ in range(200))


def answered(yard: Yard, arm: str, many: int, micros: float = 1000.0) -> None:
    """So many answers of an arm, in the present generation."""
    traffic = yard.serving.traffic("fraud")
    counters = Counters(yard.serving.places.counters("fraud", traffic.generation), 1)
    for _ in range(many):
        counters.answered([one.name for one in traffic.arms].index(arm), micros)


def test_a_treatment_is_compared_with_the_latency_that_the_control_had_before_the_test(live: Yard) -> None:
    answered(live, "baseline", 250, 3000.0)
    running(live)
    (one,) = live.serving.traffic("fraud").guards
    assert dict(one.latency_ms) == {name: pytest.approx(3.0, rel=0.01) for name in QUANTILES}
    assert (one.latency_margin, one.latency_floor_ms) == (1.0, 2.0)
    process, random = Process(live), np.random.default_rng(4)
    for _ in range(100):
        for arm in random.choice(["treatment", "control"], 4, p=[0.25, 0.75]).tolist():
            process.answers(arm, above=int(random.random() < 0.5))
        if process.answers("treatment", above=3):
            break
    (trip,) = live.serving.trips()
    assert trip.metric == "latency"
    assert "answers slower than the control's quantiles by more than 100% and 2 ms" in trip.reason


def test_where_the_control_had_not_answered_enough_the_guard_judges_latency_as_soon_as_it_has(live: Yard) -> None:
    test = running(live)
    process = Process(live)
    process.answers("treatment", failed=True)
    process.answers("treatment", failed=True, unit=7)
    live.time_tests()
    before = live.serving.traffic("fraud")
    assert (before.guards[0].step, dict(before.guards[0].latency_ms)) == (0, {})
    answered(live, "control", 200)
    tests = live.serving.counts("fraud").arms["treatment"].tests
    live.time_tests()
    after = live.serving.traffic("fraud")
    assert (after.generation, after.arms, after.salt) == (before.generation + 1, before.arms, test.test_id)
    assert (after.guards[0].step, sorted(after.guards[0].latency_ms)) == (1, ["p50", "p95", "p99"])
    assert after.guards[0].carried == tests
    process = Process(live)
    process.answers("treatment", failed=True, unit=7)  # who has failed before is no new evidence
    assert live.serving.counts("fraud").arms["treatment"].tests["errors"] == tests["errors"]
    live.time_tests()
    assert live.serving.traffic("fraud") == after
    assert live.ab_tests.get_test(test.test_id).status.value == "running"


def test_what_was_taken_back_gets_no_traffic_again_by_the_next_step(live: Yard) -> None:
    running(live)
    answered(live, "control", 200)
    tripped(live)
    before = live.serving.traffic("fraud")
    live.time_tests()
    assert live.serving.traffic("fraud") == before


def test_a_test_that_somebody_ends_at_the_same_moment_stays_as_it_was_ended(live: Yard) -> None:
    test = running(live)
    tripped(live)
    live.ab_tests.stop_test(test.test_id, reason="enough", user=ANA)
    report(live)
    ended = live.ab_tests.get_test(test.test_id)
    assert (ended.conclusion, ended.taken_back) == ("enough", "")
    assert stops(live, test) == [(ANA, "info")]
    assert answering(live) == {"v1.0.0": 1.0}


@pytest.mark.parametrize("first", ["the winner is deployed", "the decision is written"])
def test_a_treatment_that_is_named_the_winner_at_the_same_moment_does_not_keep_the_endpoint(
    live: Yard, first: str
) -> None:
    test = running(live)
    process = Process(live)
    if first == "the winner is deployed":
        live.ab_tests.conclude_test(test.test_id, winner="treatment", user=ANA)
        assert answering(live) == {"v2.0.0": 1.0}
    assert any(process.answers("treatment", failed=True) for _ in range(100))
    if first == "the decision is written":
        live.ab_tests.conclude_test(test.test_id, winner="treatment", user=ANA)
    assert answering(live) == {"v1.0.0" if first == "the decision is written" else "v2.0.0": 1.0}
    report(live)
    assert answering(live) == {"v1.0.0": 1.0}
    assert live.ab_tests.get_test(test.test_id).winner == "treatment"


def test_nobody_concludes_a_test_with_what_its_guard_took_back(live: Yard) -> None:
    test = running(live, "v2.0.0", "v3.0.0")
    recorded(live)
    with pytest.raises(Conflict, match="which the guard took back"):
        live.ab_tests.conclude_test(test.test_id, winner="treatment", user=ANA)
    assert live.ab_tests.conclude_test(test.test_id, winner="treatment_2", user=ANA).winner == "treatment_2"
    assert answering(live) == {"v3.0.0": 1.0}
    assert live.ab_tests.analyze_test(test.test_id)["conclusion"].endswith("concluded with treatment_2.")


def test_a_guard_can_be_loosened_or_left_out_and_odd_terms_are_refused(live: Yard) -> None:
    test = running(live, guard_alpha=0)
    assert live.serving.traffic("fraud").guards == ()
    live.ab_tests.stop_test(test.test_id)
    running(live, guard_alpha=0.01, latency_margin=9, latency_floor_ms=20)
    (one,) = live.serving.traffic("fraud").guards
    assert (one.alpha, one.latency_margin, one.latency_floor_ms) == (0.01, 9, 20)
    for terms in (
        {"guard_alpha": 0.6},
        {"guard_alpha": -1},
        {"latency_margin": -0.1},
        {"latency_floor_ms": float("nan")},
    ):
        with pytest.raises(Invalid, match=next(iter(terms))):
            live.ab_tests.create_test("X", control_variant="a:v1", treatment_variant="a:v2", **terms)


def test_shares_that_move_are_not_guarded(tmp_path: Any) -> None:
    manager = ABTestManager(tmp_path / "alone")
    for moves in ({"strategy": "ramp", "ramp_seconds": 60.0}, {"inference": "thompson"}):
        test = manager.create_test("New", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0", **moves)
        assert guards_of(test) == ()


def outcomes(seed: int, treatments: int) -> Iterator[tuple[str, bool, int]]:
    """Arms that are equally good, whose failures come and go in storms and whose latencies drift."""
    random = np.random.default_rng(seed)
    names = [*("treatment", "treatment_2", "treatment_3")[:treatments], "control"]
    shares = [0.25] * treatments + [1 - 0.25 * treatments]
    rate, slow = 0.02, 0.05
    for number in range(2000):
        if number % 200 == 0:
            rate, slow = float(random.choice([0.002, 0.02, 0.5])), float(random.uniform(0.01, 0.4))
        arm = str(random.choice(names, p=shares))
        yield arm, bool(random.random() < rate), int(random.random() < slow)


@pytest.mark.parametrize("treatments", [1, 3])
def test_equal_arms_go_on_through_storms_of_errors_and_drifting_latencies(live: Yard, treatments: int) -> None:
    answered(live, "baseline", 200)
    for seed in range(2):
        test = running(live, *(f"v{number}.0.0" for number in range(2, treatments + 2)))
        process = Process(live)
        seen = outcomes(seed, treatments)
        assert not any(process.answers(arm, failed=failed, above=above) for arm, failed, above in seen)
        live.ab_tests.stop_test(test.test_id)
