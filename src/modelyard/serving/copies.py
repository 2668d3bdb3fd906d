"""Copies of answered requests on their way to the process that shadows: every worker writes them, and never waits.

They go through one pair of sockets that keep messages whole. The kernel holds what is written and not read yet, as much as
the socket's buffer, and refuses the rest: that is dropped and counted. The supervisor holds both ends too, so that what
waits outlives whoever reads it.
"""

from __future__ import annotations

import os
import socket
import sys
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from modelyard.core.ports import Output
from modelyard.serving.counter_file import DROPPED
from modelyard.serving.routing import Route

LARGEST = 128 << 10  # bytes of a copy: a third of what the smallest usual buffer holds
MOST_VALUES = 8192  # of a larger batch only so many values are copied, whole rows
BUFFER = 1 << 20  # asked for; the usual limit of a system grants 416 KiB of it
REST_NS = 1_000_000  # after it was full: trying costs as much as writing, and nobody reads that soon

Packed = tuple[str, tuple[int, ...], Any]  # an array's type ("" for objects), shape, and bytes (or list of objects)


class Copy(msgspec.Struct, array_like=True, gc=False):
    """One answered request. Of a large batch the first rows, and then it is not `whole`."""

    endpoint: str
    generation: int
    arm: int
    whole: bool
    batch: Packed
    predictions: Packed
    probabilities: Packed | None

    @property
    def output(self) -> Output:
        """What the primary answered."""
        probabilities = None if self.probabilities is None else unpacked(self.probabilities)
        return Output(predictions=unpacked(self.predictions), probabilities=probabilities)


read_copy = msgspec.msgpack.Decoder(Copy).decode


def pair() -> tuple[int, int]:
    """The end that is written to and the end that is read from. Neither keeps anybody waiting."""
    kind = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM
    written, read = socket.socketpair(socket.AF_UNIX, kind)
    written.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    for end in (written, read):
        end.setblocking(False)
    return written.detach(), read.detach()


class Copies:
    """The end that is written to, in a process that answers; without one nobody takes copies, and all are dropped."""

    def __init__(self, end: int = -1) -> None:
        self._end, self._full_until = end, 0
        self._encode = msgspec.msgpack.Encoder(enc_hook=_plain).encode

    def offer(self, route: Route, arm: int, batch: np.ndarray, output: Output) -> None:
        """Send a copy, or count it as dropped."""
        if not self._sent(route, arm, batch, output):
            route.counters.shadowed(DROPPED)

    def _sent(self, route: Route, arm: int, batch: np.ndarray, output: Output) -> bool:
        if self._full_until and perf_counter_ns() < self._full_until:
            return False
        predictions, probabilities, traffic = output.predictions, output.probabilities, route.traffic
        values = batch.size + (0 if probabilities is None else probabilities.size)
        whole = values <= MOST_VALUES
        if not whole:
            rows = max(MOST_VALUES * len(batch) // values, 1)
            batch, predictions = batch[:rows], predictions[:rows]
            probabilities = None if probabilities is None else probabilities[:rows]
        told = None if probabilities is None else packed(probabilities)
        what = (traffic.endpoint, traffic.generation, arm, whole, packed(batch), packed(predictions), told)
        try:
            message = self._encode(what)
            if len(message) > LARGEST:
                return False
            os.write(self._end, message)
        except BlockingIOError:
            self._full_until = perf_counter_ns() + REST_NS
            return False
        except (OSError, ValueError, TypeError, OverflowError):  # no buffer, or answers that cannot be written down
            return False
        self._full_until = 0
        return True


def packed(array: np.ndarray) -> Packed:
    """An array as a message holds it."""
    if array.dtype.char in "OTV":
        return "", array.shape, array.ravel().tolist()
    return array.dtype.str, array.shape, array.tobytes()


def unpacked(told: Packed) -> np.ndarray:
    """The array again, one that may be written to, as the primary's was."""
    kind, shape, values = told
    flat = np.frombuffer(values, np.dtype(kind)).copy() if kind else np.fromiter(values, object, len(values))
    return flat.reshape(shape)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
