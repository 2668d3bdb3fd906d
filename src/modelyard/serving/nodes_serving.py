"""Serving on the nodes of a cluster: starts the processes there and keeps yard and nodes in step."""

from __future__ import annotations

import atexit
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from modelyard.core.errors import YardError
from modelyard.serving.fleet import Fleet
from modelyard.serving.guard import Reporter
from modelyard.serving.lasting import Lasting, keep
from modelyard.serving.nodes_yard import Headquarters
from modelyard.serving.places import Places
from modelyard.serving.scaling import BUSIEST, LOOK_BACK_S, Targets

APPLICATION = "modelyard.serving.nodes_process:application"
DRIVE_S = 0.1
FOLLOW_S = 1.0
UP_S = 4.0  # two looks at what is asked, as for the processes beside the yard
BEGIN_S = 180.0  # a cluster that is busy, or has just begun, may take back what it began more than once
log = logging.getLogger("modelyard.serving")


class Engine(Protocol):
    """A cluster that runs processes and carries what they and the yard tell each other."""

    @property
    def nodes(self) -> int:
        """How many nodes are alive."""
        ...

    def run(self, application: str, *, host: str, port: int, scale: Mapping[str, Any], spread: int) -> None:
        """Have so many processes of an application as `scale` says, at most `spread` on a node."""
        ...

    def drive(self, replies: Mapping[str, bytes], offer: Mapping[str, Callable[[], bytes]]) -> dict[str, bytes]:
        """Leave replies and offers; the reports since the last time."""
        ...

    def end(self) -> None:
        """Let the processes drain and end."""
        ...

    def close(self) -> None:
        """Leave the cluster."""
        ...


def ongoing(target_cpu: float) -> float:
    """How many requests a process has at a time, on average, when it is as busy as the target says.

    A process answers one request after another: rho / (1 - rho) in an M/M/1 queue (Kleinrock 1975, eq. 3.24).

    >>> ongoing(0.5), round(ongoing(0.7), 2)
    (1.0, 2.33)
    """
    rho = min(target_cpu, BUSIEST)
    return rho / (1 - rho)


def spread(most: int, nodes: int) -> int:
    """How many processes may share a node: as few as leave room for all of them when one node is lost.

    >>> spread(2, nodes=3), spread(6, nodes=3), spread(2, nodes=1)
    (1, 3, 2)
    """
    return math.ceil(most / max(nodes - 1, 1))


class NodeServing:
    """Processes on a cluster: where they answer, and how to end them."""

    def __init__(
        self,
        places: Places,
        engine: Engine,
        head: Headquarters,
        *,
        host: str,
        port: int,
        targets: Callable[[], Targets],
        place: str = "",
        report: str | None = None,
        fleet: Fleet | None = None,
    ) -> None:
        self.host, self.port = host, port
        self._engine, self._head, self._targets = engine, head, targets
        self._reporter = Reporter(places, place, report) if report else None
        self._fleet = fleet
        self._replies: dict[str, bytes] = {}
        self._wanted: Targets | None = None
        self._most = self._spread = 0
        self._taking = Lasting("What a process tells cannot be taken")
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="modelyard-nodes", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="modelyard-nodes-scale", daemon=True)

    @property
    def url(self) -> str:
        """Where each node with a process answers, as its own proxy is asked; for another node put its name."""
        return f"http://{'127.0.0.1' if self.host == '0.0.0.0' else self.host}:{self.port}"  # noqa: S104

    def begin(self) -> NodeServing:
        """Start the processes and wait until they are ready."""
        atexit.register(self.stop)
        if self._reporter is not None:
            self._reporter.start()
        if self._fleet is not None:
            self._fleet.begin()
        self._thread.start()  # the processes ask for their first routing while they start
        end = time.monotonic() + BEGIN_S
        while True:
            try:
                self._scale()
            except YardError as error:
                if time.monotonic() > end or not self._engine.nodes:
                    self.stop()
                    raise
                log.warning("The cluster does not serve yet, which is tried again: %s", error)
                time.sleep(FOLLOW_S)
            else:
                self._follower.start()
                return self

    def stop(self) -> None:
        """Drain the processes and take what they still have to tell. Again does nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        if self._follower.is_alive():
            self._follower.join(60)
        try:
            self._engine.end()
        finally:
            self._ended.set()
            self._thread.join(60)
            if self._reporter is not None:
                self._reporter.stop()
            if self._fleet is not None:
                self._fleet.stop()
            self._head.close()
            self._engine.close()
            atexit.unregister(self.stop)

    def __enter__(self) -> NodeServing:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _scale(self) -> None:
        """Tell the cluster how many processes are wanted, if that is another number than before."""
        targets = self._targets()
        if targets == self._wanted:
            return
        scale = {
            "min_replicas": targets.min_replicas,
            "max_replicas": targets.max_replicas,
            "ongoing": ongoing(targets.target_cpu),
            "up_s": UP_S,
            "down_s": LOOK_BACK_S,
        }
        if targets.max_replicas > self._most:  # else as it is: another spread replaces every process
            self._most = targets.max_replicas
            self._spread = max(self._spread, spread(self._most, self._engine.nodes))
        self._engine.run(APPLICATION, host=self.host, port=self.port, scale=scale, spread=self._spread)
        self._wanted = targets

    def _keep(self) -> None:
        keep(DRIVE_S, self._look, "The nodes cannot be looked after", ended=self._ended)

    def _look(self) -> None:
        name, snapshot = self._head.snapshot()
        offer: dict[str, Callable[[], bytes]] = {
            digest: partial(self._head.packed, digest) for digest in self._head.digests
        }
        offer[name] = lambda: snapshot
        reports = self._engine.drive(self._replies, offer)
        self._head.look()
        self._replies = {}
        for uid, data in reports.items():
            with self._taking.round():  # of one process: the others are heard all the same
                self._replies[uid] = self._head.take(uid, data, name)

    def _follow(self) -> None:
        """Follow the targets. Not where the mail is carried: a process that starts waits for mail."""
        keep(FOLLOW_S, self._scale, "The number of processes cannot be changed", ended=self._ending)
