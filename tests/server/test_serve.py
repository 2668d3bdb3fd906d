"""`modelyard serve` as a process: it answers, predicts what was deployed over REST, refuses open doors, and ends whole."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard import Client, Yard
from modelyard.core.traffic import GuardTrip
from modelyard.server.run import PARTING_S
from modelyard.testing.postgres import PASSWORD, PostgresServer
from modelyard.testing.prometheus import prometheus
from modelyard.testing.servers import free_port
from modelyard.testing.serving import YardServer

ROW = {"a": 1.0, "b": 0.0, "c": 0.0}


def until(what: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The first true answer; a bounded wait for another process."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    pytest.fail("it did not come about in time")


def serve(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to refuse."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
    command = [sys.executable, "-m", "modelyard", "serve", "--yard", str(folder), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def register(client: Client, file: Path, version: str) -> None:
    client.registry.register_model("fraud", version, file, "lightgbm")


def approve(place: str | Path, version: str, files: Path | None = None) -> None:
    """Two people, as a folder's owner may act for them."""
    with Yard(place, files=files) as yard:
        yard.registry.request_promotion("fraud", version, "production", "ana@example.com", "x", reviewers=["ben@x.org"])
        yard.registry.approve_promotion("fraud", version, "ben@x.org")


def predict(server: YardServer) -> tuple[int, Any]:
    tensors = [{"name": name, "shape": [1, 1], "datatype": "FP64", "data": [value]} for name, value in ROW.items()]
    return server.ask(f"{server.predictions_url}/v2/models/fraud/infer", {"inputs": tensors})


def test_a_version_deployed_over_rest_is_predicted_with_and_sigterm_ends_everything(
    tmp_path: Path, small_model: Path
) -> None:
    with YardServer(tmp_path / "yard", workers=2) as server, Client(server.url) as client:
        status, health = server.ask(f"{server.url}/api/v1/health")
        assert (status, health["status"]) == (200, "ok")
        register(client, small_model, "v1.0.0")
        approve(tmp_path / "yard", "v1.0.0")
        started = client.deployment.start("fraud", "v1.0.0", strategy="direct")
        assert started.status.value == "completed"
        status, answer = until(lambda: (found := predict(server))[0] == 200 and found)
        assert (answer["model_name"], answer["model_version"]) == ("fraud", "v1.0.0")
        until(lambda: client.serving.get_endpoint_metrics("fraud")["requests"] >= 1)
        told = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in server.processes()]
        assert sum(b"modelyard.serving.worker" in one for one in told) == 2
        assert server.stop() == 0, server.log.read_text()
        assert server.processes() == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_under_load_has_kept_all_that_it_acknowledged(tmp_path: Path, how: signal.Signals) -> None:
    acknowledged: list[str] = []
    failures: list[tuple[float, str]] = []  # when what was not answered had been sent, and what came instead

    def write(number: int) -> None:
        sent = math.inf

        def trace(event: str, _: object) -> None:
            nonlocal sent
            if event == "http11.send_request_body.complete":
                sent = time.monotonic()

        with httpx.Client(base_url=server.url) as client:
            for turn in range(100_000):
                sent = math.inf
                try:
                    answer = client.post(f"/api/v1/models/m{number}-{turn}", json={}, extensions={"trace": trace})
                except httpx.TransportError as error:
                    failures.append((sent, type(error).__name__))
                    return
                if answer.status_code != 200:
                    failures.append((sent, str(answer.status_code)))
                    return
                acknowledged.append(answer.json()["name"])

    with YardServer(tmp_path / "yard") as server:
        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        until(lambda: len(acknowledged) >= 40 and len({name.partition("-")[0] for name in acknowledged}) == 4)
        ended = time.monotonic()
        server.process.send_signal(how)
        server.process.wait(120)
        for writer in writers:
            writer.join(120)
        until(lambda: server.processes() == [])
        assert "Traceback" not in server.log.read_text()
    if how is signal.SIGTERM:
        under_way = {what for sent, what in failures if sent < ended + PARTING_S}
        assert under_way <= {"503"}, "what has been sent is answered, by callers who do not wait until it hangs up"
        assert len(failures) == 4
    with Yard(tmp_path / "yard") as yard:
        with yard.store.reading() as rows:
            kept = {row["name"] for row in rows.all("SELECT name FROM registered_models")}
        assert set(acknowledged) <= kept
        assert yard.audit.verify().ok
        made = {event.resource_id for event in yard.audit.query_events(resource_type="model", limit=10_000)}
        assert kept <= made, "no change without its event"


def test_sigint_ends_it_as_well(tmp_path: Path) -> None:
    with YardServer(tmp_path / "yard") as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(120) == 0
        assert server.processes() == []
        assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with socket.socket() as taken:
        port = free_port(3) + 1  # with one before and one after it that are free
        taken.bind(("127.0.0.1", port))
        taken.listen()
        for asked in (port, port - 1):  # the control plane's, the predictions'
            done = serve(tmp_path / "yard", "--port", str(asked))
            assert done.returncode == 1
            assert done.stdout == ""
            assert [line for line in done.stderr.splitlines() if str(port) in line and "port" in line], done.stderr
            assert "Traceback" not in done.stderr
            assert len([line for line in done.stderr.splitlines() if line.strip()]) == 1, done.stderr


def test_other_machines_are_let_in_only_with_tokens_and_a_certificate(tmp_path: Path) -> None:
    refused = serve(tmp_path / "yard", "--host", "0.0.0.0", "--port", "8080")
    assert refused.returncode == 1
    assert "modelyard access create-token" in refused.stderr
    with Yard(tmp_path / "yard") as yard:
        yard.access.create_token("root@example.com", role="admin", created_by="root")
    refused = serve(tmp_path / "yard", "--host", "0.0.0.0", "--port", "8080")
    assert refused.returncode == 1
    assert "--tls-cert" in refused.stderr


@pytest.mark.postgres
def test_serving_processes_record_their_rollback_on_postgresql_and_show_no_password(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path, small_model: Path
) -> None:
    name = postgres_url.partition("@/")[2].partition("?")[0]
    place = postgres_server.tcp_url(name)
    with YardServer(place, MODELYARD_FILES=str(tmp_path / "files")) as server, Client(server.url) as client:
        for version in ("v1.0.0", "v1.1.0"):
            register(client, small_model, version)
            approve(place, version, tmp_path / "files")
        client.deployment.start("fraud", "v1.0.0", strategy="direct")
        rollout = client.deployment.start("fraud", "v1.1.0", steps=[0.5, 1.0])
        for number in server.processes():
            command = Path(f"/proc/{number}/cmdline").read_bytes().decode()
            assert f":{PASSWORD}@" not in command
        with Yard(place, files=tmp_path / "files") as yard:
            told = trip(yard, rollout.deployment_id, rollout.generation)
        assert told
        ended = until(
            lambda: (
                (found := client.deployment.get_deployment(rollout.deployment_id)).status.value == "rolled_back"
                and found
            )
        )
        assert ended.reason == "all failed"
        until(lambda: [arm.version for arm in client.serving.traffic("fraud").arms] == ["v1.0.0"])
        assert server.stop() == 0, server.log.read_text()


def trip(yard: Yard, deployment_id: str, generation: int) -> bool:
    """The decision as a serving process takes it: a file that only one can write. The process tells the yard."""
    from modelyard.core.traffic import ArmCounts, TrafficCounts
    from modelyard.serving.places import write_once

    counts = TrafficCounts(endpoint="fraud", generation=generation, arms={"canary": ArmCounts(requests=9, errors=9)})
    told = {"metric": "errors", "e_value": 4000.0, "threshold": 1000.0, "reason": "all failed", "at": 0.0, "step": 0}
    decision = GuardTrip(endpoint="fraud", generation=generation, rollout_id=deployment_id, counts=counts, **told)
    return write_once(yard.serving.places.trip(deployment_id, 0), decision)


def test_the_server_asks_prometheus_for_the_guardrails_of_a_rollout(tmp_path: Path, small_model: Path) -> None:
    queue = {"name": "queue", "lowest": 0, "highest": 100, "tolerated": 5, "canary": "new", "baseline": "old"}
    with (
        prometheus({"new": 20, "old": ["18.5"]}) as url,
        YardServer(tmp_path / "yard", workers=1) as server,
        Client(server.url) as client,
    ):
        for version in ("v1.0.0", "v1.1.0"):
            register(client, small_model, version)
            approve(tmp_path / "yard", version)
        client.deployment.start("fraud", "v1.0.0", strategy="direct")
        rollout = client.deployment.start("fraud", "v1.1.0", guardrails=[{**queue, "prometheus": url}])

        def looks() -> int:
            measured = client.deployment.look(rollout.deployment_id).measurements
            return next((one.n for one in measured if one.name == "guardrail_queue"), 0)

        until(lambda: looks() == 1)
