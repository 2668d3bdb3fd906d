"""What serving processes are given from their supervisor: sockets that are bound before they start, and a log to write to."""

from __future__ import annotations

import errno
import os
import socket
from importlib.util import find_spec
from pathlib import Path

from modelyard.core.errors import Unavailable
from modelyard.core.plugins import missing

BACKLOG = 2048


def appending(log: str | Path) -> int:
    """A descriptor that writes to the end of the log; Unavailable for a file that cannot be had."""
    path = Path(log).absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}. Choose another file for the log.") from error


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; Unavailable names the address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise Unavailable(
                f"{host}:{port} is in use by another program. Choose another port, or 0 for a free one."
            ) from error
        raise Unavailable(f"{host}:{port} cannot be listened on: {error}. Choose another host or port.") from error
    return listener


def grpc_reserved(host: str, port: int) -> socket.socket:
    """A socket that holds a port for the workers' gRPC servers, which all listen on it by themselves (SO_REUSEPORT).

    Unavailable where another program has it (one that shares its port would share the calls too), or without grpcio.
    """
    if find_spec("grpc") is None:
        raise missing(ModuleNotFoundError(name="grpc"), "protocol 'grpc'")
    with listen(host, port) as alone:
        port = alone.getsockname()[1]
        family = alone.family
    holder = socket.socket(family, socket.SOCK_STREAM)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        holder.bind((host, port))
    except OSError as error:
        holder.close()
        raise Unavailable(f"{host}:{port} is in use by another program. Choose another port, or 0.") from error
    return holder


def address(bound: socket.socket) -> str:
    """HOST:PORT of a socket, as URLs have it."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
