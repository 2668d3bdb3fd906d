"""Models that crash, hang or hold their process, clients that leave, and processes that are killed: what is lost, and whose
fault it is."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
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
    """Clients that ask again and again, and what they were told: a status and an arm, or that the connection closed."""
    told: Counter[str] = Counter()
    ending = threading.Event()

    def call() -> None:
        while not ending.is_set():
            try:
                answer = httpx.post(f"{url}/predict/e", json=body, timeout=30)
            except httpx.TransportError:
                told["closed"] += 1
            else:
                told[f"{answer.status_code} {answer.json().get('arm', '')}"] += 1

    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield told
    finally:
        ending.set()
        for thread in threads:
            thread.join(40)


@pytest.mark.parametrize("way", ["segfault", "exit", "hold"])
def test_a_canary_that_ends_or_hangs_its_process_is_rolled_back(server: ModelServer, tools: Any, way: str) -> None:
    tools.install(server, "e", v1=tools.reference(task="regression"), v2=deadly(way))
    guard = Guard(rollout_id="dep_x", step=0, share=0.1, alpha=0.05)
    server.apply(tools.split("e", 1, 0.1, guard))
    with server.start(workers=2, hang_s=1.0) as serving, callers(serving.url, FATAL) as told:
        (trip,) = tools.until(server.trips, 90)
        tools.until(lambda: tools.carried_out(server, "e", 1))
        before = Counter(told)
        tools.until(lambda: told["200 baseline"] > before["200 baseline"] + 40)
        after = Counter(told)
    assert after["closed"] == before["closed"]
    assert (trip.metric, trip.rollout_id) == ("errors", "dep_x")
    assert trip.counts.arms["canary"].errors >= 2
    assert trip.counts.arms["baseline"].errors == 0
    assert serving.restarts >= 2
    died = events(server, "worker_replaced")
    reason = {"exit": "ended", "hold": "hung"}.get(way, "crashed")
    assert {(one["reason"], one["endpoint"], one["arm"]) for one in died} == {(reason, "e", "canary")}
    assert vigil.replaced(server.places)[reason] == len(died)
    assert len(died) <= told["closed"] <= 2 * len(died)  # the other caller's may have been in the same process
