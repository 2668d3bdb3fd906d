"""A yard served by Ray Serve on three nodes, one of which is killed under load. Run by a Python that has Ray:

    python tests/serving/ray_scenario.py FOLDER

prints what happened as one line of JSON, which test_ray_serve.py judges. One cluster for all, since it takes a minute.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import ray
from ray import serve
from ray.cluster_utils import Cluster

from modelyard.client.predictions import PredictionAnswer, Predictions
from modelyard.core.errors import YardError
from modelyard.core.traffic import Arm, Guard, Traffic
from modelyard.serving import ModelServer
from modelyard.testing.servers import free_port

HERE = Path(__file__).parent
STARTED = time.monotonic()
PATIENCE_S = 400.0  # for a cluster that starts on a machine which is busy with other things
CLIENTS = 4


def until(what: Callable[[], Any], seconds: float = 240.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = what()
        if found:
            return found
        time.sleep(0.1)
    raise TimeoutError(f"{what} did not come about in {seconds:g} s")


class Callers:
    """Clients that ask with request ids of their own until told to stop."""

    def __init__(self, url: str, endpoint: str) -> None:
        self.answers: dict[str, list[PredictionAnswer]] = {}
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self._stop, self._mark = threading.Event(), 0
        self._client = Predictions({"here": url}, timeout=10.0, deadline=300.0)
        self._endpoint = endpoint
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _call(self, client: int) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            request = f"c{client}-{number}"
            self.asked.append(request)
            try:
                row = {"a": number % 7 - 3.0, "b": 0.0, "c": 0.0}
                answer = self._client.predict(self._endpoint, row, request_id=request)
            except YardError as error:
                self.wrong.append(f"{request}: {error}")
            else:
                self.answers.setdefault(request, []).append(answer)

    def quick(self, more: int) -> bool:
        """Whether so many more have been answered since the last True."""
        if len(self.answers) < self._mark + more:
            return False
        self._mark = len(self.answers)
        return True

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(320)
        self._client.close()


def model(folder: Path) -> Path:
    x = np.random.default_rng(0).normal(size=(300, 3))
    data = lightgbm.Dataset(x, x[:, 0] > 0, feature_name=["a", "b", "c"])
    parameters = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(parameters, data, num_boost_round=3).save_model(folder / "model.txt")
    return folder / "model.txt"


def processes(folder: Path) -> dict[str, Path]:
    """Each living or dead process's folder, by its name."""
    return {one.name: one for one in (folder / "node" / "processes").glob("*/*")}


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found.extend(children.get(one, []))
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def killed_node(folder: Path, cluster: Cluster, callers: Callers, *, whole: bool) -> dict[str, Any]:
    """Kill a node that answers, in mid-load: its raylet, or with `whole` all of its processes, as a power cut does."""
    until(lambda: callers.quick(100))
    before = processes(folder)
    raylets = {node.node_id: node.all_processes["raylet"][0].process.pid for node in cluster.worker_nodes}
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    victim = next(node for node in raylets if node in alive and any(name.startswith(node[:12]) for name in before))
    everything = family(raylets[victim])
    kill(everything if whole else everything[:1])
    killed = len(callers.answers)
    until(lambda: victim not in {node["NodeID"] for node in ray.nodes() if node["Alive"]})
    dead = {name for name in before if name.startswith(victim[:12])}
    until(lambda: not dead & set(processes(folder)))  # what the dead had not told has been told for them
    if not whole:
        until(lambda: set(processes(folder)) - set(before))  # the third node has begun to answer instead
    callers.quick(0)
    until(lambda: callers.quick(100))
    kill(everything)  # what the raylet left behind
    return {
        "killed": victim[:12],
        "answered_before": killed,
        "nodes_before": sorted({name.partition("-")[0] for name in before}),
        "nodes_after": sorted({name.partition("-")[0] for name in processes(folder)}),
    }


def rescaled(server: ModelServer, folder: Path, callers: Callers, endpoint: str) -> dict[str, Any]:
    """Let the cluster choose between one and two processes, under load that one can bear: nine requests at a time."""
    before = sorted(processes(folder))
    for one, settings in ((endpoint, {"payload_durable": True}), ("g", {"trusted_code": True})):
        server.configure(one, {**settings, "min_replicas": 1, "max_replicas": 2, "target_cpu": 0.9})
    until(lambda: serve.status().applications["modelyard"].status == "RUNNING")
    callers.quick(0)
    until(lambda: callers.quick(100))
    return {"before": before, "after": sorted(processes(folder))}


def answered(server: ModelServer, folder: Path, endpoint: str, callers: Callers) -> dict[str, Any]:
    """What the callers were answered, and what the yard knows of it."""
    callers.stop()
    until(lambda: {row["request_id"] for row in server.payload_rows(endpoint)} >= set(callers.answers))
    files = (folder / "node").rglob("models.json")
    return {
        "asked": sorted(callers.asked),
        "answered": {request: len(answers) for request, answers in callers.answers.items()},
        "predictions": {request: answers[0].predictions for request, answers in callers.answers.items()},
        "attempts": {r: a[0].attempts for r, a in callers.answers.items() if a[0].attempts > 1},
        "wrong": callers.wrong,
        "rows": [
            {key: row[key] for key in ("request_id", "row", "model", "version", "prediction", "probabilities")}
            for row in server.payload_rows(endpoint)
        ],
        "counted": server.counts(endpoint).arms["baseline"].requests,
        "paths": sorted({one["path"] for file in files for one in json.loads(file.read_text())}),
    }


def guarded(server: ModelServer, url: str) -> dict[str, Any]:
    """A canary that fails is rolled back on every node, by what all of them have counted together."""
    reference = f"{HERE / 'local_models.py'}:Linear@"
    server.configure("g", {"trusted_code": True})
    server.install("g", "m", "v1", reference + "{}", "python")
    server.install("g", "m", "v2", reference + '{"fail": 0.5}', "python")
    arms = (
        Arm(name="baseline", model="m", version="v1", weight=0.5),
        Arm(name="canary", model="m", version="v2", weight=0.5),
    )
    guard = Guard(rollout_id="dep_r", step=0, share=0.5, alpha=0.001)
    server.apply(Traffic(endpoint="g", generation=1, arms=arms, guards=(guard,)))
    until(lambda: sum("g" in one.generations for one in server.processes() if one.ready) >= 2)
    arms_seen: list[str] = []
    failures = 0
    with Predictions({"here": url}) as client:
        for number in range(400):
            try:
                arms_seen.append(client.predict("g", {"a": 0.25, "b": 0.0}, request_id=f"g{number}").arm)
            except YardError:
                failures += 1
                arms_seen.append("failed")
            if len(arms_seen) > 60 and set(arms_seen[-60:]) == {"baseline"}:
                break
    until(server.trips)
    until((server.store.folder / "reported.txt").exists)
    until(lambda: server.counts("g").arms["baseline"].requests + failures >= len(arms_seen))
    counts = server.counts("g").arms
    return {
        "trips": [(trip.rollout_id, trip.step, trip.metric) for trip in server.trips()],
        "last": sorted(set(arms_seen[-40:])),
        "failures": failures,
        "counted_failures": counts["canary"].errors,
        "asked": len(arms_seen),
        "counted": counts["baseline"].requests + counts["canary"].requests,
        "reported": (server.store.folder / "reported.txt").read_text(),
    }


def cluster_of(nodes: int) -> Cluster:
    """A head and other nodes. Ray gives each half a minute to start, which a busy machine may need more than once; what
    has started too late goes, since it would join as a node that nobody counts on."""
    cluster = Cluster()
    while len(cluster.list_all_nodes()) < nodes:
        first = not cluster.list_all_nodes()
        before = set(family(os.getpid()))
        try:
            cluster.add_node(
                num_cpus=2, object_store_memory=80 << 20, **({"include_dashboard": False} if first else {})
            )
        except Exception as error:  # Ray raises nothing more exact
            sys.stderr.write(f"a node did not start: {error}\n")
            kill(sorted(set(family(os.getpid())) - before))
            if first:
                cluster = Cluster()
            if time.monotonic() > STARTED + PATIENCE_S:
                raise
    return cluster


def main(folder: Path) -> None:
    os.environ["MODELYARD_NODE_FOLDER"] = str(folder / "node")
    os.environ["PYTHONPATH"] = str(HERE)
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"  # of the cluster's own processes, before they start
    sys.path.insert(0, str(HERE))
    server = ModelServer(folder / "yard")
    (server.store.folder / "tried").touch()
    settings = {"payload_durable": True}
    endpoint = asyncio.run(server.deploy_model("fraud", "v1", model(folder), "lightgbm", settings))
    server.close()  # from now on every count is a node's
    cluster = cluster_of(3)
    server = ModelServer(folder / "yard")
    told: dict[str, Any] = {}
    with server.start_on_nodes(
        "ray",
        address=cluster.address,
        port=free_port(),  # each node's proxy has it: all of them are on this machine, and share it (SO_REUSEPORT)
        report="local_models:write_down",
        place=str(folder / "yard"),
    ) as serving:
        told["guard"] = guarded(server, serving.url)
        callers = Callers(serving.url, endpoint)
        try:
            told["raylet"] = killed_node(folder, cluster, callers, whole=False)
            told["node"] = killed_node(folder, cluster, callers, whole=True)
            told["scaled"] = rescaled(server, folder, callers, endpoint)
        finally:
            callers.stop()
        told["load"] = answered(server, folder, endpoint, callers)
    told["left"] = sorted(processes(folder))
    cluster.shutdown()
    sys.stdout.write("\n" + json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
