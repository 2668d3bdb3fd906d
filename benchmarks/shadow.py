"""What a shadow costs the primary: its p50 and p99 over HTTP with no shadow, a quick one, and slow ones of three kinds.

    python benchmarks/shadow.py [--rate 300] [--seconds 8] [--rounds 3]

One serving process; every request is copied. The slow shadows sleep for 50 ms, compute for 20 ms in Python (which holds
the interpreter) and compute for 20 ms in NumPy (which does not). The cases take turns, so that what else the machine does
meets them alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from modelyard import Yard
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.traffic import Arm, Traffic
from modelyard.testing.serving import YardServer

sys.path.insert(0, str(Path(__file__).parent))  # the serving process reads this file too
from rollback import ENDPOINT, Load, until

CASES = ("no shadow", "quick", "sleeps 50 ms", "Python for 20 ms", "NumPy for 20 ms")


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


def measured(yard: Yard, url: str, case: str, generation: int, rate: float, seconds: float) -> dict[str, float]:
    """The primary's latencies in ms while the case's shadow runs, and what became of the copies."""
    arms = (Arm(name="baseline", model=ENDPOINT, version="quick", weight=1.0),)
    shadow = Arm(name="shadow", model=ENDPOINT, version=case.replace(" ", "-"), weight=0.0)
    copied = {} if case == CASES[0] else {"shadow": shadow, "shadow_share": 1.0}
    yard.serving.apply(Traffic(endpoint=ENDPOINT, generation=generation, arms=arms, **copied))
    until(lambda: [one.generations.get(ENDPOINT) for one in yard.serving.processes()] == [generation])
    with Load(url, rate) as load:
        time.sleep(seconds)
    took = np.array([answered - sent for sent, answered, *_ in load.answers[int(rate) :]]) * 1000
    counts = yard.serving.counts(ENDPOINT).shadow
    done = (counts.compared, counts.dropped) if counts else (0, 0)
    return {"p50": np.quantile(took, 0.5), "p99": np.quantile(took, 0.99), "compared": done[0], "dropped": done[1]}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    print(f"{given.rate:g} requests a second, one process, load average before {os.getloadavg()[0]:.1f}")
    found: dict[str, list[dict[str, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as place, Yard(place) as yard:
        yard.serving.configure(ENDPOINT, {"trusted_code": True})
        for case in CASES[1:]:
            reference = f"{Path(__file__).absolute()}:Shadow@{case}"
            yard.serving.install(ENDPOINT, ENDPOINT, case.replace(" ", "-"), reference, "python")
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
                    url = server.predictions_url
                    found[case].append(measured(yard, url, case, generation, given.rate, given.seconds))
    print(f"{'shadow':20} {'p50 ms':>8} {'p99 ms':>8} {'compared':>9} {'dropped':>9}")
    for case, rounds in found.items():
        middle = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        print(f"{case:20} {middle['p50']:8.2f} {middle['p99']:8.2f} {middle['compared']:9.0f} {middle['dropped']:9.0f}")


if __name__ == "__main__":
    main()
