"""The data plane's HTTP: held against uvicorn with the same application, and against clients that mean no good."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.serving import http
from modelyard.serving.http import Connection, Hub, Question
from modelyard.serving.replies import Reply


def echo(question: Question) -> Reply | Awaitable[Reply]:
    """Says what was asked; later, or in pieces, where the path wants it."""
    text = b"%s %s %d %d" % (question.method, question.target, len(question.body), sum(question.body))
    if question.target.startswith(b"/later"):
        return later(text)
    if question.target.startswith(b"/pieces"):
        return Reply(200, b"", b"text/plain", stream=pieces(text))
    return Reply(200, text, b"text/plain", ((b"x-seen", b"yes"),))


async def later(text: bytes) -> Reply:
    await asyncio.sleep(0)
    return Reply(200, text, b"text/plain", ((b"x-seen", b"yes"),))


async def pieces(text: bytes) -> AsyncIterator[bytes]:
    for piece in (text, b"", b"!"):
        yield piece


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The same application for uvicorn."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    reply = echo(Question(scope["method"].encode(), target, {}, body))
    if not isinstance(reply, Reply):
        reply = await reply
    headers = [(b"content-type", reply.content_type), *reply.headers]
    if reply.stream is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if reply.stream is not None:
        async for piece in reply.stream:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": reply.body})


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, Hub], Awaitable[Any]]


def talk(what: Talk) -> Any:
    """Run a conversation with a server of our own on a loop of its own."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        hub = Hub(echo)
        hub.tick(loop.time(), 1_700_000_000.0)
        server = await loop.create_server(lambda: Connection(hub), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            return await asyncio.wait_for(what(reader, writer, hub), 120)
        finally:
            writer.close()
            server.close()

    return uvloop.run(main())


def said(request: bytes, cuts: list[int] | None = None, end: bool = True) -> bytes:
    """All that the server says to these bytes, which are sent in pieces."""

    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> bytes:
        places = [0, *sorted(cuts or []), len(request)]
        for start, stop in itertools.pairwise(places):
            writer.write(request[start:stop])
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.write_eof()
        found = await reader.read()
        assert hub.bodies == 0 or not end
        return found

    return talk(what)


def get(target: bytes = b"/a", *headers: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([b"%s %s HTTP/1.1" % (method, target), b"Host: x", *headers, b"", b""])


def post(body: bytes, *headers: bytes, target: bytes = b"/a") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return get(target, length, *headers, method=b"POST") + body


CLOSE = b"Connection: close"
HONEST = {
    "get": get(b"/a", CLOSE),
    "query": get(b"/a?b=%20c&d", CLOSE),
    "post": post(b"hello", CLOSE),
    "later": post(b"hello", CLOSE, target=b"/later"),
    "pieces": get(b"/pieces", CLOSE),
    "empty body": post(b"", CLOSE),
    "chunked": get(b"/a", b"Transfer-Encoding: chunked", CLOSE, method=b"POST") + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    "trailer": get(b"/a", b"Transfer-Encoding: chunked", CLOSE, method=b"POST") + b"1\r\na\r\n0\r\nX: y\r\n\r\n",
    "head": get(b"/a", CLOSE, method=b"HEAD"),
    "delete": get(b"/a", CLOSE, method=b"DELETE"),
    "old": b"GET /a HTTP/1.0\r\n\r\n",
    "two": get() + get(b"/b", CLOSE),
    "several, some later": post(b"1", target=b"/later")
    + get(b"/2")
    + post(b"33", target=b"/later/3")
    + get(b"/4", CLOSE),
    "upgrade": get(b"/a", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk"),
    "expect": post(b"hello", b"Expect: 100-continue", CLOSE),
    "leading lines": b"\r\n\r\n" + get(b"/a", CLOSE),
}


@pytest.fixture(scope="module")
def peer() -> Any:
    """uvicorn with the same application, asked over a socket."""
    import threading

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(asgi, http="httptools", lifespan="off", log_config=None, server_header=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()

    def ask(request: bytes) -> bytes:
        with socket.create_connection(listener.getsockname(), 120) as connection:
            connection.sendall(request)
            found = b""
            while piece := connection.recv(65536):
                found += piece
            return found

    yield ask
    server.should_exit = True
    thread.join(120)


def parsed(answer: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """(status line, type, body) of each response; an interim one has no body."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in lines)
        if b"transfer-encoding" in fields:
            body, _, answer = rest.partition(b"0\r\n\r\n")
        else:
            length = int(fields.get(b"content-length", b"0"))
            body, answer = rest[:length], rest[length:]
        found.append((first, fields.get(b"content-type", b""), body))
    return found


@pytest.mark.parametrize("name", [name for name in HONEST if name not in ("head", "upgrade")])
def test_an_honest_request_is_answered_as_uvicorn_answers_it(name: str, peer: Any) -> None:
    ours, theirs = parsed(said(HONEST[name])), parsed(peer(HONEST[name]))
    assert [entry for entry in ours if b" 100 " not in entry[0]] == [e for e in theirs if b" 100 " not in e[0]]
    assert len(ours) >= 1


def test_head_has_the_length_and_no_body() -> None:
    answer = said(HONEST["head"])
    assert b"content-length: 11\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")


OFFER = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")


@pytest.mark.parametrize("cut", [[], [60], [150, 152]])
def test_another_protocol_that_is_offered_is_declined_and_its_request_answered_whole(cut: list[int]) -> None:
    """As Java's own client sends its first request, body and all."""
    requests = [post(b"hello", *OFFER), get(b"/b", *OFFER), post(b"hello", target=b"/c"), get(b"/d", CLOSE)]
    chunked = get(b"/e", b"Transfer-Encoding: chunked", *OFFER, method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n"
    answers = [body for _, _, body in parsed(said(b"".join([chunked, *requests]), cut))]
    assert answers == [b"POST /e 3 294", b"POST /a 5 532", b"GET /b 0 0", b"POST /c 5 532", b"GET /d 0 0"]
    assert b"connection: close" in said(get(b"/a", b"Connection: close, Upgrade", b"Upgrade: h2c"), end=False)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(HONEST)), st.randoms())
def test_where_the_bytes_are_cut_changes_nothing(name: str, numbers: random.Random) -> None:
    request = HONEST[name]
    cuts = [numbers.randrange(1, len(request)) for _ in range(numbers.randrange(1, 12))]
    assert parsed(said(request, cuts)) == parsed(said(request))


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        get(b"/a", b"Content-Length: 5", b"Content-Length: 6") + b"hello!",
        get(b"/a", b"Content-Length: 5", b"Transfer-Encoding: chunked", method=b"POST") + b"0\r\n\r\n",
        get(b"/a", b"Content-Length: -1", method=b"POST"),
        get(b"/a", b"Content-Length: 99999999999999999999", method=b"POST"),
        get(b"/a", b"Transfer-Encoding: chunked", method=b"POST") + b"zz\r\n",
        get(b"/a", b"Bad Header: x"),
        get(b"/a", b"X: a\x00b"),
        get(b"/a", b"Content-Length: 5", b"Content-Length: 5", method=b"POST") + b"hello",
        get(b"/a", b"Transfer-Encoding: chunked", b"Content-Length: 5", method=b"POST") + b"0\r\n\r\n",
        get(b"/a", b"Transfer-Encoding: chunked, identity", method=b"POST") + b"0\r\n\r\n",
        get(b"/a", b"X: a", b" Transfer-Encoding: chunked"),
        get(b"/a").replace(b"\r\n", b"\n"),
    ],
)
def test_what_is_no_http_is_a_400_and_the_end(request_: bytes) -> None:
    answer = said(request_, end=False)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b'{"error":"This is no HTTP request' in answer
    assert b"connection: close" in answer


def test_what_is_no_whole_request_is_told_by_what_it_lacks() -> None:
    assert b"no Host" in said(b"GET /a HTTP/1.1\r\n\r\n", end=False)
    assert b"400 Bad Request" in said(post(b"hello")[:-1])
    coded = get(b"/a", b"Transfer-Encoding: gzip, chunked", method=b"POST") + b"3\r\nabc\r\n0\r\n\r\n"
    assert said(coded, end=False).startswith(b"HTTP/1.1 415 ")


def test_what_follows_a_request_that_is_still_being_answered_is_refused_in_its_turn() -> None:
    answers = parsed(said(post(b"1", target=b"/later") + get(b"/pieces") + b"garbage\r\n\r\n", end=False))
    assert [line for line, _, _ in answers] == [b"HTTP/1.1 200 OK"] * 2 + [b"HTTP/1.1 400 Bad Request"]


def test_who_asks_before_sending_is_told_at_once_and_never_within_another_answer() -> None:
    asks = b"Expect: 100-continue"
    assert said(get(b"/a", b"Content-Length: 99999999", asks, method=b"POST"), end=False).startswith(b"HTTP/1.1 413 ")
    old = b"POST /a HTTP/1.0\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    assert b" 100 " not in said(old)
    assert b" 100 " not in said(get(b"/pieces") + post(b"hello", asks, CLOSE))
    assert said(post(b"hello", asks, *OFFER)).count(b" 100 ") == 1


def test_trailers_say_nothing_about_the_request_and_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = get(b"/a", b"Transfer-Encoding: chunked", b"X-Unit-Id: a", method=b"POST") + b"1\r\nx\r\n0\r\n"

    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> bytes:
        hub.answer = lambda question: Reply(200, question.headers[b"x-unit-id"])
        writer.write(begun + b"X-Unit-Id: b\r\nX-Modelyard-Arm: c\r\n\r\n")
        writer.write_eof()
        return await reader.read()

    assert talk(what).endswith(b"\r\n\r\na")
    monkeypatch.setattr(http, "RECEIVED", 100)
    monkeypatch.setattr(http, "MAX_HEAD", 1000)
    assert said(begun + b"X: %s" % (b"a" * 1500), [len(begun)], end=False).startswith(b"HTTP/1.1 431 ")


def test_a_request_that_begins_in_the_piece_that_ends_a_large_one_is_no_long_head() -> None:
    both = post(b"a" * 1_000_000) + get(b"/b", CLOSE)
    assert [line for line, _, _ in parsed(said(both, [len(both) - 20]))] == [b"HTTP/1.1 200 OK"] * 2


def test_beyond_what_a_process_can_hold_the_silent_make_room() -> None:
    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> None:
        hub.most = 3
        writer.write(b"GET /slow")
        while not hub.connections or not next(iter(hub.connections)).begun:
            await asyncio.sleep(0.001)
        others = [await asyncio.open_connection(*writer.get_extra_info("peername")) for _ in range(3)]
        assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
        for there, here in others:
            here.write(get(b"/a", CLOSE))
            assert (await there.read()).endswith(b"GET /a 0 0")
            here.close()

    talk(what)


def test_a_head_without_end_is_refused_before_it_fills_the_memory() -> None:
    answer = said(b"GET / HTTP/1.1\r\n" + b"X: %s\r\n" % (b"a" * 1000) * 100, end=False)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_body_that_is_too_large_is_read_told_of_and_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1000)
    assert said(post(b"a" * 2000)).startswith(b"HTTP/1.1 413 ")
    assert said(post(b"a" * 1000, CLOSE)).startswith(b"HTTP/1.1 200 ")
    assert said(post(b"a" * 9000), end=False).startswith(b"HTTP/1.1 413 ")
    assert b" 100 Continue" not in said(post(b"a" * 2000, b"Expect: 100-continue"))


def test_bodies_are_bounded_over_all_connections_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODIES", 1000)
    assert said(post(b"a" * 2000)).startswith(b"HTTP/1.1 503 ")
    assert said(post(b"a" * 900, CLOSE)).startswith(b"HTTP/1.1 200 ")


async def _settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def test_who_sends_too_slowly_is_told_and_who_is_idle_is_let_go() -> None:
    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> bytes:
        writer.write(b"POST /a HTTP/1.1\r\nContent-Le")
        while not hub.connections or not next(iter(hub.connections)).begun:
            await asyncio.sleep(0.001)
        now = next(iter(hub.connections)).since
        hub.tick(now + http.REQUEST_S - 1, 0.0)
        assert not next(iter(hub.connections)).closing
        hub.tick(now + http.REQUEST_S + 1, 0.0)
        return await reader.read()

    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> bytes:
        writer.write(get())
        first = await reader.readuntil(b"GET /a 0 0")
        now = next(iter(hub.connections)).since
        hub.tick(now + http.IDLE_S - 1, 0.0)
        writer.write(get())
        assert await reader.readuntil(b"GET /a 0 0")
        hub.tick(asyncio.get_running_loop().time() + http.IDLE_S + 1, 0.0)
        return first + await reader.read()

    assert talk(what).startswith(b"HTTP/1.1 408 ")
    assert talk(idle).count(b"HTTP/1.1") == 1


def test_who_takes_nothing_is_cut_off_and_who_takes_slowly_is_not() -> None:
    big = b"a" * (8 << 20)

    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> None:
        hub.answer = lambda _: Reply(200, big)
        writer.write(get() * 3)
        while not hub.connections or next(iter(hub.connections)).blocked is None:
            await asyncio.sleep(0.001)
        connection = next(iter(hub.connections))
        now = asyncio.get_running_loop().time()
        hub.tick(now + 20, 0.0)
        taken = await reader.readexactly(4 << 20)
        await _settled()
        hub.tick(now + 40, 0.0)  # something was taken since the last look
        assert not connection.transport.is_closing()
        await _settled()
        hub.tick(now + 50, 0.0)
        hub.tick(now + 100, 0.0)
        await _settled()
        assert connection.transport.is_closing()
        assert len(taken) == 4 << 20

    talk(what)


def test_a_client_that_hangs_up_leaves_nothing_behind() -> None:
    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> None:
        writer.write(post(b"x" * 1000, target=b"/later") * 5 + b"POST /a HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc")
        await writer.drain()
        writer.transport.abort()
        while hub.connections or hub.tasks:
            await asyncio.sleep(0.001)
        assert hub.bodies == 0

    talk(what)


def test_draining_ends_each_connection_with_its_answer_and_lets_the_idle_go() -> None:
    async def what(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> None:
        writer.write(get())
        await reader.readuntil(b"GET /a 0 0")
        hub.draining = True
        writer.write(get(b"/last"))
        answer = await reader.read()
        assert b"connection: close" in answer
        assert answer.endswith(b"GET /last 0 0")

    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hub: Hub) -> None:
        writer.write(get())
        await reader.readuntil(b"GET /a 0 0")
        for connection in list(hub.connections):
            connection.finish()
        assert await reader.read() == b""

    talk(what)
    talk(idle)
