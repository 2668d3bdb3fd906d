"""The control plane: how soon it answers, what it weighs, and the server's CPU for each call.

    .venv/bin/python benchmarks/server.py

CPU is the server process's own, counted by the kernel over many calls, so that it holds on a busy machine too.
"""

from __future__ import annotations

import os
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import httpx
import lightgbm
import numpy as np

from modelyard import Yard
from modelyard.access.identity import Identities
from modelyard.testing.serving import YardServer

CALLS = 300
TICK = os.sysconf("SC_CLK_TCK")


def cpu_ms(server: YardServer, call: Callable[[int], object], calls: int = CALLS) -> float:
    """Milliseconds of the server's CPU for one call."""
    for number in range(3):
        call(-1 - number)
    before = _cpu(server)
    for number in range(calls):
        call(number)
    return (_cpu(server) - before) * 1000 / calls


def _cpu(server: YardServer) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mb(process: int) -> float:
    """Resident memory of a process in MiB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def model_of_10_kb(folder: Path) -> bytes:
    """A LightGBM text file of about 10 kB."""
    x = np.random.default_rng(0).normal(size=(500, 5))
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1}, lightgbm.Dataset(x, x[:, 0] > 0), num_boost_round=4
    )
    booster.save_model(folder / "model.txt")
    return (folder / "model.txt").read_bytes()


def main() -> None:
    """Print one line a figure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_of_10_kb(folder)
        starts = []
        for number in range(3):
            with YardServer(folder / f"start{number}") as server:
                starts.append(server.seconds)
                if not number:
                    print(f"resident memory, idle: {resident_mb(server.process.pid):.0f} MiB")
        print(f"start in a new folder: {min(starts):.2f} s (best of 3; worst {max(starts):.2f})")
        with Yard(folder / "yard") as yard:
            secret = yard.access.create_token("root@example.com", role="admin", created_by="root").secret
            identities = Identities(yard.store)
            identities.of(secret)
            spent = min(timeit.repeat(lambda: identities.of(secret), number=2_000, repeat=5)) / 2_000
            print(f"identify, cached: {spent * 1e6:.1f} us")
        with YardServer(folder / "yard") as server:
            _calls(server, secret, model)
            print(f"resident memory, after the calls: {resident_mb(server.process.pid):.0f} MiB")


def _calls(server: YardServer, secret: str, model: bytes) -> None:
    headers = {"Authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=60) as client:

        def done(answer: httpx.Response) -> httpx.Response:
            assert answer.is_success, answer.text
            return answer

        def register(number: int) -> None:
            sent = done(client.post("/api/v1/uploads", params={"name": "model.txt"}, content=model)).json()["upload"]
            body = {"framework": "lightgbm", "model_path": sent, "metrics": {"auc": 0.9}}
            done(client.post(f"/api/v1/models/fraud/versions/1.{number + 10}.0", json=body))

        figures = {
            "GET identity": cpu_ms(server, lambda _: done(client.get("/api/v1/identity"))),
            "register a version with 10 kB (two calls)": cpu_ms(server, register),
            "GET a version": cpu_ms(server, lambda _: done(client.get("/api/v1/models/fraud/versions/1.10.0"))),
            "POST a tag": cpu_ms(
                server,
                lambda n: done(client.post("/api/v1/models/fraud/tags", json={"key": "team", "value": str(n)})),
            ),
        }
    for what, spent in figures.items():
        print(f"server CPU, {what}: {spent:.2f} ms")


if __name__ == "__main__":
    main()
