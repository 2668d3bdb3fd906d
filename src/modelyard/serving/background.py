"""What happens after the answer: the shadow's turn and the payload log, each behind a bounded queue in a thread.

Nothing here makes a request wait: a full queue drops and counts. The threads hold the queue, not the object that
feeds it, so dropping that object ends them, after what is queued has been written.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.ports import Output
from modelyard.serving.counters import AGREED, COMPARED, DROPPED, FAILED
from modelyard.serving.loaded import ModelFailed
from modelyard.serving.places import Places
from modelyard.serving.routing import Route
from modelyard.serving.rules import agree

SHADOW_QUEUE = 256
PAYLOAD_QUEUE = 20_000
FLUSH_S = 0.05  # often, so that each turn is short: the thread takes the interpreter from the requests meanwhile
SEGMENT_BYTES = 8 << 20
log = logging.getLogger("modelyard.serving")


@dataclass(slots=True)
class Queue:
    """Items waiting for a thread, and how it is told to look or to stop."""

    limit: int
    items: deque[Any] = field(default_factory=deque)
    wake: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False

    def offer(self, item: Any) -> bool:
        """Queue an item; False if there is no room."""
        if len(self.items) >= self.limit:
            return False
        self.items.append(item)
        return True

    def stop(self) -> None:
        """Let the thread finish what is queued and end."""
        self.stopping = True
        self.wake.set()


class Answered(msgspec.Struct, frozen=True, gc=False):
    """One answered request, as both threads want it. `features` is what was sent by name, None for tensors."""

    request_id: str
    at: float
    route: Route
    arm: int
    features: Any
    batch: np.ndarray
    output: Output
    micros: float
    unit: str | None


class Shadows:
    """Gives copies of requests to the shadow, when nothing else is to be done in this process."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._queue = Queue(SHADOW_QUEUE)
        self._idle = idle
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._queue.stop)

    def offer(self, answered: Answered) -> None:
        """Queue a copy; counted as dropped if there is no room."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_shadow_loop, args=(self._queue, self._idle), name="modelyard-shadow", daemon=True
            )
            self._thread.start()
        if not self._queue.offer(answered):
            answered.route.counters.shadowed(DROPPED)
        self._queue.wake.set()

    def stop(self) -> None:
        """Compare what is queued, then end."""
        self._queue.stop()
        if self._thread is not None:
            self._thread.join(5)


def _shadow_loop(queue: Queue, idle: Callable[[], bool]) -> None:
    while not (queue.stopping and not queue.items):
        if not queue.items:
            queue.wake.wait()
            queue.wake.clear()
            continue
        if not idle() and not queue.stopping:
            time.sleep(0.001)  # a request is being answered: the shadow waits, and drops when its queue is full
            continue
        compare(queue.items.popleft())


def compare(answered: Answered) -> None:
    """Ask the shadow, and count whether it agrees."""
    route, shadow = answered.route, answered.route.shadow
    if shadow is None:
        return
    primary = route.models[answered.arm]
    start = time.perf_counter_ns()
    try:
        if shadow.signature.inputs == primary.signature.inputs:
            output = shadow.answer(answered.batch)
        else:
            output = shadow.answer(shadow.batch(answered.features))
    except (ModelFailed, Invalid):
        route.counters.shadowed(FAILED)
        return
    micros = (time.perf_counter_ns() - start) / 1000
    labels = primary.signature.task != "regression"
    same = agree(answered.output.predictions.tolist(), output.predictions.tolist(), labels=labels)
    route.counters.shadowed(COMPARED, micros)
    if same:
        route.counters.shadowed(AGREED)


class PayloadLog:
    """Appends answered requests to segments of JSON lines, at most a tenth of a second behind.

    Lines are handed to the kernel whole, so a process that dies loses only what it had not yet flushed.
    """

    def __init__(self, places: Places, slot: int) -> None:
        self._queue = Queue(PAYLOAD_QUEUE)
        self._places, self._slot = places, slot
        self._thread: threading.Thread | None = None
        self.dropped = 0
        self._closed = weakref.finalize(self, _finish, self._queue, [])

    def offer(self, answered: Answered) -> None:
        """Queue an answer; counted in `dropped` if there is no room."""
        if self._thread is None:
            writer = _Writer(self._places, self._slot)
            self._thread = threading.Thread(
                target=_payload_loop, args=(self._queue, writer), name="modelyard-payloads", daemon=True
            )
            self._thread.start()
            self._closed.detach()
            self._closed = weakref.finalize(self, _finish, self._queue, [self._thread])
        if not self._queue.offer(answered):
            self.dropped += 1

    def stop(self) -> None:
        """Write what is queued, then end."""
        self._closed()


def _finish(queue: Queue, threads: list[threading.Thread]) -> None:
    queue.stop()
    for thread in threads:
        thread.join(10)


def _payload_loop(queue: Queue, writer: _Writer) -> None:
    while True:
        queue.wake.wait(FLUSH_S)
        stopping = queue.stopping
        while queue.items:
            writer.add(queue.items.popleft())
        writer.flush()
        if stopping:
            return


class _Writer:
    def __init__(self, places: Places, slot: int) -> None:
        self._places, self._slot = places, slot
        self._lines: dict[str, list[bytes]] = {}
        self._segments: dict[str, Path] = {}
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)

    def add(self, answered: Answered) -> None:
        lines = self._lines.setdefault(answered.route.traffic.endpoint, [])
        lines.extend(self._encoder.encode(row) for row in rows_of(answered))

    def flush(self) -> None:
        for endpoint, lines in self._lines.items():
            try:
                with self._segment(endpoint).open("ab", buffering=0) as stream:
                    stream.write(b"\n".join(lines) + b"\n")
            except OSError:
                log.exception("%d payloads of %s could not be written.", len(lines), endpoint)
        self._lines = {}

    def _segment(self, endpoint: str) -> Path:
        path = self._segments.get(endpoint)
        if path is None or (path.exists() and path.stat().st_size > SEGMENT_BYTES):
            folder = self._places.payloads(endpoint)
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{time.time_ns():020d}-{os.getpid()}-{self._slot}.jsonl"
            self._segments[endpoint] = path
        return path


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


class Line(msgspec.Struct, gc=False):
    """One row of an answered request, as the log keeps it."""

    request_id: str
    row: int
    at: float
    endpoint: str
    arm: str
    model: str
    version: str
    unit: str | None
    features: Any
    prediction: Any
    probabilities: list[float] | None
    latency_ms: float


def rows_of(answered: Answered) -> Iterator[Line]:
    """The log's lines of one request: one a row, joined to the truth later by request id and row."""
    arm = answered.route.traffic.arms[answered.arm]
    output = answered.output
    features = answered.features
    if features is None:
        names = answered.route.models[answered.arm].signature.names
        features = [dict(zip(names, row, strict=True)) for row in answered.batch.tolist()]
    records = [features] if isinstance(features, dict) else features
    predictions = output.predictions.tolist()
    probabilities = None if output.probabilities is None else output.probabilities.tolist()
    for row, record in enumerate(records):
        yield Line(
            request_id=answered.request_id,
            row=row,
            at=answered.at,
            endpoint=answered.route.traffic.endpoint,
            arm=arm.name,
            model=arm.model,
            version=arm.version,
            unit=answered.unit,
            features=record,
            prediction=predictions[row],
            probabilities=None if probabilities is None else probabilities[row],
            latency_ms=answered.micros / 1000,
        )


def payloads(places: Places, endpoint: str, *, since: float = 0.0) -> list[dict[str, Any]]:
    """The logged answers of an endpoint from a moment on (seconds since 1970), oldest first."""
    found: list[dict[str, Any]] = []
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    for path in sorted(places.payloads(endpoint).glob("*.jsonl")):
        if path.stat().st_mtime < since:
            continue
        whole = path.read_bytes().split(b"\n")[:-1]  # a torn last line is of a writer that died, or writes now
        found.extend(row for row in map(decode, whole) if row["at"] >= since)
    return sorted(found, key=lambda row: row["at"])
