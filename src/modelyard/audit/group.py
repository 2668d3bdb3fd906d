"""Group commit: callers who write at the same time share one transaction, so they share its wait for the disk.

The first caller leads: it writes what everybody waits for, and hands the lead to a caller who came meanwhile. Each caller
returns once its own part is durable. There is no thread of its own, and nothing to start or stop.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from modelyard.core.errors import Unavailable

MOST = 1_000  # parts in one transaction
LONGEST_WAIT = 0.005  # seconds that a leader waits for callers who were answered a moment ago and may come again
Part = TypeVar("Part")
Answer = TypeVar("Answer")


class _Seat(Generic[Part, Answer]):
    """One caller's place in the queue."""

    __slots__ = ("answer", "called", "done", "error", "following", "gone", "leads", "part", "woken")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.called = threading.Lock()  # released when this caller is answered or shall lead
        self.called.acquire()
        self.done = self.leads = False
        self.woken = self.gone = False  # called to its answer; interrupted while it waited
        self.following: _Seat[Part, Answer] | None = None  # who is answered next
        self.answer: Answer | None = None
        self.error: BaseException | None = None


class GroupCommit(Generic[Part, Answer]):
    """Writes parts through `commit`, which takes several and returns the answer to each, or raises with none written."""

    def __init__(self, commit: Callable[[Sequence[Part]], Sequence[Answer]]) -> None:
        self._commit = commit
        self._lock = threading.Lock()
        self._queue: list[_Seat[Part, Answer]] = []
        self._led = False
        self._wanted = 0  # how many the leader waits for
        self._gathered = threading.Lock()
        self._gathered.acquire()
        self._last = (0, 0.0, 0.0)  # callers, seconds and end of the last transaction
        _GROUPS.add(self)

    def submit(self, part: Part) -> Answer:
        """The answer to the part, once it is durable; what the transaction raised, if it was undone."""
        seat: _Seat[Part, Answer] = _Seat(part)
        with self._lock:
            self._queue.append(seat)
            if 0 < self._wanted <= len(self._queue):
                self._wanted = 0
                self._gathered.release()
            leads = seat.leads = not self._led
            self._led = True
        try:
            if not leads:
                seat.called.acquire()
            if seat.done:
                self._wake(seat.following)
            else:
                self._gather()
        except BaseException:  # interrupted: nobody must wait for this caller to lead
            self._leave(seat)
            raise
        if not seat.done:
            self._lead()
        if seat.error is not None:
            raise _same(seat.error)
        return seat.answer  # type: ignore[return-value]  # a seat that is done without an error has its answer

    def _lead(self) -> None:
        """Write what waits, answer those who wait for it, and call the next leader."""
        with self._lock:
            seats, self._queue = self._queue[:MOST], self._queue[MOST:]
        started = time.monotonic()
        try:
            answers = self._commit([seat.part for seat in seats])
            for seat, answer in zip(seats, answers, strict=True):
                seat.answer = answer
        except BaseException as error:
            for seat in seats:
                seat.error = error
            raise
        finally:
            with self._lock:
                now = time.monotonic()
                self._last = (len(seats) + len(self._queue), now - started, now)
                self._led = bool(self._queue)
                self._call()
            for seat, following in zip(seats, [*seats[1:], None], strict=True):
                seat.following = following
                seat.done = True
            self._wake(seats[0].following)

    def _gather(self) -> None:
        """Wait for the callers of a transaction that has just ended, while one comes within the time that it took.

        Full groups are worth it: who writes while the others are still coming fights with them for the interpreter.
        """
        with self._lock:
            callers, lasted, ended = self._last
            here, now = len(self._queue), time.monotonic()
            if here >= callers or now - ended > max(lasted, LONGEST_WAIT):
                return
            self._gathered.acquire(blocking=False)  # a leader who was interrupted may have left it open
            self._wanted = min(callers, MOST)
        end = now + LONGEST_WAIT
        while not self._gathered.acquire(timeout=max(0.0, min(lasted, end - now))):
            with self._lock:
                if not self._wanted:  # the last one came after all
                    self._gathered.acquire()
                    return
                before, here, now = here, len(self._queue), time.monotonic()
                if here == before or now >= end:
                    self._wanted = 0
                    return

    def _call(self) -> None:
        """Let the first in the queue lead."""
        if self._queue:
            self._queue[0].leads = True
            self._queue[0].called.release()

    def _wake(self, seat: _Seat[Part, Answer] | None) -> None:
        """Let the next one go with its answer, who lets the one behind it go: all at once they would fight for the
        interpreter's lock, which takes twice the time where there are several cores."""
        with self._lock:
            while seat is not None and seat.gone and not seat.woken:
                seat.woken = True
                seat = seat.following
            if seat is None or seat.woken:
                return
            seat.woken = True
        seat.called.release()

    def _leave(self, seat: _Seat[Part, Answer]) -> None:
        """Give up a place: nobody may wait for who is no longer there."""
        with self._lock:
            seat.gone = True
            if seat in self._queue:
                self._queue.remove(seat)
                if seat.leads:
                    self._wanted = 0
                    self._led = bool(self._queue)
                    self._call()
            woken = seat.woken
        if woken:
            self._wake(seat.following)

    def _fresh(self) -> None:
        """Start with nobody waiting: in a forked child the others' threads do not go on."""
        self._lock = threading.Lock()
        self._queue = []
        self._led = False
        self._wanted = 0
        self._gathered = threading.Lock()
        self._gathered.acquire()
        self._last = (0, 0.0, 0.0)


def _same(error: BaseException) -> BaseException:
    """An error for one of several callers: of the same class, so that each may catch and annotate its own."""
    if not isinstance(error, Exception):  # the leader was interrupted, not this caller
        return Unavailable(
            "The write was interrupted as it was under way. Look whether it is there before trying again."
        )
    try:
        copy = type(error)(*error.args)
    except TypeError:
        return error
    copy.__cause__ = error
    return copy


_GROUPS: weakref.WeakSet[GroupCommit[Any, Any]] = weakref.WeakSet()


def _after_fork() -> None:
    for group in list(_GROUPS):
        group._fresh()


os.register_at_fork(after_in_child=_after_fork)
