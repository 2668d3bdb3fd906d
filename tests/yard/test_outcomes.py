"""What turned out to be true reaches the experiment and the monitor of the request by itself, once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from modelyard import Yard
from modelyard.ab_testing import ABTest
from modelyard.serving import PredictionRequest

TRUSTED = {"trusted_code": True}
MODEL = '''
import numpy as np
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output

class Above:
    """Whether x is above the threshold."""
    def __init__(self, threshold="0"):
        self.threshold = float(threshold)
        self.signature = Signature(inputs=(FeatureSpec(name="x"),), task="binary", classes=(0, 1))
    def predict(self, batch):
        said = (batch[:, 0] > self.threshold).astype(np.int64)
        return Output(predictions=said, probabilities=np.column_stack([1.0 - said, said]).astype(float))

class Number(Above):
    """Twice x."""
    def __init__(self, threshold="0"):
        self.signature = Signature(inputs=(FeatureSpec(name="x"),), task="regression", classes=())
    def predict(self, batch):
        return Output(predictions=batch[:, 0] * 2.0)
'''


@pytest.fixture
def yard(tmp_path: Path) -> Any:
    (tmp_path / "models.py").write_text(MODEL)
    with Yard(tmp_path / "yard") as yard:
        yield yard


def routed(yard: Yard, tmp_path: Path, name: str = "Above", **plan: Any) -> ABTest:
    """A running test of v1, right above 0, against v2, right above 10, carried out by the endpoint e."""
    yard.serving.configure("e", TRUSTED)
    for version, threshold in (("v1.0.0", 0), ("v2.0.0", 10)):
        yard.serving.install("e", "m", version, f"{tmp_path / 'models.py'}:{name}@{threshold}", "python")
    test = yard.ab_tests.create_test("T", control_variant="m:v1.0.0", treatment_variant="m:v2.0.0", **plan)
    yard.ab_tests.start_test(test.test_id)
    yard.serving.apply(yard.ab_tests.traffic(test.test_id, "e"))
    return test


def ask(yard: Yard, endpoint: str, ids: list[str], x: float = 5.0, units: int = 10) -> dict[str, str]:
    """The arm that answered each request, by its id."""

    async def scenario() -> dict[str, str]:
        arms = {}
        for n, one in enumerate(ids):
            asked = PredictionRequest(request_id=one, endpoint_id=endpoint, features={"x": x}, unit=f"u{n % units}")
            arms[one] = (await yard.serving.predict(asked)).arm
        return arms

    return asyncio.run(scenario())


def counted(yard: Yard, test: ABTest) -> dict[str, tuple[int, float]]:
    """Requests and successes of each arm."""
    found = yard.ab_tests.analyze_test(test.test_id)["variants"]
    return {name: (arm["requests"], arm["successes"]) for name, arm in found.items()}


def test_outcomes_reach_the_test_that_routed_the_request_once(yard: Yard, tmp_path: Path) -> None:
    """Repeated, corrected, late, unknown and not yet logged; and an event that is handled twice."""
    test = routed(yard, tmp_path)
    arms = ask(yard, "e", [f"r{n}" for n in range(60)])
    told = [{"request_id": f"r{n}", "outcome": 1} for n in range(60)]
    assert yard.serving.record_outcomes("e", told[:40]).unknown == 0  # those of a moment ago are waited for
    truth = {
        name: (
            sum(arms[f"r{n}"] == name for n in range(40)),
            sum(arms[f"r{n}"] == name == "control" for n in range(40)),
        )
        for name in ("control", "treatment")
    }
    assert counted(yard, test) == truth
    yard.serving.record_outcomes("e", told[:40])
    yard.serving.record_outcomes("e", [{"request_id": "nobody", "outcome": 0}])
    with yard.store.work() as work:
        work.rows.run("UPDATE serving_outcomes SET told = 0")
        work.rows.run("DELETE FROM event_cursors WHERE reader = 'wiring.learn'")
    yard.dispatch()
    assert counted(yard, test) == truth
    yard.serving.record_outcomes("e", [{"request_id": "r0", "outcome": 0}], correct=True)
    requests, successes = truth[arms["r0"]]
    changed = {**truth, arms["r0"]: (requests, successes + (-1 if arms["r0"] == "control" else 1))}
    assert counted(yard, test) == changed
    yard.serving.record_outcomes("e", told[40:])
    assert sum(requests for requests, _ in counted(yard, test).values()) == 60


def test_an_outcome_that_is_corrected_after_the_test_ended_is_corrected_in_it(yard: Yard, tmp_path: Path) -> None:
    test = routed(yard, tmp_path)
    arms = ask(yard, "e", ["r0", "r1"])
    yard.serving.record_outcome("e", "r0", 1)
    yard.ab_tests.stop_test(test.test_id)
    yard.serving.record_outcomes("e", [{"request_id": one, "outcome": 0} for one in ("r0", "r1")], correct=True)
    right = int(arms["r0"] != "control")  # v1 says 1, v2 says 0
    assert counted(yard, test)[arms["r0"]] == (1, right)
    assert sum(requests for requests, _ in counted(yard, test).values()) == 1  # r1 is news, and came too late


def test_a_process_that_hands_on_an_outcome_after_it_was_corrected_does_not_have_the_last_word(
    yard: Yard, tmp_path: Path
) -> None:
    test = routed(yard, tmp_path)
    arms = ask(yard, "e", ["r0"])
    yard.serving.record_outcome("e", "r0", 1)
    with yard.store.work() as work:
        work.rows.run("UPDATE serving_outcomes SET told = 0")
    stale = yard.serving.untold("e")  # another process has read it, and is slow
    yard.serving.record_outcome("e", "r0", 0, correct=True)
    told = [{"variant": arms["r0"], "success": arms["r0"] == "control", "result_id": "e/r0/0", "unit_id": "u0"}]
    numbers = {"latency": stale[0]["latency_ms"] / 1000, "custom_metrics": {"outcome": 1.0}}
    assert yard.ab_tests.settle_results(test.test_id, [{**told[0], **numbers}], reason="late").corrected == 1
    yard.serving.told("e", stale)
    assert [one["outcome"] for one in yard.serving.untold("e")] == [0]
    yard.serving.record_outcome("e", "other", 1)  # whatever is told next hands it on again
    assert counted(yard, test)[arms["r0"]] == (1, int(arms["r0"] != "control"))


def test_an_outcome_that_came_before_its_prediction_counts_with_the_next(yard: Yard, tmp_path: Path) -> None:
    test = routed(yard, tmp_path)
    assert yard.serving.record_outcome("e", "early", 1).unknown == 1
    ask(yard, "e", ["early", "other"])
    yard.serving.close()
    yard.serving.record_outcome("e", "other", 1)
    assert sum(requests for requests, _ in counted(yard, test).values()) == 2


def test_what_was_served_under_no_test_or_one_that_has_ended_reaches_none(yard: Yard, tmp_path: Path) -> None:
    test = routed(yard, tmp_path)
    ask(yard, "e", ["r0"])
    yard.serving.close()
    yard.ab_tests.stop_test(test.test_id)
    yard.serving.record_outcome("e", "r0", 1)
    assert sum(requests for requests, _ in counted(yard, test).values()) == 0
    other = routed_again(yard, test)
    ask(yard, "e", ["r1"])
    yard.serving.close()
    yard.serving.record_outcomes("e", [{"request_id": "r1", "outcome": 1}])
    assert sum(requests for requests, _ in counted(yard, test).values()) == 0
    assert sum(requests for requests, _ in counted(yard, other).values()) == 1


def routed_again(yard: Yard, before: ABTest) -> ABTest:
    test = yard.ab_tests.create_test(
        "T2", control_variant=before.control.model, treatment_variant=before.treatments[0].model
    )
    yard.ab_tests.start_test(test.test_id)
    yard.serving.apply(yard.ab_tests.traffic(test.test_id, "e", generation=3))  # ending the first one was 2
    return test


def test_the_errors_of_predicted_numbers_reach_the_test(yard: Yard, tmp_path: Path) -> None:
    test = routed(
        yard, tmp_path, "Number", metrics=[{"name": "absolute_error", "kind": "average", "direction": "down"}]
    )
    ids = [f"r{n}" for n in range(60)]
    arms = ask(yard, "e", ids, x=5.0, units=60)
    truth = {one: 10.0 + n % 4 for n, one in enumerate(ids)}
    yard.serving.record_outcomes("e", [{"request_id": one, "outcome": value} for one, value in truth.items()])
    for name, arm in yard.ab_tests.analyze_test(test.test_id)["variants"].items():
        errors = [truth[one] - 10 for one in ids if arms[one] == name]
        assert arm["metrics"]["absolute_error"]["value"] == pytest.approx(sum(errors) / len(errors))


def test_an_experiment_between_endpoints_learns_of_outcomes_by_its_arms(yard: Yard, tmp_path: Path) -> None:
    async def deployed() -> list[str]:
        path = tmp_path / "models.py"
        return [
            await yard.serving.deploy_model("m", version, f"{path}:Above@{threshold}", "python", TRUSTED)
            for version, threshold in (("v1.0.0", 0), ("v2.0.0", 10))
        ]

    one, two = asyncio.run(deployed())
    yard.serving.create_ab_test("exp", one, [two], {one: 0.5, two: 0.5})
    ids = [f"r{n}" for n in range(40)]
    arms = ask(yard, "exp", ids)
    yard.analyze_experiment("exp")  # what was answered, as long as nobody knows more
    yard.serving.record_outcomes("exp", [{"request_id": each, "outcome": 1} for each in ids])
    (test,) = [test for test in yard.ab_tests.list_tests() if test.name == "exp"]
    ones = list(arms.values()).count(one)
    assert counted(yard, test) == {"control": (ones, ones), "treatment": (40 - ones, 0)}
    yard.analyze_experiment("exp")
    assert counted(yard, test) == {"control": (ones, ones), "treatment": (40 - ones, 0)}


def test_a_monitor_that_is_set_up_learns_of_its_version_outcomes(yard: Yard, tmp_path: Path) -> None:
    routed(yard, tmp_path)
    (tmp_path / "train.csv").write_text("x\n" + "5\n6\n" * 20)
    yard.monitoring.set_reference("m:v1.0.0", tmp_path / "train.csv")
    ids = [f"r{n}" for n in range(40)]
    arms = ask(yard, "e", ids)
    yard.serving.record_outcomes("e", [{"request_id": each, "outcome": int(each != "r0")} for each in ids] * 2)
    ours = [each for each, arm in arms.items() if arm == "control"]
    found = yard.monitoring.performance("m:v1.0.0")
    assert found.prediction_count == len(ours)
    assert found.accuracy == pytest.approx(1 - ("r0" in ours) / len(ours))
    yard.serving.record_outcome("e", ours[1], 0, correct=True)
    assert yard.monitoring.performance("m:v1.0.0").accuracy == pytest.approx(found.accuracy - 1 / len(ours))
    assert yard.monitoring.list_monitors() == ["m:v1.0.0"]
