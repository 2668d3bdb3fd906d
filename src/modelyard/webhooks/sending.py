"""Sends one message to one checked address: no proxy, no redirect, no cookie, an end in time, and a short look at the answer."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache

import httpcore

from modelyard.webhooks.hooks import Answer
from modelyard.webhooks.rules import shown
from modelyard.webhooks.targets import Target

ATTEMPT_S = 10.0  # from the first packet to the last byte that is looked at
CONNECT_S = 5.0
BODY_BYTES = 4096
FAULTS = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError)  # ssl.SSLError too


@cache
def trusted() -> ssl.SSLContext:
    """The authorities that sign receivers' certificates: the public ones, and the machine's own or those in SSL_CERT_FILE."""
    return httpcore.default_ssl_context()


def send(target: Target, headers: Mapping[str, str], body: bytes) -> Answer:
    """What the receiver answers to a POST of the body.

    httpcore rather than httpx's client above it: the connection must go to an address that was checked, whatever the
    name resolves to now, while TLS and the Host header keep the name; and the client's own log has the URL, which may
    hold a token.
    """
    every = {"Host": target.host_header, "User-Agent": "modelyard-webhooks", "Accept-Encoding": "identity"}
    every |= {"Connection": "close", "Content-Length": str(len(body)), **headers}
    url = httpcore.URL(scheme=target.scheme, host=target.host.encode(), port=target.port, target=target.path.encode())
    network = _Pinned(target.addresses, time.monotonic() + ATTEMPT_S)
    try:
        context = trusted() if target.scheme == "https" else None
        with (
            httpcore.ConnectionPool(ssl_context=context, network_backend=network, max_connections=1) as pool,
            pool.stream("POST", url, headers=list(every.items()), content=body) as response,
        ):
            found = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
            text = _beginning(response.iter_stream()).decode("utf-8", "replace")
            wait = _seconds(found.get("retry-after", "")) if response.status in (429, 503) else 0.0
            return Answer(status=response.status, body=shown(text, BODY_BYTES), retry_after=wait)
    except httpcore.TimeoutException:
        return Answer(error=f"{target.place} did not answer within {ATTEMPT_S:.0f} s")
    except FAULTS as error:
        return Answer(error=f"{target.place} could not be told: {shown(str(error), 200) or type(error).__name__}")


def _beginning(chunks: Iterable[bytes]) -> bytes:
    """What came of a body until there was enough, or no more: the status has been told already."""
    found = b""
    with suppress(*FAULTS):
        for chunk in chunks:
            found += chunk
            if len(found) >= BODY_BYTES:
                break
    return found[:BODY_BYTES]


def _seconds(text: str) -> float:
    """The seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number or a date; 0 for anything else."""
    if text.strip().isdecimal():
        return float(text.strip()[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, IndexError):
        return 0.0
    return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())


class _Pinned(httpcore.NetworkBackend):
    """Connects to the checked addresses in turn, whatever host it is asked for, and ends everything at one moment."""

    def __init__(self, addresses: Iterable[str], deadline: float) -> None:
        self._addresses = tuple(addresses)
        self._deadline = deadline
        self._plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - it was resolved and checked before
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes one."""
        failure: Exception = httpcore.ConnectTimeout("no time is left")
        for address in self._addresses:
            left = min(CONNECT_S, _left(self._deadline, timeout))
            try:
                stream = self._plain.connect_tcp(address, port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Ending(stream, self._deadline)
        raise failure


class _Ending(httpcore.NetworkStream):
    """A connection on which nothing takes longer than until the deadline, however slowly bytes come."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream, self._deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """The next bytes."""
        return self._stream.read(max_bytes, _left(self._deadline, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send bytes. The stream's own writing would begin its time anew with every byte that goes."""
        connection: socket.socket = self._stream.get_extra_info("socket")
        rest = memoryview(buffer)
        try:
            while rest:
                connection.settimeout(_left(self._deadline, timeout))
                rest = rest[connection.send(rest) :]
        except TimeoutError as error:
            raise httpcore.WriteTimeout("no time is left") from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """End the connection."""
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        """The same connection under TLS, with the certificate checked for the URL's own host."""
        left = _left(self._deadline, timeout)
        return _Ending(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> object:
        """What the connection tells of itself."""
        return self._stream.get_extra_info(info)


def _left(deadline: float, timeout: float | None) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise httpcore.ReadTimeout("no time is left")
    return left if timeout is None else min(left, timeout)
