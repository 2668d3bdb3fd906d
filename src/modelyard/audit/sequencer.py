"""A background thread that has waiting events integrated and checkpoints copied; one process at a time."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from typing import Protocol

from modelyard.core.errors import YardError
from modelyard.core.ids import new_id

LEASE_SECONDS = 5.0
_log = logging.getLogger("modelyard.audit")


class Integrating(Protocol):
    """What the thread drives: an AuditLogger."""

    def integrate_as(self, holder: str) -> int:
        """Integrate if the holder may."""
        ...

    def copy_as(self, holder: str) -> int:
        """Copy the newest checkpoint to where that is due, if the holder may."""
        ...

    def release(self, holder: str) -> None:
        """Give the lease back."""
        ...


class Sequencer(threading.Thread):
    """Integrates and copies every `interval` seconds in the background, if no other process does. Stops with its logger."""

    def __init__(self, logger: Integrating, interval: float) -> None:
        super().__init__(name="modelyard-audit", daemon=True)
        self.interval = interval
        self.holder = new_id(f"seq{os.getpid()}")
        self._logger = weakref.ref(logger)
        self._stopped = threading.Event()
        atexit.register(self._end)  # before the database closes its connections at exit, which is registered earlier

    def run(self) -> None:
        """Integrate until stopped; what fails is logged and tried again."""
        while not self._stopped.wait(self.interval):
            logger = self._logger()
            if logger is None:
                return
            try:
                logger.integrate_as(self.holder)
                logger.copy_as(self.holder)
            except YardError as error:
                _log.warning("The audit log was not integrated and will be tried again: %s", error)
            del logger  # held only while at work, so that a dropped logger ends the thread

    def stop(self) -> None:
        """End the thread, and integrate what is left."""
        self._end()
        atexit.unregister(self._end)
        logger = self._logger()
        if logger is not None:
            logger.integrate_as(self.holder)
            logger.release(self.holder)

    def _end(self) -> None:
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()
