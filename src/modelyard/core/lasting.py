"""What is done again and again for as long as its process lives, whatever one round of it meets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.core.errors import YardError

AGAIN_S = 60.0  # a trouble that lasts is told once a minute
OVER_S = 5.0  # and that it is over, once rounds have gone well for so long


class Lasting:
    """One thing that is done again and again: what a round raises is logged, and the next one tries again.

    A process whose watching had ended in silence would follow no routing any more, replace no worker, tell no yard.
    """

    def __init__(self, trouble: str, log: logging.Logger | None = None) -> None:
        self.log = log or logging.getLogger("modelyard")
        self.failures = 0
        self._trouble = trouble
        self._told: dict[str, float] = {}
        self._began = self._failed = 0.0  # of the present trouble: its first and its last failure

    @contextmanager
    def round(self) -> Iterator[None]:
        """Survive one round. A fault of ours is told with its traceback; a full disk or a yard that is away is not."""
        try:
            yield
        except (OSError, YardError) as error:
            if self._new(str(error)):
                self.log.warning("%s: %s", self._trouble, error)
        except Exception as error:
            if self._new(repr(error)):
                self.log.exception("%s.", self._trouble)
        else:
            if self._began:
                self._well()

    def _well(self) -> None:
        now = time.monotonic()
        if now - self._failed >= OVER_S:
            self.log.info("%s: over, after %.0f s.", self._trouble, self._failed - self._began)
            self._began = 0.0
            self._told = {}

    def _new(self, what: str) -> bool:
        self.failures += 1
        self._failed = now = time.monotonic()
        self._began = self._began or now
        self._told = {known: at for known, at in self._told.items() if now - at < AGAIN_S}
        if what in self._told:
            return False
        self._told[what] = now
        return True
