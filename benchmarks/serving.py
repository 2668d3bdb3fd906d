"""What one row costs over HTTP: a 100-tree forest in ONNX, two workers, against the same server's constant reply and
against FastAPI with the same ONNX file (no routing, counting, guard or log).

    python benchmarks/serving.py [--seconds 4] [--connections 32]

All run in the same minutes on the same machine, alternating; compare only the ratios. The client
is this file's own (raw asyncio streams on uvloop, keep-alive, closed loop) and shares the machine's cores with the
servers. CPU per request is the servers' alone, from the kernel's counters. Canary choice, counters, histogram, guard and
payload log are on.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import uvloop

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer
from modelyard.serving.supervisor import cpu_seconds

COLUMNS = [f"x{i}" for i in range(8)]
FLOOR = """
import socket, sys
import uvicorn
REPLY = b'{"predictions":[1],"probabilities":[[0.1,0.9]],"model_version":"v1","arm":"baseline"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(REPLY)).encode())]
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": REPLY})
config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error",
                        ws="none", server_header=False)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
PEER = """
import socket, sys
import fastapi, numpy, onnxruntime, pydantic, uvicorn
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
takes, gives = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
class Question(pydantic.BaseModel):
    features: dict[str, float]
app = fastapi.FastAPI()
@app.post("/")
async def predict(question: Question):
    row = numpy.array([list(question.features.values())], dtype=numpy.float32)
    labels, probabilities = session.run(gives, {takes: row})
    return {"predictions": labels.tolist(), "probabilities": probabilities.tolist(), "model_version": "v1"}
config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error",
                        ws="none", server_header=False)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""


def forest(path: Path) -> None:
    """A 100-tree forest of depth 10 on 10,000 x 8 rows, as ONNX."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=10_000) > 0).astype(int)
    model = RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1).fit(x, y)
    path.write_bytes(
        to_onnx(model, x[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3}).SerializeToString()
    )


class Client(asyncio.Protocol):
    """One keep-alive connection that asks again as soon as it is answered."""

    def __init__(self, request: bytes, end: float, latencies: list[float]) -> None:
        self.request, self.end, self.latencies = request, end, latencies
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        self.start = time.perf_counter()
        self.transport.write(self.request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().find(b"content-length: ")
        length = int(self.buffer[at + 16 : self.buffer.find(b"\r", at)])
        if len(self.buffer) < head + 4 + length:
            return
        if not self.buffer.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.buffer.decode()))
            return
        self.buffer = b""
        now = time.perf_counter()
        self.latencies.append(now - self.start)
        if now < self.end:
            self.ask()
        else:
            self.transport.close()
            self.done.set_result(None)


async def load(port: int, request: bytes, seconds: float, connections: int) -> list[float]:
    """The latencies of a closed loop."""
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + seconds
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: Client(request, end, latencies), "127.0.0.1", port)
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    return latencies


def post(path: str, body: bytes) -> bytes:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path.encode(), len(body)) + body


def measure(name: str, port: int, pids: list[int], request: bytes, given: argparse.Namespace) -> dict[str, float]:
    """One line of the table."""
    uvloop.run(load(port, request, 0.5, given.connections))
    before = sum(cpu_seconds(pid) or 0.0 for pid in pids)
    start = time.perf_counter()
    many = uvloop.run(load(port, request, given.seconds, given.connections))
    wall = time.perf_counter() - start
    cpu = sum(cpu_seconds(pid) or 0.0 for pid in pids) - before
    one = uvloop.run(load(port, request, given.seconds / 2, 1))
    row = {
        "req_s": len(many) / wall,
        "cpu_us": 1e6 * cpu / len(many),
        "p50_1_ms": 1e3 * float(np.quantile(one, 0.5)),
        "p99_1_ms": 1e3 * float(np.quantile(one, 0.99)),
        "p50_ms": 1e3 * float(np.quantile(many, 0.5)),
        "p99_ms": 1e3 * float(np.quantile(many, 0.99)),
    }
    print(f"{name:34}" + "".join(f"{value:12.2f}" for value in row.values()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    forest(folder / "forest.onnx")
    server = ModelServer(folder)
    for version in ("v1", "v2"):
        server.install("forest", "forest", version, folder / "forest.onnx", "onnx")
    arms = (
        Arm(name="baseline", model="forest", version="v1", weight=0.9),
        Arm(name="canary", model="forest", version="v2", weight=0.1),
    )
    guard = Guard(rollout_id="bench", step=0, share=0.1, alpha=1e-9, latency_ms={"p50": 1.0, "p95": 5.0, "p99": 20.0})
    server.apply(Traffic(endpoint="forest", generation=1, arms=arms, guard=guard))
    row = [0.1 * i for i in range(8)]
    tensor = {"inputs": [{"name": "input", "shape": [1, 8], "datatype": "FP32", "data": row}]}
    rows = np.random.default_rng(1).normal(size=(1000, 8))
    many = {"inputs": [{"name": "input", "shape": [1000, 8], "datatype": "FP32", "data": rows.ravel().tolist()}]}
    start = time.perf_counter()
    floor_port, floor = two_processes(FLOOR)
    peer_port, peer = two_processes(PEER, str(folder / "forest.onnx"))
    names = [spec.name for spec in _signature(folder / "forest.onnx")]
    with server.start(workers=2) as serving:
        print(f"ready in {time.perf_counter() - start:.1f} s; resident MB: {[_resident(pid) for pid in serving.pids]}")
        print(f"load average {os.getloadavg()[0]:.1f}; {given.connections} connections, 2 workers")
        print(f"{'':34}" + "".join(f"{name:>12}" for name in ("req/s", "CPU us", "p50@1", "p99@1", "p50 ms", "p99 ms")))
        for _ in range(given.rounds):
            body = json.dumps({"features": dict(zip(names, row, strict=True))}).encode()
            base = measure("constant reply (floor)", floor_port, [p.pid for p in floor], post("/", body), given)
            fastapi = measure("FastAPI + onnxruntime", peer_port, [p.pid for p in peer], post("/", body), given)
            got = measure(
                "v2 infer, JSON",
                serving.port,
                serving.pids,
                post("/v2/models/forest/infer", json.dumps(tensor).encode()),
                given,
            )
            print(
                f"{'  share of the floor':34}{got['req_s'] / base['req_s']:12.2f}{got['cpu_us'] / base['cpu_us']:12.2f}"
            )
            got = measure("named features", serving.port, serving.pids, post("/predict/forest", body), given)
            over = [fastapi["cpu_us"] / got["cpu_us"], got["req_s"] / fastapi["req_s"]]
            print(
                f"{'  times better than FastAPI':34}{over[1]:12.2f}{over[0]:12.2f}{fastapi['p50_1_ms'] / got['p50_1_ms']:12.2f}"
            )
            print(
                f"{'  share of the floor':34}{got['req_s'] / base['req_s']:12.2f}{got['cpu_us'] / base['cpu_us']:12.2f}"
            )
        given.connections = 4
        got = measure(
            "1,000 rows, JSON, 4 connections",
            serving.port,
            serving.pids,
            post("/v2/models/forest/infer", json.dumps(many).encode()),
            given,
        )
        raw = rows.astype("<f4").tobytes()
        many["inputs"][0] = {**many["inputs"][0], "parameters": {"binary_data_size": len(raw)}}
        del many["inputs"][0]["data"]
        many["parameters"] = {"binary_data_output": True}
        text = json.dumps(many).encode()
        head = b"POST /v2/models/forest/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\nContent-Length: %d\r\n\r\n"
        measure(
            "1,000 rows, binary, 4 connections",
            serving.port,
            serving.pids,
            head % (len(text), len(text) + len(raw)) + text + raw,
            given,
        )


def two_processes(source: str, *arguments: str) -> tuple[int, list[subprocess.Popen[bytes]]]:
    """Two servers that accept from one socket, answering; its port and the processes."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    command = [sys.executable, "-c", source, str(listener.fileno()), *arguments]
    processes = [subprocess.Popen(command, pass_fds=[listener.fileno()]) for _ in range(2)]
    for process in processes:
        atexit.register(process.kill)
    return listener.getsockname()[1], processes


def _signature(path: Path) -> tuple:
    from modelyard.serving.loaded import load
    from modelyard.serving.values import Installed

    return load(Installed(model="m", version="v", path=str(path), framework="onnx")).signature.inputs


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


if __name__ == "__main__":
    main()
