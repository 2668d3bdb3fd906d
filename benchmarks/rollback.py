"""A bad canary over real HTTP: how soon after the deciding request every process answers with the baseline again.

    python benchmarks/rollback.py [--rounds 3] [--rate 500] [--workers 2]

A `modelyard serve` with its controller; the new version fails in 5 % of its answers and gets 5 % of the requests, which
come at a steady rate whatever the answers do. Once with the controller at work, once with its process, which also
supervises the serving processes, stopped by SIGSTOP before the first request. Then takeovers by hand and the returns from
them once completed, by the answers, under the same traffic: blue-green, and canaries with and without a kept baseline.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import tempfile
import threading
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelyard import Yard
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.testing.servers import until
from modelyard.testing.serving import YardServer

ENDPOINT = "fraud"
CONNECTIONS = 32
LOADING = 3.0  # seconds that a version takes to load, as one of some hundred megabytes may


class Sometimes:
    """Whether `a` is above a half; fails where `a` is above 0 and below the rate that it is given."""

    signature = Signature(inputs=(FeatureSpec(name="a"),), task="binary", classes=(0, 1))

    def __init__(self, rate: str = "0") -> None:
        time.sleep(LOADING)
        self.rate = float(rate)

    def predict(self, batch: np.ndarray) -> Output:
        """The class."""
        if ((batch[:, 0] > 0) & (batch[:, 0] < self.rate)).any():
            raise FloatingPointError("one of the bad rows")
        return Output(predictions=(batch[:, 0] > 0.5).astype(np.int64))


@dataclass
class Load:
    """Requests at a steady rate over keep-alive connections: (sent, answered, status, arm, version) of each."""

    url: str
    rate: float
    answers: list[tuple[float, float, int, str, str]] = field(default_factory=list)
    broken: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Load:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._thread.join(30)

    async def _run(self) -> None:
        queue: asyncio.Queue[bool] = asyncio.Queue()
        callers = [asyncio.create_task(self._caller(queue)) for _ in range(CONNECTIONS)]
        begun, sent = time.monotonic(), 0
        while not self.ended.is_set():
            due = int((time.monotonic() - begun) * self.rate)
            for _ in range(due - sent):
                queue.put_nowait(True)
            sent = due
            await asyncio.sleep(0.002)
        for caller in callers:
            caller.cancel()

    async def _caller(self, queue: asyncio.Queue[bool]) -> None:
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while await queue.get():
            body = json.dumps({"features": {"a": random.random()}}).encode()
            head = f"POST /predict/{ENDPOINT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            sent = time.time()
            writer.write(head.encode() + body)
            try:
                told = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(line.lower().split(": ", 1) for line in told.split("\r\n")[1:] if ": " in line)
                await reader.readexactly(int(headers["content-length"]))
            except (asyncio.IncompleteReadError, ConnectionError):
                self.broken += 1
                reader, writer = await asyncio.open_connection(host, int(port))
                continue
            arm, version = headers.get("x-modelyard-arm", ""), headers.get("x-modelyard-version", "")
            self.answers.append((sent, time.time(), int(told.split()[1]), arm, version))


def prepared(yard: Yard) -> None:
    """Two versions, the first of which answers."""
    yard.serving.configure(ENDPOINT, {"trusted_code": True})
    for version, rate in (("v1.0.0", 0.0), ("v2.0.0", 0.0), ("v3.0.0", 0.05)):
        yard.serving.install(ENDPOINT, ENDPOINT, version, f"{Path(__file__).absolute()}:Sometimes@{rate}", "python")
    yard.deployments.start(ENDPOINT, "v1.0.0", strategy="direct")


def bad_canary(rate: float, workers: int, *, stopped: bool) -> dict[str, float]:
    """One rollout of the bad version, to its end."""
    with tempfile.TemporaryDirectory() as place, Yard(place) as yard:
        prepared(yard)
        with YardServer(place, workers=workers) as server:
            rollout = yard.roll_out(ENDPOINT, "v3.0.0", steps=[0.05, 1.0])
            until(lambda: server.carries_out(yard, ENDPOINT, rollout.generation))
            with server.stopped(yard) if stopped else nullcontext(), Load(server.predictions_url, rate) as load:
                (trip,) = until(yard.serving.trips)
                until(lambda: not yard.deployments.get_deployment(rollout.deployment_id).status.active)
                told = time.time() - trip.at
                until(lambda: time.time() > trip.at + 4)
            late = [
                sent - trip.at for sent, _, _, arm, version in load.answers if version == "v3.0.0" and sent > trip.at
            ]
            after = [one for one in load.answers if one[0] > trip.at]
            return {
                "canary requests at the decision": trip.counts.arms["canary"].requests,
                "last request answered by the bad version, ms after the decision": 1000 * max(late, default=0.0),
                "requests answered by it after the decision": len(late),
                "requests after the decision": len(after),
                "recorded in the store, s after the decision": told,
                "connections broken": load.broken,
            }


def there_and_back(rate: float, workers: int, strategy: str, **terms: Any) -> dict[str, float]:
    """A version takes over by a person's hand and is taken back once completed.

    From each command to the last request that the old side answers, in ms; the versions take LOADING seconds to load.
    """
    with tempfile.TemporaryDirectory() as place, Yard(place) as yard:
        prepared(yard)
        with YardServer(place, workers=workers) as server:
            rollout = yard.roll_out(ENDPOINT, "v2.0.0", strategy=strategy, **terms)
            until(lambda: server.carries_out(yard, ENDPOINT, rollout.generation))
            found = {}
            with Load(server.predictions_url, rate) as load:
                until(lambda: len(load.answers) > rate)
                for name, act, old in (
                    ("there", yard.deployments.promote, "v1.0.0"),
                    ("back", yard.deployments.rollback, "v2.0.0"),
                ):
                    at = time.time()
                    act(rollout.deployment_id)
                    done = time.time()
                    until(lambda at=at: load.answers[-1][0] > at + LOADING + 3)
                    late = [sent - at for sent, _, _, _, version in load.answers if version == old and sent > at]
                    found[f"{name}: last request answered by the old side, ms after the command"] = 1000 * max(late)
                    found[f"{name}: the command itself, ms"] = 1000 * (done - at)
            found["connections broken"] = load.broken
            found["answers other than 200"] = sum(one[2] != 200 for one in load.answers)
            return found


def table(name: str, rounds: list[dict[str, float]]) -> None:
    """Medians and the worst of several rounds."""
    print(f"\n{name}, {len(rounds)} rounds: median (worst)")
    for key in rounds[0]:
        values = [one[key] for one in rounds]
        print(f"  {key:70} {statistics.median(values):10.1f} ({max(values):.1f})")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    print(f"{given.rate:g} requests a second, {given.workers} processes, load average before {os.getloadavg()[0]:.1f}")
    for name, stopped in (
        ("bad canary, controller at work", False),
        ("bad canary, controller stopped by SIGSTOP", True),
    ):
        table(name, [bad_canary(given.rate, given.workers, stopped=stopped) for _ in range(given.rounds)])
    for name, strategy, terms in (
        ("blue-green", "blue_green", {}),
        ("a completed canary, its baseline kept in memory", "canary", {"steps": [0.5, 1.0]}),
        ("a completed canary, keep_seconds 0", "canary", {"steps": [0.5, 1.0], "keep_seconds": 0.0}),
    ):
        table(name, [there_and_back(given.rate, given.workers, strategy, **terms) for _ in range(given.rounds)])


if __name__ == "__main__":
    main()
