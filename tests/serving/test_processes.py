"""Real serving processes: swapped, killed, stopped, drained, scaled, and rolling back by themselves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.core.errors import Unavailable
from modelyard.core.traffic import Arm, Guard
from modelyard.serving import ModelServer, calls, vigil
from modelyard.serving.inference import MAX_IN_FLIGHT
from modelyard.serving.places import write_once
from modelyard.serving.rules import trip_of
from modelyard.serving.trials import deaths, key_of

ROW = {"features": {"a": 0.25, "b": 0}}


class Callers:
    """Clients in threads that call until told to stop, and what they were answered."""

    def __init__(self, url: str, *, count: int = 3, path: str = "/predict/e", retry: bool = False) -> None:
        self.seen: list[tuple[int, str]] = []
        self.broken: list[str] = []
        self._stop = threading.Event()
        self._url, self._path, self._retry = url, path, retry
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]

    def _call(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._path, json=ROW)
                except httpx.TransportError as error:
                    if not self._retry:
                        self.broken.append(repr(error))
                    continue
                self.seen.append((answer.status_code, answer.json().get("model_version", "")))

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


@contextmanager
def standalone(folder: Path, *, workers: int = 2) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A supervisor in a process of its own, and where its workers answer."""
    command = [sys.executable, "-m", "modelyard.serving.supervisor", str(folder), "--port", "0"]
    command += ["--workers", str(workers), "--place", str(folder), "--report", "local_models:write_down"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            yield process, found[0]
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            process.wait(120)
            drain.join(120)


def test_versions_are_swapped_under_load_without_a_lost_request(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1))
    server.apply(tools.split("e", 1))
    with server.start(workers=2) as serving, Callers(serving.url) as callers:
        tools.until(lambda: (200, "v1") in callers.seen)
        for generation, share in enumerate((0.05, 0.5, 1.0, 0.0), start=2):
            server.apply(tools.split("e", generation, share))
            tools.until(lambda generation=generation: tools.carried_out(server, "e", generation))
            tools.until(lambda share=share: share < 1 or (200, "v2") in callers.seen)
        server.install("e", "m", "v3", tools.reference(shift=-1), "python")
        only = Arm(name="baseline", model="m", version="v3", weight=1.0)
        server.apply(replace(tools.split("e", 6), arms=(only,)))
        tools.until(lambda: tools.carried_out(server, "e", 6) and (200, "v3") in callers.seen)
        missing = Arm(name="baseline", model="m", version="v4", weight=1.0)
        server.apply(replace(tools.split("e", 7), arms=(missing,)))
        tools.until(lambda: all("e" in one.troubles for one in server.processes() if one.ready))
        before = len(callers.seen)
        tools.until(lambda: len(callers.seen) > before + 50)
    assert callers.broken == []
    assert {status for status, _ in callers.seen} == {200}
    assert {version for _, version in callers.seen} == {"v1", "v2", "v3"}
    assert {version for _, version in callers.seen[before:]} == {"v3"}  # v4 never loaded: the old routing stays


def test_weight_moves_in_no_process_before_the_arm_has_answered_there_and_other_endpoints_do_not_wait(
    server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    late = f"{Path(__file__).parent / 'deadly_models.py'}:Late@{tmp_path / 'now'}"
    tools.install(server, "e", v1=tools.reference(), v2=late, v3=tools.reference(shift=1))
    server.apply(tools.split("e", 1))
    server.apply(tools.split("f", 1))
    with server.start(workers=2) as serving, Callers(serving.url) as callers:
        tools.until(lambda: (200, "v1") in callers.seen)
        server.apply(tools.split("e", 2, 1.0))
        for generation in (2, 3):
            server.apply(tools.split("f", generation, salt=str(generation)))
            tools.until(lambda generation=generation: tools.carried_out(server, "f", generation))
        assert tools.carried_out(server, "e", 1)
        assert set(callers.seen) == {(200, "v1")}
        (tmp_path / "now").write_text("")
        tools.until(lambda: tools.carried_out(server, "e", 2))
        before = len(callers.seen)
        tools.until(lambda: len(callers.seen) > before + 20)
    assert callers.broken == []
    assert set(callers.seen) == {(200, "v1"), (200, "v2")}
    assert callers.seen[-1] == (200, "v2")


def test_fifty_loads_and_unloads_under_load_cost_no_request(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1))
    server.apply(tools.split("e", 1))
    told: Counter[int] = Counter()
    with server.start(workers=2, model_control=True) as serving, Callers(serving.url, count=2) as callers:
        with httpx.Client(base_url=f"{serving.url}/v2", timeout=60) as client:
            for _ in range(50):
                told[client.post("/repository/models/m/load", json={"parameters": {"version": "v2"}}).status_code] += 1
                told[client.get("/models/m/versions/v2/ready").status_code] += 1
                told[client.get("/health/ready", headers={"connection": "close"}).status_code] += (
                    1  # then whichever process
                )
                told[client.post("/repository/models/m/unload").status_code] += 1
        tools.until(lambda: len(callers.seen) > 50)
    assert told == {200: 200}
    assert callers.broken == []
    assert set(callers.seen) == {(200, "v1")}


def test_a_second_signal_waits_for_nothing(tmp_path: Path, tools: Any) -> None:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=f"{Path(__file__).parent / 'deadly_models.py'}:Deadly@wait,5")
    server.apply(tools.split("e", 1))
    told: list[str] = []

    def call(url: str) -> None:
        try:
            told.append(str(httpx.post(f"{url}/predict/e", json={"features": {"a": 200, "b": 0}}, timeout=60)))
        except httpx.TransportError:
            told.append("closed")

    with standalone(tmp_path, workers=1) as (supervisor, url):
        asking = threading.Thread(target=call, args=(url,))
        asking.start()
        tools.until(lambda: (found := calls.read(server.places.slots / "0.vitals")) and found.gauges["in_flight"])
        supervisor.terminate()
        tools.until(lambda: not any(one.ready for one in server.processes()))
        assert told == []  # the first one lets it be answered
        supervisor.terminate()
        supervisor.wait(120)
        asking.join(120)
    assert told == ["closed"]
    assert supervisor.returncode == 0


def test_a_guard_trips_and_is_reported_while_the_control_plane_is_stopped(tmp_path: Path, tools: Any) -> None:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=0.5))
    server.apply(tools.split("e", 1, 0.2, Guard(rollout_id="dep_a", step=2, share=0.2, alpha=0.001)))
    with standalone(tmp_path) as (supervisor, url):
        os.kill(supervisor.pid, signal.SIGSTOP)
        with httpx.Client(base_url=url) as client:
            statuses = Counter(client.post("/predict/e", json=ROW).status_code for _ in range(150))
            arms = {httpx.post(f"{url}/predict/e", json=ROW).json()["arm"] for _ in range(30)}  # both workers
        assert arms == {"baseline"}
        assert 3 < statuses[500] < 20
        tools.until((tmp_path / "reported.txt").exists)
        tools.until(lambda: list((tmp_path / "serving" / "trips").glob("*.recorded")))
    (trip,) = server.trips()
    assert (trip.rollout_id, trip.step, trip.metric) == ("dep_a", 2, "errors")
    assert trip.counts.arms["canary"].errors == statuses[500]
    assert (tmp_path / "reported.txt").read_text() == "dep_a 2 errors\n"  # the hook failed once, and was told once


def test_a_healthy_canary_with_its_share_of_errors_does_not_trip(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(fail=0.1), v2=tools.reference(fail=0.1))
    guard = Guard(rollout_id="dep_b", step=0, share=0.2, alpha=0.001)
    server.apply(tools.split("e", 1, 0.2, guard, salt="fixed"))
    with server.start(workers=2) as serving, httpx.Client(base_url=serving.url) as client:
        for i in range(1000):
            row = {"features": {"a": 1 + (i * 0.618034) % 1, "b": 0}, "unit_id": f"user{i}"}
            client.post("/predict/e", json=row)
    counts = server.counts("e").arms
    assert counts["baseline"].errors + counts["canary"].errors == pytest.approx(100, abs=2)
    assert counts["canary"].requests == pytest.approx(200, abs=50)
    assert server.trips() == []


def test_a_decision_whose_process_died_is_followed_and_reported_by_the_others(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    traffic = tools.split("e", 1, 0.5, Guard(rollout_id="dep_c", step=0, share=0.5))
    server.apply(traffic)
    (tmp_path / "tried").touch()
    with server.start(workers=2, report="local_models:write_down") as serving:
        with httpx.Client(base_url=serving.url) as client:
            assert {client.post("/predict/e", json=ROW).json()["arm"] for _ in range(40)} == {"baseline", "canary"}
        counts = server.counts("e")
        trip = trip_of(traffic, counts=counts, at=1.0)
        assert write_once(server.places.trip("dep_c", 0), trip)
        assert not write_once(server.places.trip("dep_c", 0), trip)
        tools.until((tmp_path / "reported.txt").exists)
        with httpx.Client(base_url=serving.url) as client:

            def answering() -> set[str]:
                return {client.post("/predict/e", json=ROW).json()["arm"] for _ in range(40)}

            tools.until(lambda: answering() == {"baseline"})  # told of by one thread, and carried out by another
            assert answering() == {"baseline"}
    server.apply(replace(traffic, generation=2))
    assert asyncio.run(_arms(server)) == {"baseline"}  # the same step published again stays rolled back


async def _arms(server: ModelServer) -> set[str]:
    from modelyard.serving import PredictionRequest

    request = PredictionRequest(request_id="r", endpoint_id="e", features=ROW["features"])
    return {(await server.predict(request)).arm for _ in range(40)}


def test_a_killed_worker_is_replaced_and_requests_go_on(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    with server.start(workers=2) as serving, Callers(serving.url, retry=True) as callers:
        tools.until(lambda: len(callers.seen) > 50)
        victim = serving.pids[0]
        os.kill(victim, signal.SIGKILL)
        before = len(callers.seen)
        tools.until(lambda: len(callers.seen) > before + 50)
        tools.until(lambda: victim not in serving.pids and tools.carried_out(server, "e", 1))
        assert serving.restarts == 1
    assert {status for status, _ in callers.seen} == {200}


def test_a_stop_answers_what_is_in_flight_and_then_nothing(server: ModelServer, tools: Any, tmp_path: Path) -> None:
    held = tmp_path / "held"
    tools.install(server, "e", v1=tools.reference(slow=20, held=str(held)))
    server.apply(tools.split("e", 1))
    serving = server.start(workers=2)
    held.touch()  # only now: a version is tried before it is served
    answers: list[int] = []

    def call(client: httpx.Client) -> None:
        with client:
            answers.append(client.post("/predict/e", json=ROW).status_code)

    clients = [
        httpx.Client(base_url=serving.url, timeout=120) for _ in range(4)
    ]  # made first, so that all call at once
    threads = [threading.Thread(target=call, args=(client,)) for client in clients]
    pids = serving.pids
    for thread in threads:
        thread.start()
    tools.until(lambda: tools.in_flight(server) == 4)
    stopping = threading.Thread(target=serving.stop)
    stopping.start()
    tools.until(lambda: not any(one.ready for one in server.processes()))
    assert answers == []
    held.unlink()
    for thread in (*threads, stopping):
        thread.join(120)
    assert answers == [200] * 4
    assert all(tools.gone(pid) for pid in pids)
    assert server.processes() == []
    serving.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{serving.url}/v2/health/live")


def test_workers_that_leave_or_come_cost_no_request(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    with server.start(workers=2) as serving, Callers(serving.url, count=4) as callers:
        for count in (4, 1, 2):
            serving.scale_to(count)
            tools.until(lambda count=count: len([one for one in server.processes() if one.ready]) == count)
    assert callers.broken == []
    assert {status for status, _ in callers.seen} == {200}
    with server.store.reading() as rows:
        told = rows.all("SELECT details FROM events WHERE event_type = 'scaled' ORDER BY position")
    assert [row["details"] for row in told] == [
        '{"after":4,"before":2}',
        '{"after":1,"before":4}',
        '{"after":2,"before":1}',
    ]


def test_workers_end_when_their_supervisor_is_killed(tmp_path: Path, tools: Any) -> None:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    with standalone(tmp_path) as (supervisor, url):
        pids = [one.pid for one in server.processes()]
        assert httpx.post(f"{url}/predict/e", json=ROW).status_code == 200
        supervisor.kill()
        tools.until(lambda: all(tools.gone(pid) for pid in pids))
    assert len(pids) == 2


def test_one_that_hangs_as_its_supervisor_is_killed_does_not_keep_the_port(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=f"{Path(__file__).parent / 'deadly_models.py'}:Deadly@hold")
    server.apply(tools.split("e", 1))

    def call(url: str) -> None:
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{url}/predict/e", json={"features": {"a": 200, "b": 0}}, timeout=60)

    with standalone(tmp_path, workers=1) as (supervisor, url):
        (victim,) = [one.pid for one in server.processes()]
        asking = threading.Thread(target=call, args=(url,))
        asking.start()
        tools.until(lambda: (found := calls.read(server.places.slots / "0.vitals")) and found.calls)
        supervisor.kill()
        supervisor.wait(120)
        monkeypatch.setattr(vigil, "HANG_S", 0.0)
        tools.until(lambda: _parent(victim) != supervisor.pid)
        assert not tools.gone(victim)
        with server.start(workers=1, port=int(url.rpartition(":")[2])) as serving:
            tools.until(lambda: tools.gone(victim))
            assert httpx.post(f"{serving.url}/predict/e", json=ROW, timeout=120).status_code == 200
        asking.join(120)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_too_much_at_once_is_a_503_that_says_when_to_come_again_though_all_of_it_is_read_in_one_turn(
    server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    held = tmp_path / "held"
    tools.install(server, "e", v1=tools.reference(slow=20, held=str(held)))
    server.apply(tools.split("e", 1))
    body = json.dumps(ROW).encode()
    post = b"POST /predict/e HTTP/1.1\r\nhost: e\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    with server.start(workers=1, hang_s=300) as serving, ExitStack() as stack:
        held.touch()  # only now: a version is tried before it is served
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", serving.port), timeout=60)) for _ in range(320)
        ]
        tools.until(
            lambda: (found := calls.read(server.places.slots / "0.vitals")) and found.gauges["connections"] >= 320
        )
        [worker] = serving.pids
        os.kill(worker, signal.SIGSTOP)
        for client in clients:
            client.sendall(post)
        os.kill(worker, signal.SIGCONT)
        refused, _, _ = select.select(clients, [], [], 60)  # the model holds those that are not refused
        assert refused
        held.unlink()
        answers = [client.recv(65536) for client in clients]
        found = Counter(answer.split(b" ", 2)[1] for answer in answers)
        assert found == {b"200": MAX_IN_FLIGHT, b"503": 320 - MAX_IN_FLIGHT}
        assert all(b"\r\nretry-after: 1\r\n" in answer for answer in answers if b" 503 " in answer[:16])
        assert httpx.post(f"{serving.url}/predict/e", json=ROW).status_code == 200


def test_a_start_that_waits_for_a_version_in_vain_names_it(
    server: ModelServer, tools: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.install(server, "e", v1=f"{Path(__file__).parent / 'deadly_models.py'}:Late@{tmp_path / 'never'}")
    server.apply(tools.split("e", 1))
    monkeypatch.setattr("modelyard.serving.supervisor.START_S", 6.0)
    with pytest.raises(Unavailable, match="not ready within 6 s"):
        server.start(workers=1)
    assert deaths(server.places, key_of(server.places.read_models()["m", "v1"], None)) == []  # it was told to end


def test_a_port_in_use_is_named(server: ModelServer) -> None:
    with server.start(workers=1) as serving, pytest.raises(Unavailable, match=f"127.0.0.1:{serving.port} is in use"):
        server.start(port=serving.port)


def test_what_the_workers_have_to_say_goes_to_the_log_and_not_to_standard_error(
    server: ModelServer, tools: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    log = server.store.folder / "logs" / "workers.txt"
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    missing = Arm(name="baseline", model="m", version="v9", weight=1.0)
    server.apply(replace(tools.split("f", 1), arms=(missing,)))
    for _ in range(2):
        with server.start(workers=1, log=log):
            pass
    lines = log.read_text().splitlines()
    assert [line.partition("WARNING ")[2] for line in lines] == [
        "f keeps its old routing: m v9 is not installed. Install it before it gets traffic."
    ] * 2  # each process tells it once
    assert capfd.readouterr().err == ""


def test_a_log_that_cannot_be_written_is_named(server: ModelServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be written"):
        server.start(log=tmp_path / "file" / "workers.txt")


@pytest.mark.parametrize(("host", "port"), [("256.0.0.1", 0), ("127.0.0.1", 70000)])
def test_an_address_that_cannot_be_had_is_named(server: ModelServer, host: str, port: int) -> None:
    with pytest.raises(Unavailable, match=f"{host}:{port}"):
        server.start(host=host, port=port)


def test_a_real_model_file_is_served_by_its_own_library(
    server: ModelServer, small_model: Path, tools: Callable[..., Any]
) -> None:
    import lightgbm

    endpoint = asyncio.run(server.deploy_model("fraud", "v1", small_model, "lightgbm", {"min_replicas": 1}))
    with server.start(workers=1) as serving:
        body = {"features": [{"a": 0.3, "b": 1.0, "c": -1.0}, {"a": -0.3, "b": 1.0, "c": -1.0}]}
        answer = httpx.post(f"{serving.url}/predict/{endpoint}", json=body, timeout=120).json()
    expected = lightgbm.Booster(model_file=small_model).predict([[0.3, 1.0, -1.0], [-0.3, 1.0, -1.0]], num_threads=1)
    assert [p[1] for p in answer["probabilities"]] == pytest.approx(list(expected), abs=1e-12)
