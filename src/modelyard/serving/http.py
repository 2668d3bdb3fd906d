"""HTTP/1.1 for the data plane: httptools parses, and a request that can be answered at once is, in the same turn.

A general server makes a task, a mapping and two coroutines for each request; here most answers are made in microseconds,
so a request costs one call. What cannot be answered at once (a slow model, a batch that fills up) is awaited.

Bounds: a head of 64 KiB that comes in pieces, and as much of what stands around a body's chunks; a body of 16 MiB, and 256
MiB of bodies in all connections together; 30 seconds for a request to arrive (more while a body comes at 64 KiB a second),
and for a client to take a piece of its answer; 75 seconds of idleness, longer than load balancers wait; as many connections
as the process may have files, and beyond that the one that has been silent for longest goes.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
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
RECEIVED = 256 << 10  # the most that an event loop hands over in one piece
MAX_BODY = 16 << 20
MAX_BODIES = 256 << 20
PIPELINED = 16  # requests of one connection that wait for their turn before no more is read
REQUEST_S, IDLE_S = 30.0, 75.0
SLOWEST = 64 << 10  # bytes a second: a body that comes faster is waited for
FILES, OTHER_FILES = 65_536, 256  # that a process may open, as far as it is let, and those that are no connections
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


def connections_at_most() -> int:
    """How many connections this process may hold; what it may open is raised to what the system allows, as servers do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(hard, FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return max(min(soft, FILES) - OTHER_FILES, 64) if soft != resource.RLIM_INFINITY else FILES


@dataclass(slots=True)
class Hub:
    """What the connections of one process share."""

    answer: Answer
    connections: set[Connection] = field(default_factory=set)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    date: bytes = b""
    bodies: int = 0  # bytes of bodies that have not been answered
    draining: bool = False
    most: int = field(default_factory=connections_at_most)
    heads: dict[tuple[int, bytes, Headers], bytes] = field(default_factory=dict)

    def tick(self, now: float, wall: float) -> None:
        """Once a second: the Date header, and an end for connections whose time is over."""
        self.date = b"date: %s\r\n" % formatdate(wall, usegmt=True).encode()
        self.heads.clear()
        for connection in list(self.connections):
            connection.look(now)

    def make_room(self) -> None:
        """Let go of one connection in a hundred, of those that have no request in work the ones silent for longest."""
        silent = [one for one in self.connections if not one.busy and not one.closing]
        for connection in heapq.nsmallest(len(self.connections) // 100 + 1, silent, key=lambda one: one.since):
            connection.make_way()

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
        self.closing = self.ending = self.deaf = False  # it goes; its client has ended its side; no more is read
        self.last = b""  # what is said after all answers, where it cannot go on
        self.chunked: dict[bytes, bytes] | None = None  # the head of a request in chunks, without the trailers
        self.task: asyncio.Task[None] | None = None  # what is being answered later
        self.interim = False  # whether its client can be told that its answer is on the way
        self.blocked: asyncio.Future[None] | None = None
        self.loop = asyncio.get_running_loop()
        self.since = self.loop.time()  # when the present request began, or the last one ended
        self.begun = False  # a request is arriving
        self.held = 0  # bytes of the body that is arriving
        self.stuck = 0  # bytes that the client had not taken at the last look
        self.on_message_begin()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the others."""
        self.transport = transport  # type: ignore[assignment]
        self.hub.connections.add(self)
        if len(self.hub.connections) > self.hub.most:
            self.hub.make_room()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Leave; an answer on its way is thrown away."""
        self.closing = self.deaf = True
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
        if self.begun:
            self.refuse(400, "The request ended before it was whole.")
        return self.busy

    def _ask_whether_there(self) -> None:
        """Send an interim response: a client that has only ended its side skips it, one that is gone refuses it, and
        then the connection is lost. TCP tells the two apart by nothing else."""
        if self.interim and not self.closing:
            self.transport.write(_PROCESSING)

    def data_received(self, data: bytes) -> None:
        """Parse what came; every request that is whole is answered or queued by the parser's callbacks."""
        if self.deaf:
            return
        if not self.begun:
            self.begun, self.since = True, self.loop.time()
        try:
            self._parse(data)
        except httptools.HttpParserCallbackError:
            raise  # a fault of ours: the loop's handler tells it, and the connection ends
        except httptools.HttpParserError as error:
            self.refuse(400, f"This is no HTTP request: {error}.")
        if self.begun:  # what began at the beginning of this piece, or before, is not whole
            self.came += len(data)
            if self.came - self.size > MAX_HEAD:
                self.refuse(431, f"More than {MAX_HEAD} bytes of the request are not its body.")

    def _parse(self, data: bytes) -> None:
        """Feed the parser. Where another protocol is offered it leaves the body to that, and is given the request anew."""
        while True:
            try:
                return self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offered:
                if self.parser.get_method() == b"CONNECT" or self.deaf:
                    return None
                data = self._without_offer() + data[offered.args[0] :]
                self.parser = httptools.HttpRequestParser(self)

    def _without_offer(self) -> bytes:
        """The head of a request that is answered in HTTP/1.1, which its client has to take."""
        version, offer = self.parser.get_http_version().encode(), self.headers.pop(b"connection", b"")
        self.headers.pop(b"upgrade", None)
        if b"close" in offer.lower():
            self.headers[b"connection"] = b"close"
        fields = b"".join(b"%s: %s\r\n" % pair for pair in self.headers.items())
        return b"%s %s HTTP/%s\r\n%s\r\n" % (self.parser.get_method(), self.url, version, fields)

    # the parser's callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.size = self.came = 0

    def on_url(self, url: bytes) -> None:
        """A piece of the target."""
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header; of several by one name the last counts."""
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """The head is whole (RFC 9112, 3.2: it has to name the host)."""
        headers = self.headers
        if b"host" not in headers and self.parser.get_http_version() == "1.1":
            self.refuse(400, "The request has no Host.")
        elif b"expect" in headers:
            self._expected(headers)

    def _expected(self, headers: Mapping[bytes, bytes]) -> None:
        """A client waits before it sends its body: one that cannot be taken is told of now."""
        length = headers.get(b"content-length", b"0")
        told = headers[b"expect"].lower() != b"100-continue" or self.parser.should_upgrade()  # which is read again
        if told or self.parser.get_http_version() != "1.1":
            return
        if length.isdigit() and int(length) > MAX_BODY:
            self.refuse(413, _TOO_LARGE)
        elif not self.busy:  # an interim answer now would belong to the request before
            self.transport.write(_CONTINUE)

    def on_chunk_header(self) -> None:
        """A chunk begins; what follows the last one says nothing about the request (RFC 9110, 6.5.1)."""
        self.came = self.size - RECEIVED  # what came with it is not told apart
        if self.chunked is None:
            self.chunked, self.headers = self.headers, {}
            coding = self.chunked[b"transfer-encoding"]
            if coding.lower() != b"chunked":
                self.refuse(415, f"The body's transfer coding is {coding[:40].decode('latin-1')}. Send it as it is.")

    def on_body(self, piece: bytes) -> None:
        """A piece of the body. What is too large is read up to four times the limit and thrown away: closing on a client
        that is sending would take the answer from it."""
        self.size += len(piece)
        if self.size <= MAX_BODY and self.hub.bodies + len(piece) <= MAX_BODIES:
            self.pieces.append(piece)
            self.held += len(piece)
            self.hub.bodies += len(piece)
        elif self.size > 4 * MAX_BODY:
            self.refuse(413, _TOO_LARGE)

    def on_message_complete(self) -> None:
        """A whole request."""
        parser, pieces, headers = self.parser, self.pieces, self.headers
        offered = parser.should_upgrade()
        if self.deaf or (offered and parser.get_method() != b"CONNECT"):
            return
        if self.chunked is not None:
            headers, self.chunked = self.chunked, None
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        keep = not offered and parser.should_keep_alive() and parser.get_http_version() == "1.1"
        self.begun = False
        self.held = 0
        if len(body) != self.size:
            self.hub.bodies -= len(body)
            large = self.size > MAX_BODY
            text = _TOO_LARGE if large else "Too many large bodies are being answered. Try again in a second."
            self.refuse(413 if large else 503, text)
            return
        question = Question(parser.get_method(), self.url, headers, body, keep)
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
        if not self.busy and not self.closing and (self.ending or self.last):
            self._close(self.last)

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
            self._close()

    def refuse(self, status: int, text: str) -> None:
        """Answer, after what was asked before, and close: what follows on this connection cannot be told apart any more."""
        if self.deaf:
            return
        self.deaf = True
        body = b'{"error":"%s"}' % text.encode("ascii", "replace").replace(b"\\", b"/").replace(b'"', b"'")
        head = self.hub.head(Reply(status, b""))
        said = b"%scontent-length: %d\r\nconnection: close\r\n\r\n%s" % (head, len(body), body)
        if self.busy:
            self.last = said
        else:
            self._close(said)

    def _close(self, said: bytes = b"") -> None:
        """Say the last, and go."""
        self.closing = self.deaf = True
        self.transport.write(said)
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

    def make_way(self) -> None:
        """Go, since there are too many: with words where a request has begun."""
        if self.begun:
            self.refuse(503, "Too many connections are open. Try again in a second.")
        else:
            self._close()

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
            self.refuse(408, f"The request was not whole within {waited:.0f} seconds.")
        elif not self.begun and waited > IDLE_S:
            self._close()

    def finish(self) -> None:
        """Close once the present request has been answered: at once where there is none."""
        if not self.busy and not self.begun:
            self._close()


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
