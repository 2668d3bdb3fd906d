"""What the private servers share: finding a program, a free port, waiting until it answers, ending it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from modelyard.core.errors import Unavailable

START_SECONDS = 120.0  # what takes a second on a quiet machine takes many on one that does other things
STOP_SECONDS = 60.0
CONNECTIONS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # the ports that the kernel gives to connections
LINUX = sys.platform == "linux"
MOST_PORTS = 12_000  # that are drawn from, below those


class NotInstalled(Unavailable):
    """A server's program is not on this machine; the message says what to install."""


def program(name: str, folders: Iterable[Path], install: str) -> str:
    """The path of a program in PATH or one of the folders; NotInstalled says how to get it."""
    found = shutil.which(name) or next((str(f / name) for f in folders if (f / name).exists()), None)
    if found is None:
        raise NotInstalled(f"{name} is not installed. Install it: {install}")
    return found


def free_port(count: int = 1) -> int:
    """A TCP port of the loopback address that nothing listens on, the first of so many in a row.

    Nothing else gets it before the server that it is for: it is none of those that the kernel gives to connections, and
    no other process that asks here is given it as long as this one lives.
    """
    for _ in range(1_000):
        port = secrets.choice(_ports()[:-count])
        if all(_had(one) for one in range(port, port + count)):
            return port
    raise Unavailable("There is no free port. End some of the servers that listen on the loopback address.")


def _ports() -> range:
    try:
        given = int(CONNECTIONS.read_text().split()[0])
    except (OSError, ValueError):
        given = 32_768
    return range(max(1_024, given - MOST_PORTS), given) if given > 2 * 1_024 else range(1_024, 65_000)


def _had(port: int) -> bool:
    """Whether nothing listens on a port and no other process has been given it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
            return not LINUX or _reserved(port)
        except OSError:
            return False


def _reserved(port: int) -> bool:
    """Reserve a port by a name that goes with the last process that holds it (unix(7), abstract sockets)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as name:
        name.bind(f"\0modelyard-port-{port}")
        name.detach()
    return True


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the server is ready; Unavailable with the end of its log if it ends or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else ""
            end(process)
            raise Unavailable(f"{process.args!r} did not start.\n{tail}")
        time.sleep(0.01)


def until(reached: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
    """What the condition answers once that is true; TimeoutError when it never is.

    >>> until(lambda: "there")
    'there'
    """
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"It did not come about in {seconds:g} s.")
        time.sleep(0.02)
    return found


def end(process: subprocess.Popen[bytes], sign: signal.Signals = signal.SIGTERM) -> None:
    """Ask the process to end; make it, if it does not."""
    if process.poll() is None:
        process.send_signal(sign)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask a process that was started with a session of its own, and all that it started, to end; make them, if they do not."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def someone_else() -> str | None:
    """A user without privileges to run a server as, None where we have no privileges ourselves."""
    if os.geteuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)
