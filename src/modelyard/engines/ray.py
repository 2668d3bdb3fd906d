"""Runs independent calls as tasks of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from modelyard.core.errors import Unavailable


class RayRunner:
    """Tasks on the cluster at an address, or on one started on this machine (which takes seconds to start)."""

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        try:
            ray.init(address=address, num_cpus=None if address else workers, ignore_reinit_error=True)
        except (ConnectionError, RuntimeError) as error:
            raise Unavailable(f"No Ray cluster answers at {address or 'this machine'}: {error}") from error

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each call as it finishes; Ray runs a task anew when its worker dies."""
        task = ray.remote(function)
        waiting = {task.remote(*arguments): index for index, arguments in enumerate(calls)}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)

    def close(self) -> None:
        """Leave the cluster; one that was started here stops."""
        ray.shutdown()
