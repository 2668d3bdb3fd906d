"""Serving processes on other nodes: what they and the yard tell each other arrives once, however often it is told."""

from __future__ import annotations

import asyncio
import math
import os
import random
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.assignment import position, unit_hash
from modelyard.core.errors import Damaged, NotFound, Unavailable
from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer, counter_file, counters, nodes, nodes_process
from modelyard.serving.lasting import repeat
from modelyard.serving.metrics import prometheus
from modelyard.serving.nodes_process import Process, Residue
from modelyard.serving.nodes_serving import ongoing, spread
from modelyard.serving.nodes_yard import Headquarters
from modelyard.serving.places import Places, SlotReport
from modelyard.stats.rollback import State


class Wire:
    """A link to a yard in this process, that loses and repeats messages."""

    def __init__(self, head: Headquarters, node: str = "here", *, lost: float = 0.0, seed: int = 0) -> None:
        self.head, self.node = head, node
        self._draw, self._loss = random.Random(seed), lost
        self.away = False
        self.fetched: list[str] = []

    lost = False

    @property
    def yard(self) -> str:
        return self.head.yard

    async def turn(self, uid: str, report: bytes) -> bytes | None:
        if self.away or self._draw.random() < self._loss:
            raise Unavailable("The message was lost.")
        name, _ = self.head.snapshot()
        self.head.look()
        reply = self.head.take(uid, report, name)
        if self._draw.random() < self._loss:
            reply = self.head.take(uid, report, name)
        if self._draw.random() < self._loss:
            raise Unavailable("The reply was lost.")
        return reply

    async def fetch(self, name: str) -> bytes:
        if self.away:
            raise Unavailable("The yard is away.")
        self.fetched.append(name)
        known, data = self.head.snapshot()
        if name == known:
            return data
        if name not in self.head.digests:
            raise NotFound(name)
        return self.head.packed(name)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELYARD_NODE_FOLDER", str(tmp_path / "node"))
    monkeypatch.setattr(nodes_process, "TURN_S", 0.02)
    monkeypatch.setattr(nodes_process, "ADOPT_S", 0.05)


@pytest.fixture
def head(server: ModelServer) -> Headquarters:
    return Headquarters(server.places)


@pytest.fixture
def endpoint(server: ModelServer, small_model: Path) -> str:
    """An endpoint of a real model file, from whose counts everything of this process is gone."""
    name = asyncio.run(server.deploy_model("fraud", "v1", small_model, "lightgbm", {"payload_durable": True}))
    server.close()
    return name


async def ask(process: Process, endpoint: str, ids: list[str], row: dict[str, Any] | None = None) -> list[int]:
    transport = httpx.ASGITransport(app=process)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        statuses = []
        for request in ids:
            body = {"features": row or {"a": 0.3, "b": 1.0, "c": -1.0}, "request_id": request}
            statuses.append((await client.post(f"/predict/{endpoint}", json=body)).status_code)
        return statuses


async def until(what: Any, seconds: float = 120.0) -> None:
    end = asyncio.get_running_loop().time() + seconds
    while not what():
        assert asyncio.get_running_loop().time() < end, "it did not come about in time"
        await asyncio.sleep(0.02)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def ids_of(server: ModelServer, endpoint: str) -> list[str]:
    return sorted(row["request_id"] for row in server.payload_rows(endpoint))


def requests(server: ModelServer, endpoint: str) -> int:
    return server.counts(endpoint).arms["baseline"].requests


async def abandoned(process: Process) -> None:
    """End a process as a kill does: nothing more is told, and the kernel gives its locks back."""
    for task in process._tasks:
        task.cancel()
    await asyncio.gather(*process._tasks, return_exceptions=True)
    process.plane.close()
    process._shadowing.stop()
    process.desk.stop()
    os.close(process._lock)


def test_a_process_elsewhere_answers_counts_and_logs_as_one_of_the_yard(
    server: ModelServer, head: Headquarters, endpoint: str, tmp_path: Path
) -> None:
    async def work() -> None:
        wire = Wire(head)
        process = Process(wire)
        await process.begin()
        (said,) = [one for one in server.processes() if one.ready]
        assert said.generations == {endpoint: 1}
        assert await ask(process, endpoint, [f"r{n}" for n in range(30)]) == [200] * 30
        await until(lambda: requests(server, endpoint) == 30 and len(ids_of(server, endpoint)) == 30)
        (installed,) = process.places.read_models().values()
        assert Path(installed.path).is_relative_to(tmp_path / "node" / "models")
        assert len(wire.fetched) == len(set(wire.fetched))
        await process.end()

    run(work())
    assert ids_of(server, endpoint) == sorted(f"r{n}" for n in range(30))
    assert server.get_endpoint_metrics(endpoint)["requests"] == 30
    assert [one for one in server.processes() if one.ready] == []
    assert list((tmp_path / "node" / "processes" / head.yard).iterdir()) == []


@pytest.mark.parametrize("seed", range(3))
def test_messages_that_are_lost_and_repeated_change_nothing(
    server: ModelServer, head: Headquarters, endpoint: str, seed: int
) -> None:
    async def work() -> None:
        wires = [Wire(head, f"n{n}", lost=0.4, seed=10 * seed + n) for n in range(2)]
        processes = [Process(wire) for wire in wires]
        await asyncio.gather(*(process.begin() for process in processes))
        for turn in range(5):
            for number, process in enumerate(processes):
                await ask(process, endpoint, [f"{number}-{turn}-{n}" for n in range(8)])
            await asyncio.sleep(0.05)
        await until(lambda: requests(server, endpoint) == 80 and len(ids_of(server, endpoint)) == 80)
        for wire in wires:
            wire._loss = 0.0
        await asyncio.gather(*(process.end() for process in processes))

    run(work())
    assert requests(server, endpoint) == 80
    assert len(set(ids_of(server, endpoint))) == len(ids_of(server, endpoint)) == 80


def test_what_a_dead_process_had_not_told_is_told_by_another_one_of_its_machine(
    server: ModelServer, head: Headquarters, endpoint: str, tmp_path: Path
) -> None:
    async def work() -> None:
        wire, other = Wire(head, "a"), Wire(head, "b")
        first = Process(wire)
        await first.begin()
        await ask(first, endpoint, ["r0", "r1"])
        await until(lambda: requests(server, endpoint) == 2)
        wire.away = True
        assert await ask(first, endpoint, [f"r{n}" for n in range(2, 20)]) == [200] * 18  # the routing stays in force
        await abandoned(first)
        assert requests(server, endpoint) == 2
        second = Process(other)
        await second.begin()
        await until(lambda: requests(server, endpoint) == 20 and len(ids_of(server, endpoint)) == 20)
        await until(lambda: not (tmp_path / "node" / "processes" / head.yard / first.uid).exists())
        await second.end()

    run(work())
    assert ids_of(server, endpoint) == sorted(f"r{n}" for n in range(20))
    assert requests(server, endpoint) == 20


def test_another_process_of_the_yard_takes_over_and_counts_nothing_twice(server: ModelServer, endpoint: str) -> None:
    async def work() -> None:
        first = Headquarters(server.places)
        wire = Wire(first)
        process = Process(wire)
        await process.begin()
        await ask(process, endpoint, [f"a{n}" for n in range(10)])
        await until(lambda: requests(server, endpoint) == 10 and len(ids_of(server, endpoint)) == 10)
        wire.away = True
        await ask(process, endpoint, [f"b{n}" for n in range(5)])
        first.close()
        wire.head = Headquarters(server.places)
        assert wire.head.yard == first.yard
        wire.away = False
        await until(lambda: requests(server, endpoint) == 15)
        await process.end()

    run(work())
    assert requests(server, endpoint) == 15
    assert ids_of(server, endpoint) == sorted([*(f"a{n}" for n in range(10)), *(f"b{n}" for n in range(5))])


def test_a_guard_judges_what_all_nodes_have_counted(server: ModelServer, head: Headquarters, tools: Any) -> None:
    """Each node alone has too few failures to decide anything; together they have enough."""
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=0.5))
    guard = Guard(rollout_id="dep_n", step=1, share=0.5, alpha=0.001)
    server.apply(tools.split("e", 1, 0.5, guard))
    row = {"a": 0.25, "b": 0}

    async def work() -> None:
        processes = [Process(Wire(head, f"n{n}")) for n in range(3)]
        await asyncio.gather(*(process.begin() for process in processes))
        for _ in range(40):
            for process in processes:
                await ask(process, "e", ["x"], row)
            if server.trips():
                break
            await asyncio.sleep(0.05)
        assert server.trips()
        (trip,) = server.trips()
        together = trip.counts.arms["canary"].errors
        alone = [int(process.desk.routes.by_name["e"].counters.row(0)[1, counter_file.BAD]) for process in processes]
        assert max(alone) < together  # what decided was not one process's own
        await until(lambda: all(process.desk.routes.by_name["e"].counters.tripped for process in processes))
        for process in processes:
            assert await ask(process, "e", ["y"] * 20, row) == [200] * 20
        await asyncio.gather(*(process.end() for process in processes))

    run(work())


def test_a_node_asks_the_shadow_in_a_process_beside_and_tells_the_yard(
    server: ModelServer, head: Headquarters, tools: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1.0))
    server.configure("f", {"trusted_code": True})
    shadow, lacking = (Arm(name="shadow", model="m", version=version, weight=0.0) for version in ("v2", "v9"))
    server.apply(tools.split("e", 1, shadow=shadow, shadow_share=1.0))
    server.apply(tools.split("f", 1, shadow=lacking, shadow_share=1.0))

    async def work() -> None:
        process = Process(Wire(head))
        await process.begin()
        assert await ask(process, "e", ["a"], {"a": 0.5, "b": 0}) == [200]
        assert await ask(process, "e", ["b"], {"a": 5, "b": 0}) == [200]
        await until(lambda: server.counts("e").shadow.compared == 2)
        assert server.counts("e").shadow.agreed == 1
        await until(lambda: any("v9 is not installed" in one.troubles.get("f", "") for one in server.processes()))
        await process.end()

    run(work())


def test_counts_can_be_told_while_others_count_on(tmp_path: Path) -> None:
    """numpy's nonzero gives up where an array changes under it."""
    counter_file.create(tmp_path / "c.bin")
    words = counters.Counters(tmp_path / "c.bin").row(0).reshape(-1)
    ended = threading.Event()

    def count() -> None:
        while not ended.is_set():
            words[::2] = 1
            words[::2] = 0

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(3000):
            places, values = nodes.sparse(words)
            assert len(values) == 2 * len(places)
            assert np.frombuffer(values, np.int64).all()
    finally:
        ended.set()
        thread.join()


def test_a_report_has_no_row_that_its_counts_leave_out(tmp_path: Path) -> None:
    """A request that is answered while a report is made is in its counts at least."""
    places = Places(tmp_path)
    places.make()
    file = places.counters("e", 1)
    file.parent.mkdir(parents=True)
    counter_file.create(file)
    own = counters.Counters(file, 0)

    class Busy(Residue):
        def _pieces(self) -> list[nodes.Piece]:
            found = super()._pieces()
            own.answered(0, 100.0)
            return found

    [told] = Busy(tmp_path).report(SlotReport(pid=1, ready=True)).counts
    assert nodes.dense(told.words, own.total())[0, counter_file.REQUESTS] == 1


def test_the_yard_shows_what_processes_elsewhere_hold_and_measure(
    server: ModelServer, head: Headquarters, tools: Any, tmp_path: Path
) -> None:
    """Under the worker's own label; what the kernel of this machine says of that process id is not told."""
    held = tmp_path / "held"
    tools.install(server, "e", v1=tools.reference(slow=20, held=str(held)))
    server.apply(tools.split("e", 1))

    async def scenario() -> None:
        process = Process(Wire(head))
        await process.begin()
        held.touch()  # only now: a version is tried before it is served
        asked = asyncio.create_task(ask(process, "e", ["r1"], {"a": 1.0, "b": 0.0}))
        await until(lambda: 'modelyard_requests_in_flight{worker="0"} 1' in prometheus(server.places))
        held.unlink()
        assert await asked == [200]
        await until(
            lambda: 'modelyard_queue_duration_seconds_count{endpoint="e",arm="baseline"} 1' in prometheus(server.places)
        )
        told = prometheus(server.places)
        assert 'modelyard_model_load_duration_seconds_count{model="m",version="v1"} 1' in told
        assert 'modelyard_requests_total{endpoint="e",arm="baseline",code="200"} 1' in told
        assert 'process_open_fds{worker="0"}' not in told
        (report,) = server.processes()
        assert report.node == "here"
        await process.end()

    run(scenario())
    told = prometheus(server.places)
    assert 'modelyard_requests_total{endpoint="e",arm="baseline",code="200"} 1' in told


def test_a_round_that_fails_is_told_once_and_the_next_one_tries_again(caplog: pytest.LogCaptureFixture) -> None:
    met: list[Exception] = [OSError("full"), OSError("full"), RuntimeError("odd"), RuntimeError("odd")]
    done = []

    async def once() -> None:
        if met:
            raise met.pop(0)
        done.append(1)
        if len(done) == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(repeat(0.0, once, "It does not work"))
    assert [record.getMessage() for record in caplog.records] == ["It does not work: full", "It does not work."]


def test_an_unlucky_unit_counts_once_on_all_nodes_together(server: ModelServer, head: Headquarters, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(fail=0.5), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.5, Guard(rollout_id="dep_u", step=0, share=0.5)))
    unit = next(u for u in map(str, range(99)) if position(unit_hash("", u)) < 0.5)  # its arm is the one that fails

    async def asked(process: Process, count: int) -> list[int]:
        transport = httpx.ASGITransport(app=process)
        async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
            body = {"features": {"a": 0.25, "b": 0}, "unit_id": unit}
            return [(await client.post("/predict/e", json=body)).status_code for _ in range(count)]

    def errors() -> int:
        return server.counts("e").arms["baseline"].errors

    async def work() -> None:
        first, second = Process(Wire(head, "a")), Process(Wire(head, "b"))
        await asyncio.gather(first.begin(), second.begin())
        assert await asked(first, 3) == [500] * 3
        await until(lambda: errors() == 1)
        await until(second.desk.routes.by_name["e"].counters.marks.any)
        assert await asked(second, 5) == [500] * 5
        await until(lambda: requests(server, "e") == 8)
        await asyncio.gather(first.end(), second.end())

    run(work())
    assert errors() == 1


def test_new_routing_and_its_model_reach_a_process_and_a_missing_one_leaves_the_old_in_force(
    server: ModelServer, head: Headquarters, endpoint: str, small_model: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(small_model.read_bytes())

    def only(version: str, generation: int) -> Traffic:
        arm = Arm(name="baseline", model="fraud", version=version, weight=1.0)
        return Traffic(endpoint=endpoint, generation=generation, arms=(arm,))

    async def work() -> None:
        wire = Wire(head)
        process = Process(wire)
        await process.begin()
        server.install(endpoint, "fraud", "v2", other, "lightgbm")
        server.apply(only("v2", 2))
        await until(lambda: process.desk.routes.generations == {endpoint: 2})
        fetched = [name for name in wire.fetched if len(name) == 64]
        assert len(fetched) == len(set(fetched))
        server.apply(only("v3", 3))
        await until(lambda: endpoint in process.desk.routes.troubles)
        assert await ask(process, endpoint, ["r"]) == [200]
        server.remove(endpoint)
        await until(lambda: not process.desk.routes.by_name)
        assert await ask(process, endpoint, ["r"]) == [404]
        await process.end()

    run(work())


def test_the_models_that_a_python_service_is_given_travel_with_it(
    server: ModelServer, head: Headquarters, endpoint: str, tools: Any, tmp_path: Path
) -> None:
    server.configure("s", {"trusted_code": True})
    server.install("s", "service", "v1", tools.reference(), "python", uses={"scorer": "fraud:v1"})
    arm = Arm(name="baseline", model="service", version="v1", weight=1.0)
    server.apply(Traffic(endpoint="s", generation=1, arms=(arm,)))

    async def work() -> None:
        process = Process(Wire(head))
        await process.begin()
        (used,) = process.places.read_models()["service", "v1"].uses
        assert Path(used.installed.path).is_relative_to(tmp_path / "node" / "models")
        assert Path(used.installed.path).exists()
        await process.end()

    run(work())


def test_a_yard_that_never_answers_is_told_of(
    head: Headquarters, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_process, "FIRST_S", 0.2)

    async def work() -> None:
        wire = Wire(head)
        wire.away = True
        process = Process(wire)
        with pytest.raises(Unavailable, match="did not answer the node here"):
            await process.begin()
        wire.away = False
        await process.end()

    run(work())


def test_a_model_travels_by_its_content_alone(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number) / "model"
        (folder / "inner").mkdir(parents=True)
        (folder / "a.bin").write_bytes(b"a" * 1000)
        (folder / "inner" / "b.txt").write_text("b")
        os.utime(folder / "a.bin", (number, number))
    first, second = (nodes.pack(tmp_path / str(number) / "model") for number in (1, 2))
    assert first == second
    digest = nodes.digest_of(first)
    place = nodes.unpack(first, digest, tmp_path / "cache")
    assert nodes.unpack(first, digest, tmp_path / "cache") == place == nodes.unpacked(digest, tmp_path / "cache")
    assert (place / "inner" / "b.txt").read_text() == "b"
    assert sorted(one.name for one in (tmp_path / "cache").iterdir()) == [digest]
    with pytest.raises(Damaged, match="other bytes"):
        nodes.unpack(first + b"\0", digest, tmp_path / "cache")


def test_garbage_from_a_node_is_told_of_and_changes_nothing(head: Headquarters) -> None:
    for data in (b"", b"\xc1", b"{}", nodes.encode([1, 2]), nodes.encode({"number": "x"})):
        with pytest.raises(Damaged, match="do not understand each other"):
            head.take("n", data, "s")


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=200))
def test_counts_survive_the_journey(values: list[int]) -> None:
    words = np.array(values, np.int64)
    assert (nodes.dense(nodes.sparse(words), words) == words).all()


@given(st.integers(1, 50), st.integers(1, 60))
def test_processes_fit_on_the_nodes_that_are_left_when_one_is_lost(most: int, count: int) -> None:
    each = spread(most, count)
    assert each * max(count - 1, 1) >= most
    assert (each - 1) * max(count - 1, 1) < most  # and no more share a node than must


@given(st.floats(0.01, 0.89), st.floats(0.01, 0.89))
def test_busier_processes_have_more_requests_at_a_time(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 < ongoing(low) <= ongoing(high)


def test_the_yard_looks_for_late_faults_in_what_all_nodes_have_counted(server: ModelServer, tools: Any) -> None:
    """After 1,000 failures in proportion the canary's are ten times as many: plain evidence is far from it."""
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.05, Guard(rollout_id="r", step=0, share=0.05)))
    head = Headquarters(server.places)
    head.snapshot()
    slots = [counters.Counters(server.places.counters("e", 1), slot) for slot in (3, 4)]
    for number in range(1000):
        slots[number % 2].outcome(int(number % 20 == 0), None, failed=True)
        head.look()
    assert not server.trips()
    for number in range(60):
        slots[number % 2].outcome(int(number % 3 == 0), None, failed=True)
        head.look()
        if server.trips():
            break
    (trip,) = server.trips()
    assert trip.evidence["errors"] >= math.log(1000) > max(State.of(trip.counts.arms["canary"].tests["errors"]).logs)
    assert slots[0].tripped
