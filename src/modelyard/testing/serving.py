"""`modelyard serve` as a real process, for tests: its own folder, two free ports, gone when it is closed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from modelyard.testing.servers import end, free_port, until, wait_until
from modelyard.yard import Yard


@contextmanager
def stopped_between_writes(pid: int, yard: Yard) -> Iterator[None]:
    """Within it a process is stopped by SIGSTOP, not in the middle of a transaction of its own on that yard: it would hold
    the database's lock all the while.

    A rollback and its routing need no database; being recorded there does.
    """
    threads = Path(f"/proc/{pid}/task")
    with yard.store.work():
        os.kill(pid, signal.SIGSTOP)
        until(lambda: {_state(task) for task in threads.iterdir()} == {"T"})
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


class YardServer:
    """A running `modelyard serve` on the loopback address. `seconds` is how long it took until it answered."""

    def __init__(self, place: str | Path, *arguments: str, workers: int = 1, **environment: str) -> None:
        self.port, self.workers = free_port(2), workers
        self._secure = "--tls-cert" in arguments
        self.log = Path(tempfile.mkstemp(prefix="modelyard-serve-", suffix=".log")[1])
        command = [sys.executable, "-m", "modelyard", "serve", "--port", str(self.port), "--workers", str(workers)]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")}
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *arguments],
                env={**kept, "MODELYARD_YARD": str(place), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(self._ready, self.process, self.log)
        self.seconds = time.monotonic() - began

    @property
    def url(self) -> str:
        """Where the control plane answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def predictions_url(self) -> str:
        """Where predictions are answered."""
        return f"http://127.0.0.1:{self.port + 1}"

    def ask(self, url: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
        """Status and JSON of a GET, or of a POST with a body."""
        answer = httpx.get(url, timeout=30) if body is None else httpx.post(url, json=body, timeout=30)
        return answer.status_code, answer.json()

    def carries_out(self, yard: Yard, endpoint: str, generation: int) -> bool:
        """Whether every serving process carries this generation of an endpoint's routing out."""
        at = [one.generations.get(endpoint) for one in yard.serving.processes() if one.ready]
        return at.count(generation) >= self.workers

    @contextmanager
    def stopped(self, yard: Yard) -> Iterator[None]:
        """Within it the server's own process, its controller with it, is stopped; its serving processes are not."""
        with stopped_between_writes(self.process.pid, yard):
            yield

    def processes(self) -> list[int]:
        """The process ids of the server and of everything that it has started."""
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(ValueError, OSError):
                number = int(entry.name)
                if os.getsid(number) == self.process.pid and _alive(entry):
                    found.append(number)
        return found

    def stop(self) -> int:
        """Ask it to end; its exit code."""
        end(self.process)
        return self.process.returncode

    def close(self) -> None:
        """End it and whatever it left behind, and remove its log."""
        end(self.process)
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.log.unlink(missing_ok=True)

    def __enter__(self) -> YardServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready(self) -> bool:
        try:
            if self._secure:  # only a caller with the right certificates is answered
                socket.create_connection(("127.0.0.1", self.port), timeout=30).close()
                return True
            return self.ask(f"{self.url}/api/v1/health")[0] == 200
        except (httpx.TransportError, ConnectionError):
            return False


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


def _alive(entry: Path) -> bool:
    return "\nState:\tZ" not in (entry / "status").read_text()
