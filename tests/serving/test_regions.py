"""The nearest healthy region answers, another one when it fails, and the first again when it is back for good."""

from __future__ import annotations

import gc
import http.server
import itertools
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.client.predictions import Predictions
from modelyard.core.errors import Invalid, NotFound, Unavailable
from modelyard.core.traffic import Arm
from modelyard.serving import ModelServer, regions
from modelyard.serving.reconcile import reconciled
from modelyard.serving.regions import HOLD_S, RECOVERIES, Choice, Place, Seen, choose, failed, order, parse, succeeded
from modelyard.testing.servers import free_port

EU, US = Place(url="http://eu", region="eu"), Place(url="http://us", region="us")
BOTH = [EU, US]


def well(latency_ms: float) -> Seen:
    return Seen(healthy=True, latency_ms=latency_ms, succeeded=5)


def test_the_nearest_healthy_region_is_chosen_first() -> None:
    assert choose(Choice(), BOTH, {"http://eu": well(20), "http://us": well(90)}, 0).region == "eu"
    assert choose(Choice(), BOTH, {"http://eu": failed(None), "http://us": well(90)}, 0).region == "us"


def test_fail_over_is_at_once_and_fail_back_waits_until_it_has_held() -> None:
    seen = {"http://eu": well(20), "http://us": well(90)}
    choice = choose(Choice(), BOTH, seen, 0)
    seen["http://eu"] = failed(seen["http://eu"], at_once=True)
    choice = choose(choice, BOTH, seen, 1)
    assert choice.region == "us"
    moment = 2.0
    for _ in range(RECOVERIES):
        choice = choose(choice, BOTH, seen, moment)
        assert choice.region == "us"
        seen["http://eu"] = succeeded(seen["http://eu"], 20, moment)
        moment += 1
    assert seen["http://eu"].healthy
    back = moment
    while choice.region == "us":
        choice = choose(choice, BOTH, seen, moment)
        moment += 1
        assert moment < 60
    assert HOLD_S <= moment - back <= HOLD_S + 2


def test_one_failed_probe_changes_nothing_and_two_do() -> None:
    once = failed(well(20))
    assert once.healthy
    assert not failed(once).healthy
    assert not failed(well(20), at_once=True).healthy


def test_two_regions_that_are_about_as_far_cause_no_to_and_fro() -> None:
    choice, regions_seen = Choice(), []
    for second in range(200):
        seen = {"http://eu": well(20 + 3 * (second % 2)), "http://us": well(20 + 3 * ((second + 1) % 2))}
        choice = choose(choice, BOTH, seen, float(second))
        regions_seen.append(choice.region)
    assert len(set(regions_seen)) == 1


def test_a_region_that_comes_and_goes_gets_no_requests_back() -> None:
    seen = {"http://eu": failed(None), "http://us": well(90)}
    choice = Choice()
    for second in range(120):  # healthy for five seconds, then gone for three
        good = second % 8 < 5
        seen["http://eu"] = (
            succeeded(seen["http://eu"], 20, float(second)) if good else failed(seen["http://eu"], at_once=True)
        )
        choice = choose(choice, BOTH, seen, float(second))
        assert choice.region == "us"


def test_with_no_healthy_region_all_are_still_tried() -> None:
    seen = {"http://eu": failed(None), "http://us": failed(None)}
    choice = choose(Choice(region="eu"), BOTH, seen, 5)
    assert [place.region for place in order(choice, BOTH, seen)] == ["eu", "us"]


states = st.builds(
    Seen, healthy=st.booleans(), latency_ms=st.one_of(st.none(), st.floats(0.1, 500)), failed=st.integers(0, 5)
)
many = [Place(url=f"http://{r}{n}", region=r) for r, n in itertools.product(("a", "b", "c"), range(3))]


@given(st.lists(states, min_size=9, max_size=9), st.sampled_from(["", "a", "b", "c"]), st.integers(0, 20))
def test_every_place_is_tried_once_and_no_unhealthy_one_before_a_healthy_one(
    given_states: list[Seen], region: str, turn: int
) -> None:
    seen = {place.url: state for place, state in zip(many, given_states, strict=True)}
    choice = choose(Choice(region=region), many, seen, 0.0)
    tried = order(choice, many, seen, turn=turn)
    assert sorted(place.url for place in tried) == sorted(place.url for place in many)
    health = [seen[place.url].healthy for place in tried]
    assert health == sorted(health, reverse=True)
    known = {p.region: s.latency_ms for p, s in zip(many, given_states, strict=True) if s.healthy and s.latency_ms}
    if known:
        assert choice.region in known
        assert tried[0].region == choice.region


def test_places_of_one_region_share_its_requests() -> None:
    seen = {place.url: well(10) for place in many}
    choice = Choice(region="b")
    first = Counter(order(choice, many, seen, turn=turn)[0].url for turn in range(30))
    assert first == {"http://b0": 10, "http://b1": 10, "http://b2": 10}


@pytest.mark.parametrize(
    "given_regions", [{}, {"eu": []}, {"eu": "eu1:80"}, {"": "http://x"}, {"a": "http://x", "b": "http://x/"}]
)
def test_what_is_no_region_is_refused(given_regions: Any) -> None:
    with pytest.raises(Invalid):
        parse(given_regions)


# Real servers: each region is a supervisor with its workers, of one yard, so that its log has every answer.


@contextmanager
def region(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "modelyard.serving.supervisor", str(folder), "--port", str(port), "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stderr is not None
        found = re.search(r"http://\S+", process.stderr.readline())
        assert found
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        try:
            yield process, found[0]
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(120)
            drain.join(120)


@pytest.fixture
def server(tmp_path: Path, tools: Any) -> ModelServer:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference())
    server.configure("e", {"trusted_code": True, "payload_durable": True})
    server.apply(tools.split("e", 1))
    return server


class Askers:
    """Clients that ask with request ids of their own until told to stop, and what they were answered."""

    def __init__(self, client: Predictions, count: int = 3) -> None:
        self.answers: dict[str, Any] = {}
        self.twice: list[str] = []
        self.broken: list[str] = []
        self.asked: list[str] = []
        self._client, self._stop = client, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(count)]

    def _ask(self, number: int) -> None:
        for n in itertools.count():
            if self._stop.is_set():
                return
            request = f"{number}-{n}"
            self.asked.append(request)
            try:
                answer = self._client.predict("e", {"a": n % 5 - 2.0, "b": 0.0}, request_id=request)
            except (Unavailable, Invalid, NotFound) as error:
                self.broken.append(str(error))
                continue
            assert answer.predictions == [int(n % 5 - 2.0 > 0)]
            if request in self.answers:
                self.twice.append(request)
            self.answers[request] = answer

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more; what was asked is waited for."""
        self._stop.set()
        for thread in self._threads:
            thread.join(120)


def regions_of(askers: Askers) -> Counter[str]:
    return Counter(answer.region for answer in askers.answers.values())


def kill_group(process: subprocess.Popen[str]) -> None:
    """SIGKILL the supervisor and its workers: the region is gone as a whole."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(120)


class Far(socketserver.ThreadingTCPServer):
    """Carries connections to a server as if it were a way off: each direction takes so long."""

    def __init__(self, url: str, delay_s: float) -> None:
        host, port = url.removeprefix("http://").split(":")
        self.there, self.delay_s = (host, int(port)), delay_s
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), Carrier)


class Carrier(socketserver.BaseRequestHandler):
    server: Far

    def handle(self) -> None:
        with suppress(OSError), socket.create_connection(self.server.there) as there:
            self.server.open |= {there, self.request}
            back = threading.Thread(target=self.carry, args=(there, self.request))
            back.start()
            self.carry(self.request, there)
            back.join()

    def carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                time.sleep(self.server.delay_s)  # the way
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def far_away(url: str, delay_s: float = 0.03) -> Iterator[str]:
    with Far(url, delay_s) as far:
        thread = threading.Thread(target=far.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{far.server_address[1]}"
        finally:
            far.shutdown()
            thread.join(120)
            for end in far.open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_a_region_killed_under_load_costs_no_request_and_gets_its_requests_back_when_it_is_there_again(
    server: ModelServer, tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "HOLD_S", 2.0)
    port = free_port()  # which is still free when the region that is killed there begins again
    with (
        region(tmp_path, port) as (near, near_url),
        region(tmp_path) as (_, there),
        far_away(there) as far_url,
        Predictions({"near": near_url, "far": far_url}, timeout=60) as client,
        Askers(client) as askers,
    ):
        tools.until(lambda: regions_of(askers)["near"] > 60 and client.region == "near")
        kill_group(near)
        before = regions_of(askers)["far"]
        tools.until(lambda: regions_of(askers)["far"] > before + 30)
        assert client.region == "far"
        with region(tmp_path, port):
            tools.until(lambda: client.region == "near")
            before = regions_of(askers)["near"]
            tools.until(lambda: regions_of(askers)["near"] > before + 60)
            askers.stop()
    assert askers.broken == []
    assert askers.twice == []
    assert set(askers.answers) == set(askers.asked)
    once = reconciled(list(server.payload_rows("e")), askers.asked)
    assert once.missing == once.unknown == once.unlike == frozenset()
    assert len(once.rows) == len(askers.asked)


@pytest.mark.slow
def test_a_router_hands_each_request_to_the_next_region_when_the_nearest_is_killed(
    server: ModelServer, tmp_path: Path, tools: Any
) -> None:
    with (
        region(tmp_path) as (near, near_url),
        region(tmp_path) as (_, there),
        far_away(there) as far_url,
        routed(f"near={near_url}", f"far={far_url}") as url,
        Callers(url) as callers,
    ):
        tools.until(lambda: len(callers.statuses) > 60)
        kill_group(near)
        before = len(callers.statuses)
        tools.until(lambda: len(callers.statuses) > before + 60)
        assert httpx.get(f"{url}/v2/health/ready").json() == {"ready": True, "region": "far"}
        callers.stop()
        assert httpx.post(f"{url}/predict/e", json={"features": {"x": 1}}).status_code == 400
        assert httpx.post(f"{url}/predict/nobody", json={"features": {}}).status_code == 404
        assert httpx.post(f"{url}/predict/e", content=b"x" * (17 << 20), timeout=120).status_code == 413
    assert callers.broken == []
    assert set(callers.statuses) == {200}
    assert reconciled(list(server.payload_rows("e")), callers.asked).missing == frozenset()


@contextmanager
def routed(*places: str) -> Iterator[str]:
    """A router in a process of its own, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "modelyard.serving.regions_router", *places, "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command) as process:
        try:
            _until_ready(url)
            yield url
        finally:
            process.terminate()
            process.wait(120)


def _until_ready(url: str) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                return
        time.sleep(0.05)
    pytest.fail("the router is not ready")


class Callers:
    """Plain HTTP clients without a retry of their own."""

    def __init__(self, url: str) -> None:
        self.statuses: list[int] = []
        self.broken: list[str] = []
        self.asked: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(url, n)) for n in range(3)]

    def _call(self, url: str, number: int) -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            for n in itertools.count():
                if self._stop.is_set():
                    return
                body = {"features": {"a": 1.0, "b": 0}, "request_id": f"{number}-{n}"}
                self.asked.append(body["request_id"])
                try:
                    self.statuses.append(client.post("/predict/e", json=body).status_code)
                except httpx.TransportError as error:
                    self.broken.append(repr(error))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(120)

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_a_client_tells_a_wrong_request_from_a_server_that_fails(
    server: ModelServer, tmp_path: Path, tools: Any
) -> None:
    server.install("e", "m", "v2", tools.reference(fail=0.5), "python")
    server.apply(tools.split("f", 1))
    with server.start(workers=1) as serving, Predictions({"here": serving.url}, deadline=120) as client:
        with pytest.raises(Invalid, match="x"):
            client.predict("e", {"x": 1})
        with pytest.raises(NotFound, match="nobody"):
            client.predict("nobody", {"a": 1.0, "b": 0.0})
        only = replace(tools.split("e", 2), arms=(Arm(name="baseline", model="m", version="v2", weight=1.0),))
        server.apply(only)
        tools.until(lambda: tools.carried_out(server, "e", 2, workers=1))
        with pytest.raises(Unavailable, match="wrong for this row"):  # the model's own failure: asked once
            client.predict("e", {"a": 0.25, "b": 0.0})
        assert client.predict("e", {"a": 2.75, "b": 0.0}, request_id="r1").attempts == 1
    with pytest.raises(Unavailable, match="was not answered within 1 s"):
        Predictions({"gone": serving.url}, deadline=1).predict("e", {"a": 0.75, "b": 0.0})


def test_dropped_clients_end_their_probes() -> None:
    before = threading.active_count()
    for _ in range(3):
        Predictions({"gone": "http://127.0.0.1:9"})
    gc.collect()
    end = time.monotonic() + 120
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]", b'{"predictions": [1]}', b""])
def test_a_server_that_answers_something_else_is_named(body: bytes) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with Predictions({"here": url}) as client, pytest.raises(Unavailable, match=f"{url} answered 200 without"):
            client.predict("e", {"a": 1.0})
        server.shutdown()
