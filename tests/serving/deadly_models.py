"""Models that end or hang the process that asks them, or keep a thread for good, for rows whose `a` is above 100."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import threading
from collections.abc import Callable

import numpy as np

from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output


def _hold_the_interpreter() -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # exponential time in C, which never lets go of the interpreter


WAYS: dict[str, Callable[[], object]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "hold": _hold_the_interpreter,
    "wait": lambda: threading.Event().wait(),
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
