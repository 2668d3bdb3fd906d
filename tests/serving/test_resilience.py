"""Models that crash, hang or hold their process, clients that leave, and processes that are killed: what is lost, and whose
fault it is."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from modelyard.client.predictions import Predictions
from modelyard.core.traffic import Arm, Guard
from modelyard.serving import ModelServer, calls, vigil
from modelyard.serving.calls import Call, Calls, mark
from modelyard.serving.reconcile import reconciled

DEADLY = Path(__file__).parent / "deadly_models.py"
FATAL = {"features": {"a": 200.0, "b": 1.0}}
FINE = {"features": {"a": 1.0, "b": 1.0}}


def deadly(way: str) -> str:
    return f"{DEADLY}:Deadly@{way}"


def events(server: ModelServer, kind: str) -> list[dict[str, Any]]:
    import json

    with server.store.reading() as rows:
        found = rows.all("SELECT details FROM events WHERE event_type = :kind ORDER BY position", kind=kind)
    return [json.loads(row["details"]) for row in found]


@contextmanager
def callers(url: str, body: dict[str, Any], *, count: int = 2) -> Iterator[Counter[str]]:
    """Clients that ask again and again, and what they were told: a status and an arm, or that the connection closed; and
    how often each was told anything."""
    told = Counter({f"caller {caller}": 0 for caller in range(count)})
    ending = threading.Event()

    def call(caller: int) -> None:
        while not ending.is_set():
            try:
                answer = httpx.post(f"{url}/predict/e", json=body, timeout=120)
            except httpx.TransportError:
                told["closed"] += 1
            else:
                told[f"{answer.status_code} {answer.json().get('arm', '')}"] += 1
            told[f"caller {caller}"] += 1

    threads = [threading.Thread(target=call, args=(caller,)) for caller in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        ending.set()
        for thread in threads:
            thread.join(120)


def each_is_told(tools: Any, told: Counter[str], times: int) -> None:
    """Wait until each caller was told so often from now on: what it asked before now is over."""
    before = Counter(told)
    names = [name for name in before if name.startswith("caller ")]
    assert len(names) == 2
    tools.until(lambda: all(told[name] >= before[name] + times for name in names))


@pytest.mark.parametrize("way", ["segfault", "exit", "hold", "descriptors", "listener"])
def test_a_canary_that_ends_or_hangs_its_process_is_rolled_back(server: ModelServer, tools: Any, way: str) -> None:
    tools.install(server, "e", v1=tools.reference(task="regression"), v2=deadly(way))
    guard = Guard(rollout_id="dep_x", step=0, share=0.1, alpha=0.05)
    server.apply(tools.split("e", 1, 0.1, guard))
    with server.start(workers=2, hang_s=5.0) as serving, callers(serving.url, FATAL) as told:
        (trip,) = tools.until(server.trips)
        tools.until(lambda: tools.carried_out(server, "e", 1))
        each_is_told(
            tools, told, 2
        )  # a canary's call from before the decision may hang yet: its process ends, and then
        each_is_told(tools, told, 1)  # what else waited in that process is over too
        before = Counter(told)
        tools.until(lambda: told["200 baseline"] > before["200 baseline"] + 40)
        after = Counter(told)
    assert after["closed"] == before["closed"]
    assert (trip.metric, trip.rollout_id) == ("errors", "dep_x")
    assert trip.counts.arms["canary"].errors >= 2
    assert serving.restarts >= 2
    died = events(server, "worker_replaced")
    reason = {"exit": "ended", "hold": "hung", "listener": "ended"}.get(way, "crashed")
    assert {(one["reason"], one["endpoint"], one["arm"]) for one in died} == {(reason, "e", "canary")}
    assert trip.counts.arms["baseline"].errors == 0
    assert vigil.replaced(server.places)[reason] == len(died)
    if way == "listener":  # it is the last to know, and answers what it has
        assert told["closed"] == 0
    else:
        assert len(died) <= told["closed"] <= 2 * len(died)  # the other caller's may have been in the same process


def test_one_that_hangs_as_all_are_stopped_is_counted_charged_and_told_of(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=deadly("hold"))
    server.apply(tools.split("e", 1))
    with server.start(workers=1, hang_s=3.0) as serving, socket.create_connection((serving.host, serving.port)) as one:
        head = b"POST /predict/e HTTP/1.1\r\nHost: x\r\nContent-Length: 32\r\n\r\n"
        one.sendall(head + b'{"features": {"a": 200, "b": 1}}')
        tools.until(lambda: (found := calls.read(server.places.slots / "0.vitals")) and found.calls)
        serving.stop()
    (died,) = events(server, "worker_replaced")
    assert (died["reason"], died["endpoint"], died["arm"]) == ("hung", "e", "baseline")
    assert vigil.replaced(server.places)["hung"] == 1
    assert server.counts("e").arms["baseline"].errors == 1


def test_threads_that_never_come_back_are_counted_and_the_process_is_replaced(
    server: ModelServer, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.install(server, "e", v1=deadly("wait,5"))
    server.apply(tools.split("e", 1))
    with server.start(workers=1) as serving:
        (victim,) = serving.pids
        bodies = [FATAL, FINE, FINE, FINE, FINE]
        with httpx.Client(base_url=serving.url, timeout=120, headers={"x-timeout-ms": "100"}) as client:
            told = [client.post("/predict/e", json=body).status_code for body in bodies]
        assert told == [504] * 5  # the model joins requests: the first holds it, and the others wait behind it
        monkeypatch.setattr(vigil, "STUCK_S", 0.5)  # only now: who asks must not be overtaken
        tools.until(lambda: victim not in serving.pids and tools.carried_out(server, "e", 1, workers=1))
        assert httpx.post(f"{serving.url}/predict/e", json=FINE, timeout=120).json()["predictions"] == [2.0]
    assert [one["reason"] for one in events(server, "worker_replaced")] == ["stuck"]
    assert server.counts("e").arms["baseline"].errors == 5


def test_a_client_that_hangs_up_frees_its_place(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=deadly("wait,5"))
    server.apply(tools.split("e", 1))
    server.configure("f", {"trusted_code": True})
    server.install("f", "s", "v1", tools.reference(slow=300), "python")
    only = Arm(name="baseline", model="s", version="v1", weight=1.0)
    server.apply(replace(tools.split("f", 1), arms=(only,)))
    head = b"POST /predict/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 32\r\n%s\r\n"
    body = b'{"features": {"a": 200, "b": 1}}'

    def vitals() -> calls.Vitals:
        found = calls.read(server.places.slots / "0.vitals")
        assert found is not None
        return found

    with server.start(workers=1) as serving:
        address = (serving.host, serving.port)
        leaving = []
        for _ in range(60):  # the first holds the model for good, the others wait behind it
            leaving.append(socket.create_connection(address, 120))
            leaving[-1].sendall(head % (b"e", b"") + body)
        tools.until(lambda: vitals().gauges["in_flight"] == 60)
        for one in leaving:
            one.close()
        tools.until(lambda: vitals().gauges["in_flight"] == 0)
        assert vitals().abandoned == 60
        with socket.create_connection(address, 120) as half:
            half.sendall(head % (b"f", b"Connection: close\r\n") + body)
            half.shutdown(socket.SHUT_WR)  # one that only ends its side is answered
            found = b""
            while piece := half.recv(65536):
                found += piece
        assert found.count(b"200 OK") == 1
        assert b'"predictions":[1]' in found


def test_ready_turns_false_before_the_last_request_is_answered(server: ModelServer, tools: Any, tmp_path: Path) -> None:
    held = tmp_path / "held"
    tools.install(server, "e", v1=tools.reference(slow=20, held=str(held)))
    server.apply(tools.split("e", 1))
    with server.start(workers=1) as serving:
        held.touch()  # only now: a version is tried before it is served
        told: list[int] = []
        with httpx.Client(base_url=serving.url, timeout=120) as looking:
            assert looking.get("/v2/health/ready").json() == {"ready": True}
            asking = threading.Thread(
                target=lambda: told.append(httpx.post(f"{serving.url}/predict/e", json=FINE, timeout=120).status_code)
            )
            asking.start()
            tools.until(lambda: tools.in_flight(server))
            ending = threading.Thread(target=serving.stop)
            ending.start()
            while (answer := looking.get("/v2/health/ready")).status_code == 200:
                assert answer.json() == {"ready": True}
            assert not any(
                one.ready for one in server.processes()
            )  # on the connection that it has: told, and told to go
            assert (answer.status_code, answer.json()) == (503, {"ready": False})
            assert answer.headers["connection"] == "close"
            assert told == []
            held.unlink()
        ending.join(120)
        asking.join(120)
    assert told == [200]


def test_a_killed_worker_costs_our_client_nothing_and_no_answer_is_given_twice_or_wrongly(
    server: ModelServer, tools: Any
) -> None:
    tools.install(
        server, "e", v1=tools.reference(task="regression"), v2=tools.reference(task="regression", shift=1000.0)
    )
    server.configure("e", {"trusted_code": True, "payload_durable": True})
    server.apply(tools.split("e", 1, 0.5))
    answered: dict[str, tuple[float, float, str, int]] = {}
    ending = threading.Event()

    def call(caller: int, url: str) -> None:
        number = 0
        with Predictions({"here": url}) as client:
            while not ending.is_set():
                number += 1
                name, value = f"c{caller}-{number}", caller * 10_000.0 + number
                answer = client.predict("e", {"a": value, "b": 0.5}, request_id=name)
                assert name not in answered
                answered[name] = (value, answer.predictions[0], answer.arm, answer.attempts)

    with server.start(workers=2) as serving:
        threads = [threading.Thread(target=call, args=(caller, serving.url)) for caller in range(4)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = len(answered)
            tools.until(lambda before=before: len(answered) > before + 60)
            victim = serving.pids[0]
            os.kill(victim, signal.SIGKILL)
            tools.until(lambda victim=victim: victim not in serving.pids and tools.carried_out(server, "e", 1))
        ending.set()
        for thread in threads:
            thread.join(120)
    for value, prediction, arm, _ in answered.values():
        assert prediction == value + 0.5 - (1000.0 if arm == "canary" else 0.0)
    again = [name for name, told in answered.items() if told[3] > 1]
    assert len(again) <= 3 * 4  # at most what was in flight on the process that was killed
    found = reconciled(list(server.payload_rows("e")), answered)
    assert (found.missing, found.unknown, found.unlike) == (frozenset(), frozenset(), frozenset())
    assert set(found.repeated) <= set(again)
    logged = {row["request_id"]: (row["prediction"], row["arm"]) for row in found.rows}
    assert logged == {name: (told[1], told[2]) for name, told in answered.items()}
    assert [one["reason"] for one in events(server, "worker_replaced")] == ["killed"] * 3
    assert {arm.errors for arm in server.counts("e").arms.values()} == {0}  # a kill from outside accuses nobody


def made(ident: int, native: int = 0, arm: int = 1) -> Call:
    return Call(since=1, ident=ident, native=native, unit=None, what=("call", "e", "1", str(arm)))


def test_the_culprit_is_the_crashed_thread_or_the_busy_one_or_drawn() -> None:
    one, other = made(0xABC, 7), made(0xDEF, 8, arm=0)
    fault = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x0000000000000def (most recent call first):\n"
    assert vigil.culprit([one, other], fault, set()) is other
    assert vigil.culprit([one, other], "", {7}) is one
    assert vigil.culprit([one], "Current thread 0x0000000000000111 (most recent call first)", set()) is one
    assert vigil.culprit([], fault, {7}) is None
    drawn = Counter(vigil.culprit([one, other], "", {7, 8}) is one for _ in range(400))
    assert 140 < drawn[True] < 260


def test_a_units_deaths_count_once_a_step_and_those_of_forgotten_generations_not_at_all(
    server: ModelServer, tools: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.5))
    note = Calls()
    path = vigil.vitals_of(server.places, 0)
    path.parent.mkdir(parents=True, exist_ok=True)

    def died(what: tuple[object, ...], unit: int | None) -> vigil.Death:
        note.attach(path)
        found: list[vigil.Death] = []
        note.here(mark(*what), unit, lambda _: found.append(watch.buried(os.getpid(), -signal.SIGSEGV)), None)
        return found[0]

    watch = vigil.Vigil(server.places)
    assert [died(("call", "e", 1, 1), 2**63 + 5).arm for _ in range(3)] == ["canary"] * 3
    assert died(("call", "e", 1, 1), None).detail == "SIGSEGV"
    counts = server.counts("e").arms["canary"]
    assert (counts.requests, counts.errors) == (4, 2)
    assert died(("call", "e", 1, 1, "pinned"), None).arm == "canary"  # named, and counted for nothing
    assert server.counts("e").arms["canary"] == counts
    assert died(("call", "e", 99, 1), None).arm == died(("call", "gone", 1, 0), None).arm == ""
    assert vigil.replaced(server.places)["crashed"] == 7


def test_a_death_is_charged_also_where_another_process_has_taken_the_slot_meanwhile(
    server: ModelServer, tools: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.5))
    path = vigil.vitals_of(server.places, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    watch, note, found = vigil.Vigil(server.places), Calls(), []

    def die(_: object) -> None:
        vigil.fault_of(server.places, 0).write_text("what it wrote")
        vigil.put_aside(server.places, 0)
        other = Calls()
        other.attach(path)
        other._words[calls.PID] = 1
        vigil.fault_of(server.places, 0).write_text("what another writes")
        found.append(watch.buried(os.getpid(), -signal.SIGSEGV))

    note.attach(path)
    note.here(mark("call", "e", 1, 1), None, die, None)
    assert [(one.endpoint, one.arm) for one in found] == [("e", "canary")]
    assert sorted(file.name for file in path.parent.glob("0*.[vf]*")) == ["0.fault", "0.vitals"]
    for _ in range(3):
        vigil.put_aside(server.places, 0)
        note.attach(path)
    assert len(list(path.parent.glob("*.vitals"))) == 2


def test_a_process_that_ends_after_a_call_is_charged_to_the_last_one_unless_it_was_told_to_end(
    server: ModelServer, tools: Any, tmp_path: Path
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.5))
    note, vmstat = Calls(), tmp_path / "vmstat"
    vmstat.write_text("pgfault 1\noom_kill 3\n")
    watch = vigil.Vigil(server.places, vmstat=vmstat)
    path = vigil.vitals_of(server.places, 0)
    path.parent.mkdir(parents=True, exist_ok=True)

    def died(code: int, *arms: int) -> vigil.Death:
        note.attach(path)
        for arm in arms:
            note.here(mark("call", "e", 1, arm), None, lambda _: None, None)
        note.at(calls.LOADER, mark(calls.LOAD, "m", "v3"), lambda _: None, None)  # what was loaded is accused by trials
        return watch.buried(os.getpid(), code)

    assert died(-signal.SIGABRT, 0, 1).arm == "canary"  # descriptors that were closed are missed at the next turn
    assert (died(3, 1, 0).arm, died(0, 1).arm, died(-signal.SIGKILL, 1).arm, died(1).arm) == ("baseline", "", "", "")
    vmstat.write_text("pgfault 1\noom_kill 4\n")
    starved = died(-signal.SIGKILL, 0, 1)
    assert (starved.reason, starved.arm) == ("out_of_memory", "canary")
    counts = server.counts("e").arms
    assert (counts["baseline"].errors, counts["canary"].errors) == (1, 2)
    assert vigil.replaced(server.places)["out_of_memory"] == 1


@pytest.mark.parametrize("close", [os.close, lambda file: os.dup2(os.open("/dev/null", os.O_RDONLY), file)])
def test_who_closes_what_the_process_needs_pays_and_not_the_last_call_nor_anybody_where_that_is_not_known(
    server: ModelServer, tools: Any, close: Any
) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference())
    server.apply(tools.split("e", 1, 0.5))
    path = vigil.vitals_of(server.places, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    watch = vigil.Vigil(server.places)
    baseline, canary = mark("call", "e", 1, 0), mark("call", "e", 1, 1)

    def begun() -> tuple[Calls, int]:
        note, needed = Calls(), os.eventfd(0)
        note.attach(path)
        note.watch([needed])
        return note, needed

    note, needed = begun()
    note.here(baseline, None, lambda _: None, None)
    note.here(canary, None, close, needed)
    note.here(baseline, None, lambda _: None, None)
    assert note.broken
    assert watch.buried(os.getpid(), -signal.SIGABRT).arm == "canary"
    note, needed = begun()
    with note.awaiting(canary, None):  # a coroutine, which closes it between two calls of threads
        close(needed)
    note.here(baseline, None, lambda _: None, None)
    assert watch.buried(os.getpid(), 1).arm == "canary"
    note, needed = begun()
    note.here(canary, None, lambda _: None, None)
    note.broke_unseen()  # between two calls: the listener's look found it
    died = watch.buried(os.getpid(), 1)
    assert (died.arm, "not known" in died.detail) == ("", True)
    counts = server.counts("e").arms
    assert (counts["baseline"].errors, counts["canary"].errors) == (0, 2)


def test_of_calls_that_overlap_as_a_descriptor_is_closed_one_is_drawn(tmp_path: Path) -> None:
    drawn: Counter[str] = Counter()
    for _ in range(200):
        note, needed = Calls(), os.eventfd(0)
        note.attach(tmp_path / "v")
        note.watch([needed])

        def beside(note: Calls = note, needed: int = needed) -> None:
            note.at(calls.LOADER, mark("call", "e", 1, 1), lambda _: os.close(needed), None)

        note.here(mark("call", "e", 1, 0), None, lambda _, beside=beside: beside(), None)
        found = calls.read(tmp_path / "v")
        assert found is not None
        assert found.broke is not None
        drawn[found.broke.what[3]] += 1
    assert 60 < drawn["0"] < 140


def test_a_version_that_is_never_loaded_is_noticed_and_named(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    note = Calls()
    path = vigil.vitals_of(server.places, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    note.attach(path)
    note.turned()
    watch, found = vigil.Vigil(server.places), []

    def loading(_: object) -> None:
        found.append(watch.verdict(os.getpid(), 0.0))
        monkeypatch.setattr(vigil, "LOAD_S", 0.0)
        found.append(watch.verdict(os.getpid(), 0.0))
        found.append(watch.buried(os.getpid(), -signal.SIGSEGV))

    note.at(calls.LOADER, mark(calls.LOAD, "m", "v2"), loading, None)
    assert found[0] is None
    assert (found[1].reason, found[1].detail) == ("stuck", "it loads m v2 for 0 s")
    assert (found[2].detail, found[2].arm) == ("SIGSEGV as it loaded m v2", "")
    assert watch.verdict(os.getpid(), 0.0) is None


@pytest.mark.parametrize("content", [b"", b"x" * calls.SIZE, os.urandom(calls.SIZE), b"\0" * 100])
def test_records_that_are_none_are_no_records(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "v").write_bytes(content)
    assert calls.read(tmp_path / "v") is None
    assert calls.read(tmp_path / "none") is None
