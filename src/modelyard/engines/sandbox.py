"""Runs a model that may hold code in a process that has nothing to harm: no network, no files, no other programs."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Damaged, Invalid, Unavailable

Array = np.ndarray[Any, np.dtype[Any]]

ISOLATION = ("network", "files", "processes", "limits", "privileges")
MOST_ANSWER = 256 << 20
START_S = 60.0  # until the process is isolated and the model opened, which is no call of the model
JAIL = Path(__file__).with_name("jail.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a sandboxed model may use: processor seconds in all, bytes of memory, and seconds for each call."""

    cpu_seconds: int = 300
    memory_bytes: int = 4 << 30
    call_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A sandboxed model's answer: predictions (n,), and probabilities (n, classes) where it has them."""

    predictions: Array
    probabilities: Array | None = None


class Sandbox:
    """A model in a process of its own. `isolation` names what was tried and found to hold before the model was opened.

    network: no sockets. files: only the interpreter, its packages and the model can be seen, and nothing written.
    processes: no new process or program. limits: time, memory, file size. privileges: nobody, and never root again.
    """

    def __init__(
        self,
        path: Path,
        *,
        format: str,
        hidden: Path,
        signature: Mapping[str, Any] | None = None,
        limits: Limits | None = None,
        required: tuple[str, ...] = ISOLATION,
    ) -> None:
        self.limits = limits or Limits()
        self._place = tempfile.TemporaryDirectory(prefix="modelyard-sandbox-")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(JAIL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LC_ALL": "C.UTF-8", "TF_CPP_MIN_LOG_LEVEL": "3"},
            cwd="/",
            start_new_session=True,
        )
        self._waiting = b""
        try:
            self.isolation = self._start(path, format, hidden, signature, required)
        except BaseException:
            self.close()
            raise

    def predict(self, table: Any) -> Prediction:
        """The model's answer to a matrix (n, inputs), or to a mapping of columns; Invalid where the model fails.

        A model that breaks its limits or answers with anything but plain values is stopped: Damaged.
        """
        asked = {"columns": _columns(table)} if hasattr(table, "keys") else {"rows": np.asarray(table).tolist()}
        self._send(asked)
        found = self._answer(self.limits.call_seconds)
        if "predictions" not in found:
            self.close()
            raise Damaged("The sandboxed model answered with something else than predictions. It was stopped.")
        try:
            predictions = np.asarray(found["predictions"])
            proba = found.get("probabilities")
            probabilities = None if proba is None else np.asarray(proba, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise Invalid(f"The sandboxed model's answer makes no array: {error}.") from error
        return Prediction(predictions=predictions, probabilities=probabilities)

    def close(self) -> None:
        """Stop the process. Not closing loses nothing: it ends with this one."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        self._place.cleanup()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _start(
        self, path: Path, kind: str, hidden: Path, signature: Mapping[str, Any] | None, required: tuple[str, ...]
    ) -> tuple[str, ...]:
        order = {
            "root": self._place.name,
            "shown": _shown(),
            "model": str(path),
            "hidden": [str(hidden), "/etc/passwd", "/proc/self"],
            "limits": asdict(self.limits),
            "format": kind,
            "signature": signature,
        }
        self._send(order)
        patience = max(START_S, self.limits.call_seconds)
        told = [str(one) for one in self._answer(patience)["isolation"]]
        missing = [one for one in required if one not in told]
        if missing:
            why = "; ".join(one[2:] for one in told if one.startswith("!"))
            raise Unavailable(
                f"This machine cannot keep a model from {', '.join(missing)} ({why or 'no reason is known'}). Use a Linux "
                "kernel with user namespaces and seccomp, or name in `required` the isolation that you can do without."
            )
        self._send(True)
        self._answer(patience)
        return tuple(one for one in told if not one.startswith("!"))

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None  # it was asked for
        if self._process.stdin.closed:
            raise Unavailable("The sandbox is closed. Load the model again.")
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            self.close()
            raise Damaged(_ended()) from error

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            found = json.loads(self._line(seconds))
        except (ValueError, RecursionError) as error:
            self.close()
            raise Damaged("The sandboxed model answered with no JSON. It was stopped.") from error
        if not isinstance(found, dict):
            self.close()
            raise Damaged("The sandboxed model answered with no JSON object. It was stopped.")
        if "error" in found:
            raise Invalid(f"The sandboxed model failed: {str(found['error'])[:500]}")
        return found

    def _line(self, seconds: float) -> bytes:
        """The next line of the child, within the time and size allowed."""
        assert self._process.stdout is not None  # it was asked for
        handle, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        with selectors.DefaultSelector() as ready:
            ready.register(handle, selectors.EVENT_READ)
            while b"\n" not in self._waiting[-65_536:]:
                if not ready.select(max(deadline - time.monotonic(), 0)):
                    self.close()
                    raise Damaged(f"The sandboxed model took more than {seconds:g} s. It was stopped.")
                data = os.read(handle, 65_536)
                if not data or len(self._waiting) + len(data) > MOST_ANSWER:
                    self.close()
                    raise Damaged(
                        _ended() if not data else "The sandboxed model's answer is too large. It was stopped."
                    )
                self._waiting += data
        line, _, self._waiting = self._waiting.partition(b"\n")
        return line


def _ended() -> str:
    return "The sandboxed model's process ended: it broke a limit, crashed, or could not be opened."


def _columns(table: Any) -> dict[str, Any]:
    return {str(name): np.asarray(table[name]).tolist() for name in table.keys()}  # noqa: SIM118 - a frame's keys


@cache
def _shown() -> list[str]:
    """What the interpreter and its packages need, nothing within another: what the caller's own path holds is not shown."""
    ask = [sys.executable, "-I", "-c", "import json, sys; print(json.dumps(sys.path))"]
    isolated = json.loads(subprocess.run(ask, capture_output=True, check=True, env={}, cwd="/").stdout)
    own = str(Path(__file__).resolve().parent.parent)
    known = [*SYSTEM, sys.prefix, sys.base_prefix, *isolated, own]
    found = sorted({os.path.realpath(path) for path in known if os.path.exists(path)} - {"/"})
    links = [path for path in SYSTEM if os.path.islink(path)]
    return links + [path for path in found if not any(path.startswith(other + "/") for other in found)]


SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache")
