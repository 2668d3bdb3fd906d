"""What keeping every prediction costs: the request's share, the writer's, Parquet's; the durable mode; batch prediction.

    python benchmarks/payloads.py [--requests 100000] [--seconds 3]

Rows have 8 numbers in, a class and two probabilities out. "CPU" is of threads or processes, from the kernel's counters; all
lines of one table are of one run. The log of JSON lines is what modelyard had before, written anew here to compare with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import numpy as np
import uvloop

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer, compaction, payloads
from modelyard.serving.places import Places
from modelyard.serving.scaler import cpu_seconds
from modelyard.serving.values import EndpointConfig

ROUNDS = 5
LONG = 1e-4  # seconds
NAMES = tuple(f"x{i}" for i in range(8))
SIGNATURE = Signature(inputs=tuple(FeatureSpec(name=name) for name in NAMES), task="binary", classes=(0, 1))


class Quick:
    """A model that costs next to nothing, so that what is measured is not it."""

    signature = SIGNATURE

    def predict(self, batch: np.ndarray) -> Output:
        """Whether the first number is above 0."""
        p = 1 / (1 + np.exp(-batch[:, 0]))
        return Output(predictions=(p > 0.5).astype(np.int64), probabilities=np.column_stack([1 - p, p]))


ARM = Arm(name="baseline", model="m", version="v1", weight=1.0)
ROUTE: Any = SimpleNamespace(
    traffic=Traffic(endpoint="e", generation=1, arms=(ARM,)),
    models=(SimpleNamespace(signature=SIGNATURE),),
    config=EndpointConfig(),
)
BODY = msgspec.json.encode({"features": dict.fromkeys(NAMES, 0.25)})
Keep = Callable[..., Any]


def requests(count: int, keep: Keep) -> float:
    """The CPU microseconds of this process a request, where each is parsed, answered and encoded, then kept.

    Values are made and let go of as a server does it: what a log holds on to is paid by the requests that follow.
    """
    decode, encode, model = msgspec.json.Decoder(dict).decode, msgspec.json.encode, Quick()
    begin = time.process_time()
    for n in range(count):
        features = decode(BODY)["features"]
        batch = np.array((tuple(features.values()),))
        output = model.predict(batch)
        encode({"p": output.predictions.tolist(), "q": output.probabilities.tolist()})
        keep(n, features, batch, output)
        if n % 50 == 49:
            time.sleep(0.002)
    return (time.process_time() - begin) * 1e6 / count


class JsonLines:
    """The log that was: a queue of answers, and a thread that encodes each row."""

    def __init__(self, path: Path) -> None:
        self.items: deque[Any] = deque()
        self.path, self.stopping = path, False
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def keep(self, n: int, features: Any, batch: np.ndarray, output: Output) -> None:
        """Queue an answer."""
        self.items.append((f"1f2e3d4c{n:x}", time.time(), features, batch, output))

    def write(self) -> None:
        """Write what is queued."""
        encode = msgspec.json.Encoder(enc_hook=lambda value: value.tolist()).encode
        while not self.stopping or self.items:
            time.sleep(0.05)
            lines = []
            while self.items:
                request_id, at, features, _, output = self.items.popleft()
                predictions, shares = output.predictions.tolist(), output.probabilities.tolist()
                told = {"request_id": request_id, "row": 0, "at": at, "endpoint": "e", "arm": "baseline"}
                told |= {"model": "m", "version": "v1", "unit": None, "features": features}
                told |= {"prediction": predictions[0], "probabilities": shares[0], "latency_ms": 0.1}
                lines.append(encode(told))
            with self.path.open("ab", buffering=0) as stream:
                stream.write(b"\n".join(lines) + b"\n")

    def stop(self) -> None:
        """Write the rest."""
        self.stopping = True
        self.thread.join()


def one_process(count: int, folder: Path) -> None:
    """What keeping a row adds to a request's CPU: the request's, the writer's and the memory's share together."""
    print(f"\nIn one process, rounds of {count:,} one-row requests; load average {os.getloadavg()[0]:.1f}")
    print(f"{'':44}{'us CPU a row':>14}{'bytes a row':>14}")
    took: dict[str, list[float]] = {"nothing": [], "kept": [], "queued": []}
    for turn in range(ROUNDS):
        took["nothing"].append(requests(count, lambda *_: None))
        log = payloads.PayloadLog(Places(folder), 0)
        took["kept"].append(requests(count, keeper(log)))
        log.stop()
        old = JsonLines(folder / f"old{turn}.jsonl")
        took["queued"].append(requests(count, old.keep))
        old.stop()
    least = {name: min(some) for name, some in took.items()}
    rows = count * ROUNDS
    line("kept: added to a request, thread included", least["kept"] - least["nothing"], size(folder, "*.rows") / rows)
    line(
        "JSON lines by a thread, as before",
        least["queued"] - least["nothing"],
        sum(path.stat().st_size for path in folder.glob("old*")) / rows,
    )
    line("the request alone", own(count, folder))
    assert ModelServer(folder).payload_state("e").written == rows
    compaction.compact(Places(folder / "own").payloads("e"))  # loads DuckDB
    begin = time.process_time()
    compaction.compact(Places(folder).payloads("e"))
    line(
        "made Parquet, by a process of its own",
        (time.process_time() - begin) * 1e6 / rows,
        size(folder, "*.parquet") / rows,
    )
    stalls(folder)


def keeper(log: payloads.PayloadLog) -> Keep:
    """What the data plane does with an answer that is to be kept."""

    def keep(n: int, _: Any, batch: np.ndarray, output: Output) -> None:
        log.offer(ROUTE, 0, f"1f2e3d4c{n:x}", time.time(), 12.5, None, batch, output)

    return keep


def own(count: int, folder: Path) -> float:
    """The CPU microseconds of the thread that answers requests, for keeping one."""
    log = payloads.PayloadLog(Places(folder / "own"), 0)
    keep, batch = keeper(log), np.full((1, 8), 0.25)
    output = Quick().predict(batch)
    keep(0, None, batch, output)
    begin = time.thread_time()
    for n in range(count):
        keep(n, None, batch, output)
    took = time.thread_time() - begin
    log.stop()
    return took * 1e6 / count


def stalls(folder: Path) -> None:
    """How long the interpreter is away from a busy thread while the writer works, as a worker sets it."""
    sys.setswitchinterval(0.0005)
    found = {}
    for name in ("nothing is logged", "20,000 rows a second are logged"):
        log = payloads.PayloadLog(Places(folder / name[:3]), 0)
        keep, batch = keeper(log), np.full((1, 8), 0.25)
        output = Quick().predict(batch)
        gaps, before = [], time.perf_counter()
        end, n = before + 3.0, 0
        while before < end:
            if name[0] == "2" and n < (3.0 - (end - before)) * 20_000:
                keep(n, None, batch, output)
                n += 1
            now = time.perf_counter()
            if now - before > LONG:
                gaps.append(now - before)
            before = now
        log.stop()
        found[name] = np.array(gaps)
    for name, gaps in found.items():
        print(
            f"{'  away from a busy thread, ' + name:60}{1e3 * gaps.max():8.2f} ms at most, {1e2 * gaps.sum() / 3:5.2f} % in all"
        )


def line(name: str, micros: float, nbytes: float | None = None) -> None:
    """One line of the table."""
    print(f"{name:44}{micros:14.2f}" + ("" if nbytes is None else f"{nbytes:14.0f}"), flush=True)


def size(folder: Path, pattern: str) -> int:
    """The bytes of some files of the log."""
    return sum(path.stat().st_size for path in Places(folder).payloads("e").glob(pattern))


class Client(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, end: float, latencies: list[float]) -> None:
        self.request, self.end, self.latencies = request, end, latencies
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        """Ask."""
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        """Send the request."""
        self.start = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Once the answer is whole, ask again."""
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        at = self.buffer.lower().find(b"content-length: ")
        if head < 0 or len(self.buffer) < head + 4 + int(self.buffer[at + 16 : self.buffer.find(b"\r", at)]):
            return
        if not self.buffer.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.buffer.decode()))
            return
        self.buffer, now = b"", time.perf_counter()
        self.latencies.append(now - self.start)
        if now < self.end:
            self.ask()
        else:
            self.transport.close()
            self.done.set_result(None)


async def load(port: int, request: bytes, seconds: float, connections: int) -> list[float]:
    """The latencies of a closed loop."""
    found: list[float] = []
    loop, end = asyncio.get_running_loop(), time.perf_counter() + seconds
    clients = [
        (await loop.create_connection(lambda: Client(request, end, found), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.done for client in clients))
    return found


def post(path: str, body: bytes) -> bytes:
    """A request as it goes over the wire."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), len(body)) + body


def over_http(seconds: float) -> None:
    """The same server without a log, with it, and durable: CPU of worker and compaction."""
    print(f"\nOver HTTP, 1 worker, a model of next to no cost; load average {os.getloadavg()[0]:.1f}")
    print(f"{'':30}{'conns':>7}{'req/s':>10}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}{'kept':>9}")
    folder = Path(tempfile.mkdtemp())
    server = ModelServer(folder)
    settings = {"none": {"payload_sampling": 0}, "all": {}, "durable": {"payload_durable": True}}
    for name, config in settings.items():
        server.configure(name, {"trusted_code": True, "min_replicas": 1, "max_replicas": 1, **config})
        server.install(name, "quick", "v1", f"{Path(__file__).absolute()}:Quick", "python")
        arm = Arm(name="baseline", model="quick", version="v1", weight=1.0)
        server.apply(Traffic(endpoint=name, generation=1, arms=(arm,)))
    body = json.dumps({"features": dict.fromkeys(NAMES, 0.25)}).encode()
    with server.start(workers=1) as serving:
        (pid,) = serving.pids
        for connections in (32, 1):
            for name in (*settings, *settings):
                request = post(f"/predict/{name}", body)
                uvloop.run(load(serving.port, request, 0.3, connections))
                written, cpu, start = server.payload_state(name).offered, cpu_seconds(pid) or 0.0, time.perf_counter()
                found = uvloop.run(load(serving.port, request, seconds, connections))
                wall, used = time.perf_counter() - start, (cpu_seconds(pid) or 0.0) - cpu
                time.sleep(0.3)
                kept = (server.payload_state(name).offered - written) / len(found)
                p50, p99 = (1e3 * float(np.quantile(found, q)) for q in (0.5, 0.99))
                print(
                    f"{name:30}{connections:7}{len(found) / wall:10,.0f}{1e6 * used / len(found):9.1f}"
                    f"{p50:9.2f}{p99:9.2f}{kept:9.2%}",
                    flush=True,
                )
        httpx.get(f"{serving.url}/v2/health/live").raise_for_status()
    print(f"one fdatasync of 4 KiB here: {1e3 * synced(folder):.2f} ms")


def synced(folder: Path) -> float:
    """The median of this disk."""
    handle = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)
    took = []
    for _ in range(50):
        os.write(handle, b"x" * 4096)
        begin = time.perf_counter()
        os.fdatasync(handle)
        took.append(time.perf_counter() - begin)
    os.close(handle)
    return float(np.median(took))


def batches(rows: int) -> None:
    """Rows a second of a batch prediction, reading and writing included."""
    import pandas as pd

    print(f"\nBatch prediction, {rows:,} rows of 8 numbers, 1 process; load average {os.getloadavg()[0]:.1f}")
    folder = Path(tempfile.mkdtemp())
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(rows, 8)), columns=list(NAMES))
    frame.insert(0, "id", np.arange(rows))
    frame.to_csv(folder / "x.csv", index=False)
    frame.to_json(folder / "x.jsonl", orient="records", lines=True)
    frame.to_parquet(folder / "x.parquet")
    server = ModelServer(folder)
    server.configure("e", {"trusted_code": True})
    server.install("e", "quick", "v1", f"{Path(__file__).absolute()}:Quick", "python")
    for ending in ("csv", "jsonl", "parquet"):
        wall, cpu = time.perf_counter(), time.process_time()
        report = server.predict_batch("quick:v1", folder / f"x.{ending}", folder / ending, workers=1)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert report.predicted == rows
        print(f"{ending:30}{rows / wall:12,.0f} rows/s{1e6 * cpu / rows:9.2f} us CPU a row")


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    one_process(given.requests, Path(tempfile.mkdtemp()))
    over_http(given.seconds)
    batches(200_000)


if __name__ == "__main__":
    main()
