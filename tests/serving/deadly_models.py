"""Models that end or hang the process that asks them, keep a thread for good, or raise what ends programs, for rows whose
`a` is above 100; and one whose loading waits for a file."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output


def _hold_the_interpreter() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # exponential time in C, which never lets go of the interpreter


def _close_what_listens() -> None:
    for number in range(3, 64):
        try:
            with socket.socket(fileno=os.dup(number)) as one:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError:
            continue
        if listens:
            os.close(number)


def _raise(error: BaseException) -> None:
    raise error


WAYS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hold": _hold_the_interpreter,
    "wait": lambda: threading.Event().wait(),
    "descriptors": lambda: os.closerange(3, 1024),
    "listener": _close_what_listens,
    "SystemExit": lambda: _raise(SystemExit(3)),
    "KeyboardInterrupt": lambda: _raise(KeyboardInterrupt()),
    "CancelledError": lambda: _raise(asyncio.CancelledError()),
    "GeneratorExit": lambda: _raise(GeneratorExit()),
    "MemoryError": lambda: _raise(MemoryError()),
}


class Deadly:
    """Adds two numbers; `way` is how it ends what asks it, `slow` how many milliseconds any call takes."""

    def __init__(self, way: str) -> None:
        way, _, slow = way.partition(",")
        self._way, self._slow = WAYS[way], float(slow or 0) / 1000
        self.signature = Signature(inputs=(FeatureSpec(name="a"), FeatureSpec(name="b")), task="regression")

    def predict(self, batch: np.ndarray) -> Output:
        if self._slow:
            threading.Event().wait(self._slow)
        if (batch[:, 0] > 100).any():
            self._way()
        return Output(predictions=batch.sum(axis=1))


class DeadlyService(Deadly):
    """The same by a coroutine."""

    async def predict(self, batch: np.ndarray) -> Output:  # type: ignore[override]
        return super().predict(batch)


class Late(Deadly):
    """Is loaded once there is a file of this name, and raises what is in it."""

    def __init__(self, file: str) -> None:
        super().__init__("wait")
        while not Path(file).exists():
            threading.Event().wait(0.01)
        name = Path(file).read_text()
        if name:
            WAYS[name]()


class Greedy(Deadly):
    """Takes so many MiB for such a row, and keeps them."""

    def __init__(self, mebibytes: str) -> None:
        super().__init__("wait")
        self._size, self._kept = int(mebibytes) << 20, np.zeros(0)

    def predict(self, batch: np.ndarray) -> Output:
        if (batch[:, 0] > 100).any():
            self._kept = np.ones(self._size, dtype=np.int8)
        return super().predict(batch)
