"""ModelServer in process: deploying, answering, experiments, and what is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from modelyard.core.canonical import plain
from modelyard.core.errors import Conflict, Forbidden, Invalid, NotFound
from modelyard.core.events import EventType
from modelyard.core.traffic import Arm, ArmCounts, Guard, GuardTrip, TrafficCounts
from modelyard.serving import ModelFramework, ModelServer, PredictionRequest
from modelyard.serving.loaded import ModelFailed

ROW = {"a": 1.0, "b": 0.5, "c": -0.2}
TRUSTED = {"trusted_code": True}


def ask(endpoint: str, features: Any = None, **more: Any) -> PredictionRequest:
    return PredictionRequest(request_id="r1", endpoint_id=endpoint, features=features or ROW, **more)


def events(server: ModelServer) -> list[tuple[str, str]]:
    with server.store.reading() as rows:
        found = rows.all("SELECT event_type, resource_id FROM events ORDER BY position")
    return [(row["event_type"], row["resource_id"]) for row in found]


def test_a_lightgbm_file_answers_as_lightgbm_itself_does(server: ModelServer, small_model: Path) -> None:
    async def scenario() -> Any:
        endpoint = await server.deploy_model("fraud", "v1.0.0", small_model, ModelFramework.LIGHTGBM)
        rows = [{"a": x, "b": -x, "c": 0.1} for x in np.linspace(-2, 2, 25)]
        return await server.batch_predict(endpoint, rows, batch_size=10), rows

    responses, rows = asyncio.run(scenario())
    assert [len(response.predictions) for response in responses] == [10, 10, 5]
    ours = np.concatenate([np.asarray(response.probabilities)[:, 1] for response in responses])
    theirs = lightgbm.Booster(model_file=small_model).predict([[r["a"], r["b"], r["c"]] for r in rows], num_threads=1)
    assert np.allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize(
    ("features", "says"),
    [
        ({"a": 1.0, "b": 2.0}, "'c'"),
        ({**ROW, "d": 1.0}, "'d'"),
        ({"a": 1.0, "b": 2.0, "C": 3.0}, "'C'"),
        ({**ROW, "a": "much"}, "'a'"),
        ({**ROW, "a": float("inf")}, "'a'"),
        ([], "empty"),
        ([ROW, {"a": 1.0}], "Row 1"),
    ],
)
def test_a_wrong_feature_is_a_value_error_that_names_it(
    server: ModelServer, small_model: Path, features: Any, says: str
) -> None:
    async def scenario() -> None:
        endpoint = await server.deploy_model("fraud", "v1.0.0", small_model, ModelFramework.LIGHTGBM)
        request = PredictionRequest(request_id="r1", endpoint_id=endpoint, features=features)
        await server.predict(request)

    with pytest.raises(ValueError, match=says):
        asyncio.run(scenario())


def test_an_experiment_splits_at_random_and_keeps_a_unit_on_its_arm(server: ModelServer, tools: Any) -> None:
    async def scenario() -> tuple[str, str, list[str]]:
        a = await server.deploy_model("m", "v1", tools.reference(), ModelFramework.PYTHON, TRUSTED)
        b = await server.deploy_model("m", "v2", tools.reference(shift=1), ModelFramework.PYTHON, TRUSTED)
        server.create_ab_test("a_vs_b", a, [b], {a: 0.7, b: 0.3})
        for _ in range(600):
            await server.predict_with_ab_test("a_vs_b", {"a": 1, "b": 0})
        sticky = [(await server.predict_with_ab_test("a_vs_b", {"a": 1, "b": 0}, unit="u7")).arm for _ in range(20)]
        return a, b, sticky

    a, b, sticky = asyncio.run(scenario())
    results = server.get_ab_test_results("a_vs_b")["results"]
    assert results[a]["requests"] + results[b]["requests"] == 620
    assert abs(results[b]["requests"] - 186) < 60
    assert len(set(sticky)) == 1
    with pytest.raises(Conflict, match="a_vs_b"):
        server.create_ab_test("a_vs_b", a, [b], {a: 0.5, b: 0.5})
    with pytest.raises(NotFound, match="m-v3"):
        server.create_ab_test("other", a, ["m-v3"], {a: 0.5, "m-v3": 0.5})


def test_an_experiment_tells_who_analyses_it_its_arms_and_shares(server: ModelServer, tools: Any) -> None:
    async def scenario() -> tuple[str, str]:
        a = await server.deploy_model("m", "v1", tools.reference(), ModelFramework.PYTHON, TRUSTED)
        return a, await server.deploy_model("m", "v2", tools.reference(), ModelFramework.PYTHON, TRUSTED)

    a, b = asyncio.run(scenario())
    server.create_ab_test("a_vs_b", a, [b], {a: 0.7, b: 0.3})
    with server.store.reading() as rows:
        told = rows.all("SELECT resource_id, details FROM events WHERE event_type = 'endpoint_created'")
    details = {row["resource_id"]: json.loads(row["details"]) for row in told}
    assert details["a_vs_b"] == {
        "generation": 1,
        "experiment": {
            "control": {"endpoint": "m-v1", "model": "m", "version": "v1"},
            "variants": [{"endpoint": "m-v2", "model": "m", "version": "v2"}],
            "split": {"m-v1": 0.7, "m-v2": 0.3},
            "salt": "a_vs_b",
        },
    }
    assert details[a] == {"generation": 1}


def test_a_models_own_failure_is_an_error_of_its_arm_and_bad_input_is_not(server: ModelServer, tools: Any) -> None:
    async def scenario() -> str:
        path = tools.reference(fail=0.5)
        endpoint = await server.deploy_model("m", "v1", path, ModelFramework.PYTHON, TRUSTED)
        with pytest.raises(ModelFailed, match="the graph is wrong"):
            await server.predict(ask(endpoint, {"a": 1.25, "b": 0}))
        with pytest.raises(Invalid):
            await server.predict(ask(endpoint, {"a": 1.25}))
        await server.predict(ask(endpoint, {"a": 1.75, "b": None}))
        return endpoint

    metrics = server.get_endpoint_metrics(asyncio.run(scenario()))
    assert (metrics["requests"], metrics["errors"], metrics["error_rate"]) == (2, 1, 0.5)


def test_code_is_refused_unless_the_endpoint_trusts_it(server: ModelServer, tools: Any) -> None:
    with pytest.raises(Forbidden, match="trusted_code"):
        asyncio.run(server.deploy_model("m", "v1", tools.reference(), ModelFramework.PYTHON))
    with pytest.raises(Forbidden, match="trusted_code"):
        server.install("other", "m", "v1", tools.reference(), "python")


@pytest.mark.parametrize(
    ("content", "framework"),
    [(b"", "lightgbm"), (b"garbage", "lightgbm"), (b"garbage", "onnx"), (b"\x08\x07garbage", "onnx")],
)
def test_a_file_that_is_no_model_leaves_no_endpoint_behind(
    server: ModelServer, tmp_path: Path, content: bytes, framework: str
) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(Invalid, match=r"m v1 cannot be served"):
        asyncio.run(server.deploy_model("m", "v1", tmp_path / "model", framework))
    assert server.endpoints() == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"min_replica": 1}, "Did you mean min_replicas"),
        ({"min_replicas": 0}, "min_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas"),
        ({"max_replicas": 51}, "max_replicas"),
        ({"target_cpu": 0}, "target_cpu"),
        ({"target_latency_ms": "fast"}, "target_latency_ms"),
        ({"payload_sampling": 1.5}, "payload_sampling"),
        ({"trusted_code": "yes"}, "trusted_code"),
    ],
)
def test_settings_that_make_no_sense_are_named(server: ModelServer, config: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        server.configure("e", config)


def test_undeploying_forgets_the_endpoint_and_deploying_again_starts_its_counts_anew(
    server: ModelServer, small_model: Path
) -> None:
    async def scenario() -> str:
        endpoint = await server.deploy_model("fraud", "v1", small_model, "lightgbm")
        await server.predict(ask(endpoint))
        await server.undeploy_model(endpoint)
        with pytest.raises(NotFound, match=endpoint):
            await server.predict(ask(endpoint))
        with pytest.raises(NotFound):
            await server.undeploy_model(endpoint)
        again = await server.deploy_model("fraud", "v1", small_model, "lightgbm")
        assert again == endpoint
        return endpoint

    assert server.get_endpoint_metrics(asyncio.run(scenario()))["requests"] == 0


def test_every_change_is_told_as_an_event(server: ModelServer, small_model: Path) -> None:
    async def scenario() -> None:
        endpoint = await server.deploy_model("fraud", "v1", small_model, "lightgbm")
        await server.undeploy_model(endpoint)

    asyncio.run(scenario())
    assert events(server) == [
        ("model_compiled", "fraud:v1"),
        ("endpoint_created", "fraud-v1"),
        ("traffic_changed", "fraud-v1"),
        ("endpoint_removed", "fraud-v1"),
    ]


def test_a_trip_is_recorded_once_and_can_be_read_back(server: ModelServer) -> None:
    import msgspec

    arms = {"canary": ArmCounts(requests=9, errors=4, latency={3: 9}), "baseline": ArmCounts(requests=90)}
    counts = TrafficCounts(endpoint="e", generation=2, arms=arms)
    trip = GuardTrip(
        endpoint="e",
        generation=2,
        rollout_id="dep_1",
        step=1,
        metric="errors",
        e_value=2000.0,
        threshold=1000.0,
        counts=counts,
        reason="worse",
        at=1.0,
    )
    assert [server.record(trip), server.record(trip)] == [True, False]
    assert server.trips() == [trip]
    with server.store.reading() as rows:
        found = rows.all("SELECT details FROM events WHERE event_type = :t", t=EventType.GUARD_TRIPPED.value)
    assert len(found) == 1
    told = msgspec.convert(msgspec.json.decode(found[0]["details"])["trip"], GuardTrip)
    assert plain(told.counts.arms["canary"])["errors"] == 4


def test_a_guard_trips_in_process_too_and_everything_goes_back_to_the_baseline(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=1.0))
    server.apply(tools.split("e", 1, 0.2, Guard(rollout_id="dep_x", step=0, share=0.2, alpha=0.001)))

    async def scenario() -> list[str]:
        arms = []
        for _ in range(200):
            try:
                arms.append((await server.predict(ask("e", {"a": 1.5, "b": 0}))).arm)
            except ModelFailed:
                arms.append("failed")
        return arms

    arms = asyncio.run(scenario())
    (trip,) = server.trips()
    assert trip.metric == "errors"
    assert trip.e_value >= trip.threshold == 1000
    assert trip.counts.arms["canary"].errors == arms.count("failed") < 20
    last = len(arms) - 1 - arms[::-1].index("failed")
    assert set(arms[last + 1 :]) == {"baseline"}


def test_one_units_burst_of_errors_counts_once(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=1.0))
    server.apply(tools.split("e", 1, 0.5, Guard(rollout_id="dep_x", step=0, share=0.5, alpha=0.001)))

    async def scenario() -> int:
        failed = 0
        for unit in ("u1", "u2", "u3", "u4"):
            for _ in range(40):
                try:
                    await server.predict(ask("e", {"a": 1.5, "b": 0}, unit=unit))
                except ModelFailed:
                    failed += 1
        return failed

    failed = asyncio.run(scenario())
    counts = server.counts("e")
    assert failed == counts.arms["canary"].requests > 0
    assert counts.arms["canary"].errors == failed / 40
    assert server.trips() == []


def test_the_warm_up_is_counted_as_requests_and_not_as_evidence(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=1.0))
    server.apply(tools.split("e", 1, 0.5, Guard(rollout_id="dep_x", step=0, share=0.5, warmup=1000)))

    async def scenario() -> None:
        for _ in range(60):
            try:
                await server.predict(ask("e", {"a": 1.5, "b": 0}))
            except ModelFailed:
                continue

    asyncio.run(scenario())
    canary = server.counts("e").arms["canary"]
    assert canary.requests > 0
    assert canary.errors == 0
    assert server.trips() == []


def test_a_shadow_is_compared_and_never_answers(server: ModelServer, tools: Any) -> None:
    from modelyard.core.traffic import Arm

    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1.0), v3=tools.reference(fail=1.0))
    shadow = Arm(name="shadow", model="m", version="v2", weight=0.0)
    server.apply(tools.split("e", 1, shadow=shadow, shadow_share=1.0))

    async def scenario() -> list[Any]:
        return [(await server.predict(ask("e", {"a": x, "b": 0}))).predictions for x in (-1, 0.5, 0.6, 2, 3)]

    assert asyncio.run(scenario()) == [[0], [1], [1], [1], [1]]
    tools.until(lambda: server.counts("e").shadow.compared == 5, 120)  # it gets little of a busy machine
    assert server.counts("e").shadow.agreed == 3
    broken = Arm(name="shadow", model="m", version="v3", weight=0.0)
    server.apply(tools.split("e", 2, shadow=broken, shadow_share=1.0))
    tools.until(
        lambda: asyncio.run(server.predict(ask("e", {"a": 1, "b": 0}))) and server.counts("e").shadow.errors, 120
    )


def test_the_payload_log_has_every_row_with_its_answer_and_survives_a_dropped_server(
    tmp_path: Path, tools: Any
) -> None:
    async def scenario(server: ModelServer) -> str:
        endpoint = await server.deploy_model("m", "v1", tools.reference(), "python", TRUSTED)
        await server.batch_predict(endpoint, [{"a": i, "b": None} for i in range(25)], batch_size=10)
        return endpoint

    endpoint = asyncio.run(scenario(ModelServer(tmp_path)))
    reader = ModelServer(tmp_path)
    rows = tools.until(lambda: len(found := list(reader.payload_rows(endpoint))) == 25 and found)
    assert [row["features"]["a"] for row in rows] == list(range(25))
    assert rows[3]["prediction"] == 1
    assert rows[3]["row"] == 3
    assert len(rows[3]["probabilities"]) == 2
    assert list(reader.payload_rows(endpoint, since=rows[-1]["at"] + 1)) == []
    torn = tools.until(lambda: list((tmp_path / "serving" / "payloads" / endpoint).glob("*.rows")))[0]
    with torn.open("ab") as stream:
        stream.write(b'{"request_id": "half')
    assert len(list(reader.payload_rows(endpoint))) == 25


def test_nothing_is_logged_at_a_sampling_of_zero(server: ModelServer, tools: Any) -> None:
    async def scenario() -> str:
        config = {"payload_sampling": 0, **TRUSTED}
        endpoint = await server.deploy_model("m", "v1", tools.reference(), "python", config)
        await server.predict(ask(endpoint, {"a": 1, "b": 1}))
        await server.close()
        return endpoint

    assert list(server.payload_rows(asyncio.run(scenario()))) == []


def test_closing_twice_and_without_awaiting_is_fine(server: ModelServer, small_model: Path) -> None:
    async def scenario() -> None:
        endpoint = await server.deploy_model("fraud", "v1", small_model, "lightgbm")
        await server.predict(ask(endpoint))
        await server.close()
        server.close()

    asyncio.run(scenario())


def test_two_servers_on_one_folder_share_counts_and_routing(tmp_path: Path, small_model: Path) -> None:
    one, other = ModelServer(tmp_path), ModelServer(tmp_path)

    async def scenario() -> str:
        endpoint = await one.deploy_model("fraud", "v1", small_model, "lightgbm")
        await one.predict(ask(endpoint))
        await other.predict(ask(endpoint))
        return endpoint

    assert one.get_endpoint_metrics(asyncio.run(scenario()))["requests"] == 2


def test_publishing_again_repairs_files_that_were_lost(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    server.places.traffic("e").unlink()
    server.places.models.unlink()
    server.publish()
    assert asyncio.run(server.predict(ask("e", {"a": 1, "b": 1}))).predictions == [1]


def test_a_version_that_is_not_installed_keeps_the_old_routing_and_says_so(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    assert asyncio.run(server.predict(ask("e", {"a": 1, "b": 1}))).model_version == "v1"
    server.apply(tools.split("e", 2, 0.5))
    tools.until(lambda: asyncio.run(server.predict(ask("e", {"a": 1, "b": 1}))) and server.processes()[0].troubles)
    (process,) = server.processes()
    assert "m v2 is not installed" in process.troubles["e"]
    assert process.generations == {"e": 1}


def test_counts_of_an_older_generation_are_those_of_its_own_arms(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    ask = PredictionRequest(request_id="r", endpoint_id="e", features={"a": 1, "b": 0})
    server.apply(tools.split("e", 1, share=1.0))

    async def answered(times: int) -> None:
        for _ in range(times):
            await server.predict(ask)

    asyncio.run(answered(5))
    only = Arm(name="other", model="m", version="v2", weight=1.0)
    server.apply(replace(tools.split("e", 2), arms=(only,)))
    server.close()
    asyncio.run(answered(3))
    assert {name: arm.requests for name, arm in server.counts("e", 1).arms.items()} == {"baseline": 0, "canary": 5}
    assert {name: arm.requests for name, arm in server.counts("e").arms.items()} == {"other": 3}


def test_the_first_calls_may_come_at_once(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))

    async def all_at_once() -> list[Any]:
        asked = [PredictionRequest(request_id=f"r{i}", endpoint_id="e", features={"a": 1, "b": 0}) for i in range(20)]
        return list(await asyncio.gather(*(server.predict(one) for one in asked)))

    assert len({answer.request_id for answer in asyncio.run(all_at_once())}) == 20
    assert server.counts("e").arms["baseline"].requests == 20
