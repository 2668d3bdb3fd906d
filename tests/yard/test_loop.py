"""The whole life of a model in one yard, the same on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modelyard import Yard
from modelyard.core.decisions import Verdict
from modelyard.core.errors import Forbidden
from modelyard.core.traffic import ArmCounts, GuardTrip, ShadowCounts, TrafficCounts
from modelyard.features import FeatureType
from modelyard.governance import ComplianceFramework
from modelyard.pipeline import PipelineConfig
from modelyard.serving import PredictionRequest
from modelyard.yard import record_trip

ANA, BEN = "ana@example.com", "ben@example.com"
START = datetime(2026, 1, 1, tzinfo=UTC)
COLUMNS = ("a", "b", "c")


def table(rows: int = 400) -> pd.DataFrame:
    """Records of cards: `fraud` follows from a and b."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(rng.normal(size=(rows, 3)), columns=list(COLUMNS))
    frame["fraud"] = (frame["a"] + 0.5 * frame["b"] + 0.3 * rng.normal(size=rows) > 0).astype(int)
    frame["card"] = [f"card{i}" for i in range(rows)]
    frame["event_timestamp"] = [START + timedelta(minutes=i) for i in range(rows)]
    return frame


def features_in_and_out(yard: Yard, frame: pd.DataFrame) -> pd.DataFrame:
    for name in COLUMNS:
        yard.features.define_feature(name, "card", FeatureType.FLOAT, created_by=ANA)
    written = yard.features.write_features(frame[["card", "event_timestamp", *COLUMNS]], entity_type="card", user=ANA)
    assert written.rows == len(frame)
    online = yard.features.get_online_features(["card7"], list(COLUMNS)).to_dict()
    assert float(online["a"][0]) == frame["a"][7]
    joined = yard.features.get_offline_features(frame[["card", "event_timestamp", "fraud"]], list(COLUMNS))
    assert np.array_equal(joined[list(COLUMNS)].to_numpy(float), frame[list(COLUMNS)].to_numpy())
    return joined


def train(yard: Yard, folder: Path, joined: pd.DataFrame) -> tuple[Path, dict[str, float]]:
    joined[[*COLUMNS, "fraud"]].to_csv(folder / "train.csv", index=False)
    config = PipelineConfig(
        name="fraud",
        data_source=str(folder / "train.csv"),
        target_column="fraud",
        model_type="sklearn",
        model_class="LogisticRegression",
        cross_validation_folds=2,
        metrics=("accuracy",),
        random_seed=1,
        threads=1,
        output_dir=str(folder / "output"),
    )
    result = yard.pipelines.train(config, created_by=ANA)
    assert result.status.value == "completed"
    assert result.metrics["test_accuracy"] > 0.8
    return folder / "output" / "model", dict(result.metrics)


def register(yard: Yard, package: Path, version: str, metrics: dict[str, float]) -> None:
    yard.registry.register_model("fraud", version, package, "sklearn", ANA, metrics=metrics, training_data="cards")


def approve(yard: Yard, version: str) -> None:
    yard.registry.request_promotion("fraud", version, "production", ANA, "good", reviewers=[BEN])
    with pytest.raises(Forbidden, match=r"ana@example\.com"):
        yard.registry.approve_promotion("fraud", version, ANA)
    assert yard.registry.get_model("fraud", version).stage.value == "development"
    assert yard.registry.approve_promotion("fraud", version, BEN, "fine").status.value == "approved"


def ask(yard: Yard, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The versions that answered."""

    async def all_of_them() -> list[str]:
        answers = []
        for number, row in enumerate(rows):
            request = PredictionRequest(request_id=f"r{number}", endpoint_id="fraud", features=row, unit=f"u{number}")
            answers.append(await yard.serving.predict(request))
        return [answer.model_version for answer in answers]

    return asyncio.run(all_of_them())


def answering(yard: Yard, rows: Sequence[dict[str, Any]], version: str) -> list[str]:
    """Answers once what was routed last is in force in this process, which looks every 50 ms."""
    end = time.monotonic() + 120
    found = ask(yard, rows)
    while set(found) != {version} and time.monotonic() < end:
        found = ask(yard, rows)
    return found


def counted(yard: Yard, deployment_id: str, **arms: ArmCounts) -> TrafficCounts:
    at = yard.deployments.get_deployment(deployment_id)
    return TrafficCounts(endpoint="fraud", generation=at.generation, arms=arms)


def shadow_then_canary(yard: Yard, rows: list[dict[str, Any]]) -> None:
    shadow = yard.deploy("fraud", "v2.0.0", strategy="shadow", minimum_units=100, minimum_agreement=0.9)
    assert set(answering(yard, rows, "v1.0.0")) == {"v1.0.0"}
    seen = TrafficCounts(
        endpoint="fraud",
        generation=shadow.generation,
        arms={"baseline": ArmCounts(requests=2000)},
        shadow=ShadowCounts(compared=2000, agreed=2000),
    )
    assert yard.deployments.advance(shadow.deployment_id, seen).verdict is Verdict.PROMOTE
    assert yard.deployments.get_deployment(shadow.deployment_id).status.value == "completed"
    assert yard.registry.champion("fraud").version == "v1.0.0", "a shadow crowns nobody"

    approve(yard, "v2.0.0")
    canary = yard.deploy("fraud", "v2.0.0", steps=[0.5, 1.0], margin=0.02, minimum_units=100)
    assert set(ask(yard, rows)) <= {"v1.0.0", "v2.0.0"}
    arms = {"baseline": ArmCounts(requests=5400, errors=5), "canary": ArmCounts(requests=5400, errors=5)}
    assert yard.deployments.advance(canary.deployment_id, counted(yard, canary.deployment_id, **arms)).verdict in (
        Verdict.PROMOTE,
        Verdict.HOLD,  # the baseline's latency quantiles are frozen first
    )
    while yard.deployments.get_deployment(canary.deployment_id).status.active:
        again = counted(yard, canary.deployment_id, **arms)
        assert yard.deployments.advance(canary.deployment_id, again).verdict is Verdict.PROMOTE
    assert yard.registry.champion("fraud").version == "v2.0.0"
    assert set(answering(yard, rows, "v2.0.0")) == {"v2.0.0"}


def trip_of(yard: Yard, deployment_id: str) -> GuardTrip:
    arms = {"baseline": ArmCounts(requests=900), "canary": ArmCounts(requests=100, errors=30)}
    counts = counted(yard, deployment_id, **arms)
    return GuardTrip(
        endpoint="fraud",
        generation=counts.generation,
        rollout_id=deployment_id,
        step=0,
        metric="errors",
        e_value=4000.0,
        threshold=1000.0,
        counts=counts,
        reason="30 of 100 failed",
        at=time.time(),
    )


def rolled_back_by_a_serving_process(
    yard: Yard, place: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = yard.deploy("fraud", "v3.0.0", steps=[0.1, 1.0])
    told = place[0]
    if place[1]:
        monkeypatch.setenv("YARD_OF_THIS_TEST", f'{{"place": "{place[0]}", "files": "{place[1]}"}}')
        told = "env:YARD_OF_THIS_TEST"
    for _ in range(2):  # a process may tell again what it is not sure to have told
        record_trip(told, trip_of(yard, canary.deployment_id))
    ended = yard.deployments.get_deployment(canary.deployment_id)
    assert (ended.status.value, ended.reason) == ("rolled_back", "30 of 100 failed")
    live = yard.serving.traffic("fraud")
    assert [(arm.version, arm.weight) for arm in live.arms] == [("v2.0.0", 1.0)]
    assert live.generation == ended.generation
    assert yard.serving.places.read_traffic("fraud").traffic == live, "the serving processes have read it"
    assert len(yard.audit.query_events("guard_tripped")) == 1
    assert len(yard.audit.query_events("deployment_rolled_back")) == 1
    assert yard.registry.champion("fraud").version == "v2.0.0"


def experiment(yard: Yard) -> None:
    test = yard.ab_tests.create_test("v1 or v2", control_variant="fraud:v1.0.0", treatment_variant="fraud:v2.0.0")
    yard.ab_tests.start_test(test.test_id, user=ANA)
    assert yard.ab_tests.get_variant(test.test_id, "u1") == yard.ab_tests.get_variant(test.test_id, "u1")
    results = [
        {"variant": variant, "success": number % 10 < good}
        for variant, good in (("control", 5), ("treatment", 9))
        for number in range(500)
    ]
    assert yard.ab_tests.record_many(test.test_id, results) == 1000
    found = yard.ab_tests.analyze_test(test.test_id)
    assert found["statistically_significant"]
    assert (found["control"]["requests"], found["treatment"]["requests"]) == (500, 500)
    ended = yard.ab_tests.conclude_test(test.test_id, winner="treatment", user=BEN)
    assert ended.status.value in ("concluded", "completed")


def watch(yard: Yard, frame: pd.DataFrame) -> None:
    monitor = yard.monitoring.monitor("fraud:v2.0.0")
    monitor.set_reference_data(frame[list(COLUMNS)], sensitivity=0.01)
    shifted = frame[list(COLUMNS)].copy()
    shifted["a"] += 3.0
    assert {alert.feature_name for alert in monitor.drift_report(shifted).alerts} == {"a"}
    for number in range(50):
        row = {"a": 1.0, "b": 0.0, "c": 0.0}
        asyncio.run(monitor.log_prediction(row, 1, ground_truth=int(number % 5 > 0)))
    assert yard.monitoring.performance("fraud:v2.0.0").accuracy == pytest.approx(0.8)
    assert "fraud:v2.0.0" in yard.monitoring.list_monitors()


def govern(yard: Yard, frame: pd.DataFrame, folder: Path) -> None:
    governance = yard.governance
    governance.register_dataset("cards", contains_pii=False, created_by=ANA)
    governance.register_model("fraud", "v2.0.0", "cards", created_by=ANA)
    assert "model:fraud:v2.0.0" in [node.id for node in governance.models_that_saw("cards")]
    group = np.where(np.arange(len(frame)) % 2, "x", "y")
    truth = frame["fraud"].to_numpy()
    reports = asyncio.run(governance.assess_bias("fraud:v2.0.0", truth, truth, {"group": group}, user=BEN))
    assert reports
    assert governance.bias_reports("fraud:v2.0.0") == reports
    report = asyncio.run(governance.assess_compliance("fraud:v2.0.0", ComplianceFramework.GDPR, user=BEN))
    assert report
    asyncio.run(governance.export_governance_report("fraud:v2.0.0", folder / "report.json", user=BEN))
    assert "fraud:v2.0.0" in (folder / "report.json").read_text()


def proved(yard: Yard, folder: Path) -> None:
    audit = yard.audit
    found = audit.verify()
    assert (found.ok, found.problems, found.waiting) == (True, (), 0)
    with yard.store.reading() as rows:
        assert found.size == rows.all("SELECT count(*) AS n FROM events")[0]["n"], "every change is in the log"
    completed = audit.query_events("deployment_completed")[-1]
    (folder / "proof").write_text(audit.prove(completed.event_id))
    assert audit.check(folder / "proof", audit.keys.public_file).record["event_id"] == completed.event_id
    kinds = {event.event_type.value for event in audit.query_events()}
    assert {"model_registered", "approval_granted", "deployment_started", "traffic_changed", "alias_set"} <= kinds


def test_a_model_lives_its_whole_life(
    yard: Yard, place: tuple[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = table()
    package, metrics = train(yard, tmp_path, features_in_and_out(yard, frame))
    rows: list[dict[str, Any]] = frame[list(COLUMNS)].head(20).to_dict("records")
    for version in ("v1.0.0", "v2.0.0", "v3.0.0"):
        register(yard, package, version, metrics)
    with pytest.raises(Forbidden, match="development"):
        yard.deploy("fraud", "v1.0.0", strategy="direct")
    approve(yard, "v1.0.0")
    assert yard.deploy("fraud", "v1.0.0", strategy="direct", created_by=ANA).status.value == "completed"
    assert yard.registry.champion("fraud").version == "v1.0.0"
    assert set(answering(yard, rows, "v1.0.0")) == {"v1.0.0"}
    shadow_then_canary(yard, rows)
    approve(yard, "v3.0.0")
    rolled_back_by_a_serving_process(yard, place, monkeypatch)
    assert set(answering(yard, rows, "v2.0.0")) == {"v2.0.0"}
    experiment(yard)
    watch(yard, frame)
    govern(yard, frame, tmp_path)
    proved(yard, tmp_path)
