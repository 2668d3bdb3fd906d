"""A private Redis: its own folder and port, nothing written to disk, gone when it is closed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from modelyard.testing.servers import end, free_port, program, wait_until

INSTALL = "apt-get install redis-server"


class RedisServer:
    """A running Redis of its own on the loopback address, without persistence."""

    def __init__(self) -> None:
        path = program("redis-server", [Path("/usr/local/sbin")], INSTALL)
        self.folder = Path(tempfile.mkdtemp(prefix="modelyard-redis-"))
        self.port = free_port()
        log = self.folder / "log"
        command = [path, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", "--appendonly", "no", "--logfile", str(log)]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wait_until(self._ready, self._process, log)

    @property
    def url(self) -> str:
        """The server's URL, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self, text: str) -> bytes:
        """The server's answer to one inline command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(text.encode() + b"\r\n")
            return connection.recv(65_536)

    def clear(self) -> None:
        """Forget every key."""
        self.command("FLUSHALL")

    def close(self) -> None:
        """Stop the server and remove its folder."""
        end(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ready(self) -> bool:
        try:
            return self.command("PING").startswith(b"+PONG")
        except OSError:
            return False
