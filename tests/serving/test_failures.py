"""What a model failed to answer can be read from the payload log: who asked what, which arm, and what broke."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from modelyard.core.errors import Invalid
from modelyard.core.traffic import Arm
from modelyard.serving import ModelServer, compaction, failures, payloads
from modelyard.serving.desk import Desk
from modelyard.serving.loaded import ModelFailed
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.plane import Plane
from modelyard.serving.values import EndpointConfig


@pytest.fixture
def plane(server: ModelServer, tools: Any) -> Iterator[Plane]:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(fail=1.0))
    server.apply(tools.split("e", 1, 0.5))
    desk = Desk(server.places)
    desk.routes.refresh()
    plane = Plane(desk, RequestMetrics(server.places, desk.slot.number))
    yield plane
    plane.close()
    desk.stop()


def ask(plane: Plane, arm: str, request_id: str, rows: Any, endpoint: str = "e", **more: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(plane), base_url="http://x") as client:
            body = {"features": rows, "request_id": request_id, **more}
            return await client.post(f"/predict/{endpoint}", json=body, headers={"x-modelyard-arm": arm} if arm else {})

    return asyncio.run(asked())


def kept(server: ModelServer, **chosen: Any) -> list[dict[str, Any]]:
    return list(server.payload_rows("e", result="failed", **chosen))


def test_failed_requests_are_read_with_their_error_and_answered_ones_without(
    server: ModelServer, plane: Plane, tools: Any
) -> None:
    server.apply(tools.split("e", 2, 0.999999))
    plane.desk.routes.refresh()
    assert ask(plane, "", "broke", [{"a": 3, "b": None}, {"a": 4, "b": 0.5}], unit_id="anna").status_code == 500
    assert ask(plane, "canary", "tested", {"a": 5, "b": 6}).status_code == 500
    server.apply(tools.split("e", 3))
    plane.desk.routes.refresh()
    assert ask(plane, "", "fine", {"a": 1, "b": 2}).status_code == 200
    assert ask(plane, "", "wrong", {"a": 1, "c": 2}).status_code == 400  # the client's own fault
    plane.desk.stop()
    first, second, pinned = kept(server)
    assert [one["row"] for one in (first, second)] == [0, 1]
    assert first["features"] == {"a": 3.0, "b": None}
    assert second["features"] == {"a": 4.0, "b": 0.5}
    told = {"request_id": "broke", "arm": "canary", "version": "v2", "unit": "anna", "status": 500, "rows": 2}
    assert {name: second[name] for name in told} == told
    assert "the graph is wrong for this row" in first["error"]
    assert "line " in first["error"]
    assert (first["prediction"], first["pinned"], first["missed"]) == (None, False, 0)
    assert (pinned["request_id"], pinned["pinned"], pinned["features"]) == ("tested", True, {"a": 5.0, "b": 6.0})
    assert [one["request_id"] for one in server.payload_rows("e")] == ["fine"]
    assert [one["request_id"] for one in server.payloads("e").items] == ["fine"]
    everything = ["broke", "broke", "tested", "fine"]
    assert [one["request_id"] for one in server.payload_rows("e", result="all")] == everything
    assert [one["request_id"] for one in kept(server, unit="anna")] == ["broke", "broke"]
    assert kept(server, arm="baseline") == kept(server, request_id="fine") == kept(server, until=first["at"]) == []
    page = server.payloads("e", result="failed", limit=1)
    assert server.payloads("e", result="failed", limit=5, page_token=page.next_page_token).items == (second, pinned)
    raw = kept(server)
    assert server.compact_payloads("e") > 0
    assert not list(server.places.payloads("e").glob("*.rows"))
    assert kept(server) == raw
    assert [one["request_id"] for one in server.payload_rows("e", result="all")] == everything


def test_a_failure_is_forgotten_with_its_unit_and_with_time(server: ModelServer, plane: Plane) -> None:
    for name, unit in (("one", "anna"), ("two", "ben"), ("three", "anna")):
        ask(plane, "canary", name, {"a": 1, "b": 2}, unit_id=unit)
    plane.desk.stop()
    compaction.settle(server.places.payloads("e"))  # the raw segment is closed, and is no table yet
    assert server.erase_payloads("e", unit="anna", reason="asked", user="dpo@example.org").rows == 2
    assert [one["request_id"] for one in kept(server)] == ["two"]
    (file,) = server.places.payloads("e").glob(f"*{failures.ENDING}")
    assert b"anna" not in file.read_bytes()
    assert server.erase_payloads("e", request_id="two", reason="asked", user="dpo@example.org").rows == 1
    assert kept(server) == list(server.places.payloads("e").glob(f"*{failures.ENDING}")) == []
    file.write_text("")
    failures.drop_old(file.parent, until=time.time() + 10)
    assert not file.exists()


@pytest.mark.parametrize(("sampling", "hidden"), [(1.0, ("who",)), (0.0, ())])
def test_what_is_hidden_is_hidden_in_failures_too(sampling: float, hidden: tuple[str, ...]) -> None:
    error = ModelFailed("m v2 failed: ValueError in Leaky.predict, line 6: nobody is called Anna Smith")
    error.__cause__ = ValueError("nobody is called Anna Smith")
    found = failures.failure(
        Arm(name="canary", model="m", version="v2", weight=1.0),
        EndpointConfig(payload_sampling=sampling, payload_hidden=hidden),
        names=("who", "n"),
        request_id="r",
        at=1.0,
        micros=1.0,
        unit=None,
        batch=np.array([["Anna Smith", 1]], dtype=object),
        error=error,
        pinned=False,
    )
    assert b"Smith" not in failures.packed(found)
    assert "ValueError in Leaky.predict, line 6" in found.error
    assert found.batch == ([[None, 1]] if sampling else [])


def test_a_storm_of_failures_is_bounded_and_says_what_it_left_out(
    server: ModelServer, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payloads, "FAILURES", 3)
    route, log = plane.desk.routes.find("e"), plane.desk.payloads
    batch = np.ones((50, 2))

    def fail(name: str) -> None:
        log.failed(route, 1, name, time.time(), 1.0, None, batch, ModelFailed("no \ud800"), pinned=False)

    line = log._begun(route)
    assert line is not None
    line.stream.failures.extend([None] * 3)  # type: ignore[list-item]  # nothing has been written yet
    fail("left out")
    line.stream.failures.clear()
    fail("kept")
    plane.desk.stop()
    rows = kept(server)
    assert {one["request_id"] for one in rows} == {"kept"}
    assert (len(rows), rows[0]["rows"], rows[0]["missed"], rows[0]["error"]) == (failures.ROWS, 50, 1, "no ?")


def test_tables_have_answers_only_and_a_misspelt_result_is_told(server: ModelServer) -> None:
    with pytest.raises(Invalid, match="answered rows only"):
        server.payload_frame("e", result="failed")
    with pytest.raises(Invalid, match="Did you mean failed"):
        server.payloads("e", result="faild")
