"""A real receiver on the loopback address, its check of signatures, and events that happen."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from modelyard.core.events import Event, EventType
from modelyard.core.refs import Resource
from modelyard.webhooks import Webhooks

Opening = Callable[..., Webhooks]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def delivery(self) -> str:
        return self.headers["x-modelyard-delivery-id"]


def signed_by(secret: str, request: Request, family: str = "x-modelyard") -> bool:
    """The check a receiver makes, written anew from the description of the scheme."""
    content = b".".join(
        [
            request.headers[f"{family}-delivery-id"].encode(),
            request.headers[f"{family}-timestamp"].encode(),
            request.body,
        ]
    )
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return request.headers[f"{family}-signature"] == f"v1,{base64.b64encode(digest).decode()}"


@dataclass
class Receiver:
    """Answers with what it is told to, 200 once that is used up, and remembers what it was sent."""

    port: int = 0
    answers: deque[tuple[int, dict[str, str], bytes]] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    on_request: Callable[[Request], None] = lambda _: None
    always: int = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def answer(self, *statuses: int, body: bytes = b"", **headers: str) -> None:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.answers.extend((status, named, body) for status in statuses)

    @property
    def events(self) -> list[Any]:
        """The number in each event that was received."""
        return [request.json["details"]["n"] for request in self.requests]


def handler_of(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            receiver.requests.append(request)
            receiver.on_request(request)
            status, headers, content = receiver.answers.popleft() if receiver.answers else (receiver.always, {}, b"")
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Quiet(ThreadingHTTPServer):
    """Says nothing of callers who hang up."""

    def handle_error(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(made: Receiver, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """The receiver at a free port."""
    server = Quiet(("127.0.0.1", 0), handler_of(made))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def happen(
    webhooks: Webhooks, count: int = 1, kind: EventType = EventType.STAGE_CHANGED, **details: Any
) -> list[Event]:
    """Events in one transaction, numbered in their details."""
    with webhooks.store.work("ana@example.com") as work:
        return [work.emit(kind, Resource("model", "fraud:v1.0.0"), {"n": n, **details}) for n in range(count)]


def told(webhooks: Webhooks, kind: EventType) -> list[dict[str, Any]]:
    """The details of the events of a kind that were written."""
    with webhooks.store.reading() as rows:
        found = rows.all("SELECT details FROM events WHERE event_type = :kind ORDER BY position", kind=kind.value)
    return [json.loads(row["details"]) for row in found]
