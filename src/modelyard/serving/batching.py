"""Micro-batching without a timer: what has arrived is asked in one call, and what arrives meanwhile in the next.

It pays where a call has a fixed price (scikit-learn 8 ms, XGBoost 0.2 ms), which is measured when a model is loaded. A lone
request waits for nothing: it is asked in the same turn of the event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from time import perf_counter_ns
from typing import Any

import numpy as np

from modelyard.core.errors import YardError
from modelyard.core.ports import Output
from modelyard.serving.calls import FOREVER, Calls, Underway, mark

Array = np.ndarray[Any, np.dtype[Any]]
Waiting = tuple[Array, "asyncio.Future[Output]", Underway]

PAYS = 100.0  # microseconds of fixed price; joining costs each request about a third of it
ROWS = 4096  # in one call


class Joiner:
    """The calls of one model in one event loop: one at a time, with all the rows that wait."""

    def __init__(self, answer: Callable[[Array], Output], slow: Callable[[int], bool]) -> None:
        self._answer, self._slow = answer, slow
        self._waiting: deque[Waiting] = deque()
        self._running = False

    def ask(self, batch: Array, pool: Executor, underway: Underway | None = None) -> asyncio.Future[Output]:
        """The answer to these rows, once it is there."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Output] = loop.create_future()
        self._waiting.append((batch, future, underway or Underway(Calls(), mark(), None, FOREVER)))
        if not self._running:
            self._running = True
            loop.call_soon(self._begin, loop, pool)
        return future

    def _begin(self, loop: asyncio.AbstractEventLoop, pool: Executor) -> None:
        """Ask for what waits, here or in a thread; again while something waits."""
        taken = self._take()
        if not taken:
            self._running = False
            return
        rows = sum(len(batch) for batch, _, _ in taken)
        if not self._slow(rows):
            self._give(taken, self._asked(taken))
            loop.call_soon(self._begin, loop, pool)
            return

        def done(asked: asyncio.Future[list[Output | YardError]]) -> None:
            failed = asyncio.CancelledError() if asked.cancelled() else asked.exception()
            self._give(taken, asked.result() if failed is None else [failed] * len(taken))
            self._begin(loop, pool)

        try:
            loop.run_in_executor(pool, self._asked, taken).add_done_callback(done)
        except RuntimeError as error:  # the threads have ended, and so has this process's serving
            self._give(taken, [error] * len(taken))
            loop.call_soon(self._begin, loop, pool)

    def _take(self) -> list[Waiting]:
        taken: list[Waiting] = []
        rows = 0
        while self._waiting and (not taken or rows + len(self._waiting[0][0]) <= ROWS):
            batch, future, underway = self._waiting.popleft()
            if future.cancelled():  # its time was over before its turn came
                continue
            taken.append((batch, future, underway))
            rows += len(batch)
        return taken

    def _asked(self, taken: list[Waiting]) -> list[Output | YardError]:
        """An answer for each, noted as the last one's call, whose time is over last."""
        begun = perf_counter_ns()
        found: list[Output | YardError] = taken[-1][2].lead(self._answers, taken)
        ended = perf_counter_ns()
        for _, _, underway in taken:
            underway.begun, underway.ended = begun, ended
        taken[0][2].joined = sum(len(batch) for batch, _, _ in taken)
        return found

    def _answers(self, taken: list[Waiting]) -> list[Output | YardError]:
        """An answer for each; where the whole fails each is asked alone, so that nobody's row spoils another's."""
        if len(taken) > 1:
            try:
                return _parts(self._answer(np.concatenate([batch for batch, _, _ in taken])), taken)
            except YardError:
                pass
        found: list[Output | YardError] = []
        for batch, _, _ in taken:
            try:
                found.append(self._answer(batch))
            except YardError as error:
                found.append(error)
        return found

    @staticmethod
    def _give(taken: list[Waiting], answers: list[Any]) -> None:
        for (_, future, _), answer in zip(taken, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _parts(whole: Output, taken: list[Waiting]) -> list[Output | YardError]:
    found: list[Output | YardError] = []
    start = 0
    for batch, _, _ in taken:
        rows = slice(start, start + len(batch))
        start = rows.stop
        probabilities = None if whole.probabilities is None else whole.probabilities[rows]
        found.append(Output(predictions=whole.predictions[rows], probabilities=probabilities))
    return found
