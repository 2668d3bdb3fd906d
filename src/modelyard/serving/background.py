"""What happens after the answer: the shadow's turn, behind a bounded queue in a thread. `payloads` keeps the answers.

Nothing here makes a request wait: a full queue drops and counts. The threads hold the queue, not the object that
feeds it, so dropping that object ends them, after what is queued has been written.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.ports import Output
from modelyard.serving.calls import SHADOW as SHADOWING
from modelyard.serving.calls import Calls
from modelyard.serving.comparing import compared
from modelyard.serving.counters import AGREED, APART, COMPARED, DROPPED, FAILED
from modelyard.serving.lasting import Lasting
from modelyard.serving.loaded import ModelFailed
from modelyard.serving.routing import Route

SHADOW_QUEUE = 256
REST_AFTER_S, REST = 0.001, 19  # a shadow that computes longer than that rests for so many times as long: a twentieth


@dataclass(slots=True)
class Queue:
    """Items waiting for a thread, and how it is told to look or to stop."""

    limit: int
    items: deque[Any] = field(default_factory=deque)
    wake: threading.Event = field(default_factory=threading.Event)
    stopping: bool = False
    calls: Calls = field(default_factory=Calls)

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
    """One answered request, as the shadow and the payload log want it. `features` is what was sent by name, None for tensors."""

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

    def __init__(self, idle: Callable[[], bool], stands: Callable[[Route], bool] = lambda _: True) -> None:
        self._queue = Queue(SHADOW_QUEUE)
        self._idle, self._stands = idle, stands
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._queue.stop)

    def offer(self, answered: Answered) -> None:
        """Queue a copy; counted as dropped if there is no room."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=_shadow_loop,
                args=(self._queue, self._idle, self._stands),
                name="modelyard-shadow",
                daemon=True,
            )
            self._thread.start()
        if not self._queue.offer(answered):
            answered.route.counters.shadowed(DROPPED)
        self._queue.wake.set()

    def noted(self, calls: Calls) -> None:
        """Note the shadow's calls there from now on."""
        self._queue.calls = calls

    def stop(self) -> None:
        """Compare what is queued, then end."""
        self._queue.stop()
        if self._thread is not None:
            self._thread.join(5)


def _shadow_loop(queue: Queue, idle: Callable[[], bool], stands: Callable[[Route], bool]) -> None:
    lasting = Lasting("A request could not be compared with the shadow's answer")
    while not (queue.stopping and not queue.items):
        if not queue.items:
            queue.wake.wait()
            queue.wake.clear()
            continue
        if not idle() and not queue.stopping:
            time.sleep(0.001)  # a request is being answered: the shadow waits, and drops when its queue is full
            continue
        answered: Answered = queue.items.popleft()
        if not stands(answered.route):  # a slow shadow is not asked, and kept in memory, after its routing has gone
            answered.route.counters.shadowed(DROPPED)
            continue
        begun = time.thread_time()
        with lasting.round():
            queue.calls.at(SHADOWING, answered.route.marks[-1], compare, answered)
        used = time.thread_time() - begun
        if used > REST_AFTER_S and not queue.stopping:  # it shares the interpreter and the processors with the primary
            time.sleep(min(used * REST, 1.0))


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
    found = compared(
        answered.output,
        output,
        regression=primary.signature.task == "regression",
        tolerance=route.traffic.shadow_tolerance,
    )
    route.counters.shadowed(COMPARED, micros)
    route.counters.shadowed(APART + found.place)
    if found.agrees:
        route.counters.shadowed(AGREED)
