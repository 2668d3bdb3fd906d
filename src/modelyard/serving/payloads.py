"""The payload log of one process: answered rows leave through a bounded queue to raw segments, which become Parquet.

The request's share is one look-up, two counts and one `deque.append`. A thread takes what has come in the last tenth of a
second, puts it into columns, a block for each arm, and hands it to the kernel in one write. Nothing is encoded row by row.
Counts live in shared memory, so whoever comes after a process that was killed can tell how many rows went with it.

In the durable mode an answer waits for its row to be on the disk: all that wait while one fsync runs share the next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from modelyard.core.errors import Unavailable
from modelyard.serving.background import Answered
from modelyard.serving.places import Places
from modelyard.serving.segments import DROPPED, FAILED, OFFERED, WRITTEN, Appender, Block, Tally, frame, writer_name

QUEUE_REQUESTS = 20_000
QUEUE_ROWS = 262_144
FLUSH_S = 0.1
TURN = 512  # requests put into columns at a time: some 0.5 ms, then the interpreter is free for a request
SEGMENT_BYTES = 16 << 20
SEGMENT_S = 300.0
TELL_S = 60.0  # how often one fault is told
log = logging.getLogger("modelyard.serving")
_encode = msgspec.msgpack.Encoder(
    enc_hook=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
).encode

Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


@dataclass(slots=True)
class Stream:
    """One endpoint's rows on their way out. The request's thread fills it, the writer's empties it."""

    endpoint: str
    tally: Tally
    appender: Appender
    counts: memoryview
    items: deque[Answered] = field(default_factory=deque)
    waiting: deque[Waiter] = field(default_factory=deque)
    taken: int = 0
    told: float = -TELL_S

    def tell(self, text: str, rows: int, why: Exception | None) -> None:
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

    def offer(self, answered: Answered) -> bool:
        """Queue an answer's rows; False, and counted as dropped, if there is no room."""
        endpoint = answered.route.traffic.endpoint
        stream = self._streams.get(endpoint) or self._begun(endpoint)
        rows = len(answered.batch)
        if stream is None:
            self.dropped += rows
            return False
        counts = stream.counts
        counts[OFFERED] += rows
        if len(stream.items) >= QUEUE_REQUESTS or counts[OFFERED] - counts[DROPPED] - stream.taken > QUEUE_ROWS:
            counts[DROPPED] += rows
            return False
        stream.items.append(answered)
        out = self._out
        if not out.awake:
            out.awake = True
            out.wake.set()
        return True

    def kept(self, answered: Answered) -> asyncio.Future[None]:
        """A future that is done once the answer's rows are on the disk; Unavailable if they cannot be."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        if not self.offer(answered):
            done.set_exception(Unavailable(_unkept(answered.route.traffic.endpoint, "its log takes no more")))
            return done
        self._streams[answered.route.traffic.endpoint].waiting.append((loop, done))
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
    while stream.items:
        waiters = len(stream.waiting)  # the items of these are queued already
        queued = len(stream.items)
        items = [stream.items.popleft() for _ in range(min(queued, TURN))]
        error = _written(stream, items, sync=waiters > 0)
        if queued == len(items) or error is not None:
            _tell(stream, waiters, error)


def _written(stream: Stream, items: Sequence[Answered], *, sync: bool) -> OSError | ValueError | None:
    """None once the items are handed to the kernel (with `sync`, to the disk); else why they are not."""
    counts, appender = stream.counts, stream.appender
    rows = sum(len(one.batch) for one in items)
    stream.taken += rows
    encoded = Encoded(total=counts[WRITTEN])
    try:
        appender.begin()
        for group in _groups(items):
            _encode_group(stream, group, encoded)
        appender.append(encoded.pieces, sync=sync)
    except OSError as error:
        counts[FAILED] += rows
        stream.tell("%d payloads of %s could not be written: %s", rows, error)
        return error
    counts[WRITTEN] = encoded.total
    if appender.size > SEGMENT_BYTES:
        appender.end()
    if encoded.failed:
        counts[FAILED] += encoded.failed
        stream.tell("%d payloads of %s cannot be written down: %s", encoded.failed, encoded.why)
    return encoded.why


def _tell(stream: Stream, waiters: int, error: OSError | ValueError | None) -> None:
    """Wake those whose rows are on the disk, or cannot be."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for _ in range(waiters):
        loop, future = stream.waiting.popleft()
        by_loop.setdefault(loop, []).append(future)
    why = None if error is None else Unavailable(_unkept(stream.endpoint, str(error)))
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


def _groups(items: Sequence[Answered]) -> list[list[Answered]]:
    """The items by who answered, in order."""
    found: dict[tuple[int, int], list[Answered]] = {}
    for one in items:
        key = (id(one.route), one.arm)
        if key in found:
            found[key].append(one)
        else:
            found[key] = [one]
    return list(found.values())


@dataclass(slots=True)
class Encoded:
    """The frames of one turn, and how many rows there are with those of all turns before."""

    total: int
    pieces: list[bytes] = field(default_factory=list)
    failed: int = 0
    why: ValueError | None = None


def _encode_group(stream: Stream, group: list[Answered], encoded: Encoded) -> None:
    """Add the frames of one group's rows. What cannot be encoded goes one by one, so that only its own rows are lost."""
    rows = sum(len(one.batch) for one in group)
    first = group[0]
    arm, signature = first.route.traffic.arms[first.arm], first.route.models[first.arm].signature
    kinds = tuple(spec.kind for spec in signature.inputs)
    number, told = stream.appender.layout((arm.name, arm.model, arm.version, signature.task, signature.names, kinds))
    encoded.pieces.append(told)
    try:
        body = _encode(_block(group, number, encoded.total + rows, rows))
    except (ValueError, TypeError, OverflowError) as error:  # a lone surrogate in an id, say
        if len(group) > 1:
            for one in group:
                _encode_group(stream, [one], encoded)
            return
        encoded.failed += rows
        encoded.why = ValueError(str(error))
        return
    encoded.pieces.append(frame(body))
    encoded.total += rows


def _block(group: list[Answered], layout: int, total: int, rows: int) -> Block:
    outputs = [one.output for one in group]
    many = len(group) > 1
    batch = np.concatenate([one.batch for one in group]) if many else group[0].batch
    predictions = np.concatenate([one.predictions for one in outputs]) if many else np.asarray(outputs[0].predictions)
    shares = [one.probabilities for one in outputs if one.probabilities is not None]
    units = [one.unit for one in group]
    plain = predictions.dtype.kind in "iufb"
    return Block(
        layout=layout,
        total=total,
        rows=rows,
        ids=[one.request_id for one in group],
        counts=b"" if rows == len(group) else np.array([len(one.batch) for one in group], "<i4").tobytes(),
        at=np.array([one.at for one in group], "<f8").tobytes(),
        micros=np.array([one.micros for one in group], "<f4").tobytes(),
        units=None if all(unit is None for unit in units) else units,
        batch=batch.tolist() if batch.dtype.kind == "O" else batch.astype("<f8", copy=False).tobytes(),
        predictions=predictions.tobytes() if plain else predictions.tolist(),
        kind=predictions.dtype.str if plain else "O",
        probabilities=np.concatenate(shares).astype("<f8", copy=False).tobytes() if len(shares) == len(group) else None,
    )
