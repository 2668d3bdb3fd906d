"""What is done again and again for as long as its process lives, whatever one round of it meets."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from modelyard.core.errors import YardError

AGAIN_S = 60.0  # a trouble that lasts is told once a minute


class Lasting:
    """One thing that is done again and again: what a round raises is logged, and the next one tries again.

    A process whose watching had ended in silence would follow no routing any more, replace no worker, tell no yard.
    """

    def __init__(self, trouble: str, log: logging.Logger | None = None) -> None:
        self.log = log or logging.getLogger("modelyard")
        self.failures = 0
        self._trouble = trouble
        self._told: dict[str, float] = {}

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

    def _new(self, what: str) -> bool:
        self.failures += 1
        now = time.monotonic()
        self._told = {known: at for known, at in self._told.items() if now - at < AGAIN_S}
        if what in self._told:
            return False
        self._told[what] = now
        return True
