"""MLflow's protocol over HTTP: our server beside MLflow's own, one worker each, on SQLite, asked in turns by one client.

Run: scripts/peers.sh mlflow && python benchmarks/mlflow.py. Every call is made on both servers, one after the other, so that
what else the machine does meets both. CPU is that of all processes of a server.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelyard.testing.servers import free_port

ROOT = Path(__file__).parents[1]
PEER = ROOT / ".peers" / "mlflow" / "bin" / "mlflow"
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
API, FILES = "/api/2.0/mlflow", "/api/2.0/mlflow-artifacts/artifacts"
WEIGHTS = "".join(f"weight_{number}: {number / 7:.6f}\n" for number in range(440))  # about 10 kB
OF_MODEL = {100: "100 versions", 1_000: "1,000 versions"}


@dataclass
class Server:
    """One server under test, and the connection to it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    start_s: float = 0.0
    run: dict[str, Any] = field(default_factory=dict)
    made: int = 0

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def ask(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """The answer's JSON."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        kind = "text/plain" if raw is not None else "application/json"
        try:
            self.connection.request(method, path, content, {"Content-Type": kind})
            answer = self.connection.getresponse()
        except (ConnectionError, http.client.HTTPException):  # closed while the other server was asked
            self.connection.close()
            self.connection.request(method, path, content, {"Content-Type": kind})
            answer = self.connection.getresponse()
        told = answer.read()
        if answer.status != 200:
            raise SystemExit(f"{self.name}: {method} {path}: {answer.status} {told[:500]!r}")
        return json.loads(told) if told else {}

    def processes(self) -> list[list[str]]:
        """The fields of /proc/PID/stat, from the third on, of every process of the server."""
        found = []
        for place in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = place.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid:  # its session
                found.append(fields)
        return found

    def cpu(self) -> float:
        """CPU seconds so far, those of children that have ended included."""
        return sum(int(ticks) for one in self.processes() for ticks in one[11:15]) / TICK

    def resident_mb(self) -> list[float]:
        """Megabytes of each process, the largest first."""
        return sorted((int(one[21]) * PAGE / 1e6 for one in self.processes()), reverse=True)


def main() -> None:
    """Start both, ask both, print the table."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(started("modelyard", folder / "ours"))
        theirs = stack.enter_context(started("mlflow", folder / "theirs"))
        servers = (ours, theirs)
        print(f"load average {os.getloadavg()[0]:.1f}\n")
        print("| | modelyard | MLflow | ratio |\n|---|---|---|---|")
        row("start until /health answers, s", [one.start_s for one in servers])
        row("resident, all idle processes, MB", [sum(one.resident_mb()) for one in servers])
        print(f"| resident, the largest process, MB | {ours.resident_mb()[0]:.0f} | {theirs.resident_mb()[0]:.0f} | |")
        for one in servers:
            prepare(one)
        compare("log_metric", servers, log_metric, 100)
        batches = compare("log_batch of 1,000 metrics", servers, log_batch, 15)
        row("the same, metrics/s", [1_000 / seconds for seconds in batches], more_is_better=True)
        compare("upload 10 kB + create model + create version", servers, upload_and_register, 30)
        for count, told in OF_MODEL.items():
            for one in servers:
                grow(one, count)
            compare(f"create version, {told}", servers, create_version, 20)
            compare(f"get model, {told}", servers, get_model, 30)
            compare(f"set alias, {told}", servers, set_alias, 30)
            compare(f"get by alias, {told}", servers, by_alias, 30)
            compare(f"set version tag, {told}", servers, set_tag, 30)
            compare(f"search 100 versions, {told}", servers, search, 15)


@contextmanager
def started(name: str, folder: Path) -> Iterator[Server]:
    """A server process of its own session, once it answers."""
    folder.mkdir()
    port = free_port()
    if name == "mlflow":
        command = [str(PEER), "server", "--workers", "1", "--port", str(port), "--serve-artifacts"]
        command += ["--backend-store-uri", f"sqlite:///{folder}/m.db", "--artifacts-destination", str(folder / "files")]
    else:
        command = [sys.executable, "-m", "modelyard", "serve", "--yard", str(folder / "yard")]
        command += ["--port", str(port), "--workers", "1"]
    began = time.perf_counter()
    env = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        while not answers(port):
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.02)
        yield Server(name, process, port, time.perf_counter() - began)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(port: int) -> bool:
    """Whether the server is up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def compare(told: str, servers: tuple[Server, ...], call: Callable[[Server, int], None], repeat: int) -> list[float]:
    """Print the medians of a call made in turns, and the CPU each server spent on one; the medians in seconds."""
    found: dict[str, list[float]] = {one.name: [] for one in servers}
    spent = {one.name: 0.0 for one in servers}
    for number in range(-2, repeat):  # the first two warm up
        for one in servers:
            before, began = one.cpu(), time.perf_counter()
            call(one, number)
            seconds = time.perf_counter() - began
            if number >= 0:
                found[one.name].append(seconds)
                spent[one.name] += one.cpu() - before
    medians = [statistics.median(times) for times in found.values()]
    cpu = [seconds / repeat for seconds in spent.values()]
    (ours, theirs), (our_cpu, their_cpu) = [1e3 * one for one in medians], [1e3 * one for one in cpu]
    print(
        f"| {told}, ms p50 (CPU) | {ours:.2f} ({our_cpu:.1f}) | {theirs:.1f} ({their_cpu:.1f}) | "
        f"{theirs / ours:.1f} ({their_cpu / max(our_cpu, 1e-9):.1f}) |"
    )
    return medians


def row(told: str, values: list[float], *, more_is_better: bool = False) -> None:
    """Print one figure of each server."""
    ours, theirs = values
    print(f"| {told} | {ours:,.1f} | {theirs:,.1f} | {ours / theirs if more_is_better else theirs / ours:.1f} |")


def prepare(server: Server) -> None:
    """A run to log into, and a model to grow."""
    experiment = server.ask("POST", f"{API}/experiments/create", {"name": "bench"})["experiment_id"]
    body = {"experiment_id": experiment, "start_time": 1, "run_name": "r"}
    server.run = server.ask("POST", f"{API}/runs/create", body)["run"]["info"]
    server.ask("POST", f"{API}/registered-models/create", {"name": "big"})


def log_metric(server: Server, number: int) -> None:
    """One value."""
    body = {"run_id": server.run["run_id"], "key": "loss", "value": 0.5, "timestamp": number + 9, "step": number}
    server.ask("POST", f"{API}/runs/log-metric", body)


def log_batch(server: Server, number: int) -> None:
    """A thousand values of ten metrics."""
    metrics = [
        {
            "key": f"m{place % 10}",
            "value": place / 7,
            "timestamp": 1_700_000_000_000 + place,
            "step": number * 1_000 + place,
        }
        for place in range(1_000)
    ]
    server.ask("POST", f"{API}/runs/log-batch", {"run_id": server.run["run_id"], "metrics": metrics})


def upload_and_register(server: Server, number: int) -> None:
    """A new model with its first version, of a file that is new too."""
    folder = f"model-{number}"
    root = server.run["artifact_uri"].removeprefix("mlflow-artifacts:/")
    content = f"seed: {number}\n{WEIGHTS}".encode()
    server.ask("PUT", f"{FILES}/{root}/{folder}/weights.yaml", raw=content)
    server.ask("POST", f"{API}/registered-models/create", {"name": folder})
    source = f"{server.run['artifact_uri']}/{folder}"
    body = {"name": folder, "source": source, "run_id": server.run["run_id"]}
    server.ask("POST", f"{API}/model-versions/create", body)


def create_version(server: Server, _: int) -> None:
    """One more version, whose files lie elsewhere."""
    server.ask("POST", f"{API}/model-versions/create", {"name": "big", "source": "s3://bucket/model"})
    server.made += 1


def grow(server: Server, count: int) -> None:
    """Versions until there are that many."""
    while server.made < count:
        create_version(server, 0)


def get_model(server: Server, _: int) -> None:
    """What MLflow's client does before each write."""
    server.ask("GET", f"{API}/registered-models/get?name=big")


def set_alias(server: Server, number: int) -> None:
    """An alias to another version."""
    body = {"name": "big", "alias": "challenger", "version": str(1 + abs(number) % 50)}
    server.ask("POST", f"{API}/registered-models/alias", body)


def by_alias(server: Server, _: int) -> None:
    """The version of an alias."""
    server.ask("GET", f"{API}/registered-models/alias?name=big&alias=challenger")


def set_tag(server: Server, number: int) -> None:
    """A tag of a version."""
    server.ask(
        "POST", f"{API}/model-versions/set-tag", {"name": "big", "version": "7", "key": "k", "value": str(number)}
    )


def search(server: Server, _: int) -> None:
    """A page of versions."""
    server.ask("GET", f"{API}/model-versions/search?filter=name%20%3D%20%27big%27&max_results=100")


if __name__ == "__main__":
    main()
