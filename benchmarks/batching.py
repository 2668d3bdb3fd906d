"""What joining calls is worth: a scaled 100-tree forest that only scikit-learn can answer, with and without micro-batching.

    apt install wrk
    python benchmarks/batching.py [--seconds 4] [--rounds 3]

The same two serving processes, in the one case with joining switched off. wrk (one thread) shares the machine's cores with
them. The rounds alternate; each figure is the median of the rounds. Compare ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np

from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer
from serving import COLUMNS, Server, measured, median, started, table, until_ready, wrk

WORKER = "import sys; from modelyard.serving import loaded, worker; {change}worker.main(sys.argv[1:])"
OFF = "loaded.PAYS = float('inf'); "


def model(path: Path) -> Path:
    """A scaled forest of depth 10 on 10,000 x 8 rows."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from skops import io

    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 8))
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=10_000) > 0).astype(int)
    forest = RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1)
    io.dump(make_pipeline(StandardScaler(), forest).fit(x, y), path)
    return path


def processes(name: str, folder: Path, change: str, body: bytes) -> Server:
    """Two serving processes on a yard of their own."""
    server = ModelServer(folder)
    installed = server.install("forest", "forest", "v1", folder.parent / "forest.skops", "sklearn")
    assert installed.compiled is None or not installed.compiled.path, "the forest was compiled"
    arm = Arm(name="baseline", model="forest", version="v1", weight=1.0)
    server.apply(Traffic(endpoint="forest", generation=1, arms=(arm,)))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    number = listener.fileno()
    pids: tuple[int, ...] = ()
    for _ in range(2):
        command = [sys.executable, "-c", WORKER.format(change=change), "--folder", str(folder), "--socket", str(number)]
        pids += started(command, 0, fds=[number])[0]
    return Server(name, pids, listener.getsockname()[1], "/predict/forest", body)


def main() -> None:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    body = json.dumps({"features": dict(zip(COLUMNS, rng.normal(size=8).tolist(), strict=True))}).encode()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = Path(scratch)
        model(folder / "forest.skops")
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        joined = processes("joined", folder / "joined", "", body)
        apart = processes("each alone", folder / "apart", OFF, body)
        both, kept = [joined, apart], []
        for server in both:
            until_ready(server)
        for connections in (
            1,
            32,
        ):  # in this order: scikit-learn asked by many threads loses warnings.filters, and is quicker
            measured(both, given.rounds, lambda one, n=connections: wrk(one, folder, given.seconds, n))  # type: ignore[misc]
            table(f"{connections} connections", both)
            kept.append([(median(one, "rate"), median(one, "p50")) for one in both])
            for server in both:
                server.found.clear()
        (one_joined, one_apart), (many_joined, many_apart) = kept
        print(
            f"\n32 connections: {many_joined[0] / many_apart[0]:.1f} x the requests a second of each alone (at least 5)"
        )
        print(f"1 connection: p50 {one_joined[1] / one_apart[1] - 1:+.1%} (within 5 %)")
        print(f"load average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
