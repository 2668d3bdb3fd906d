"""What a request's outcome does to the counts, and which arm a unit gets: the same in every serving process."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from typing import Any

import pytest

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer, detectors, guard
from modelyard.serving.counters import COLD
from modelyard.serving.desk import Desk
from modelyard.serving.http import Question
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.plane import Plane
from modelyard.serving.routing import Route


def opened(server: ModelServer) -> tuple[Desk, Route]:
    desk = Desk(server.places)
    desk.routes.refresh()
    return desk, desk.routes.find("e")


def test_a_unit_goes_where_the_first_eight_bytes_of_sha256_say(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.25, salt="dep_1"))
    _, route = opened(server)
    for number in range(300):
        place = int.from_bytes(hashlib.sha256(f"dep_1:user{number}".encode()).digest()[:8], "big") / 2**64
        assert route.choose(f"user{number}")[0] == int(place >= 0.75)  # arms take their ranges in the traffic's order


@pytest.mark.parametrize(
    ("granted", "arm", "millis", "slow"),
    [
        ({"latency_margin": 0.5}, "canary", 14.99, {"p50": 0}),
        ({"latency_margin": 0.5}, "canary", 15.01, {"p50": 1}),
        ({"latency_margin": 0.5}, "baseline", 9.99, {"p50": 0}),
        ({"latency_margin": 0.5}, "baseline", 10.01, {"p50": 1}),
        ({"latency_margin": 0.1, "latency_floor_ms": 3.0}, "canary", 12.99, {"p50": 0}),
        ({"latency_margin": 0.1, "latency_floor_ms": 3.0}, "canary", 13.01, {"p50": 1}),
        ({"latency_floor_ms": 3.0}, "baseline", 10.01, {"p50": 1}),
        ({}, "canary", 10.01, {"p50": 1}),
    ],
)
def test_only_the_canary_is_granted_something_before_an_answer_counts_as_slow(
    server: ModelServer, tools: Any, granted: dict[str, float], arm: str, millis: float, slow: dict[str, int]
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    slowness = Guard(rollout_id="r", step=0, share=0.25, latency_ms={"p50": 10.0}, **granted)
    server.apply(tools.split("e", 1, 0.25, slowness))
    desk, route = opened(server)
    for _ in range(COLD if arm == "canary" else 0):
        desk.count(route, route.arm("canary"), None, micros=1e6, failed=False)  # what it does first is not called slow
    desk.count(route, route.arm(arm), None, micros=1000 * millis, failed=False)
    assert server.counts("e").arms[arm].slower == slow


def test_each_arm_on_trial_is_warm_and_no_longer_cold_by_its_own_answers(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(), v3=tools.reference())
    shares = {"one": 0.2, "other": 0.2, "control": 0.6}
    arms = tuple(Arm(name=name, model="m", version=f"v{n}", weight=w) for n, (name, w) in enumerate(shares.items(), 1))
    told = {"rollout_id": "t", "step": 0, "share": 0.25, "control": "control", "warmup": 2, "latency_ms": {"p50": 1.0}}
    guards = tuple(Guard(arm=name, **told) for name in ("one", "other"))  # type: ignore[arg-type]  # keywords of one dict
    server.apply(Traffic(endpoint="e", generation=1, arms=arms, guards=guards, salt="t"))
    desk, route = opened(server)
    assert route.traffic.arms[route.baseline].name == "control"
    for name in ("one", "one", "one", "other", "control"):
        desk.count(route, route.arm(name), None, micros=5000.0, failed=True)
    assert not route.counters.warm
    desk.count(route, route.arm("other"), None, micros=5000.0, failed=True)
    assert route.counters.warm
    for name in ("one", "other", "control"):
        for _ in range(COLD + 1):
            desk.count(route, route.arm(name), None, micros=5000.0, failed=False)
    slower = {name: arm.slower for name, arm in server.counts("e").arms.items()}
    assert slower == {"one": {"p50": 1}, "other": {"p50": 1}, "control": {"p50": COLD + 1}}


def test_a_decision_that_cannot_be_written_is_carried_out_and_written_when_it_can_be(
    server: ModelServer, tools: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.25, Guard(rollout_id="r", step=0, share=0.25, alpha=0.01)))
    desk, route = opened(server)
    away = server.places.trips.rename(server.places.root / "away")
    server.places.trips.touch()  # where a file lies, no file can be written
    for number in range(20):
        desk.count(route, route.arm("canary"), number, micros=1000.0, failed=True)
        guard.look(server.places, [route])
    assert route.counters.tripped
    assert not server.trips()
    server.places.trips.unlink()
    away.rename(server.places.trips)
    guard.look(server.places, [route])
    assert [(trip.rollout_id, trip.metric) for trip in server.trips()] == [("r", "errors")]


def test_clients_who_hang_up_on_a_slow_canary_are_evidence_against_it(server: ModelServer, tools: Any) -> None:
    """A version that takes longer than clients wait never answers, and so would never be judged."""
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(slow=20))
    guarded = Guard(rollout_id="r", step=0, share=0.25, latency_ms={"p50": 0.0001, "p99": 0.0002})
    server.apply(tools.split("e", 1, 0.25, guarded))
    desk, route = opened(server)
    plane = Plane(desk, RequestMetrics(server.places, desk.slot.number))
    body = b'{"features": {"a": 1.0, "b": 1.0}}'

    async def hang_up() -> None:
        coming = plane.answer(Question(b"POST", b"/predict/e", {b"x-unit-id": unit}, body))
        assert inspect.isawaitable(coming)
        task = asyncio.ensure_future(coming)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    units = (f"user{number}".encode() for number in range(1000))
    for _ in range(COLD + 3):
        unit = next(one for one in units if route.choose(one.decode())[0] == route.arm("canary"))
        asyncio.run(hang_up())
    plane.close()
    arm = server.counts("e").arms["canary"]
    assert (arm.requests, arm.units, arm.errors, arm.slower) == (COLD + 3, COLD + 3, 0, {"p50": 3, "p99": 3})
    desk.left(route, route.arm("canary"), None, micros=0.15)  # sooner than that is no answer to how slow it is
    assert server.counts("e").arms["canary"].requests == COLD + 3


def test_failures_of_one_joined_call_are_evidence_once_on_trial_and_each_on_the_control(
    server: ModelServer, tools: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.05, Guard(rollout_id="r", step=0, share=0.05)))
    desk, route = opened(server)
    units = iter(range(100))
    for arm in ("canary", "baseline"):
        for call, hashed in ((7, None), (7, None), (7, next(units)), (8, next(units)), (8, None), (0, None), (0, None)):
            desk.count(route, route.arm(arm), hashed, micros=500.0, failed=True, call=call)
    counts = detectors.counted(route.counters, route.traffic)
    assert [counts.arms[arm].errors for arm in ("canary", "baseline")] == [7, 7]
    assert [counts.arms[arm].units for arm in ("canary", "baseline")] == [7, 7]
    judged = route.counters.outcomes(route.arm("canary"), route.arm("baseline"), route.traffic.guard).now
    assert judged["errors"] == ((4,), (7,))
