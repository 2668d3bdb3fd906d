"""The payload log of one process: answered rows leave through a bounded queue to raw segments, which become Parquet.

The request's share is to make bytes of its arrays, while they are still in the processor's cache, and to append one tuple:
keeping the arrays themselves for a thread to look at costs the requests that follow four times as much. A thread makes
blocks of columns of them and hands those to the kernel, ten times a second. Counts live in shared memory, so whoever comes
after a process that was killed can tell how many rows went with it.

In the durable mode an answer waits for its row to be on the disk: all that wait while one fsync runs share the next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelyard.core.errors import Unavailable, YardError
from modelyard.core.ports import Output
from modelyard.serving import blocks, failures
from modelyard.serving.blocks import Entry
from modelyard.serving.lasting import Lasting
from modelyard.serving.places import Places
from modelyard.serving.routing import Route
from modelyard.serving.segments import (
    DROPPED,
    FAILED,
    OFFERED,
    WRITTEN,
    Appender,
    Failure,
    Tally,
    frame,
    writer_name,
)

QUEUE_ROWS = 262_144
QUEUE_BYTES = 64 << 20
FLUSH_S = 0.1
TURN = 1_024  # requests made a block of at a time: less than a millisecond, then the interpreter is free for a request
RETIRE_S = 60.0  # no request takes so long that it would still hold a route that has been replaced
SEGMENT_BYTES = 16 << 20
SEGMENT_S = 300.0
TELL_S = 60.0  # how often one fault is told
FAILURES = 1_000  # failed requests that may wait to be written: in a storm of them the rest is counted
log = logging.getLogger("modelyard.serving")
Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


@dataclass(slots=True)
class Stream:
    """One endpoint's writer: its counts, its segment, and who waits. `offered` and `dropped` are the requests' to change,
    everything else the thread's."""

    endpoint: str
    tally: Tally
    appender: Appender
    counts: memoryview
    waiting: deque[Waiter] = field(default_factory=deque)
    failures: deque[Failure] = field(default_factory=deque)
    missed: int = 0  # failures since the last one that was kept
    offered: int = 0
    dropped: int = 0
    taken: int = 0
    told: float = -TELL_S

    def tell(self, text: str, rows: int, why: Exception) -> None:
        """Log a fault, once a minute."""
        if time.monotonic() - self.told >= TELL_S:
            self.told = time.monotonic()
            log.error(text, rows, self.endpoint, why)


@dataclass(slots=True)
class Line:
    """The answers of one route that wait to be written, by the arm's place."""

    route: Route
    stream: Stream
    room: int  # rows that may wait
    arms: tuple[deque[Entry], ...]
    retired: float = 0.0  # when another route took this one's place


@dataclass(slots=True)
class Outbox:
    """What the log and its thread share: the thread holds this, not the log, so that the log can be dropped."""

    streams: dict[str, Stream] = field(default_factory=dict)
    lines: dict[int, Line] = field(default_factory=dict)  # by the route's identity, which each line keeps alive
    wake: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    awake: bool = False
    stopping: bool = False

    def stop(self) -> None:
        """Let the thread write what is queued and end."""
        self.stopping = True
        self.hurry.set()
        self.wake.set()


class PayloadLog:
    """Keeps answered rows: `offer` never waits, and counts what there is no room for; `kept` waits for the disk."""

    def __init__(self, places: Places, slot: int) -> None:
        self._places, self._slot = places, slot
        self._out = Outbox()
        self._streams, self._lines = self._out.streams, self._out.lines
        self._closed = weakref.finalize(self, _finish, self._out, [])
        self.dropped = 0  # rows of an endpoint whose log cannot even be begun

    def offer(  # noqa: PLR0917 - names cost a tenth of a microsecond a request
        self,
        route: Route,
        arm: int,
        request_id: str,
        at: float,
        micros: float,
        unit: str | None,
        batch: np.ndarray,
        output: Output,
    ) -> bool:
        """Queue an answer's rows; False, and counted as dropped, if there is no room. `at` is in seconds since 1970."""
        line = self._lines.get(id(route)) or self._begun(route)
        rows = len(batch)
        if line is None:
            self.dropped += rows
            return False
        stream = line.stream
        stream.offered = offered = stream.offered + rows
        stream.counts[OFFERED] = offered
        if offered - stream.dropped - stream.taken > line.room:
            stream.dropped += rows
            stream.counts[DROPPED] = stream.dropped
            return False
        values, shares = output.predictions, output.probabilities
        taken, kind = batch.dtype, values.dtype
        line.arms[arm].append(
            (
                request_id,
                at,
                micros,
                unit,
                rows,
                taken,
                batch.tolist() if taken.hasobject else batch.tobytes(),
                kind,
                values.tolist() if kind.hasobject else values.tobytes(),
                None if shares is None else shares.dtype,
                None if shares is None else shares.tobytes(),
            )
        )
        out = self._out
        if not out.awake:
            out.awake = True
            out.wake.set()
        return True

    def failed(  # noqa: PLR0917 - as `offer`
        self,
        route: Route,
        arm: int,
        request_id: str,
        at: float,
        micros: float,
        unit: str | None,
        batch: np.ndarray,
        error: YardError,
        *,
        pinned: bool,
    ) -> None:
        """Queue a request that its arm failed to answer."""
        line = self._lines.get(id(route)) or self._begun(route)
        if line is None:
            return
        stream = line.stream
        if len(stream.failures) >= FAILURES:
            stream.missed += 1
            return
        one = failures.failure(
            route.traffic.arms[arm],
            route.config,
            names=route.models[arm].signature.names,
            request_id=request_id,
            at=at,
            micros=micros,
            unit=unit,
            batch=batch,
            error=error,
            pinned=pinned,
        )
        one.split, one.missed, stream.missed = route.traffic.salt, stream.missed, 0
        stream.failures.append(one)
        self._out.awake = True
        self._out.wake.set()

    def kept(self, route: Route, arm: int, *answer: Any) -> asyncio.Future[None]:
        """`offer`, and a future that is done once the answer's rows are on the disk; Unavailable if they cannot be."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self.offer(route, arm, *answer):
            done.set_exception(Unavailable(_unkept(route.traffic.endpoint, "its log takes no more")))
            return done
        self._lines[id(route)].stream.waiting.append((loop, done))
        self._out.hurry.set()
        self._out.wake.set()
        return done

    @property
    def waiting(self) -> int:
        """Rows that are still to be written."""
        return sum(one.offered - one.dropped - one.taken for one in self._streams.values())

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._closed()

    def _begun(self, route: Route) -> Line | None:
        """The line of a route that is new here."""
        endpoint = route.traffic.endpoint
        stream = self._streams.get(endpoint) or self._stream(endpoint)
        if stream is None:
            return None
        for other in list(self._lines.values()):
            if other.stream is stream:
                other.retired = time.monotonic()
        known = {name for model in route.models for name in model.signature.names}
        for name in set(route.config.payload_hidden) - known:
            log.warning("%s is to hide %r, which no version of it takes. Known: %s", endpoint, name, sorted(known))
        width = max(len(model.signature.inputs) for model in route.models)
        line = self._lines[id(route)] = Line(
            route=route,
            stream=stream,
            room=min(QUEUE_ROWS, QUEUE_BYTES // (8 * width + 200)),
            arms=tuple(deque() for _ in route.models),
        )
        return line

    def _stream(self, endpoint: str) -> Stream | None:
        folder = self._places.payloads(endpoint)
        writer = writer_name(self._slot)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tally = Tally(folder, writer)
        except OSError as error:
            if not self.dropped:
                log.error("No payloads of %s are kept: %s", endpoint, error)  # noqa: TRY400 - the reason says it all
            return None
        stream = Stream(endpoint, tally, Appender(folder, writer), tally.counts)
        if not self._streams:
            thread = threading.Thread(target=_write_all, args=(self._out,), name="modelyard-payloads", daemon=True)
            thread.start()
            self._closed.detach()
            self._closed = weakref.finalize(self, _finish, self._out, [thread])
        self._streams[endpoint] = stream
        return stream


def _finish(out: Outbox, threads: list[threading.Thread]) -> None:
    out.stop()
    for thread in threads:
        if thread is not threading.current_thread():  # the collector may drop the log anywhere
            thread.join(10)


def _write_all(out: Outbox) -> None:
    """The writer's thread."""
    lasting = Lasting("Payloads cannot be written")
    while not out.stopping:
        out.wake.wait(SEGMENT_S / 10)  # also to close a segment that nothing is added to
        out.hurry.wait(FLUSH_S if out.wake.is_set() else 0)
        out.wake.clear()
        out.hurry.clear()
        out.awake = False  # before the queue is emptied: what is offered from now on wakes the thread again
        for stream in list(out.streams.values()):
            with lasting.round():
                _flush(out, stream)
                if stream.appender.open and time.monotonic() - stream.appender.since > SEGMENT_S:
                    stream.appender.end()
    for stream in list(out.streams.values()):
        with lasting.round():
            _flush(out, stream)
            stream.appender.end()
            stream.tally.close()  # what it says is settled by whoever looks next


def _flush(out: Outbox, stream: Stream) -> None:
    """Write what is queued, and tell those who wait for it."""
    waiters = [stream.waiting.popleft() for _ in range(len(stream.waiting))]  # what these wait for is queued already
    stream.appender.durable = bool(waiters)
    why: OSError | None = None
    for key, line in list(out.lines.items()):
        if line.stream is not stream:
            continue
        for arm, entries in enumerate(line.arms):
            left = len(entries)
            while left:
                turn = [entries.popleft() for _ in range(min(left, TURN))]
                left -= len(turn)
                why = _written(stream, line.route, arm, turn) or why
        if line.retired and time.monotonic() - line.retired > RETIRE_S and not any(line.arms):
            del out.lines[key]
    if stream.failures:
        why = _told_failures(stream) or why
    if waiters and why is None:
        why = stream.appender.sync()
    _tell(stream.endpoint, waiters, why)


def _written(stream: Stream, route: Route, arm: int, entries: list[Entry]) -> OSError | None:
    """None once some answers of one arm are handed to the kernel; else why they are not."""
    counts, appender = stream.counts, stream.appender
    rows = sum(one[4] for one in entries)
    stream.taken += rows
    total = counts[WRITTEN]
    pieces: list[bytes] = []
    try:
        appender.begin()
        for columns in blocks.alike(entries):
            told, body = _framed(stream, route, arm, columns, total)
            pieces += [told, body]
            total += sum(columns[4]) if body else 0
        appender.append(pieces)
        if appender.size > SEGMENT_BYTES:
            appender.end()
    except OSError as error:
        counts[FAILED] += rows
        stream.tell("%d payloads of %s could not be written: %s", rows, error)
        return error
    counts[FAILED] += rows - (total - counts[WRITTEN])
    counts[WRITTEN] = total
    return None


def _told_failures(stream: Stream) -> OSError | None:
    """None once the failed requests are handed to the kernel; else why they are not."""
    some = [stream.failures.popleft() for _ in range(len(stream.failures))]
    try:
        stream.appender.begin()
        stream.appender.append([frame(failures.packed(one)) for one in some])
    except OSError as error:
        stream.missed += len(some)
        stream.tell("%d failed requests of %s could not be written: %s", len(some), error)
        return error
    return None


def _framed(stream: Stream, route: Route, arm: int, columns: tuple[Any, ...], total: int) -> tuple[bytes, bytes]:
    """The frames of a layout, where it is new, and of a block; empty for one that cannot be written down."""
    told_arm, signature = route.traffic.arms[arm], route.models[arm].signature
    inputs = tuple(spec.kind for spec in signature.inputs)
    number, told = stream.appender.layout(
        (
            told_arm.name,
            told_arm.model,
            told_arm.version,
            signature.task,
            signature.names,
            inputs,
            route.config.payload_sampling,
            route.traffic.salt,
        )
    )
    try:
        return told, frame(
            blocks.packed(
                columns, layout=number, total=total, names=signature.names, hidden=route.config.payload_hidden
            )
        )
    except (ValueError, TypeError, OverflowError) as error:  # an answer that is no plain value
        stream.tell("%d payloads of %s cannot be written down: %s", sum(columns[4]), error)
        return told, b""


def _tell(endpoint: str, waiters: list[Waiter], error: OSError | None) -> None:
    """Wake those whose rows are on the disk, or cannot be."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for loop, future in waiters:
        by_loop.setdefault(loop, []).append(future)
    why = None if error is None else Unavailable(_unkept(endpoint, str(error)))
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, futures, why)
        except RuntimeError:  # that loop is closed: nobody waits any more
            log.debug("A loop ended before its answers were kept.")


def _resolve(futures: list[asyncio.Future[None]], why: Unavailable | None) -> None:
    for future in futures:
        if future.done():
            continue
        if why is None:
            future.set_result(None)
        else:
            future.set_exception(why)


def _unkept(endpoint: str, why: str) -> str:
    return f"The answer of {endpoint} could not be kept, and it may not leave unkept: {why}. Try again in a second."
