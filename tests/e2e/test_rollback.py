"""A bad canary over HTTP: every process goes back by itself, also while the controller's process is stopped."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import Yard
from modelyard.core.events import EventType
from modelyard.core.traffic import GuardTrip
from modelyard.deployment import Deployment
from modelyard.serving.counters import Counters
from modelyard.testing.servers import until
from modelyard.testing.serving import YardServer

MODELS = Path(__file__).parents[1] / "serving" / "local_models.py"
VERSIONS = {
    "v1.0.0": "Linear@{}",
    "v3.0.0": 'Linear@{"fail": 0.3}',
    "v4.0.0": 'Linear@{"fail": 1.0}',
    "v5.0.0": "Missing@{}",
}


@dataclass(frozen=True)
class Served:
    """A yard whose endpoint fraud is answered by v1.0.0 in two processes of a server."""

    yard: Yard
    server: YardServer

    def carried_out(self, deployment: Deployment) -> Deployment:
        """The deployment, once every process carries its routing out."""
        until(lambda: self.server.carries_out(self.yard, "fraud", deployment.generation))
        return deployment

    def rolled_out(self, version: str, **terms: Any) -> Deployment:
        return self.carried_out(self.yard.roll_out("fraud", version, **terms))

    def ended(self, deployment: Deployment) -> Deployment:
        """The deployment, once it is no longer under way."""
        return until(lambda: not (now := self.known(deployment)).status.active and now)  # type: ignore[no-any-return]  # what until found

    def known(self, deployment: Deployment) -> Deployment:
        return self.yard.deployments.get_deployment(deployment.deployment_id)

    def trips(self, deployment: Deployment) -> list[GuardTrip]:
        return [trip for trip in self.yard.serving.trips() if trip.rollout_id == deployment.deployment_id]

    def back(self, deployment: Deployment) -> bool:
        """Whether all processes have been told to go back: a moment after the decision is written down."""
        return Counters(self.yard.serving.places.counters("fraud", deployment.generation)).tripped

    def fresh(self, times: int = 40) -> Counter[str]:
        """The versions that answer on so many connections of their own, spread over all processes."""
        url = f"{self.server.predictions_url}/predict/fraud"
        return Counter(
            httpx.post(url, json={"features": {"a": 1, "b": 0}}).json()["model_version"] for _ in range(times)
        )


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("rollback") / "yard"
    with Yard(folder) as yard:
        yard.serving.configure("fraud", {"trusted_code": True})
        for version, model in VERSIONS.items():
            yard.serving.install("fraud", "fraud", version, f"{MODELS}:{model}", "python")
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        with YardServer(folder, workers=2) as server:
            yield Served(yard, server)


def ask(client: httpx.Client, **headers: str) -> httpx.Response:
    body = {"features": {"a": random.random(), "b": 0}}
    return client.post("/predict/fraud", json=body, headers={"X-Modelyard-Arm": headers["arm"]} if headers else {})


@pytest.mark.parametrize("stopped", [False, True], ids=["controller at work", "controller stopped"])
def test_a_bad_canary_is_taken_back_in_every_process(served: Served, stopped: bool) -> None:
    rollout = served.rolled_out("v3.0.0", steps=[0.2, 1.0])
    with served.server.stopped(served.yard) if stopped else nullcontext():
        with httpx.Client(base_url=served.server.predictions_url) as client:
            until(lambda: ask(client) and served.back(rollout))
            assert served.trips(rollout)
            after = Counter(ask(client).headers["x-modelyard-version"] for _ in range(50))
        assert after == {"v1.0.0": 50}
        assert set(served.fresh()) == {"v1.0.0"}
        back = served.carried_out(served.ended(rollout))
    assert back.status.value == "rolled_back"
    assert "failed on the canary" in back.reason
    # nothing of the failed one stays
    assert [arm.version for arm in served.yard.serving.traffic("fraud").arms] == ["v1.0.0"]
    again = served.rolled_out("v3.0.0")  # and it may be tried again at once
    assert served.yard.deployments.abort(again.deployment_id).status.value == "aborted"
    whats = [entry.what for entry in served.yard.deployments.history(rollout.deployment_id)]
    assert whats.count("rolled_back") == 1


def test_a_bad_treatment_of_a_live_test_is_taken_back_in_every_process_while_the_controller_is_stopped(
    served: Served,
) -> None:
    tests = served.yard.ab_tests
    test = tests.create_test(
        "Graph", control_variant="fraud:v1.0.0", treatment_variant="fraud:v3.0.0", traffic_split=0.3, created_by="ana"
    )
    tests.run_test(test.test_id, "fraud", user="ana")
    generation = served.yard.serving.traffic("fraud").generation
    until(lambda: served.server.carries_out(served.yard, "fraud", generation))
    with served.server.stopped(served.yard), httpx.Client(base_url=served.server.predictions_url) as client:
        until(lambda: ask(client) and any(trip.rollout_id == test.test_id for trip in served.yard.serving.trips()))
        assert {ask(client).headers["x-modelyard-version"] for _ in range(50)} == {"v1.0.0"}
        assert set(served.fresh()) == {"v1.0.0"}
        until(lambda: tests.get_test(test.test_id).status.value == "stopped")
    ended = tests.get_test(test.test_id)
    assert ended.taken_back == "treatment"
    assert ended.conclusion.startswith("The guard took treatment (fraud:v3.0.0) back on fraud: ")
    assert "failed on the treatment, 0 of " in ended.conclusion
    told = tests.analyze_test(test.test_id)
    assert (told["taken_back"], told["winner"]) == ("treatment", "control")
    assert told["conclusion"] == f"{ended.conclusion} Keep fraud:v1.0.0."
    stopped = served.yard.audit.query_events(EventType.AB_TEST_STOPPED, resource_id=test.test_id)
    assert [(one.severity.value, one.details["taken_back"]["metric"]) for one in stopped] == [("error", "errors")]
    until(lambda: [arm.name for arm in served.yard.serving.traffic("fraud").arms] == ["baseline"])


def test_testers_reach_an_arm_by_header_and_count_for_nothing(served: Served) -> None:
    rollout = served.rolled_out("v4.0.0", steps=[0.01, 1.0])
    with httpx.Client(base_url=served.server.predictions_url) as client:
        pinned = [ask(client, arm="canary") for _ in range(60)]
        by_version = ask(client, arm="v1.0.0")
        unknown = ask(client, arm="canari")
    assert {answer.headers["x-modelyard-version"] for answer in pinned} == {"v4.0.0"}
    assert {answer.status_code for answer in pinned} == {500}
    assert by_version.headers["x-modelyard-arm"] == "baseline"
    assert unknown.status_code == 404
    assert "no arm 'canari'. Known: baseline (v1.0.0), canary (v4.0.0)" in unknown.json()["error"]
    counts = served.yard.serving.counts("fraud").arms
    assert {name: (arm.requests, arm.errors) for name, arm in counts.items()} == {"baseline": (0, 0), "canary": (0, 0)}
    assert served.trips(rollout) == []
    assert served.known(rollout).status.active
    served.yard.deployments.abort(rollout.deployment_id)


def test_a_version_that_cannot_be_loaded_goes_back_with_its_reason(served: Served) -> None:
    rollout = served.yard.roll_out("fraud", "v5.0.0", ready_seconds=1.0)
    ended = served.ended(rollout)
    assert ended.status.value == "rolled_back"
    assert ended.reason.startswith("not carried out for ")
    assert "Missing" in ended.reason
    assert set(served.fresh(5)) == {"v1.0.0"}
    held = [entry.reasons[0] for entry in served.yard.deployments.history(rollout.deployment_id)]
    assert "not carried out" in [reason.partition(":")[0] for reason in held]


def test_what_has_completed_and_no_process_can_load_goes_back_too(served: Served) -> None:
    made = served.yard.roll_out("fraud", "v5.0.0", strategy="direct", ready_seconds=0.5)
    assert made.status.value == "completed"
    until(lambda: served.yard.confirm() or served.known(made).status.value == "rolled_back")
    assert "Missing" in served.known(made).reason
    assert set(served.fresh(5)) == {"v1.0.0"}
