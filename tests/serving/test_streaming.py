"""Long batches in pieces: the same answers as /predict, as they are computed, no faster than the client takes them, and no
longer than it is there."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer, calls

ROWS = [{"a": float(i), "b": -50.0} for i in range(100)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Iterator[ModelServer]:
    server = ModelServer(tmp_path_factory.mktemp("streaming"))
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1.0))
    server.apply(tools.split("e", 1, 0.5))
    server.configure("slow", {"trusted_code": True})
    server.install("slow", "s", "v1", tools.reference(slow=50, fail=0.6), "python")
    only = Arm(name="baseline", model="s", version="v1", weight=1.0)
    server.apply(Traffic(endpoint="slow", generation=1, arms=(only,)))
    with server.start(workers=1) as serving:
        server.url = serving.url  # type: ignore[attr-defined]
        yield server


@pytest.fixture
def client(served: ModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=120) as client:  # type: ignore[attr-defined]
        yield client


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.text.splitlines()]


def test_pieces_together_are_what_predict_answers(client: httpx.Client) -> None:
    head = {"x-modelyard-arm": "baseline", "x-piece-rows": "30"}
    whole = client.post("/predict/e", json={"features": ROWS}, headers=head).json()
    answer = client.post("/predict/e/stream", json={"features": ROWS, "request_id": "r"}, headers=head)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-modelyard-arm"] == "baseline"
    *pieces, last = lines(answer)
    assert [(one["first_row"], one["request_id"]) for one in pieces] == [
        (0, "r/0"),
        (30, "r/30"),
        (60, "r/60"),
        (90, "r/90"),
    ]
    assert [each for one in pieces for each in one["predictions"]] == whole["predictions"]
    assert [each for one in pieces for each in one["probabilities"]] == whole["probabilities"]
    assert last == {"rows": 100, "request_id": "r"}


def test_rows_come_as_lines_and_leave_as_events(client: httpx.Client) -> None:
    body = "\n".join(map(json.dumps, ROWS)) + "\n"
    head = {"content-type": "application/x-ndjson", "accept": "text/event-stream", "x-piece-rows": "64"}
    with client.stream("POST", "/predict/e/stream", content=body, headers=head) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        events = [
            dict(line.split(": ", 1) for line in part.split("\n")) for part in answer.read().decode().split("\n\n")[:-1]
        ]
    assert [one["event"] for one in events] == ["predictions", "predictions", "end"]
    told = [json.loads(one["data"]) for one in events]
    assert len(told[0]["predictions"] + told[1]["predictions"]) == told[2]["rows"] == 100
    assert {one["arm"] for one in told[:2]} in ({"baseline"}, {"canary"})  # one arm answers the whole


@pytest.mark.parametrize(
    ("sent", "status", "says"),
    [
        ({"json": {"features": []}}, 400, "no rows"),
        ({"json": {"features": {"a": 1, "b": 1}}}, 400, "no rows"),
        ({"json": {"features": [{"a": 1}]}}, 400, "'b'"),
        ({"content": b"{"}, 400, "features"),
        ({"content": b"[" * 100_000}, 400, "features"),
        ({"content": b'{"a": 1, "b": 1}\n{', "headers": {"content-type": "application/x-ndjson"}}, 400, "x-ndjson"),
        ({"json": {"features": ROWS}, "headers": {"x-piece-rows": "0"}}, 400, "X-Piece-Rows"),
        ({"json": {"features": ROWS}, "headers": {"x-timeout-ms": "soon"}}, 400, "X-Timeout-Ms"),
        ({"json": {"features": ROWS}, "headers": {"x-modelyard-arm": "canry"}}, 404, "canry"),
    ],
)
def test_what_is_wrong_at_the_beginning_is_a_4xx(client: httpx.Client, sent: Any, status: int, says: str) -> None:
    answer = client.post("/predict/e/stream", **sent)
    assert (answer.status_code, says in answer.json()["error"]) == (status, True), answer.text


def test_an_unknown_endpoint_and_another_method_are_refused(client: httpx.Client) -> None:
    assert client.post("/predict/nobody/stream", json={"features": ROWS}).status_code == 404
    assert client.get("/predict/e/stream").status_code == 405


def test_what_goes_wrong_later_is_told_in_the_stream_and_ends_it(client: httpx.Client) -> None:
    rows = [{"a": 1.7, "b": 1.0}] * 3 + [{"a": 2.7, "b": None}, {"a": "x", "b": 1}, {"a": 1.7, "b": 1}]
    *pieces, error = lines(client.post("/predict/e/stream", json={"features": rows}, headers={"x-piece-rows": "2"}))
    assert [one["first_row"] for one in pieces] == [0, 2]
    assert (error["first_row"], error["status"]) == (4, 400)
    assert "'a'" in error["error"]
    fails = [{"a": 1.7, "b": 1.0}, {"a": 1.3, "b": 1.0}, {"a": 1.7, "b": 1.0}]
    told = lines(client.post("/predict/slow/stream", json={"features": fails}, headers={"x-piece-rows": "1"}))
    assert [one.get("status") for one in told] == [None, 500]
    assert "wrong for this row" in told[1]["error"]


def test_the_deadline_is_that_of_the_whole(client: httpx.Client) -> None:
    head = {"x-piece-rows": "1", "x-timeout-ms": "300"}
    rows = [{"a": 1.7, "b": 1.0}] * 50
    *pieces, last = lines(client.post("/predict/slow/stream", json={"features": rows}, headers=head))
    assert 0 < len(pieces) <= 6
    assert last["status"] == 504


def test_every_piece_is_counted_and_logged(served: ModelServer, client: httpx.Client, tools: Any) -> None:
    before = sum(arm.requests for arm in served.counts("e").arms.values())
    client.post("/predict/e/stream", json={"features": ROWS, "request_id": "logged"}, headers={"x-piece-rows": "40"})
    assert sum(arm.requests for arm in served.counts("e").arms.values()) == before + 3
    rows = tools.until(
        lambda: (
            len(found := [r for r in served.payload_rows("e") if r["request_id"].startswith("logged/")]) == 100
            and found
        )
    )
    assert {(row["request_id"], row["row"]) for row in rows} == {
        (f"logged/{40 * (i // 40)}", i % 40) for i in range(100)
    }


def vitals(served: ModelServer) -> calls.Vitals:
    found = calls.read(served.places.slots / "0.vitals")
    assert found is not None
    return found


def test_the_first_pieces_arrive_while_the_others_are_computed_and_a_client_that_leaves_ends_them(
    served: ModelServer, client: httpx.Client, tools: Any
) -> None:
    rows = [{"a": 1.7, "b": 1.0}] * 1000  # fifty seconds
    before = sum(arm.requests for arm in served.counts("slow").arms.values())
    with client.stream(
        "POST", "/predict/slow/stream", json={"features": rows}, headers={"x-piece-rows": "1"}
    ) as answer:
        lines = answer.iter_lines()  # kept: dropping it closes the connection
        assert json.loads(next(lines))["first_row"] == 0
        tools.until(lambda: vitals(served).gauges["in_flight"] >= 1)
    tools.until(lambda: vitals(served).gauges["in_flight"] == 0)
    assert sum(arm.requests for arm in served.counts("slow").arms.values()) < before + 200


def test_no_more_is_computed_than_the_client_takes(served: ModelServer, client: httpx.Client, tools: Any) -> None:
    body = json.dumps({"features": ROWS * 1300}).encode()  # some 7 MB of answers
    head = f"POST /predict/e/stream HTTP/1.1\r\nHost: x\r\nX-Piece-Rows: 100\r\nContent-Length: {len(body)}\r\n\r\n"
    before = sum(arm.requests for arm in served.counts("e").arms.values())

    def pieces() -> int:
        return sum(arm.requests for arm in served.counts("e").arms.values()) - before

    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        url = httpx.URL(served.url)  # type: ignore[attr-defined]
        reader.connect((url.host, url.port))
        threading.Thread(target=reader.sendall, args=(head.encode() + body,)).start()
        assert reader.recv(100)
        seen = [0]

        def at_rest() -> bool:
            client.get("/v2/health/live")  # the process does other things meanwhile
            seen.append(pieces())
            return len(seen) > 100 and seen[-1] == seen[-50]

        tools.until(at_rest)
        assert 0 < pieces() < 1300
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # from here on it takes quickly
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            piece = reader.recv(1 << 20)
            assert piece
            tail = (tail + piece)[-16:]
    assert pieces() == 1300
