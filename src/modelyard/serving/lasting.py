"""What goes on for as long as its process does, in a thread or a task."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import NoReturn

from modelyard.core.lasting import Lasting

__all__ = ["Lasting", "keep", "repeat"]


async def repeat(every: float, once: Callable[[], Awaitable[None]], trouble: str) -> NoReturn:
    """Do something every so many seconds, in a task."""
    lasting = Lasting(trouble)
    while True:
        await asyncio.sleep(every)
        with lasting.round():
            await once()


def keep(every: float, once: Callable[[], object], trouble: str, *, ended: threading.Event) -> None:
    """Do something every so many seconds, in this thread, until that is to end."""
    lasting = Lasting(trouble)
    while not ended.wait(every):
        with lasting.round():
            once()
