"""HTTP/1.1 as uvicorn speaks it, with an end to its patience: heads are bounded in size and time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LARGEST_HEAD = 64 * 1024  # bytes of request line and headers
MOST_HEADERS = 100
HEAD_S = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """A connection that is closed when a request's head is too large or does not come.

    Whom a verified client certificate names is told to the application as `client_certificate_subject`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head = 0
        self._late: asyncio.TimerHandle | None = None
        self._certified = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """A caller is there; its first request is to come within a time."""
        super().connection_made(transport)
        self._certified = subject_of(transport.get_extra_info("peercert") or {})
        self._late = self.loop.call_later(HEAD_S, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone."""
        self._in_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes of a request."""
        if self._late is not None:
            self._head += len(data)
        super().data_received(data)
        if self._late is not None and self._head > LARGEST_HEAD and not self.transport.is_closing():
            self._in_time()
            self.send_400_response(f"The request line and headers are larger than {LARGEST_HEAD} bytes.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self._certified:
            self.scope["client_certificate_subject"] = self._certified  # type: ignore[typeddict-unknown-key]
        self._head = 0
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._too_late)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; too many of them are a fault of the request."""
        super().on_header(name, value)
        if len(self.headers) > MOST_HEADERS:
            raise ValueError("too many headers")  # answered with 400

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_time()
        super().on_headers_complete()

    def _in_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        self.transport.close()


def subject_of(certificate: Mapping[str, Any]) -> str:
    """Whom a certificate names: its first e-mail address, else its common name; "" for none.

    >>> subject_of({"subject": ((("commonName", "trainer"),),), "subjectAltName": (("DNS", "a"), ("email", "t@x.org"))})
    't@x.org'
    """
    mails = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "email"]
    names = [value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"]
    return str(next(iter([*mails, *names]), ""))
