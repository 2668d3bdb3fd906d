"""Predictions over HTTP: a 100-tree forest of depth 10 behind this server and its peers, in one run on one machine.

    apt install wrk; scripts/peers.sh mlserver
    python benchmarks/serving.py [--seconds 3] [--rounds 3]

Two serving processes each, 32 keep-alive connections of wrk (one thread), which shares the machine's cores with them.
Ours has everything on: canary choice, guard, counters, histograms, and a log of every payload. All servers answer the
same row; the rounds alternate between them, and each figure is the median of the rounds. CPU is of a server's processes
alone, from the kernel's counters. Compare ratios.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer

ROOT = Path(__file__).parent.parent
COLUMNS = [f"x{i}" for i in range(8)]
RUN = """
config = uvicorn.Config(app, loop="uvloop", http="httptools", lifespan="off", access_log=False, log_level="error",
                        ws="none", server_header=False)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
CONSTANT = (
    """
import socket, sys, uvicorn
REPLY = b'{"predictions":[1],"probabilities":[[0.1,0.9]],"model_version":"v1","arm":"baseline","request_id":"0"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(REPLY)).encode())]
async def app(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": REPLY})
"""
    + RUN
)
OWN_CONSTANT = """
import asyncio, socket, sys, time, uvloop
from modelyard.serving.http import Connection, Hub
from modelyard.serving.replies import Reply
REPLY = b'{"predictions":[1],"probabilities":[[0.1,0.9]],"model_version":"v1","arm":"baseline","request_id":"0"}'
async def main():
    loop = asyncio.get_running_loop()
    hub = Hub(lambda question: Reply(200, REPLY))
    await loop.create_server(lambda: Connection(hub), sock=socket.socket(fileno=int(sys.argv[1])))
    while True:
        hub.tick(loop.time(), time.time())
        await asyncio.sleep(1)
uvloop.run(main())
"""
FASTAPI = """
import socket, sys, fastapi, numpy, pydantic, uvicorn
class Question(pydantic.BaseModel):
    features: dict[str, float]
class Questions(pydantic.BaseModel):
    features: list[dict[str, float]]
app = fastapi.FastAPI()
"""
FASTAPI_EMPTY = (
    FASTAPI
    + """
@app.post("/")
async def predict(question: Question):
    return {"predictions": [1], "probabilities": [[0.1, 0.9]], "model_version": "v1"}
"""
    + RUN
)
FASTAPI_ONNX = (
    FASTAPI
    + """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
takes, gives = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
def answer(rows):
    labels, probabilities = session.run(gives, {takes: rows})
    return {"predictions": labels.tolist(), "probabilities": probabilities.tolist(), "model_version": "v1"}
@app.post("/")
async def predict(question: Question):
    return answer(numpy.array([list(question.features.values())], dtype=numpy.float32))
@app.post("/many")
def many(questions: Questions):
    return answer(numpy.array([list(row.values()) for row in questions.features], dtype=numpy.float32))
"""
    + RUN
)
MLSERVER_ONNX = """
import numpy, onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
class Forest(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = self.settings.parameters.uri
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True
    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(numpy.float32)
        labels, probabilities = self.session.run(None, {self.session.get_inputs()[0].name: rows})
        outputs = [NumpyCodec.encode_output("predictions", labels), NumpyCodec.encode_output("probabilities", probabilities)]
        return InferenceResponse(model_name=self.name, outputs=outputs)
"""


@dataclass
class Server:
    """Something that answers: its process, where, and what is sent to it."""

    name: str
    pids: tuple[int, ...]  # with all that come from them
    port: int
    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    found: list[dict[str, float]] = field(default_factory=list)


def forest(folder: Path) -> None:
    """A 100-tree forest of depth 10 on 10,000 x 8 rows, as ONNX and as a pickle for the peer that takes nothing else."""
    import joblib
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(10_000, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=10_000) > 0).astype(int)
    model = RandomForestClassifier(100, max_depth=10, random_state=0, n_jobs=1).fit(x, y)
    graph = to_onnx(model, x[:1], options={"zipmap": False}, target_opset={"": 17, "ai.onnx.ml": 3})
    (folder / "forest.onnx").write_bytes(graph.SerializeToString())
    joblib.dump(model, folder / "forest.joblib")


def two_processes(source: str, *arguments: str) -> tuple[tuple[int, ...], int]:
    """Two servers that accept from one socket, and its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    number = listener.fileno()
    code = (
        f"import os, subprocess, sys\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', {source!r}, "
        f"*sys.argv[1:]], pass_fds=[{number}])\nos.wait()"
    )
    return started([sys.executable, "-c", code, str(number), *arguments], listener.getsockname()[1], fds=[number])


def started(command: list[str], port: int, fds: list[int] | None = None, **more: object) -> tuple[tuple[int, ...], int]:
    """The process of a command, once its port answers."""
    process = subprocess.Popen(command, pass_fds=fds or [], start_new_session=True, **more)  # type: ignore[call-overload]
    atexit.register(lambda: os.killpg(process.pid, 9))
    return (process.pid,), port


def mlserver(folder: Path, ports: range) -> tuple[int, ...]:
    """MLServer with two workers and both models: its shipped scikit-learn runtime, and the same ONNX graph."""
    place = folder / "mlserver"
    for name, implementation, uri in (
        ("shipped", "mlserver_sklearn.SKLearnModel", "forest.joblib"),
        ("onnx", "forest_runtime.Forest", "forest.onnx"),
    ):
        (place / name).mkdir(parents=True)
        settings = {"name": name, "implementation": implementation, "parameters": {"uri": str(folder / uri)}}
        (place / name / "model-settings.json").write_text(json.dumps(settings))
    (place / "forest_runtime.py").write_text(MLSERVER_ONNX)
    settings = {"parallel_workers": 2, "debug": False, "host": "127.0.0.1", "metrics_endpoint": None}
    settings |= {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
    (place / "settings.json").write_text(json.dumps(settings))
    environment = {**os.environ, "PYTHONPATH": str(place)}
    command = [str(ROOT / ".peers/mlserver/bin/mlserver"), "start", str(place)]
    log = (folder / "mlserver.log").open("w")
    pids, _ = started(command, ports[0], env=environment, stdout=log, stderr=log)
    return pids


def processes(pids: tuple[int, ...]) -> list[int]:
    """The processes and all that come from them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = list(pids)
    for one in found:
        found += parents.get(one, [])
    return found


def cpu(pids: tuple[int, ...]) -> float:
    """CPU seconds of processes and all that come from them."""
    total = 0
    for one in processes(pids):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def wrk(server: Server, folder: Path, seconds: float, connections: int) -> dict[str, float]:
    """Requests a second, CPU a request and latencies under a closed loop of connections."""
    body, script = folder / "body", folder / "ask.lua"
    body.write_bytes(server.body)
    lines = [f'local file = io.open("{body}", "rb")', 'wrk.method = "POST"', 'wrk.body = file:read("*a")']
    headers = {"Content-Type": "application/json", **server.headers}
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(lines))
    before = cpu(server.pids)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "--timeout", "20s", "-s", str(script)]
    address = f"http://127.0.0.1:{server.port}{server.path}"
    told = subprocess.run([*command, address], capture_output=True, text=True, check=True).stdout
    used = cpu(server.pids) - before
    if "Non-2xx" in told or "Socket errors" in told:
        raise RuntimeError(f"{server.name}: {told}")
    count = int(re.search(r"(\d+) requests in", told)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1])  # type: ignore[index]
    units = {"us": 1e-3, "ms": 1.0, "s": 1e3}
    latencies = {
        name: float(value) * units[unit] for name, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)\s", told)
    }
    return {"rate": rate, "cpu": 1e6 * used / count, "p50": latencies["50"], "p99": latencies["99"]}


def until_ready(server: Server) -> None:
    """Wait until it answers."""
    headers = {"Content-Type": "application/json", **server.headers}
    end = time.monotonic() + 120
    while True:
        try:
            ask = urllib.request.Request(f"http://127.0.0.1:{server.port}{server.path}", server.body, headers)
            urllib.request.urlopen(ask, timeout=30).read()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return


def resident(pids: tuple[int, ...]) -> float:
    """Proportional memory of processes and all that come from them, in MB."""
    total = 0
    for one in processes(pids):
        text = Path(f"/proc/{one}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return total / 1024


def ours(folder: Path) -> ModelServer:
    """An endpoint with everything on."""
    server = ModelServer(folder / "yard")
    for version in ("v1", "v2"):
        server.install("forest", "forest", version, folder / "forest.onnx", "onnx")
    arms = (
        Arm(name="baseline", model="forest", version="v1", weight=0.9),
        Arm(name="canary", model="forest", version="v2", weight=0.1),
    )
    guard = Guard(rollout_id="bench", step=0, share=0.1, alpha=1e-9, latency_ms={"p50": 1.0, "p95": 5.0, "p99": 20.0})
    server.apply(Traffic(endpoint="forest", generation=1, arms=arms, guards=(guard,)))
    return server


def tensor(rows: np.ndarray) -> dict[str, object]:
    """The rows as an inference request."""
    data = rows.astype(np.float32).ravel().tolist()
    return {"inputs": [{"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": data}]}


def binary(rows: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """The same with the binary tensor extension, both ways."""
    raw = rows.astype("<f4").tobytes()
    asked = tensor(rows)
    one = {**asked["inputs"][0], "parameters": {"binary_data_size": len(raw)}}  # type: ignore[index]
    del one["data"]
    text = json.dumps({"inputs": [one], "parameters": {"binary_data_output": True}}).encode()
    return text + raw, {
        "Inference-Header-Content-Length": str(len(text)),
        "Content-Type": "application/octet-stream",
    }


def measured(servers: list[Server], rounds: int, ask: Callable[[Server], dict[str, float]]) -> None:
    """Each server in turn, round after round."""
    for _ in range(rounds):
        for server in servers:
            server.found.append(ask(server))


def median(server: Server, what: str) -> float:
    return statistics.median(one[what] for one in server.found)


def table(title: str, servers: list[Server]) -> None:
    print(f"\n{title}\n{'':42}{'req/s':>9}{'CPU us':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for server in servers:
        values = [median(server, what) for what in ("rate", "cpu", "p50", "p99")]
        print(f"{server.name:42}{values[0]:9.0f}{values[1]:9.1f}{values[2]:9.3f}{values[3]:9.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is not installed: apt install wrk")
    folder = Path(tempfile.mkdtemp(prefix="modelyard-bench-"))
    forest(folder)
    rng = np.random.default_rng(1)
    row, rows = np.arange(8)[None] * 0.1, rng.normal(size=(1000, 8))
    named = json.dumps({"features": dict(zip(COLUMNS, row[0].tolist(), strict=True))}).encode()
    many = json.dumps({"features": [dict(zip(COLUMNS, one, strict=True)) for one in rows.tolist()]}).encode()
    onnx = str(folder / "forest.onnx")
    server = ours(folder)
    with server.start(workers=2) as serving:
        port = serving.port
        workers = tuple(serving.pids)
        floor = Server("uvicorn, constant reply", *two_processes(CONSTANT), "/", named)
        own = Server("our HTTP, constant reply", *two_processes(OWN_CONSTANT), "/", named)
        empty = Server("FastAPI, no model", *two_processes(FASTAPI_EMPTY), "/", named)
        fastapi = Server("FastAPI + ONNX Runtime", *two_processes(FASTAPI_ONNX, onnx), "/", named)
        plain = Server("modelyard, named features", workers, port, "/predict/forest", named)
        infer = Server("modelyard, v2 JSON", workers, port, "/v2/models/forest/infer", json.dumps(tensor(row)).encode())
        single = [floor, own, empty, fastapi, plain, infer]
        slow: list[Server] = []
        if (ROOT / ".peers/mlserver/.ready").exists():
            ports = range(port + 1000, port + 1003)
            pids = mlserver(folder, ports)
            body = json.dumps(tensor(row)).encode()
            slow = [
                Server("MLServer, the same ONNX", pids, ports[0], "/v2/models/onnx/infer", body),
                Server("MLServer as shipped (scikit-learn)", pids, ports[0], "/v2/models/shipped/infer", body),
            ]
        else:
            print("MLServer is left out: scripts/peers.sh mlserver")
        asked = [*single, *slow]
        for one in asked:
            until_ready(one)
        print(f"load average {os.getloadavg()[0]:.1f}")
        for one in asked:
            print(f"{one.name:42}{resident(one.pids):9.0f} MB with {len(processes(one.pids))} processes")
        measured(asked, given.rounds, lambda one: wrk(one, folder, given.seconds, 32))
        table("one row, 32 connections", asked)
        ratios(plain, fastapi, empty, floor, own, slow)
        for one in asked:
            one.found.clear()
        measured(single, given.rounds, lambda one: wrk(one, folder, max(1, given.seconds // 2), 1))
        table("one row, 1 connection", single)
        print(f"p50 of named features / FastAPI + ONNX: {median(plain, 'p50') / median(fastapi, 'p50'):.2f} (goal 0.5)")
        raw, headers = binary(rows)
        batches = [
            Server("FastAPI + ONNX Runtime, 1,000 rows", fastapi.pids, fastapi.port, "/many", many),
            Server("modelyard, 1,000 named rows", workers, port, "/predict/forest", many),
            Server("modelyard, 1,000 rows, v2 JSON", workers, port, infer.path, json.dumps(tensor(rows)).encode()),
            Server("modelyard, 1,000 rows, v2 binary", workers, port, infer.path, raw, headers),
        ]
        measured(batches, given.rounds, lambda one: wrk(one, folder, given.seconds, 4))
        table("1,000 rows a request, 4 connections (requests, not rows, a second)", batches)
        rates = [median(one, "rate") for one in batches]
        print(f"JSON (named) / FastAPI + ONNX: {rates[1] / rates[0]:.2f}; v2 JSON: {rates[2] / rates[0]:.2f} (goal 2)")
        print(f"binary / v2 JSON: {rates[3] / rates[2]:.2f} (goal 1.6)")
        print(f"load average {os.getloadavg()[0]:.1f}")


def ratios(plain: Server, fastapi: Server, empty: Server, floor: Server, own: Server, slow: list[Server]) -> None:
    """The rows of the goal."""
    rate, used = median(plain, "rate"), median(plain, "cpu")
    print(f"named features / FastAPI + ONNX, req/s: {rate / median(fastapi, 'rate'):.2f} (goal 2.5)")
    for one, goal in zip(slow, (20, 80), strict=False):
        print(f"named features / {one.name}, req/s: {rate / median(one, 'rate'):.0f} (goal {goal})")
    print(f"CPU a request / FastAPI without a model: {used / median(empty, 'cpu'):.2f} (goal 0.45)")
    print(f"share of uvicorn's constant reply, req/s: {rate / median(floor, 'rate'):.2f} (goal 0.65)")
    print(f"share of our own constant reply, req/s: {rate / median(own, 'rate'):.2f}")


if __name__ == "__main__":
    main()
