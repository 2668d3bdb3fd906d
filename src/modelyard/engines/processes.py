"""Runs independent calls in processes of this machine."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from modelyard.core.errors import Invalid, Unavailable


def _end_with_parent() -> None:
    """End this worker when the process that started it is gone: killed, it could not say so, and the worker would wait."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, name="modelyard-parent", daemon=True).start()


class ProcessRunner:
    """A pool of fresh processes (spawned, so that no lock or thread of this one is inherited).

    Functions and arguments travel by pickle: the function must be importable, which one defined in `__main__` of an
    interactive session is not. A script that uses it needs the `if __name__ == "__main__":` guard.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self._pool: ProcessPoolExecutor | None = None

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each call as it finishes; an error that a call raises is raised here."""
        if "<locals>" in function.__qualname__ or function.__name__ == "<lambda>":
            raise Invalid(f"{function.__qualname__} cannot run in another process. Define it at the top of a module.")
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.workers, mp_context=spawn, initializer=_end_with_parent)
        try:
            futures = {self._pool.submit(function, *arguments): index for index, arguments in enumerate(calls)}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            self._pool = None  # the next map starts fresh workers
            raise Unavailable(
                "A worker process died (killed, out of memory, or a script without its __main__ guard). "
                "Run again with fewer workers."
            ) from error

    def close(self) -> None:
        """Stop the workers; waits for the calls that run."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
