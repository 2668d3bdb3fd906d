"""Runs independent calls as tasks of a Ray cluster."""

from __future__ import annotations

import logging
import os
import pickle
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from modelyard.core.errors import Invalid, Unavailable

ANSWERS_WITHIN = 5.0  # seconds; Ray itself waits for minutes for a cluster that is not there, and then ends the process
RETRIES = 3  # of a call whose worker died, Ray's own default


class RayRunner:
    """Tasks on the cluster at an address, or on one started on this machine (which takes about ten seconds).

    The address is `host:port`, `ray://host:port` or `auto`; without one the environment's RAY_ADDRESS counts, and without
    that a cluster is started here with `workers` processes, which `close` stops. Ray's usage reports are switched off.
    """

    def __init__(self, workers: int | None = None, *, address: str | None = None) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._ours = not ray.is_initialized()
        if not self._ours:
            return
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        started: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if where == "local" else {}
        _reached(where)
        before = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address=where, log_to_driver=False, logging_level="ERROR", **started)
        except (OSError, RuntimeError, ValueError, RayError) as error:
            raise Unavailable(f"No Ray cluster can be used at {where}: {str(error)[:300]}") from error
        if callable(before) and signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)  # Ray puts its own in the place of a server's

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each call as it finishes; an error that a call raises is raised here, with the call's index
        as a note.

        A call whose worker dies is run again up to three times, so it should do no harm when done twice; Unavailable
        after that. NumPy arrays arrive read-only, in the calls and in the results.
        """
        try:
            task, sent = ray.remote(max_retries=RETRIES)(_call), ray.put(function)
            waiting = {task.remote(sent, *arguments): index for index, arguments in enumerate(calls)}
        except TypeError as error:
            raise Invalid(f"{function!r} or its arguments cannot be sent to a worker: {str(error)[:300]}") from error
        try:
            while waiting:
                (done, *_), _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(done)
                yield index, _result(done, f"Call {index} of {len(calls)}")
        finally:
            for left in waiting if ray.is_initialized() else ():
                ray.cancel(left)

    def close(self) -> None:
        """Leave the cluster; one that was started here stops. A connection that stood before is left as it is."""
        if self._ours:
            ray.shutdown()
            self._ours = False


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Ray makes tasks of Python functions only; this one calls builtins, methods and partials too."""
    return function(*arguments)


def _result(done: Any, call: str) -> Any:
    try:
        return ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # the call's own error could not travel
            raise Unavailable(f"{call} failed in its worker: {error.cause}") from error
        error.cause.add_note(f"{call} raised this in its worker.")
        raise error.cause from error
    except RayError as error:
        raise Unavailable(
            f"{call} could not be finished, its worker died {1 + RETRIES} times (killed, or out of memory) or its machine "
            f"is gone: {type(error).__name__}. Run again with fewer workers."
        ) from error


def _reached(where: str) -> None:
    """Return if something listens at host:port; Unavailable if not, Invalid for what is no address."""
    if where in ("local", "auto"):
        return
    found = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+?)\]?:(\d{1,5})", where)
    if found is None:
        raise Invalid(f"{where!r} is no address of a Ray cluster. Write host:port, ray://host:port or auto.")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=ANSWERS_WITHIN).close()
    except (OSError, OverflowError) as error:
        raise Unavailable(f"No Ray cluster answers at {where}: {error}. Start one: ray start --head") from error


class RayDataRunner(RayRunner):
    """The calls as one Ray Data pipeline: its streaming executor spreads them over the cluster and starts as many at a time
    as there is room for."""

    def map(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """(index, result) of each call as it finishes; an error that a call raises is raised here.

        A call whose worker dies is run again, so it should do no harm when done twice.
        """
        import ray.data  # not at the top: it takes a second that tasks need not

        ray.data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = [{"index": index, "call": pickle.dumps((function, arguments))} for index, arguments in enumerate(calls)]
        try:
            done = ray.data.from_items(rows, override_num_blocks=max(len(rows), 1)).map(_called)
            for row in done.iter_rows():
                index, (result, raised) = int(row["index"]), pickle.loads(row["result"])  # noqa: S301 - of our own worker
                if raised is not None:
                    raised.add_note(f"Call {index} of {len(calls)} raised this in its worker.")
                    raise raised
                yield index, result
        except RayError as error:
            raise Unavailable(f"The calls could not be finished: {type(error).__name__}: {str(error)[:300]}") from error


def _called(row: dict[str, Any]) -> dict[str, Any]:
    """A call's result and no error, or its error: Ray Data would wrap an error that is raised, and stop at it loudly."""
    function, arguments = pickle.loads(row["call"])  # noqa: S301 - of the process that started this
    told: tuple[Any, Exception | None]
    try:
        told = (function(*arguments), None)
    except Exception as error:  # noqa: BLE001 - raised again where the calls came from
        told = (None, error)
    return {"index": row["index"], "result": pickle.dumps(told)}
