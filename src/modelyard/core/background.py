"""Work that goes on in the background, in one process at a time: a thread that takes turns, and the lease it takes them by."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from modelyard.core.ids import new_id
from modelyard.core.instants import micros
from modelyard.core.lasting import Lasting
from modelyard.core.work import Work

Owner = TypeVar("Owner")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do one kind of work in a store: of several processes one has it, and loses it unless it takes it again."""

    name: str
    seconds: float

    def take(self, work: Work, holder: str) -> bool:
        """True if the holder has it now: it was free, expired, or the holder's own.

        One that would end later than a new one was given by a clock that has jumped back since.
        """
        now = micros(work.now)
        return bool(
            work.rows.run(
                """
                INSERT INTO leases (name, holder, expires_at) VALUES (:name, :holder, :until)
                ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
                WHERE leases.holder = excluded.holder OR leases.expires_at <= :now OR leases.expires_at > :until
                """,
                name=self.name,
                holder=holder,
                now=now,
                until=now + int(self.seconds * 1e6),
            )
        )

    def drop(self, work: Work, holder: str) -> None:
        """Give it back, so that another process need not wait for its end."""
        sql = "DELETE FROM leases WHERE name = :name AND holder = :holder"
        work.rows.run(sql, name=self.name, holder=holder)


class Background(threading.Thread, Generic[Owner]):
    """Lets its owner take a turn every `interval` seconds, until it is stopped or the owner is dropped.

    `turn` is called with the owner, a name to hold leases by, and what tells it to end early; `last` with the owner and the
    name, when the thread is stopped. What fails is logged, once a minute while it lasts, and tried again.
    """

    def __init__(
        self,
        owner: Owner,
        interval: float,
        *,
        name: str,
        turn: Callable[[Owner, str, threading.Event], object],
        last: Callable[[Owner, str], object],
    ) -> None:
        super().__init__(name=name, daemon=True)
        self.interval = interval
        self.holder = new_id(f"{name}-{os.getpid()}")
        self._owner = weakref.ref(owner)
        self._turn, self._last = turn, last
        self._stopped = threading.Event()
        self._lasting = Lasting(f"{name} failed and will try again", logging.getLogger(name.replace("-", ".")))
        atexit.register(self._end)  # before the database closes its connections at exit, which is registered earlier

    def run(self) -> None:
        """Take turns until stopped."""
        while not self._stopped.wait(self.interval):
            owner = self._owner()
            if owner is None:
                atexit.unregister(self._end)
                return
            with self._lasting.round():
                self._turn(owner, self.holder, self._stopped)
            del owner  # held only while at work, so that a dropped owner ends the thread

    def stop(self) -> None:
        """End the thread after the turn that is under way."""
        self._end()
        atexit.unregister(self._end)
        owner = self._owner()
        if owner is not None:
            self._last(owner, self.holder)

    def _end(self) -> None:
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
