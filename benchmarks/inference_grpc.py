"""gRPC beside HTTP: the CPU that a call costs, against a server of the same library that answers with a constant, and MLServer.

    python benchmarks/inference_grpc.py

The load is a process of its own: 32 calls at once over 4 channels, closed loop, messages made beforehand. What the servers use
comes from the kernel's counters of their processes, which a busy machine disturbs less than rates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from serving import ROOT, Server, cpu, forest, mlserver, ours, started, tensor, until_ready

CONSTANT = """
import asyncio, sys, grpc, grpc.aio, uvloop
from modelyard.serving.grpc_messages import SERVICE
reply = bytes.fromhex(sys.argv[2])
async def infer(body, context):
    return reply
async def main():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 1)])
    methods = {"ModelInfer": grpc.unary_unary_rpc_method_handler(infer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    await server.start()
    await server.wait_for_termination()
uvloop.run(main())
"""
TWO = (
    "import os, subprocess, sys\nfor _ in range(2): subprocess.Popen([sys.executable, '-c', *sys.argv[1:]])\nos.wait()"
)

LOAD = """
import asyncio, json, sys, time
import grpc.aio, uvloop
address, method, body, seconds, connections = *sys.argv[1:3], bytes.fromhex(sys.stdin.read()), *map(float, sys.argv[3:5])
async def main():
    channels = [grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    calls = [channel.unary_unary(method) for channel in channels]
    for call in calls:
        await call(body, timeout=60, wait_for_ready=True)
    took, end = [], time.perf_counter() + seconds
    async def ask(call):
        while (start := time.perf_counter()) < end:
            await call(body)
            took.append(time.perf_counter() - start)
    await asyncio.gather(*(ask(calls[place % 4]) for place in range(int(connections))))
    took.sort()
    print(json.dumps({"count": len(took), "rate": len(took) / seconds, "p50": 1e3 * took[len(took) // 2]}))
uvloop.run(main())
"""


def measure(name: str, address: str, pids: tuple[int, ...], body: bytes, given: argparse.Namespace) -> dict[str, float]:
    """The median of some rounds, told in a line."""
    found = []
    for _ in range(given.rounds):
        before = cpu(pids)
        command = [sys.executable, "-c", LOAD, address, "/inference.GRPCInferenceService/ModelInfer"]
        asked = [*command, str(given.seconds), str(given.connections)]
        told = json.loads(subprocess.run(asked, input=body.hex(), capture_output=True, text=True, check=True).stdout)
        found.append({**told, "cpu": 1e6 * (cpu(pids) - before) / told["count"]})
    middle = {key: sorted(one[key] for one in found)[len(found) // 2] for key in found[0]}
    print(f"{name:44}{middle['rate']:9.0f}{middle['cpu']:9.1f}{middle['p50']:9.2f}", flush=True)
    return middle


def request(rows: np.ndarray, model: str, *, raw: bool) -> bytes:
    """A request for the rows."""
    from modelyard.serving.grpc_messages import message

    asked = message("ModelInferRequest")(model_name=model)
    tensor = asked.inputs.add(name="input", datatype="FP32", shape=rows.shape)
    if raw:
        asked.raw_input_contents.append(rows.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(rows.astype("<f4").ravel().tolist())
    body: bytes = asked.SerializeToString()
    return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="modelyard-bench-"))
    forest(folder)
    rng = np.random.default_rng(1)
    row, rows = rng.normal(size=(1, 8)), rng.normal(size=(1000, 8))
    with ours(folder).start(workers=2, grpc_port=0) as serving:
        pids, port = tuple(serving.pids), int(serving.grpc.rsplit(":", 1)[1])
        constant, at = started([sys.executable, "-c", TWO, CONSTANT, str(port + 100), bytes(150).hex()], port + 100)
        print(f"load average {os.getloadavg()[0]:.1f}\n{'':44}{'calls/s':>9}{'CPU us':>9}{'p50 ms':>9}")
        floor = measure(
            "grpc.aio, constant reply", f"127.0.0.1:{at}", constant, request(row, "forest", raw=True), given
        )
        mine = measure("modelyard, one row, raw", serving.grpc, pids, request(row, "forest", raw=True), given)
        measure("modelyard, one row, typed", serving.grpc, pids, request(row, "forest", raw=False), given)
        print(f"CPU a call / the constant reply's: {mine['cpu'] / floor['cpu']:.2f}")
        if (ROOT / ".peers/mlserver/.ready").exists():
            ports = range(port + 200, port + 203)
            theirs = mlserver(folder, ports)
            asked = json.dumps(tensor(row)).encode()
            until_ready(Server("MLServer", theirs, ports[0], "/v2/models/onnx/infer", asked))
            name = f"127.0.0.1:{ports[1]}"
            peer = measure("MLServer, one row, raw, the same ONNX", name, theirs, request(row, "onnx", raw=True), given)
            print(
                f"calls a second / MLServer's: {mine['rate'] / peer['rate']:.1f}; CPU: {mine['cpu'] / peer['cpu']:.3f}"
            )
        else:
            print("MLServer is left out: scripts/peers.sh mlserver")
        given.connections = 4
        measure("modelyard, 1,000 rows, raw", serving.grpc, pids, request(rows, "forest", raw=True), given)
        measure("modelyard, 1,000 rows, typed", serving.grpc, pids, request(rows, "forest", raw=False), given)
        print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
