"""What a shadow costs the primary: its p50 and p99 over HTTP with no shadow, a quick one, slow ones of three kinds, and one
whose process is killed again and again or stopped.

    python benchmarks/shadow.py [--rate 300] [--seconds 8] [--rounds 3] [--saturated]

One serving process; every request is copied. The slow shadows sleep for 50 ms, compute for 20 ms in Python and compute for
20 ms in NumPy with as many threads as it likes. The cases take turns, so that what else the machine does meets them alike.
With `--saturated` the callers ask as fast as they are answered. `memory` is what the serving process has grown by.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelyard import Yard
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.traffic import Arm, Traffic
from modelyard.testing.servers import until
from modelyard.testing.serving import YardServer

sys.path.insert(0, str(Path(__file__).parent))  # the serving process reads this file too
from rollback import ENDPOINT, Load

CALLERS = 4
CASES = ("no shadow", "quick", "sleeps 50 ms", "Python for 20 ms", "NumPy for 20 ms", "killed", "stopped")
VERSIONS = {case: "quick" if case in ("no shadow", "killed", "stopped") else case.replace(" ", "-") for case in CASES}


class Shadow:
    """Whether `a` is above a half, after as much work as the case says."""

    signature = Signature(inputs=(FeatureSpec(name="a"),), task="binary", classes=(0, 1))

    def __init__(self, case: str = "quick") -> None:
        self.case = case
        self.matrix = np.random.default_rng(0).normal(size=(256, 256))

    def predict(self, batch: np.ndarray) -> Output:
        """The class, late."""
        end = time.perf_counter() + 0.020
        if self.case == CASES[2]:
            time.sleep(0.050)
        while self.case == CASES[3] and time.perf_counter() < end:
            sum(i * i for i in range(100))
        while self.case == CASES[4] and time.perf_counter() < end:
            self.matrix @ self.matrix
        return Output(predictions=(batch[:, 0] > 0.5).astype(np.int64))


@dataclass
class Saturating(Load):
    """Requests as fast as they are answered, from a few callers."""

    async def _run(self) -> None:
        queue: asyncio.Queue[bool] = asyncio.Queue()
        callers = [asyncio.create_task(self._caller(queue)) for _ in range(CALLERS)]
        while not self.ended.is_set():
            for _ in range(CALLERS * 8 - queue.qsize()):
                queue.put_nowait(True)
            await asyncio.sleep(0.001)
        for caller in callers:
            caller.cancel()


def private(pid: int) -> float:
    """The MiB of memory that a process has to itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def disturb(yard: Yard, case: str, seconds: float) -> None:
    """Let the time pass; kill the process that shadows twice a second, or stop it."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        with suppress(ProcessLookupError):
            for one in yard.serving.processes() if case in CASES[5:] else ():
                if one.shadows:
                    os.kill(one.pid, signal.SIGKILL if case == CASES[5] else signal.SIGSTOP)
        time.sleep(min(left, 0.5))


def measured(yard: Yard, case: str, generation: int, load: Load, seconds: float) -> dict[str, float]:
    """The primary's latencies in ms while the case's shadow runs, and what became of the copies."""
    arms = (Arm(name="baseline", model=ENDPOINT, version="quick", weight=1.0),)
    shadow = Arm(name="shadow", model=ENDPOINT, version=VERSIONS[case], weight=0.0)
    copied = {} if case == CASES[0] else {"shadow": shadow, "shadow_share": 1.0}
    yard.serving.apply(Traffic(endpoint=ENDPOINT, generation=generation, arms=arms, **copied))
    carrying = 1 if case == CASES[0] else 2  # the process that answers, and the one that shadows
    until(
        lambda: [one.generations.get(ENDPOINT) for one in yard.serving.processes()].count(generation) == carrying, 300
    )
    pid = next(one.pid for one in yard.serving.processes() if not one.shadows)
    before = private(pid)
    with load:
        disturb(yard, case, seconds)
    for one in yard.serving.processes():
        if one.shadows:
            os.kill(one.pid, signal.SIGCONT)
    took = np.array([answered - sent for sent, answered, *_ in load.answers[len(load.answers) // 8 :]]) * 1000
    assert not load.broken
    counts = yard.serving.counts(ENDPOINT).shadow
    return {
        "p50": np.quantile(took, 0.5),
        "p99": np.quantile(took, 0.99),
        "a second": len(load.answers) / seconds,
        "compared": counts.compared if counts else 0,
        "dropped": counts.dropped if counts else 0,
        "memory": private(pid) - before,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--saturated", action="store_true")
    given = parser.parse_args()
    told = "as many requests as are answered" if given.saturated else f"{given.rate:g} requests a second"
    print(f"{told}, one process, load average before {os.getloadavg()[0]:.1f}")
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as place, Yard(place) as yard:
        yard.serving.configure(ENDPOINT, {"trusted_code": True})
        for case in CASES[1:5]:
            reference = f"{Path(__file__).absolute()}:Shadow@{case}"
            yard.serving.install(ENDPOINT, ENDPOINT, VERSIONS[case], reference, "python")
        yard.serving.apply(
            Traffic(
                endpoint=ENDPOINT,
                generation=1,
                arms=(Arm(name="baseline", model=ENDPOINT, version="quick", weight=1.0),),
            )
        )
        with YardServer(place, workers=1) as server:
            generation = 1
            for _ in range(given.rounds):
                for case in CASES:
                    generation += 1
                    load = (Saturating if given.saturated else Load)(server.predictions_url, given.rate)
                    found[case].append(measured(yard, case, generation, load, given.seconds))
    print("| shadow | p50 ms | p99 ms | a second | compared | dropped | memory MiB |")
    print("|---|---|---|---|---|---|---|")
    for case, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        told = [f"{middle['p50']:.2f}", f"{middle['p99']:.2f}", f"{middle['a second']:,.0f}"]
        told += [f"{middle['compared']:,.0f}", f"{middle['dropped']:,.0f}", f"{middle['memory']:+.1f}"]
        print(f"| {' | '.join((case, *told))} |")


if __name__ == "__main__":
    main()
