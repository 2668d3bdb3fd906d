"""One serving process on another node: the data plane on a small folder of its own, kept in step with the yard.

It answers, counts, guards and logs as a worker beside the yard does. Five times a second it tells the yard all it has
done; without the yard it goes on with the routing that it has. What a process that was killed had not told yet is told by
another one on the same machine.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelyard.core.errors import Unavailable, YardError
from modelyard.serving import calls, compaction, counters, guard, metrics, nodes
from modelyard.serving.counters import Counters
from modelyard.serving.desk import Desk
from modelyard.serving.http import Receive
from modelyard.serving.lasting import repeat
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.nodes import Counts, Link, Model, Piece, Reply, Report, Snapshot
from modelyard.serving.places import MAX_SLOTS, Places, SlotReport, held, write, write_once
from modelyard.serving.plane import Plane, Scope, Send
from modelyard.serving.shadowing import Shadowing
from modelyard.serving.vigil import vitals_of

LOOK_S = 0.05
TURN_S = 0.2
ADOPT_S = 2.0  # how often a process looks for what a dead one of its machine left
FIRST_S = 60.0
LAST_S = 10.0  # a process that ends has so long to tell the rest
PIECE_BYTES = 1 << 20
OWN, REST = 0, MAX_SLOTS - 1  # slots of the local counters: what this process counts, and what all others have
log = logging.getLogger("modelyard.serving")


def application(link: Link) -> Process:
    """The ASGI application of one process of a node; its lifespan begins and ends it."""
    return Process(link)


class Residue:
    """What a process keeps in its folder, and what of it the yard has not confirmed. Reads the folder only, so that any
    process can tell for a dead one."""

    def __init__(self, folder: Path) -> None:
        self.places = Places(folder)
        self.held: dict[str, int] = {}
        self.confirmed = -1

    def report(self, said: SlotReport, *, ended: bool = False) -> Report:
        """All that has been done so far."""
        losses = {}
        if ended:
            for folder in self._logs():
                compaction.settle(folder)
                if (folder / compaction.LOSSES).exists():
                    losses[folder.name] = (folder / compaction.LOSSES).read_bytes()
        pieces = tuple(self._pieces())  # before the counts: the yard never has a row that it has not counted
        return Report(
            number=time.time_ns(),
            said=said,
            ended=ended,
            counts=tuple(self._counts()),
            metrics=tuple(self._metrics()),
            marks=tuple(self._marks()),
            trips=tuple(self.places.all_trips()),
            pieces=pieces,
            losses=losses,
        )

    def confirm(self, reply: Reply) -> None:
        """Forget what the yard has; whole segments that it has are removed here."""
        self.confirmed = reply.number
        self.held.update(reply.held)
        for name in reply.closed:
            (self.places.root / "payloads" / f"{name}.rows").unlink(missing_ok=True)

    @property
    def empty(self) -> bool:
        """Whether the yard has every byte of every segment."""
        return not any(self._rest_of(folder, path) for folder in self._logs() for path in _segments(folder))

    def _logs(self) -> list[Path]:
        folder = self.places.root / "payloads"
        return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.exists() else []

    def _counts(self) -> list[Counts]:
        found = []
        for file in sorted((self.places.root / "counters").glob("*/[0-9]*.bin")):
            row = Counters(file).total() - Counters(file).row(REST)  # also of what asks shadows, in slots of its own
            if row.any():
                found.append(Counts(endpoint=file.parent.name, generation=int(file.stem), words=nodes.sparse(row)))
        return found

    def _marks(self) -> Iterator[nodes.Marks]:
        for name in self.places.traffic_files():
            traffic = self.places.read_traffic(name).traffic
            file = self.places.counters(name, traffic.generation)
            if traffic.guard is not None and file.exists():
                marks = nodes.marks_of(name, traffic.generation, Counters(file))
                if marks is not None:
                    yield marks

    def _metrics(self) -> list[nodes.MetricRow]:
        rows = [metrics.merged(self.places, slots=[OWN], work=work) for work in (False, True)]
        return [(*key, row.tolist()) for found in rows for key, row in found.items()]

    def _pieces(self) -> list[Piece]:
        """The next bytes of each segment, a mebibyte in all."""
        found, room = [], PIECE_BYTES
        for folder in self._logs():
            for path in _segments(folder):
                rest = self._rest_of(folder, path)
                if not rest or room <= 0:
                    continue
                start = self.held.get(f"{folder.name}/{path.stem}", 0)
                with path.open("rb") as stream:
                    stream.seek(start)
                    data = stream.read(room)
                room -= len(data)
                whole = path.suffix == ".rows" and start + len(data) == path.stat().st_size
                found.append(Piece(endpoint=folder.name, name=path.stem, start=start, data=data, closed=whole))
        return found

    def _rest_of(self, folder: Path, path: Path) -> bool:
        """Whether the yard lacks something of a segment; that it is closed is something too."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # closed meanwhile, and so renamed
            return True
        return path.suffix == ".rows" or self.held.get(f"{folder.name}/{path.stem}", 0) < size


def _segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in (".open", ".rows"))


class Process:
    """The application: answers once its first routing is in force."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._base = _machine_folder()
        self.uid = f"{link.node[:12]}-{secrets.token_hex(6)}"
        self._beside = self._base / "processes" / link.yard
        folder = self._beside / self.uid
        folder.mkdir(parents=True, mode=0o700)
        self._lock = _locked(folder / "alive.lock")
        self.residue = Residue(folder)
        self.places = self.residue.places
        self.desk = Desk(self.places)
        assert self.desk.slot.number == OWN  # the folder is nobody else's
        self.plane = Plane(self.desk, RequestMetrics(self.places, OWN))
        self.calls = self.desk.routes.shelf.calls = self.plane.inference.calls
        self._vitals = vitals_of(self.places, OWN)
        self.calls.attach(self._vitals)
        self._others = RequestMetrics(self.places, REST)
        self._others_known: dict[metrics.Key, Any] = {}
        self._snapshot = ""
        self._shadowing = Shadowing(self.places)
        self.desk.copies = self._shadowing.copies
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end with the server."""
        if scope["type"] != "lifespan":
            await self.plane(scope, receive, send)
            return
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.begin()
                except YardError as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.end()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def begin(self) -> None:
        """Get the routing and carry it out; Unavailable if the yard does not answer."""
        sys.setswitchinterval(0.0005)  # background threads hold the interpreter for half a millisecond at most
        end = time.monotonic() + FIRST_S
        while not self._snapshot:
            with suppress(OSError, YardError):
                await self._turn()
            if time.monotonic() > end:
                raise Unavailable(f"The yard did not answer the node {self._link.node} within {FIRST_S:g} s.")
            await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(self.desk.routes.refresh)
        self._shadowing.begin()
        gc.collect()
        gc.freeze()
        self.plane.ready = True
        with suppress(OSError, YardError):
            await self._turn()  # so that the yard knows of it as soon as requests may come
        rounds = (
            repeat(LOOK_S, self._look, f"{self.uid} cannot follow what is published"),
            repeat(LOOK_S, self._load, f"{self.uid} cannot load what is published"),
            repeat(LOOK_S, self._watch, f"{self.uid} cannot look at its guards"),
            repeat(TURN_S, self._turn, f"{self.uid} cannot tell the yard"),
            repeat(ADOPT_S, self._adopt, f"{self.uid} cannot tell for the dead"),
        )
        self._tasks = [asyncio.create_task(one) for one in rounds]

    async def end(self) -> None:
        """Finish what is queued, tell the rest, and leave nothing behind if the yard has it all."""
        self.plane.draining = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.plane.close()
        await asyncio.to_thread(self._shadowing.stop)
        await asyncio.to_thread(self.desk.stop)
        with suppress(OSError, YardError):
            await asyncio.wait_for(self._tell_all(self.uid, self.residue), LAST_S)
            shutil.rmtree(self.places.root.parent, ignore_errors=True)
        os.close(self._lock)

    async def _look(self) -> None:
        """Carry out what has been published, as far as it is loaded."""
        routes = self.desk.routes
        if routes.due:
            await asyncio.to_thread(routes.follow)

    async def _load(self) -> None:
        """Load what that lacks, however long it takes."""
        routes = self.desk.routes
        if routes.shelf.wanted:
            await asyncio.to_thread(routes.load)

    async def _watch(self) -> None:
        """Follow the guards' decisions, and the node's fate."""
        guard.look(self.places, self.desk.routes.by_name.values())
        if self._link.lost and self._leaving is None:
            self._leaving = asyncio.create_task(self._leave())

    async def _leave(self) -> None:
        """End with the node: another process of the machine tells what this one cannot tell any more."""
        log.warning("%s ends, since the cluster has lost its node.", self.uid)
        self.plane.draining = True
        end = time.monotonic() + LAST_S
        while self.desk.in_flight and time.monotonic() < end:
            await asyncio.sleep(LOOK_S)
        await self.end()
        os._exit(1)

    async def _turn(self) -> None:
        """Tell the yard, and carry out what it answers."""
        routes = self.desk.routes
        said = SlotReport(
            pid=os.getpid(),
            ready=self.plane.ready and not self.plane.draining,
            generations=routes.generations,
            troubles={**routes.troubles, **self._without_shadow()},
            node=self._link.node[:12],
            vitals=self._gauges(),
        )
        report = await asyncio.to_thread(self.residue.report, said)
        data = await self._link.turn(self.uid, nodes.encode(report))
        if data is None:
            return
        reply: Reply = nodes.decode(data, Reply)
        await asyncio.to_thread(self._heard, reply)
        if reply.snapshot != self._snapshot:
            await self._follow(nodes.decode(await self._link.fetch(reply.snapshot), Snapshot))
            self._snapshot = reply.snapshot

    def _without_shadow(self) -> dict[str, str]:
        """Which endpoints have none of the shadows that they should have, and why."""
        said = self.places.slot_reports().values()
        return {name: text for one in said if one.shadows for name, text in one.troubles.items()}

    def _gauges(self) -> dict[str, int]:
        """What this process holds now: the times in its records mean nothing on another machine."""
        self.calls.turned(
            in_flight=self.desk.in_flight,
            waiting=self.plane.inference.waiting,
            logging=self.desk.payloads.waiting,
        )
        return calls.gauges(self._vitals, os.getpid())

    def _heard(self, reply: Reply) -> None:
        """Note what the yard has, and what all other processes have counted: guards judge all of it together."""
        self.residue.confirm(reply)
        for one in reply.rest:
            file = self.places.counters(one.endpoint, one.generation)
            if file.exists():
                row = Counters(file).row(REST)
                row[:] = nodes.dense(one.words, row)
        for marks in reply.marks:
            file = self.places.counters(marks.endpoint, marks.generation)
            if file.exists():
                nodes.set_marks(marks, Counters(file))
        for endpoint, arm, code, values in reply.rest_metrics:
            key = (endpoint, arm, code)
            now = metrics.row_of(values)
            self._others.add(key, now - self._others_known.get(key, 0))
            self._others_known[key] = now

    async def _follow(self, snapshot: Snapshot) -> None:
        """Have the models and publish the routing here, as the yard does for its own workers."""
        installed = [await self._installed(model) for model in snapshot.models]
        await asyncio.to_thread(self._publish, snapshot, installed)

    async def _installed(self, model: Model) -> Any:
        one = model.installed
        if model.uses:
            parts = [await self._installed(used) for used in model.uses]
            uses = [replace(used, installed=part) for used, part in zip(one.uses, parts, strict=True)]
            return replace(one, uses=tuple(uses))
        if not model.digest:
            return one
        form = one.compiled
        if form is not None:
            path = str(await self._fetched(model.compiled)) if model.compiled else ""
            form = replace(form, path=path)
        return replace(one, path=str(await self._fetched(model.digest)), compiled=form)

    async def _fetched(self, digest: str) -> Path:
        """A model by its digest: on this machine already, or from the yard."""
        folder = self._base / "models"
        with suppress(FileNotFoundError, StopIteration):
            return nodes.unpacked(digest, folder)
        packed = await self._link.fetch(digest)
        return await asyncio.to_thread(nodes.unpack, packed, digest, folder)

    def _publish(self, snapshot: Snapshot, installed: list[Any]) -> None:
        for trip in snapshot.trips:
            write_once(self.places.trip(trip.rollout_id, trip.step), trip)
        if installed != list(self.places.read_models().values()):
            write(self.places.models, installed)
        for one in snapshot.published:
            traffic = one.traffic
            path = self.places.traffic(traffic.endpoint)
            if not path.exists() or self.places.read_traffic(traffic.endpoint) != one:
                Counters(counters.begin(self.places, traffic)).follow()  # the yard has the counts of all
                write(path, one)
        for name in set(self.places.traffic_files()) - {one.traffic.endpoint for one in snapshot.published}:
            self.places.traffic(name).unlink(missing_ok=True)

    async def _adopt(self) -> None:
        """Tell for the processes of this machine that died before they had told all."""
        for folder in await asyncio.to_thread(self._orphans):
            try:
                lock = _locked(folder / "alive.lock")
            except BlockingIOError:
                continue
            try:
                await self._tell_all(folder.name, Residue(folder))
                shutil.rmtree(folder, ignore_errors=True)
            except (OSError, YardError) as error:
                log.warning("What %s left cannot be told: %s", folder.name, error)
            finally:
                os.close(lock)

    def _orphans(self) -> list[Path]:
        folders = sorted(self._beside.iterdir())
        return [one for one in folders if (one / "alive.lock").exists() and not held(one / "alive.lock")]

    async def _tell_all(self, uid: str, residue: Residue) -> None:
        """Tell until the yard has everything."""
        said = SlotReport(pid=os.getpid(), ready=False)
        while True:
            report = await asyncio.to_thread(lambda: residue.report(said, ended=True))
            while True:
                data = await self._link.turn(uid, nodes.encode(report))
                reply: Reply | None = None if data is None else nodes.decode(data, Reply)
                if reply is not None and reply.number >= report.number:
                    break
                await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(residue.confirm, reply)
            if residue.empty:
                return


def _machine_folder() -> Path:
    """Where the processes of this user on this machine keep models and what they have not told yet."""
    chosen = os.environ.get("MODELYARD_NODE_FOLDER")
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"modelyard-node-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise Unavailable(f"{folder} belongs to somebody else. Set MODELYARD_NODE_FOLDER to a folder of your own.")
    return folder


def _locked(file: Path) -> int:
    """A handle that holds the file's lock until it is closed or its process ends."""
    handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise
    return handle
