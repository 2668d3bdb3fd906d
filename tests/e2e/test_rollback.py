"""A bad canary over HTTP: every process goes back by itself, also while the controller's process is stopped."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import Yard
from modelyard.testing.servers import until
from modelyard.testing.serving import YardServer

MODELS = Path(__file__).parents[1] / "serving" / "local_models.py"
WORKERS = 2


def install(yard: Yard, **versions: str) -> None:
    yard.serving.configure("fraud", {"trusted_code": True})
    for version, settings in versions.items():
        reference = f"{MODELS}:Linear@{settings}"
        yard.serving.install("fraud", "fraud", version.replace("_", "."), reference, "python")


def ask(client: httpx.Client, a: float | None = None, **headers: str) -> httpx.Response:
    body = {"features": {"a": random.random() if a is None else a, "b": 0}}
    return client.post("/predict/fraud", json=body, headers={"X-Modelyard-Arm": headers["arm"]} if headers else {})


def fresh(url: str, times: int = 40) -> Counter[str]:
    """The versions that answer on so many connections of their own, spread over all processes."""
    return Counter(
        httpx.post(f"{url}/predict/fraud", json={"features": {"a": 1, "b": 0}}).json()["model_version"]
        for _ in range(times)
    )


@contextmanager
def canary(folder: Path, settings: str, **terms: Any) -> Iterator[tuple[Yard, YardServer, Any]]:
    """A server with a canary of a version with these settings in every process."""
    with Yard(folder) as yard:
        install(yard, v1_0_0="{}", v3_0_0=settings)
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        with YardServer(folder, workers=WORKERS) as server:
            rollout = yard.roll_out("fraud", "v3.0.0", **terms)
            until(lambda: server.carries_out(yard, "fraud", rollout.generation))
            yield yard, server, rollout


@pytest.mark.parametrize("stopped", [False, True], ids=["controller at work", "controller stopped"])
def test_a_bad_canary_is_taken_back_in_every_process(tmp_path: Path, stopped: bool) -> None:
    with canary(tmp_path / "yard", '{"fail": 0.3}', steps=[0.2, 1.0]) as (yard, server, rollout):
        with server.stopped(yard) if stopped else nullcontext():
            with httpx.Client(base_url=server.predictions_url) as client:
                until(lambda: ask(client) and yard.serving.trips())
                after = Counter(ask(client).headers["x-modelyard-version"] for _ in range(50))
            assert after == {"v1.0.0": 50}
            assert set(fresh(server.predictions_url)) == {"v1.0.0"}
            until(lambda: yard.deployments.get_deployment(rollout.deployment_id).status.value == "rolled_back")
            back = yard.deployments.get_deployment(rollout.deployment_id)
            until(lambda: server.carries_out(yard, "fraud", back.generation))
        assert "failed on the canary" in back.reason
        assert yard.serving.traffic("fraud").arms[0].version == "v1.0.0"
        assert [arm.version for arm in yard.serving.traffic("fraud").arms] == [
            "v1.0.0"
        ]  # nothing of the failed one stays
        again = yard.roll_out("fraud", "v3.0.0")  # and it may be tried again at once
        until(lambda: server.carries_out(yard, "fraud", again.generation))
        assert [entry.what for entry in yard.deployments.history(rollout.deployment_id)].count("rolled_back") == 1


def test_testers_reach_an_arm_by_header_and_count_for_nothing(tmp_path: Path) -> None:
    with canary(tmp_path / "yard", '{"fail": 1.0}', steps=[0.01, 1.0]) as (yard, server, rollout):
        with httpx.Client(base_url=server.predictions_url) as client:
            pinned = [ask(client, arm="canary") for _ in range(60)]
            by_version = ask(client, arm="v1.0.0")
        assert {answer.headers["x-modelyard-version"] for answer in pinned} == {"v3.0.0"}
        assert {answer.status_code for answer in pinned} == {500}
        assert by_version.headers["x-modelyard-arm"] == "baseline"
        counts = yard.serving.counts("fraud").arms
        assert {name: (arm.requests, arm.errors) for name, arm in counts.items()} == {
            "baseline": (0, 0),
            "canary": (0, 0),
        }
        assert yard.serving.trips() == []
        assert yard.deployments.get_deployment(rollout.deployment_id).status.active


def test_a_version_that_cannot_be_loaded_goes_back_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "yard"
    with Yard(folder) as yard:
        install(yard, v1_0_0="{}")
        yard.serving.install("fraud", "fraud", "v3.0.0", f"{MODELS}:Missing@{{}}", "python")
        yard.deployments.start("fraud", "v1.0.0", strategy="direct")
        with YardServer(folder, workers=WORKERS) as server:
            rollout = yard.roll_out("fraud", "v3.0.0", ready_seconds=1.0)
            ended = until(
                lambda: not (one := yard.deployments.get_deployment(rollout.deployment_id)).status.active and one
            )
            assert ended.status.value == "rolled_back"
            assert ended.reason.startswith("not carried out for ")
            assert "Missing" in ended.reason
            assert set(fresh(server.predictions_url, 5)) == {"v1.0.0"}
            assert "not carried out" in [
                entry.reasons[0].partition(":")[0] for entry in yard.deployments.history(rollout.deployment_id)
            ]
