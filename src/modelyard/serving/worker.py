"""One serving process: `python -m modelyard.serving.worker`, started by the supervisor with a listening socket.

All workers accept from one socket that the supervisor holds, one connection a turn of the loop: a worker that dies or
drains takes no waiting connection with it, and a busy one leaves new connections to the others.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
import warnings
from contextlib import suppress
from typing import Any, NoReturn

import uvloop

from modelyard.core import plugins
from modelyard.core.errors import MissingExtra
from modelyard.serving import guard
from modelyard.serving.copies import Copies
from modelyard.serving.desk import Desk
from modelyard.serving.http import Connection, Hub
from modelyard.serving.lasting import repeat
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.places import Places, SlotReport
from modelyard.serving.plane import Plane, Tracer
from modelyard.serving.stages import tracing_wanted
from modelyard.serving.vigil import fault_of, put_aside, vitals_of

BEAT_S = 0.25
LOOK_S = 0.05  # a new routing is noticed, and a guard judged, this often
LINGER_S = 0.3  # while draining, idle connections may still send one request and are told to close
DRAIN_S = 30.0
PAUSE_S = 0.5
SHORT = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
FEW = 64  # connections: where no descriptor is left and there are no more, it is not the clients that have them
log = logging.getLogger("modelyard.serving")


class Worker:
    """Accepts, watches what is published, and drains when told to."""

    def __init__(
        self, places: Places, listener: socket.socket, *, copies: int = -1, grpc: str = "", model_control: bool = False
    ) -> None:
        self.desk = Desk(places)
        self.desk.copies = Copies(copies)
        metrics = RequestMetrics(places, self.desk.slot.number)
        self.plane = Plane(self.desk, metrics, model_control=model_control)
        self.grpc = plugins.load("protocol", "grpc")(self.plane, grpc) if grpc else None
        self.listener = listener
        self.hub = Hub(self.plane.answer)
        self.stopping = asyncio.Event()
        self._ticked = 0.0
        self._fault_of_ours = self._hurried = False
        self._signals: set[int] = set()
        self._own: tuple[int, ...] = ()  # descriptors without which it answers nobody
        self.plane.tracer = _tracer()
        self.calls = self.desk.routes.shelf.calls = self.plane.inference.calls
        self._told: dict[str, str] = {}
        slot = self.desk.slot.number
        put_aside(places, slot)
        self.calls.attach(vitals_of(places, slot))
        self._fault = fault_of(places, slot).open("w")
        faulthandler.enable(self._fault)  # what the supervisor reads of a process that a model has crashed

    async def run(self, parent: int) -> None:
        """Serve until SIGTERM, SIGINT or the end of the process that holds the other end of the pipe `parent`.

        The same signal again ends it at once.
        """
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._told_to_end, name)
        if parent >= 0:
            loop.add_reader(parent, self.stopping.set)  # nothing is ever written: readable means closed
        self._own = (self.listener.fileno(), *_polled())
        self._beat_once()
        beating = asyncio.create_task(repeat(BEAT_S, self._beat, "The state of this process cannot be told"))
        if not await self._loaded():
            self._leave()
        if self.grpc is not None:
            await self.grpc.start()
        gc.collect()
        gc.freeze()  # the libraries' hundred thousand objects stay: no collection has to walk them between requests
        self.plane.ready = True
        self._follow_trials()
        self._report()
        self._tick()
        loop.add_reader(self.listener, self._accept)
        rounds = (
            repeat(LOOK_S, self._look, "What is published cannot be followed"),
            repeat(LOOK_S, self._load, "What is published cannot be loaded"),
            repeat(LOOK_S, self._watch, "Guards and connections cannot be looked at"),
        )
        watching = [asyncio.create_task(one) for one in rounds]
        await self.stopping.wait()
        if parent >= 0:
            loop.remove_reader(parent)
        await self._drain()
        for task in watching:
            task.cancel()
        if self.calls.busy or self.desk.routes.shelf.loading or self._hurried:
            self._leave()
        await asyncio.to_thread(self._close)  # the loop turns meanwhile, else this process is taken for one that hangs
        if self.plane.tracer is not None:
            await asyncio.to_thread(self.plane.tracer.close)
        beating.cancel()
        if self._fault_of_ours:
            os._exit(1)

    def _close(self) -> None:
        self.plane.close()
        self.desk.stop()

    def _told_to_end(self, name: int) -> None:
        """Drain; at once at the second signal of a kind (Ctrl-C at a terminal brings SIGINT, and then the parent's SIGTERM)."""
        self._hurried = self._hurried or name in self._signals
        self._signals.add(name)
        self.stopping.set()

    async def _loaded(self) -> bool:
        """Load what is published; False where this process is told to end meanwhile."""
        loading = asyncio.create_task(asyncio.to_thread(self.desk.routes.refresh))
        stopping = asyncio.create_task(self.stopping.wait())
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return False
        stopping.cancel()
        loading.result()
        return True

    def _leave(self) -> NoReturn:
        """End at once: every request is over, and a thread that is still at a call or at loading is not waited for."""
        self.desk.routes.shelf.give_up()
        self.desk.stop()
        logging.shutdown()
        os._exit(1 if self._fault_of_ours else 0)

    def _accept(self) -> None:
        """Take one connection; another worker may have been quicker."""
        try:
            connection, _ = self.listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            self._cannot_accept(error)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
        self.hub.tasks.add(task)
        task.add_done_callback(self._connected)

    def _cannot_accept(self, error: OSError) -> None:
        """Where no descriptor is left, those of clients come back: try again later. Else this process is of no more use."""
        if error.errno in SHORT and len(self.hub.connections) > FEW:
            log.warning("No connection can be accepted: %s. Tried again in %g s.", error, PAUSE_S)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self.listener)
            loop.call_later(PAUSE_S, self._accept_again)
            return
        self._give_up(f"no connection can be accepted: {error}")

    def _accept_again(self) -> None:
        if not self.stopping.is_set():
            asyncio.get_running_loop().add_reader(self.listener, self._accept)

    def _give_up(self, why: str) -> None:
        """Answer what is here, and end: the supervisor starts another process."""
        if not self.stopping.is_set():
            log.error("This process ends, since %s.", why)
            self._fault_of_ours = True
            self.stopping.set()

    def _connected(self, task: asyncio.Task[Any]) -> None:
        self.hub.tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("A connection was gone before it began: %s", task.exception())

    def _protocol(self) -> asyncio.Protocol:
        return Connection(self.hub)

    async def _beat(self) -> None:
        self._beat_once()

    def _beat_once(self) -> None:
        """Show that the event loop turns, and what waits."""
        self.calls.turned(
            in_flight=self.desk.in_flight,
            connections=len(self.hub.connections),
            waiting=self.plane.inference.waiting,
            logging=self.desk.payloads.waiting,
        )

    async def _look(self) -> None:
        """Carry out what is published, as far as it is loaded."""
        routes = self.desk.routes
        if routes.due:
            await asyncio.to_thread(routes.follow)
            self._follow_trials()
            self._report()

    def _follow_trials(self) -> None:
        """While an arm is on trial, each call looks whether it has closed what this process needs: see `calls`."""
        routes = self.desk.routes.by_name.values()
        tried = any(route.watched for route in routes)
        self.calls.watch(self._own if tried else ())

    async def _load(self) -> None:
        """Load what that lacks, however long it takes."""
        routes = self.desk.routes
        if routes.shelf.wanted:
            await asyncio.to_thread(routes.load)

    async def _watch(self) -> None:
        """Judge guards, keep the Date header right, and see to it that this process can still be reached."""
        now = time.monotonic()
        if now - self._ticked >= 1.0:
            self._ticked = now
            self._tick()
            if not _listens(self.listener):
                self.calls.broke_unseen()
        if self.calls.broken:
            self._give_up("descriptors that it needs were closed under it")
        guard.look(self.desk.places, self.desk.routes.by_name.values())

    def _tick(self) -> None:
        self.hub.tick(asyncio.get_running_loop().time(), time.time())

    def _report(self) -> None:
        routes = self.desk.routes
        for name, text in routes.troubles.items():
            if self._told.get(name) != text:
                log.warning("%s keeps its old routing: %s", name, text)
        self._told = dict(routes.troubles)
        ready = self.plane.ready and not self.plane.draining
        self.desk.slot.report(
            SlotReport(
                pid=os.getpid(),
                ready=ready,
                generations=routes.generations,
                troubles=dict(routes.troubles),
                loaded=tuple(routes.loaded),
            )
        )

    async def _drain(self) -> None:
        """Not ready first, then no new connections, then wait for those in flight."""
        self.plane.draining = self.hub.draining = True
        self._report()
        asyncio.get_running_loop().remove_reader(self.listener)
        self.listener.close()
        end = time.monotonic() + DRAIN_S
        calls = asyncio.create_task(self.grpc.drain(DRAIN_S)) if self.grpc is not None else None
        if self.hub.connections:
            await asyncio.sleep(LINGER_S)
        for connection in list(self.hub.connections):
            connection.finish()
        while self.hub.connections and time.monotonic() < end and not self._hurried:
            await asyncio.sleep(0.01)
        while calls is not None and not calls.done() and not self._hurried:
            await asyncio.wait((calls,), timeout=0.05)


def _polled() -> list[int]:
    """The descriptors that the event loop waits with."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            if os.readlink(f"/proc/self/fd/{name}") in ("anon_inode:[eventpoll]", "anon_inode:[eventfd]"):
                found.append(int(name))
    return found


def _listens(listener: socket.socket) -> bool:
    """Whether a socket is still the one that it was: a model may close descriptors that are not its own."""
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    except OSError:
        return False


def _more_descriptors() -> None:
    """As many files and connections as this user may have at all: the usual 1,024 are few for connections that stay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _tracer() -> Tracer | None:
    """Who traces requests, where OpenTelemetry's variables ask for it."""
    if not tracing_wanted(os.environ):
        return None
    try:
        tracer: Tracer = plugins.load("tracer", "otel")()
    except MissingExtra as error:  # the variables are often those of a whole cluster: predictions matter more
        log.warning("Requests are not traced: %s", error)
        return None
    return tracer


def main(arguments: list[str]) -> None:
    """Run one worker."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving.worker", description=__doc__)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--parent", type=int, default=-1)
    parser.add_argument("--copies", type=int, default=-1)
    parser.add_argument("--place", default="")
    parser.add_argument("--report", default="")
    parser.add_argument("--grpc", default="", help="HOST:PORT of the gRPC service, which all workers share")
    parser.add_argument("--model-control", action="store_true")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    sys.setswitchinterval(0.0005)  # background threads hold the interpreter for half a millisecond at most
    # forests of scikit-learn that are asked in several threads leave warnings.filters empty, and then warn at every tree
    setattr(warnings, "defaultaction", "ignore")  # noqa: B010 - mypy does not know it
    _more_descriptors()
    places = Places(given.folder)
    listener = socket.socket(fileno=given.socket)
    listener.setblocking(False)
    reporter = guard.Reporter(places, given.place or given.folder, given.report) if given.report else None
    if reporter is not None:
        reporter.start()

    async def serve() -> None:
        worker = Worker(places, listener, copies=given.copies, grpc=given.grpc, model_control=given.model_control)
        await worker.run(given.parent)

    uvloop.run(serve())
    if reporter is not None:
        reporter.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
