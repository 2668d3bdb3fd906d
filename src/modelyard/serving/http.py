"""HTTP/1.1 for the data plane: httptools parses, and a request that can be answered at once is, in the same turn.

A general server makes a task, a mapping and two coroutines for each request; here most answers are made in microseconds,
so a request costs one call. What cannot be answered at once (a slow model, a batch that fills up) is awaited.

Bounds: a head of 64 KiB; a body of 16 MiB, and 256 MiB of bodies in all connections together; 30 seconds for a request
to arrive (more while a body comes at 64 KiB a second), and for a client to take a piece of its answer; 75 seconds of
idleness, longer than load balancers wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools

from modelyard.serving.replies import Headers, Reply
from modelyard.serving.stages import Stages

MAX_HEAD = 64 << 10
MAX_BODY = 16 << 20
MAX_BODIES = 256 << 20
PIPELINED = 16  # requests of one connection that wait for their turn before no more is read
REQUEST_S, IDLE_S = 30.0, 75.0
SLOWEST = 64 << 10  # bytes a second: a body that comes faster is waited for
log = logging.getLogger("modelyard.serving")

_STATUS = {int(one): b"HTTP/1.1 %d %s\r\n" % (one, one.phrase.encode()) for one in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


@dataclass(slots=True)
class Question:
    """One request, whole. `target` is the path as it was sent, with its query; header names are in lower case."""

    method: bytes
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes
    keep_alive: bool = True
    stages: Stages | None = None  # where it is to be told when they ended


Answer = Callable[[Question], Reply | Awaitable[Reply]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


@dataclass(slots=True)
class Hub:
    """What the connections of one process share."""

    answer: Answer
    connections: set[Connection] = field(default_factory=set)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    date: bytes = b""
    bodies: int = 0  # bytes of bodies that have not been answered
    draining: bool = False
    heads: dict[tuple[int, bytes, Headers], bytes] = field(default_factory=dict)

    def tick(self, now: float, wall: float) -> None:
        """Once a second: the Date header, and an end for connections whose time is over."""
        self.date = b"date: %s\r\n" % formatdate(wall, usegmt=True).encode()
        self.heads.clear()
        for connection in list(self.connections):
            connection.look(now)

    def head(self, reply: Reply) -> bytes:
        """The head of an answer without its length, rendered once a second for each kind of answer."""
        key = (reply.status, reply.content_type, reply.headers)
        found = self.heads.get(key)
        if found is None:
            lines = b"".join(b"%s: %s\r\n" % pair for pair in reply.headers)
            found = b"%s%scontent-type: %s\r\n%s" % (_STATUS[reply.status], self.date, reply.content_type, lines)
            if len(self.heads) < 4096:
                self.heads[key] = found
        return found


class Connection(asyncio.Protocol):
    """One client. Its requests are answered in order, one at a time."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.parser = httptools.HttpRequestParser(self)
        self.waiting: deque[Question] = deque()
        self.busy = False
        self.closing = self.ending = False
        self.task: asyncio.Task[None] | None = None  # what is being answered later
        self.interim = False  # whether its client can be told that its answer is on the way
        self.blocked: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()  # when the present request began, or the last one ended
        self.begun = False  # a request is arriving
        self.held = 0  # bytes of the body that is arriving
        self.stuck = 0  # bytes that the client had not taken at the last look
        self.on_message_begin()
        self.headed = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the others."""
        self.transport = transport  # type: ignore[assignment]
        self.hub.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave; an answer on its way is thrown away."""
        self.closing = True
        self.hub.connections.discard(self)
        if self.task is not None:
            self.loop.call_soon(
                self.task.cancel
            )  # nobody waits for it: its place is free for others (once it has begun)
        self.hub.bodies -= self.held + sum(len(question.body) for question in self.waiting)
        self.held = 0
        self.waiting.clear()
        self.resume_writing()

    def eof_received(self) -> bool:
        """The client sends no more; what it asked for is still answered, if it is still there."""
        self.ending = True
        return self.busy

    def _ask_whether_there(self) -> None:
        """Send an interim response: a client that has only ended its side skips it, one that is gone refuses it, and
        then the connection is lost. TCP tells the two apart by nothing else."""
        if self.interim and not self.closing:
            self.transport.write(_PROCESSING)

    def data_received(self, data: bytes) -> None:
        """Parse what came; every request that is whole is answered or queued by the parser's callbacks."""
        if self.closing:
            return
        if not self.begun:
            self.begun, self.since = True, self.loop.time()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # the request was answered in HTTP/1.1, which the client has to take
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours: the loop's handler tells it, and the connection ends
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is no HTTP request: {error}.")
        if not self.headed:
            self.head += len(data)
            if self.head > MAX_HEAD:
                self._refuse(431, f"The request's head is longer than {MAX_HEAD} bytes.")

    # the parser's callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = self.head = 0
        self.headed = False

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of several by one name the last counts."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole: a body that cannot be taken is told of before it is sent, where the client asks."""
        self.headed = True
        if b"expect" not in self.headers:
            return
        length = self.headers.get(b"content-length", b"0")
        if self.headers[b"expect"].lower() == b"100-continue" and length.isdigit() and int(length) <= MAX_BODY:
            self.transport.write(_CONTINUE)

    def on_body(self, piece: bytes) -> None:
        """A piece of the body. What is too large is read up to four times the limit and thrown away: closing on a client
        that is sending would take the answer from it."""
        self.size += len(piece)
        if self.size <= MAX_BODY and self.hub.bodies + len(piece) <= MAX_BODIES:
            self.pieces.append(piece)
            self.held += len(piece)
            self.hub.bodies += len(piece)
        elif self.size > 4 * MAX_BODY:
            self._refuse(413, _TOO_LARGE)

    def on_message_complete(self) -> None:
        """A whole request."""
        if self.closing:
            return
        parser, pieces = self.parser, self.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        keep = parser.should_keep_alive() and parser.get_http_version() == "1.1" and not parser.should_upgrade()
        self.begun = False
        self.held = 0
        if len(body) != self.size:
            self.hub.bodies -= len(body)
            large = self.size > MAX_BODY
            text = _TOO_LARGE if large else "Too many large bodies are being answered. Try again in a second."
            self._refuse(413 if large else 503, text)
            return
        question = Question(parser.get_method(), self.url, self.headers, body, keep)
        if self.busy:
            self.waiting.append(question)
            if len(self.waiting) >= PIPELINED:
                self.transport.pause_reading()
        else:
            self._answer(question)

    # answers

    def _answer(self, question: Question) -> None:
        reply = self.hub.answer(question)
        if type(reply) is Reply and reply.stream is None:
            self._send(reply, question)
            return
        self.busy = True
        self.task = task = self.loop.create_task(self._later(reply, question))
        self.interim = question.keep_alive  # HTTP/1.0 has none
        self.hub.tasks.add(task)
        task.add_done_callback(partial(self._done, len(question.body)))

    def _done(self, size: int, task: asyncio.Task[None]) -> None:
        """A later answer has been given, or is not given any more."""
        self.hub.tasks.discard(task)
        failed = None if task.cancelled() else task.exception()
        if task.cancelled() or failed is not None:
            self.hub.bodies -= size
        if failed is not None:
            log.error("An answer broke off.", exc_info=failed)
            self.transport.abort()  # the client sees that it is not whole

    async def _later(self, reply: Reply | Awaitable[Reply], question: Question) -> None:
        """Answer once the reply is there, then whoever waits on this connection."""
        if not isinstance(reply, Reply):
            reply = await reply
        self.interim = False
        if self.closing:
            self.hub.bodies -= len(question.body)
        elif reply.stream is not None:
            await self._stream(reply, question)
        else:
            self._send(reply, question)
        self.busy, self.task = False, None
        while self.waiting and not self.busy and not self.closing:
            self.transport.resume_reading()
            self._answer(self.waiting.popleft())
        if self.ending and not self.busy and not self.closing:
            self.closing = True
            self.transport.close()

    def _send(self, reply: Reply, question: Question) -> None:
        body = reply.body
        keep = question.keep_alive and not self.hub.draining and not self.closing
        end = b"\r\n\r\n" if keep else b"\r\nconnection: close\r\n\r\n"
        head = b"%scontent-length: %d%s" % (self.hub.head(reply), len(body), end)
        self.transport.write(head + body if question.method != b"HEAD" else head)
        self._ended(question, keep)

    async def _stream(self, reply: Reply, question: Question) -> None:
        """A body in chunks, each when it is there and the client takes it."""
        assert reply.stream is not None  # asked before
        end = b"transfer-encoding: chunked\r\n" + (b"" if question.keep_alive else b"connection: close\r\n") + b"\r\n"
        self.transport.write(self.hub.head(reply) + end)
        async with aclosing(reply.stream) as pieces:
            async for piece in pieces:
                if piece:
                    self.transport.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.since = self.loop.time()
                if self.blocked is not None:
                    await self.blocked
                if self.closing:
                    break
        if not self.closing:
            self.transport.write(b"0\r\n\r\n")
        self._ended(question, question.keep_alive and not self.hub.draining)

    def _ended(self, question: Question, keep: bool) -> None:
        self.hub.bodies -= len(question.body)
        self.since = self.loop.time()
        if not keep:
            self.closing = True
            self.transport.close()

    def _refuse(self, status: int, text: str) -> None:
        """Answer and close: what follows on this connection cannot be told apart any more."""
        if self.closing:
            return
        self.closing = True
        body = b'{"error":"%s"}' % text.encode("ascii", "replace").replace(b"\\", b"/").replace(b'"', b"'")
        head = self.hub.head(Reply(status, b""))
        self.transport.write(b"%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (head, len(body), body))
        self.transport.close()

    # the transport's callbacks, and the clock's

    def pause_writing(self) -> None:
        """The client does not take what is written: read no more from it."""
        self.blocked = self.loop.create_future()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        """The client takes again."""
        blocked, self.blocked = self.blocked, None
        if blocked is not None:
            blocked.set_result(None)
            if not self.closing:
                self.transport.resume_reading()

    def look(self, now: float) -> None:
        """End a connection that sends or takes too slowly, or has been idle for long."""
        waited = now - self.since
        if self.blocked is not None:
            left = self.transport.get_write_buffer_size()
            if left < self.stuck:
                self.since = now
            elif waited > REQUEST_S:
                self.transport.abort()
            self.stuck = left
        elif self.busy:
            if self.ending:
                self._ask_whether_there()
        elif self.begun and waited > REQUEST_S + self.size / SLOWEST:
            self._refuse(408, f"The request was not whole within {waited:.0f} seconds.")
        elif not self.begun and waited > IDLE_S:
            self.closing = True
            self.transport.close()

    def finish(self) -> None:
        """Close once the present request has been answered: at once where there is none."""
        if not self.busy and not self.begun:
            self.closing = True
            self.transport.close()


_TOO_LARGE = f"The body is larger than {MAX_BODY} bytes. Send smaller batches."


async def body_of(receive: Receive) -> bytes | None:
    """The body of an ASGI request, or somewhat more than is allowed of one that is too large; None if the client hung up.

    What is too large is read up to four times the limit and thrown away: closing on a client that is sending would take
    the answer from it.
    """
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece: bytes = message.get("body", b"")
        if size <= MAX_BODY:
            pieces.append(piece)
        size += len(piece)
        if not message.get("more_body", False) or size > 4 * MAX_BODY:
            return b"".join(pieces)
