"""The payload log of one process: answered rows leave through a bounded queue to raw segments, which become Parquet.

The request's share is to add its values to the columns of a block, while they are still in the processor's cache: keeping
the arrays themselves for a thread to look at later costs the requests that follow four times as much. A thread hands the
blocks to the kernel, ten times a second. Counts live in shared memory, so whoever comes after a process that was killed can
tell how many rows went with it.

In the durable mode an answer waits for its row to be on the disk: all that wait while one fsync runs share the next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Unavailable
from modelyard.core.ports import Output
from modelyard.serving.places import Places
from modelyard.serving.routing import Route
from modelyard.serving.segments import DROPPED, FAILED, OFFERED, WRITTEN, Appender, Block, Tally, frame, writer_name

QUEUE_ROWS = 262_144
QUEUE_BYTES = 64 << 20
FLUSH_S = 0.1
BLOCK_ROWS = 8_192
SEGMENT_BYTES = 16 << 20
SEGMENT_S = 300.0
TELL_S = 60.0  # how often one fault is told
log = logging.getLogger("modelyard.serving")
_encode = msgspec.msgpack.Encoder(
    enc_hook=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
).encode

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Pending:
    """A block in the making: the rows of one arm, in columns. Arrays are joined as bytes, objects as lists."""

    __slots__ = (
        "arm",
        "at",
        "batch",
        "batch_kind",
        "ids",
        "kind",
        "micros",
        "predictions",
        "route",
        "rows",
        "share_kind",
        "shares",
        "sizes",
        "units",
    )

    def __init__(self, route: Route, arm: int, batch: np.ndarray, output: Output) -> None:
        self.route, self.arm, self.rows = route, arm, 0
        self.ids: list[str] = []
        self.units: list[str | None] = []
        self.sizes, self.at, self.micros = array("i"), array("d"), array("f")
        shares = output.probabilities
        self.batch_kind, self.kind = batch.dtype, output.predictions.dtype
        self.share_kind = None if shares is None else shares.dtype
        self.batch: Any = _column(self.batch_kind)
        self.predictions: Any = _column(self.kind)
        self.shares: Any = None if shares is None else _column(shares.dtype)

    def fits(self, batch: np.ndarray, output: Output) -> bool:
        """Whether a request's arrays are of this block's types."""
        shares = output.probabilities
        return (
            batch.dtype is self.batch_kind
            and output.predictions.dtype is self.kind
            and (shares is None if self.share_kind is None else shares is not None and shares.dtype is self.share_kind)
        )

    def add(  # noqa: PLR0917 - names cost a tenth of a microsecond a request
        self, request_id: str, at: float, micros: float, unit: str | None, batch: np.ndarray, output: Output
    ) -> None:
        """Add one request's rows."""
        rows = len(batch)
        self.rows += rows
        self.ids.append(request_id)
        self.at.append(at)
        self.micros.append(micros)
        self.units.append(unit)
        self.sizes.append(rows)
        _extend(self.batch, batch)
        _extend(self.predictions, output.predictions)
        if self.shares is not None:
            _extend(self.shares, output.probabilities)


def _column(kind: np.dtype[Any]) -> bytearray | list[Any]:
    return bytearray() if kind.kind in "iufb" else []


def _extend(column: Any, values: Any) -> None:
    """Add an array's values to a column."""
    if type(column) is list:
        column.extend(values.tolist())
        return
    try:
        column.extend(values)  # as bytes, by the buffer protocol
    except (BufferError, TypeError, ValueError):  # its rows do not lie one behind the other
        column.extend(values.tobytes())


@dataclass(slots=True)
class Stream:
    """One endpoint's rows on their way out. Requests fill it and the writer's thread empties it, both under `lock`."""

    endpoint: str
    tally: Tally
    appender: Appender
    counts: memoryview
    lock: threading.Lock = field(default_factory=threading.Lock)
    route: Route | None = None
    arms: list[Pending | None] = field(default_factory=list)  # of `route`, by the arm's place
    ready: deque[Pending] = field(default_factory=deque)
    waiting: deque[Waiter] = field(default_factory=deque)
    offered: int = 0
    settled: int = 0  # rows dropped or taken by the thread
    room: int = QUEUE_ROWS  # rows that may be waiting
    told: float = -TELL_S

    def pending(self, route: Route, arm: int, batch: np.ndarray, output: Output) -> Pending:
        """The block that an answer goes into. The caller holds the lock."""
        if route is not self.route:
            self.ready.extend(one for one in self.arms if one is not None)
            self.route, self.arms = route, [None] * len(route.traffic.arms)
            self.room = min(QUEUE_ROWS, max(QUEUE_BYTES // (8 * batch.shape[1] + 64), 1))
        found = self.arms[arm]
        if found is not None and found.rows < BLOCK_ROWS and found.fits(batch, output):
            return found
        if found is not None:
            self.ready.append(found)
        found = self.arms[arm] = Pending(route, arm, batch, output)
        return found

    def take(self) -> tuple[list[Pending], list[Waiter]]:
        """All blocks, and those who wait for them."""
        with self.lock:
            blocks = [*self.ready, *(one for one in self.arms if one is not None)]
            waiters = list(self.waiting)
            self.ready.clear()
            self.waiting.clear()
            self.arms = [None] * len(self.arms)
            self.settled += sum(one.rows for one in blocks)
        return blocks, waiters

    def tell(self, text: str, rows: int, why: Exception) -> None:
        """Log a fault, once a minute."""
        if time.monotonic() - self.told >= TELL_S:
            self.told = time.monotonic()
            log.error(text, rows, self.endpoint, why)


@dataclass(slots=True)
class Outbox:
    """What the log and its thread share: the thread holds this, not the log, so that the log can be dropped."""

    streams: dict[str, Stream] = field(default_factory=dict)
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
        self._streams = self._out.streams
        self._closed = weakref.finalize(self, _finish, self._out, [])
        self.dropped = 0  # rows of an endpoint whose log cannot even be begun

    def offer(
        self,
        route: Route,
        arm: int,
        *,
        request_id: str,
        at: float,
        micros: float,
        unit: str | None,
        batch: np.ndarray,
        output: Output,
        waiter: Waiter | None = None,
    ) -> bool:
        """Queue an answer's rows; False, and counted as dropped, if there is no room. `at` is in seconds since 1970."""
        endpoint = route.traffic.endpoint
        stream = self._streams.get(endpoint) or self._begun(endpoint)
        rows = len(batch)
        if stream is None:
            self.dropped += rows
            return False
        with stream.lock:
            offered = stream.offered = stream.offered + rows
            stream.counts[OFFERED] = offered
            if offered - stream.settled > stream.room:
                stream.settled += rows
                stream.counts[DROPPED] += rows
                return False
            stream.pending(route, arm, batch, output).add(request_id, at, micros, unit, batch, output)
            if waiter is not None:
                stream.waiting.append(waiter)
        out = self._out
        if not out.awake:
            out.awake = True
            out.wake.set()
        return True

    def kept(self, route: Route, arm: int, **answer: Any) -> asyncio.Future[None]:
        """`offer`, and a future that is done once the answer's rows are on the disk; Unavailable if they cannot be."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self.offer(route, arm, **answer, waiter=(loop, done)):
            done.set_exception(Unavailable(_unkept(route.traffic.endpoint, "its log takes no more")))
            return done
        self._out.hurry.set()
        self._out.wake.set()
        return done

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._closed()

    def _begun(self, endpoint: str) -> Stream | None:
        folder = self._places.payloads(endpoint)
        writer = writer_name(self._slot)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tally = Tally(folder, writer)
        except OSError as error:
            if not self.dropped:
                log.error("No payloads of %s are kept: %s", endpoint, error)  # noqa: TRY400 - the reason is all there is to say
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
        thread.join(10)


def _write_all(out: Outbox) -> None:
    """The writer's thread."""
    while not out.stopping:
        out.wake.wait(SEGMENT_S / 10)  # also to close a segment that nothing is added to
        out.hurry.wait(FLUSH_S if out.wake.is_set() else 0)
        out.wake.clear()
        out.hurry.clear()
        out.awake = False  # before the queue is emptied: what is offered from now on wakes the thread again
        for stream in list(out.streams.values()):
            _flush(stream)
            if stream.appender.open and time.monotonic() - stream.appender.since > SEGMENT_S:
                stream.appender.end()
    for stream in list(out.streams.values()):
        _flush(stream)
        stream.appender.end()
        stream.tally.close()  # what it says is settled by whoever looks next


def _flush(stream: Stream) -> None:
    """Write what is queued, and tell those who wait for it."""
    blocks, waiters = stream.take()
    if not blocks:
        return
    counts, appender = stream.counts, stream.appender
    rows, total, why = sum(one.rows for one in blocks), counts[WRITTEN], None
    try:
        appender.begin()
        pieces = []
        for one in blocks:
            told, body = _framed(stream, one, total + one.rows)
            pieces += [told, body]
            total += one.rows if body else 0
        appender.append(pieces, sync=bool(waiters))
        if appender.size > SEGMENT_BYTES:
            appender.end()
    except OSError as error:
        why, total = error, counts[WRITTEN]
        stream.tell("%d payloads of %s could not be written: %s", rows, error)
    counts[FAILED] += rows - (total - counts[WRITTEN])
    counts[WRITTEN] = total
    _tell(stream.endpoint, waiters, why)


def _framed(stream: Stream, one: Pending, total: int) -> tuple[bytes, bytes]:
    """The frames of a block's layout, where it is new, and of the block; empty for one that cannot be written down."""
    arm, signature = one.route.traffic.arms[one.arm], one.route.models[one.arm].signature
    kinds = tuple(spec.kind for spec in signature.inputs)
    number, told = stream.appender.layout((arm.name, arm.model, arm.version, signature.task, signature.names, kinds))
    block = Block(
        layout=number,
        total=total,
        rows=one.rows,
        ids=one.ids,
        counts=b"" if one.rows == len(one.ids) else one.sizes.tobytes(),
        at=one.at.tobytes(),
        micros=one.micros.tobytes(),
        units=None if one.units.count(None) == len(one.units) else one.units,
        batch=one.batch,
        batch_kind=one.batch_kind.str,
        predictions=one.predictions,
        kind=one.kind.str,
        shares=one.shares,
        share_kind="" if one.share_kind is None else one.share_kind.str,
    )
    try:
        return told, frame(_encode(block))
    except UnicodeEncodeError:  # half a surrogate pair, in an id say: told as a question mark
        block.ids, block.units, block.batch = _clean(block.ids), _clean(block.units), _clean(block.batch)
        return told, frame(_encode(block))
    except (ValueError, TypeError, OverflowError) as error:  # an answer that is no plain value
        stream.tell("%d payloads of %s cannot be written down: %s", one.rows, error)
        return told, b""


def _clean(value: Any) -> Any:
    if isinstance(value, list):
        return [_clean(one) for one in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


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
