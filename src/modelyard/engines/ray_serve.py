"""Ray Serve spreads processes over a cluster's nodes, with an HTTP proxy on every node that has one.

The processes and the yard meet in a mailbox, a small actor on the yard's own node: reports are left there and replies
taken. Large things (models, snapshots) lie in Ray's object store and go from node to node by themselves.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from modelyard.core.errors import NotFound, Unavailable
from modelyard.engines.ray import RayRunner

NAMESPACE = "modelyard"
ANSWERS_WITHIN = 30.0
DRAIN_S = 20.0
READY_S = "60"  # after the usual 5 a proxy that starts on a busy machine is killed, and started again, and killed
MOST_ONGOING = 200  # in one process, below the number at which it refuses by itself
MOST_KNOWN = 256  # processes, the dead ones of which others tell included
log = logging.getLogger("modelyard.serving")


class Mailbox:
    """Holds each process's newest report until the yard takes it, and the yard's newest reply to each."""

    def __init__(self) -> None:
        self._reports: dict[str, bytes] = {}
        self._replies: dict[str, bytes] = {}
        self._offered: dict[str, list[Any]] = {}

    def turn(self, uid: str, report: bytes) -> bytes | None:
        """Leave a report; the newest reply."""
        self._reports[uid] = report
        return self._replies.get(uid)

    def drive(self, replies: dict[str, bytes], offered: dict[str, list[Any]]) -> dict[str, bytes]:
        """Leave replies and what is on offer; the reports since the last time."""
        for uid, reply in replies.items():
            self._replies.pop(uid, None)
            self._replies[uid] = reply
        while len(self._replies) > MOST_KNOWN:
            del self._replies[next(iter(self._replies))]  # of the process that has been silent longest
        self._offered = offered
        reports, self._reports = self._reports, {}
        return reports

    def find(self, name: str) -> list[Any]:
        """A reference to what is on offer under a name, in a list so that it stays one; empty for an unknown name."""
        return self._offered.get(name, [])


class NodeLink:
    """A process's way to the mailbox."""

    def __init__(self, yard: str) -> None:
        self.yard = yard
        self.node = ray.get_runtime_context().get_node_id()
        self._mailbox: Any = None
        self._raylet = os.getppid()

    @property
    def lost(self) -> bool:
        """Whether this node's raylet is gone. Ray leaves its actors running then, unknown to the cluster."""
        return os.getppid() != self._raylet

    async def turn(self, uid: str, report: bytes) -> bytes | None:
        """Hand a report in; the newest reply, None while there is none."""
        reply: bytes | None = await self._asked("turn", uid, report)
        return reply

    async def fetch(self, name: str) -> bytes:
        """What the yard offers under a name; NotFound while it does not."""
        found = await self._asked("find", name)
        if not found:
            raise NotFound(f"The yard offers no {name[:16]} now.")
        try:
            data: bytes = await found[0]
        except RayError as error:
            raise Unavailable(f"{name[:16]} cannot be had from the yard: {error}") from error
        return data

    async def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            if self._mailbox is None:
                self._mailbox = await asyncio.to_thread(ray.get_actor, self.yard, NAMESPACE)
            return await getattr(self._mailbox, method).remote(*arguments)
        except (RayError, ValueError) as error:  # ValueError: there is no mailbox of that name
            self._mailbox = None  # the next one is another process's
            raise Unavailable(f"The yard {self.yard} cannot be reached: {str(error)[:200]}") from error


class Plane:
    """What a replica is besides the ASGI application that it wraps."""

    def check_health(self) -> None:
        """Ray asks whether the process answers; that it is asked is the answer."""


class RayServe:
    """A cluster at an address, or one on this machine, that processes are spread over.

    Addresses as in `RayRunner`. `yard` names the mailbox. modelyard must be installed on every node.
    """

    def __init__(self, yard: str, *, address: str | None = None) -> None:
        self.yard = yard
        os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", READY_S)  # of a cluster that is started here
        self._cluster = RayRunner(address=address)
        self._offered: dict[str, list[Any]] = {}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"num_cpus": 0, "name": yard, "namespace": NAMESPACE, "scheduling_strategy": here}
        try:
            self._mailbox = _named(options)
        except Unavailable:
            self._cluster.close()
            raise

    @property
    def nodes(self) -> int:
        """How many nodes of the cluster are alive."""
        return sum(bool(node["Alive"]) for node in ray.nodes())

    def run(self, application: str, *, host: str, port: int, scale: Mapping[str, Any], spread: int) -> None:
        """Have so many processes of an application ("module:function", called with a link) as `scale` says.

        `scale` has min_replicas, max_replicas, ongoing (requests in one process), up_s and down_s; at most `spread`
        processes share a node. Another scale replaces no process; another spread replaces all, one after the other.
        """
        yard = self.yard

        def build() -> Any:
            module, _, name = application.partition(":")
            return getattr(importlib.import_module(module), name)(NodeLink(yard))

        least, most = scale["min_replicas"], scale["max_replicas"]
        number: dict[str, Any] = {"num_replicas": least}
        if most > least:
            autoscaling = {
                "min_replicas": least,
                "max_replicas": most,
                "target_ongoing_requests": scale["ongoing"],
                "upscale_delay_s": scale["up_s"],
                "downscale_delay_s": scale["down_s"],
                "look_back_period_s": scale["up_s"],
                "metrics_interval_s": min(scale["up_s"] / 2, 10.0),
            }
            number = {"autoscaling_config": autoscaling}
        try:
            deployment = serve.deployment(
                serve.ingress(build)(Plane),
                name="plane",
                max_replicas_per_node=spread,
                max_ongoing_requests=MOST_ONGOING,
                ray_actor_options={"num_cpus": 1},
                graceful_shutdown_timeout_s=DRAIN_S,
                graceful_shutdown_wait_loop_s=0.2,
                health_check_period_s=2,
                health_check_timeout_s=10,
                logging_config={"log_level": "WARNING", "enable_access_log": False},
                **number,
            )
            # Serve takes what it is given for new code each time, unless it is told a version, which has no public name.
            # Where it does not listen, the processes are replaced one after the other, and nothing is lost.
            deployment._version = f"{yard}-{version('modelyard')}"
            serve.start(proxy_location="EveryNode", http_options={"host": host, "port": port})
            serve.run(deployment.bind(), name=NAMESPACE, route_prefix="/")
        except (RayError, RayServeException, RuntimeError, ValueError) as error:
            # ValueError: Serve's configurations take turns at a global of its pickler, which two threads can upset
            raise Unavailable(f"The cluster does not serve: {str(error)[:300]}") from error

    def drive(self, replies: Mapping[str, bytes], offer: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
        """Leave replies for processes and have so much on offer; the reports since the last time, by process.

        The bytes on offer are asked for once. Unavailable while the mailbox does not answer.
        """
        for name in set(self._offered) - set(offer):
            del self._offered[name]
        for name in set(offer) - set(self._offered):
            self._offered[name] = [ray.put(offer[name]())]
        try:
            reports: dict[str, bytes] = ray.get(
                self._mailbox.drive.remote(dict(replies), self._offered), timeout=ANSWERS_WITHIN
            )
        except RayError as error:
            raise Unavailable(f"The mailbox of the cluster does not answer: {str(error)[:200]}") from error
        return reports

    def end(self) -> None:
        """Let the processes drain and end; returns once they have. Call `drive` meanwhile: they tell what is left."""
        try:
            serve.delete(NAMESPACE)
            if not serve.status().applications:
                serve.shutdown()  # so that the next one may choose another port
        except (RayError, RayServeException) as error:  # nothing has begun, or the cluster is gone
            log.info("Nothing is left to end on the cluster: %s", error)

    def close(self) -> None:
        """Leave the cluster; one that was started here stops."""
        ray.kill(self._mailbox)
        self._cluster.close()


def _named(options: Mapping[str, Any]) -> Any:
    """A mailbox; Unavailable where another process keeps one of this name. One that was killed loses it in a moment."""
    end = time.monotonic() + ANSWERS_WITHIN
    while True:
        try:
            return ray.remote(Mailbox).options(**options).remote()
        except ValueError as error:
            if time.monotonic() > end:
                raise Unavailable(
                    f"Another process serves this yard on the cluster: {error} Stop it, or serve another yard."
                ) from error
            time.sleep(0.5)
