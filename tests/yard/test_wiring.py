"""Areas meet through events: refusals leave nothing behind, handlers are tried again, and nothing is lost or doubled."""

from __future__ import annotations

import gc
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from modelyard import Yard
from modelyard.ab_testing import ABTestManager
from modelyard.artifacts import ArtifactStore
from modelyard.audit import AuditLogger
from modelyard.core.errors import Conflict, Forbidden, NotFound, Unavailable
from modelyard.core.traffic import Arm, ArmCounts, GuardTrip, Traffic, TrafficCounts
from modelyard.deployment import DeploymentManager
from modelyard.features import FeatureStore, FeatureType
from modelyard.governance import GovernanceManager
from modelyard.monitoring import MLMonitor
from modelyard.registry import ModelRegistry
from modelyard.serving import ModelServer

Register = Callable[..., None]
ANA, BEN = "ana@example.com", "ben@example.com"


def everything(yard: Yard) -> list[object]:
    """What a refusal must leave as it was."""
    with yard.store.reading() as rows:
        counted = [
            rows.all(f"SELECT * FROM {table}")
            for table in ("deployments", "deployment_history", "deployment_generations", "serving_endpoints", "events")
        ]
    return [counted, yard.serving.places.traffic_files(), yard.serving.places.read_models()]


@pytest.mark.parametrize("strategy", ["direct", "canary", "blue_green", "rolling"])
@pytest.mark.parametrize("written", ["v1.1.0", "1.1.0", "fraud:v1.1.0"])
def test_a_version_in_development_gets_no_live_traffic_and_leaves_nothing_behind(
    yard: Yard, registered: Register, strategy: str, written: str
) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0", approved=False)
    before = everything(yard)
    with pytest.raises(Forbidden, match=r"request-promotion fraud v?1.1.0"):
        yard.deployments.start("fraud", written, strategy=strategy, baseline="v1.0.0")
    assert everything(yard) == before


def test_a_version_that_nobody_knows_is_not_deployed(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    before = everything(yard)
    with pytest.raises(NotFound, match=r"register-model fraud v9\.0\.0"):
        yard.deployments.start("fraud", "v9.0.0", baseline="v1.0.0")
    with pytest.raises(NotFound, match=r"fraud v0.9.0"):
        yard.deployments.start("fraud", "v1.0.0", baseline="v0.9.0")
    assert everything(yard) == before


def test_a_version_that_lost_its_approval_gets_no_further_share(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0")
    rollout = yard.deployments.start("fraud", "v1.1.0", baseline="v1.0.0", steps=[0.1, 0.5, 1.0])
    yard.registry.archive("fraud", "v1.1.0", BEN)
    with pytest.raises(Forbidden, match="archived"):
        yard.deployments.promote(rollout.deployment_id, user=BEN)
    assert yard.deployments.get_deployment(rollout.deployment_id).share == 0.1
    assert yard.deployments.rollback(rollout.deployment_id, user=BEN).status.value == "rolled_back", (
        "the way back is free"
    )


def test_a_shadow_may_be_new(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0", approved=False)
    shadow = yard.deployments.start("fraud", "v1.1.0", strategy="shadow", baseline="v1.0.0")
    live = yard.serving.traffic("fraud")
    assert (live.generation, live.shadow and live.shadow.version) == (shadow.generation, "v1.1.0")


def test_a_rollout_that_a_newer_routing_would_hide_does_not_begin(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0")
    only = Arm(name="baseline", model="fraud", version="v1.0.0", weight=1.0)
    yard.serving.apply(Traffic(endpoint="fraud", generation=7, arms=(only,)))
    with pytest.raises(Conflict, match="after_generation=7"):
        yard.deployments.start("fraud", "v1.1.0", baseline="v1.0.0")
    rollout = yard.deployments.start("fraud", "v1.1.0", baseline="v1.0.0", after_generation=7)
    assert yard.serving.traffic("fraud").generation == rollout.generation == 8


def test_a_deployment_makes_its_versions_known_to_the_serving_processes(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    yard.deployments.start("fraud", "v1.0.0", strategy="direct")
    assert Path(yard.serving.places.read_models()["fraud", "v1.0.0"].path).exists()


class Broken(FileNotFoundError):
    """What a disk would say; only raised by the test."""


def test_a_handler_that_fails_is_tried_again_and_hears_each_event_in_order(
    yard: Yard, registered: Register, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0")
    applied: list[int] = []
    apply, broken = yard.serving.apply, [True]

    def failing(traffic: Traffic) -> None:
        if broken[0]:
            raise Unavailable("the disk is full")
        applied.append(traffic.generation)
        apply(traffic)

    monkeypatch.setattr(yard.serving, "apply", failing)
    with caplog.at_level(logging.CRITICAL, logger="modelyard.wiring"):
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        rollout = yard.deployments.start("fraud", "v1.1.0", steps=[0.1, 0.5, 1.0])
        yard.deployments.promote(rollout.deployment_id)
    assert yard.serving.endpoints() == []
    assert yard.registry.champion("fraud").version == "v1.0.0", "the other handlers went on"
    broken[0] = False
    yard.dispatch()
    yard.dispatch()
    assert applied == [1, 2, 3]
    assert yard.serving.traffic("fraud").generation == 3


def test_an_unforeseen_fault_is_told_and_the_events_before_it_stay_handled(
    yard: Yard, registered: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    registered(yard, "v1.0.0")
    heard: list[int] = []

    def failing(traffic: Traffic) -> None:
        heard.append(traffic.generation)
        if traffic.generation == 2:
            raise Broken("gone")

    apply = yard.serving.apply
    monkeypatch.setattr(yard.serving, "apply", failing)
    yard.deployments.start("fraud", "v1.0.0", strategy="direct")
    with caplog.at_level("WARNING", "modelyard.wiring"):
        yard.deployments.start("other", "fraud:v1.0.0", strategy="direct", after_generation=1)
        for _ in range(3):
            yard.dispatch()
    [told] = caplog.records  # once, however often it is tried
    assert "route, deployment_completed evt_" in told.getMessage()
    assert told.getMessage().endswith("gone")
    monkeypatch.setattr(yard.serving, "apply", apply)
    yard.dispatch()
    assert heard[:5] == [1, 2, 2, 2, 2]
    assert 1 not in heard[1:]
    assert yard.serving.traffic("other").generation == 2


def trip(deployment_id: str, generation: int) -> GuardTrip:
    counts = TrafficCounts(endpoint="fraud", generation=generation, arms={"canary": ArmCounts(requests=9, errors=9)})
    told = {"metric": "errors", "e_value": 4000.0, "threshold": 1000.0, "reason": "all failed", "at": 0.0, "step": 0}
    return GuardTrip(endpoint="fraud", generation=generation, rollout_id=deployment_id, counts=counts, **told)


def test_a_rollback_that_belongs_to_no_deployment_holds_up_nobody(yard: Yard, registered: Register) -> None:
    registered(yard, "v1.0.0")
    registered(yard, "v1.1.0")
    yard.serving.record(trip("by-hand", 1))
    rollout = yard.deployments.start("fraud", "v1.1.0", baseline="v1.0.0")
    yard.serving.record(trip(rollout.deployment_id, rollout.generation))
    assert yard.deployments.get_deployment(rollout.deployment_id).status.value == "rolled_back"
    assert [arm.version for arm in yard.serving.traffic("fraud").arms] == ["v1.0.0"]


def test_hearing_an_old_completion_again_does_not_take_the_champion_back(yard: Yard, registered: Register) -> None:
    for version in ("v1.0.0", "v1.1.0"):
        registered(yard, version)
        yard.deployments.start("fraud", version, strategy="direct")
    assert yard.registry.champion("fraud").version == "v1.1.0"
    with yard.store.work() as work:  # as if a process had died before it noted what it had handled
        work.rows.run("DELETE FROM event_cursors WHERE reader LIKE 'wiring.%'")
    before = yard.audit.query_events("alias_set"), yard.audit.query_events("traffic_changed")
    yard.dispatch()
    assert (yard.audit.query_events("alias_set"), yard.audit.query_events("traffic_changed")) == before
    assert yard.registry.champion("fraud").version == "v1.1.0"


DISPATCH = """
import json, sys
from modelyard import Yard
place, files, number = json.loads(sys.argv[1])
sys.stdin.readline()
with Yard(place, files=files) as yard:
    for version in range(4):
        yard.deployments.start(f"own{number}", f"fraud:v1.{version}.0", strategy="direct")
        yard.dispatch()
"""


def in_processes(script: str, arguments: Sequence[object]) -> None:
    """Run the script once for each argument, begun together; each must end well and say nothing."""
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script, json.dumps(argument)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for argument in arguments
    ]
    told = [process.communicate("go\n", timeout=300)[1] for process in started]
    assert [(process.returncode, text) for process, text in zip(started, told, strict=True)] == [(0, "")] * len(told)


def test_two_processes_that_dispatch_at_once_do_it_once(
    yard: Yard, place: tuple[str, str | None], registered: Register
) -> None:
    for version in range(4):
        registered(yard, f"v1.{version}.0")
    in_processes(DISPATCH, [[*place, number] for number in range(2)])
    yard.dispatch()
    for number in range(2):
        live = yard.serving.traffic(f"own{number}")
        newest = yard.deployments.list_deployments(endpoint=f"own{number}")[-1]
        assert live == newest.traffic
        assert yard.serving.places.read_traffic(f"own{number}").traffic == live
    changed = yard.audit.query_events("traffic_changed")
    told = [(e.resource_id, e.details["traffic"]["generation"]) for e in changed]
    assert len(told) == len(set(told)), "no routing was carried out twice"
    completed = yard.audit.query_events("deployment_completed")
    assert yard.registry.champion("fraud").version == completed[-1].details["version"]
    crowned = [e.details["completed"] for e in yard.audit.query_events("alias_set") if "completed" in e.details]
    assert crowned == sorted(set(crowned)), "each completion crowned once at most, and never an older one after a newer"
    assert yard.audit.verify().ok


def test_a_yard_that_is_dropped_warns_of_nothing(place: tuple[str, str | None], registered: Register) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yard = Yard(place[0], files=place[1])
        registered(yard, "v1.0.0")
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        yard.audit.checkpoint()
        yard.features.list_features()
        yard.serving.endpoints()
        del yard
        gc.collect()
    with Yard(place[0], files=place[1]) as again:
        assert again.serving.traffic("fraud").generation == 1


DROPPED = """
import json, sys
from modelyard import Yard
place, files = json.loads(sys.argv[1])
sys.stdin.readline()
yard = Yard(place, files=files)
yard.audit.start_sequencer()
yard.audit.log_model_deployment("fraud", "v1.0.0", "ana@example.com")
yard.features.list_features()
"""


def test_a_process_that_ends_without_closing_its_yard_says_nothing(place: tuple[str, str | None]) -> None:
    in_processes(DROPPED, [place])
    with Yard(place[0], files=place[1]) as yard:
        assert len(yard.audit.query_events()) == 1


def test_what_an_area_did_alone_is_part_of_the_yard_that_is_opened_there_later(
    tmp_path: Path, small_model: Path
) -> None:
    place = tmp_path / "yard"
    ModelRegistry(place).register_model("fraud", "v1.0.0", small_model, "lightgbm", ANA)
    ArtifactStore(place).add(small_model, ANA)
    FeatureStore(place).define_feature("a", "card", FeatureType.FLOAT, created_by=ANA)
    DeploymentManager(place).start("fraud", "v1.0.0", strategy="direct", created_by=ANA)
    test = ABTestManager(place).create_test(
        "t", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0", created_by=ANA
    )
    MLMonitor("fraud", "v1.0.0", storage_path=place).set_reference_data({"a": [float(i) for i in range(100)]})
    GovernanceManager(place).register_dataset("cards", created_by=ANA)
    ModelServer(place).configure("fraud", {"payload_sampling": 0.5})
    AuditLogger(place).log_model_deployment("fraud", "v1.0.0", ANA)
    with Yard(place) as yard:
        kinds = {event.event_type.value for event in yard.audit.query_events()}
        assert {
            "model_registered",
            "feature_registered",
            "deployment_completed",
            "ab_test_created",
            "dataset_registered",
        } <= kinds, kinds
        assert yard.audit.verify().ok
        yard.dispatch()
        assert yard.serving.traffic("fraud").arms[0].version == "v1.0.0", "it is carried out now"
        assert yard.ab_tests.get_test(test.test_id).name == "t"
        assert "fraud:v1.0.0" in yard.monitoring.list_monitors()
        assert yard.registry.get_model("fraud", "v1.0.0").created_by == ANA
        assert [f.name for f in yard.features.list_features()] == ["a"]
