"""Tasks that go on for as long as their process does, whatever one round of them meets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from modelyard.core.errors import YardError

log = logging.getLogger("modelyard.serving")


async def repeat(every: float, once: Callable[[], Awaitable[None]], trouble: str) -> NoReturn:
    """Do something every so many seconds. What a round raises is logged, the same once in a row, and the next one tries
    again: a process whose watching had ended in silence would follow no routing any more."""
    told = ""
    while True:
        await asyncio.sleep(every)
        try:
            await once()
            told = ""
        except (OSError, YardError) as error:  # expected: a disk that is full, a yard that is away
            if str(error) != told:
                log.warning("%s: %s", trouble, error)
            told = str(error)
        except Exception as error:
            if repr(error) != told:
                log.exception("%s.", trouble)
            told = repr(error)
