"""The background thread that sends what is waiting, if no other process does."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import Protocol

from modelyard.core.errors import YardError
from modelyard.core.ids import new_id
from modelyard.webhooks.hooks import Round

log = logging.getLogger("modelyard.webhooks")


class Delivering(Protocol):
    """What the thread drives: Webhooks."""

    def deliver_as(self, holder: str, stop: threading.Event) -> Round:
        """Send what is due, if the holder has the lease or can take it."""
        ...

    def release(self, holder: str) -> None:
        """Give the lease back."""
        ...


class Deliverer(threading.Thread):
    """Looks every `interval` seconds. It ends with `stop()`, or when its Webhooks are dropped."""

    def __init__(self, webhooks: Delivering, interval: float) -> None:
        super().__init__(name="modelyard-webhooks", daemon=True)
        self.interval = interval
        self.holder = new_id(f"whk{os.getpid()}")
        self._webhooks = weakref.ref(webhooks)
        self._stopped = threading.Event()
        atexit.register(self._end)  # before the database closes its connections at exit, which is registered earlier

    def run(self) -> None:
        """Send until stopped; what fails is logged and tried again."""
        while not self._stopped.wait(self.interval):
            webhooks = self._webhooks()
            if webhooks is None:
                return
            try:
                webhooks.deliver_as(self.holder, self._stopped)
            except YardError as error:
                log.warning("webhooks were not delivered and will be tried again: %s", error)
            del webhooks  # held only while at work, so that dropped Webhooks end the thread

    def stop(self) -> None:
        """End the thread once the messages under way have been answered and recorded; the rest stays in the database."""
        self._end()
        atexit.unregister(self._end)
        webhooks = self._webhooks()
        if webhooks is not None:
            webhooks.release(self.holder)

    def _end(self) -> None:
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
