"""Servers that share one PostgreSQL and judge a rollout together: what telling each other costs.

    python benchmarks/fleet.py [--servers 3] [--seconds 20]

Each server is a process with a folder of its own that counts 200 answers a second, 1 % of them failed, and turns four times
a second as `modelyard serve` does: once without units, once with a new unit in every answer, once while nothing is asked.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.core.work import Store
from modelyard.serving import ModelServer
from modelyard.serving.counters import Counters
from modelyard.serving.fleet import TURN_S, Fleet
from modelyard.testing.postgres import PostgresServer

RATE, SHARE, FAILED = 200, 0.1, 0.01
KINDS = ("no units", "new units", "idle")


def traffic() -> Traffic:
    """A canary on trial."""
    arms = (
        Arm(name="baseline", model="m", version="v1", weight=1 - SHARE),
        Arm(name="canary", model="m", version="v2", weight=SHARE),
    )
    return Traffic(endpoint="e", generation=1, arms=arms, guards=(Guard(rollout_id="r", step=0, share=SHARE),))


def count(counters: Counters, kind: str) -> None:
    """The answers of one turn."""
    for _ in range(0 if kind == "idle" else int(RATE * TURN_S)):
        arm = int(random.random() < SHARE)
        counters.answered(arm, random.lognormvariate(7, 0.6))
        unit = random.getrandbits(64) if kind == "new units" else None
        counters.outcome(arm, unit, failed=random.random() < FAILED)


def serve(url: str, folder: str, kind: str, seconds: float) -> None:
    """One server, in a process of its own: prints milliseconds of processor a second, and of time a turn."""
    server = ModelServer(Store.at(url, files=folder))
    server.publish()
    counters = Counters(server.places.counters("e", 1), 0)
    counters.warm_up()
    fleet = Fleet(server.store, server.places)
    fleet.turn()
    used, took, turns, end = 0.0, 0.0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        count(counters, kind)
        cpu, wall = time.thread_time(), time.monotonic()
        fleet.turn()
        used, took, turns = used + time.thread_time() - cpu, took + time.monotonic() - wall, turns + 1
        time.sleep(max(0.0, TURN_S - (time.monotonic() - wall)))
    print(1000 * used / seconds, 1000 * took / turns)


def measured(postgres: PostgresServer, kind: str, servers: int, seconds: float) -> dict[str, float]:
    """What all of them take."""
    name = postgres.new_database()
    with tempfile.TemporaryDirectory() as base:
        first = ModelServer(Store.at(postgres.url(name), files=Path(base) / "0"))
        first.apply(traffic())
        first.close()
        before = transactions(postgres, name)
        command = [sys.executable, __file__, "--url", postgres.url(name), "--kind", kind, "--seconds", str(seconds)]
        each = [
            subprocess.Popen([*command, "--folder", f"{base}/{number}"], stdout=subprocess.PIPE, text=True)
            for number in range(servers)
        ]
        told = [[float(part) for part in one.communicate()[0].split()] for one in each]
        time.sleep(1.5)  # PostgreSQL tells its statistics with a delay of a second
        return {
            "processor of a server, ms a second": sum(one[0] for one in told) / servers,
            "a turn, ms": sum(one[1] for one in told) / servers,
            "transactions a second, of all": (transactions(postgres, name) - before) / seconds,
        }


def transactions(postgres: PostgresServer, name: str) -> int:
    """How many a database has had."""
    return int(postgres.sql(f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{name}'"))


def main() -> None:
    """Print each kind's figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    for name in ("--url", "--folder", "--kind"):
        parser.add_argument(name, default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.url:
        serve(given.url, given.folder, given.kind, given.seconds)
        return
    with PostgresServer({"synchronous_commit": "on"}) as postgres:
        for kind in KINDS:
            print(kind)
            for name, value in measured(postgres, kind, given.servers, given.seconds).items():
                print(f"  {name}: {value:.1f}")


if __name__ == "__main__":
    main()
