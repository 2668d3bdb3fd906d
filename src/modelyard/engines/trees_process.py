"""Compiles models in a process of its own, which a hostile or huge model may end or stall without harm to its caller.

One process is kept for many models, since the libraries take a second to load. It ends with its caller, and gives its memory
back after a minute without a model.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import Invalid, MissingExtra, Unavailable, YardError
from modelyard.core.models import Parity, Signature
from modelyard.core.packages import signature_of

PATIENCE_S = 300.0
IDLE_S = 60.0
_MAIN = "from modelyard.engines.trees_process import main; main()"


def compiled(path: Path, framework: str, signature: Signature | None, target: Path, *more: Any) -> Parity:
    """How alike the compiled form at `target` answers; Invalid says why there is none, Unavailable why it was not found out."""
    order = {
        "path": str(Path(path).absolute()),
        "framework": framework,
        "signature": signature,
        "target": str(Path(target).absolute()),
        "more": more,
    }
    told = _COMPILER.ask(order)
    match told:
        case {"parity": parity}:
            return Parity(**parity)
        case {"module": name}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        case {"import": text}:
            raise ImportError(text)
        case {"failed": text}:
            raise Unavailable(text)
    raise Invalid(told["invalid"])


class _Compiler:
    """The process, started when it is first asked, and anew after it has ended."""

    def __init__(self) -> None:
        self._alone = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._others: list[subprocess.Popen[bytes] | None] = []

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Its answer; what ended it where there is none."""
        with self._alone:
            line = self._asked(order)
            if not line and self._idled():
                line = self._asked(order)
            if line.endswith(b"\n"):
                found: dict[str, Any] = json.loads(line)
                return found
            return {"failed": self._end()}

    def _asked(self, order: dict[str, Any]) -> bytes:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _started()
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(dumps(order).encode() + b"\n")
            self._child.stdin.flush()
            return self._line(self._child)
        except BrokenPipeError:
            return b""

    def _idled(self) -> bool:
        """Whether the process had ended by itself as it was asked, for want of work."""
        assert self._child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._child.wait(1.0) == 0
        return False

    @staticmethod
    def _line(child: subprocess.Popen[bytes]) -> bytes:
        """What it says within the time that it has: a whole line, or less of one."""
        assert child.stdout is not None
        ready, _, _ = select.select([child.stdout], [], [], PATIENCE_S)
        return child.stdout.readline() if ready else b""

    def _end(self) -> str:
        """Be rid of the process; how it went."""
        child, self._child = self._child, None
        assert child is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1.0)
        stalled = child.poll() is None
        _ended(child)
        if stalled:
            return f"compiling it took longer than {PATIENCE_S:g} s"
        name = signal.Signals(-child.returncode).name if child.returncode < 0 else f"code {child.returncode}"
        return f"compiling it ended the process that did it ({name})"

    def forked(self) -> None:
        """In a fork: the process is that of the one that was forked, who ends it."""
        self._others.append(self._child)
        self._child, self._alone = None, threading.Lock()

    def close(self) -> None:
        """End the process, if there is one."""
        child, self._child = self._child, None
        if child is not None:
            _ended(child)


def _started() -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(IDLE_S)], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
    )


def _ended(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for stream in (child.stdin, child.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


_COMPILER = _Compiler()
os.register_at_fork(after_in_child=_COMPILER.forked)
atexit.register(_COMPILER.close)


def main() -> None:
    """Answer orders on the first stream, one line each, until it ends or there are none for a while."""
    said = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    with contextlib.suppress(OSError):  # where memory ends, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    orders = os.fdopen(0, "rb", buffering=0, closefd=False)  # unbuffered: what waits in a buffer, select does not see
    while select.select([orders], [], [], float(sys.argv[1]))[0] and (line := orders.readline()):
        said.write(dumps(_answer(json.loads(line))).encode() + b"\n")
        said.flush()


def _answer(order: dict[str, Any]) -> dict[str, Any]:
    signature = None if order["signature"] is None else signature_of(order["signature"])
    compiler = plugins.load("compiler", "here")
    try:
        parity = compiler(Path(order["path"]), order["framework"], signature, Path(order["target"]), *order["more"])
    except MissingExtra as error:
        return {"failed": str(error)}
    except ModuleNotFoundError as error:
        return {"module": error.name}
    except ImportError as error:
        return {"import": str(error)}
    except (YardError, OSError, ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        plain = isinstance(error, YardError)
        return {"invalid": str(error) if plain else f"compiling it failed with {type(error).__name__}: {error}"}
    except (MemoryError, RecursionError) as error:
        return {"failed": f"compiling it took more than there is: {type(error).__name__}"}
    return {"parity": parity}
