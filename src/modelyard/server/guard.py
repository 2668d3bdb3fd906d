"""What every request passes before any route sees it: hosts, origins, rates, sizes, depth and time. A bare ASGI callable."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelyard.access.limits import Limiter, Rate, network

LARGEST_JSON = 32 * 1024**2  # bytes of a body; files go to /api/v1/uploads, which has a limit of its own
MOST_HELD = 256 * 1024**2  # bytes of all bodies that are being read
DEEPEST = 64  # levels of lists and objects
LONGEST_TARGET = 16 * 1024  # bytes of path and query
BODY_S = 30.0  # a whole body, or the next piece of a file
ADDRESS = Rate(per_second=2_000, burst=10_000)  # calls of one address

# Where a body is a file, whatever it calls itself: it is neither read whole nor looked into.
FILES = (
    ("POST", "/api/v1/uploads"),
    ("PUT", "/api/v1/artifacts/uploads/"),
    *(
        ("PUT", f"/{prefix}/2.0/mlflow-artifacts/{what}/")
        for prefix in ("api", "ajax-api")
        for what in ("artifacts", "mpu/part")
    ),
)
HEADERS = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
HSTS = (b"strict-transport-security", b"max-age=31536000")
_STRUCTURE = b'[]{}"'
_OTHERS = bytes(sorted(set(range(256)) - set(_STRUCTURE)))


@dataclass(frozen=True, slots=True)
class Refused(Exception):
    """A request that no route sees."""

    status: int
    code: str
    message: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def _too_large() -> Refused:
    return Refused(413, "Invalid", f"The body is larger than {LARGEST_JSON >> 20} MiB. Send a file as an upload.")


class Guard:
    """Wraps an application. `hosts` are the names it answers to: another Host header is refused (DNS rebinding)."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str], seconds: Callable[[], float]) -> None:
        self._app, self._hosts = app, hosts
        self._addresses = Limiter(ADDRESS, seconds)
        self._bodies = Bodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        added = (*HEADERS, HSTS) if scope.get("scheme") == "https" else HEADERS
        guarded = _with_headers(send, added)
        try:
            headers = _checked(scope, self._hosts)
            self._check_rate(scope)
            body = _timed(receive) if _is_file(scope) else await self._bodies.read(headers, receive)
        except Refused as error:
            await _refuse(error, guarded)
            return
        await self._app(scope, body, guarded)

    def _check_rate(self, scope: Scope) -> None:
        address = network(scope["client"][0]) if scope.get("client") else "unknown"
        wait = self._addresses.wait(address)
        if wait:
            raise Refused(
                429,
                "TooMany",
                f"{address} calls more than {ADDRESS.per_second:g} times a second. Slow down.",
                ((b"retry-after", str(max(1, round(wait))).encode()),),
            )


def _checked(scope: Scope, hosts: frozenset[str]) -> dict[bytes, bytes]:
    """The headers, once Host and Origin are the server's own. Two Host headers are none."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    origin = headers.get(b"origin", b"").decode("latin-1").lower()
    single = sum(key == b"host" for key, _ in pairs) == 1 and sum(key == b"origin" for key, _ in pairs) <= 1
    if name not in hosts or not single or (origin and origin != f"{scope.get('scheme', 'http')}://{host}"):
        raise Refused(
            403, "Forbidden", f"This server does not answer to the host {host[:100]!r} or the origin {origin[:100]!r}."
        )
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string", b"")) > LONGEST_TARGET:
        raise Refused(414, "Invalid", f"The path and query are longer than {LONGEST_TARGET} bytes. Send a body.")
    return headers


def _is_file(scope: Scope) -> bool:
    """A file, which may be JSON of any size and depth: it is stored as it is sent, and parsed by nobody here."""
    return any(scope["method"] == method and scope["path"].startswith(path) for method, path in FILES)


class Bodies:
    """Reads bodies whole, each within a size, a depth and a time, and all together within a size."""

    def __init__(self) -> None:
        self._held = 0

    async def read(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """The body as one message, once it is known to be harmless."""
        size = headers.get(b"content-length")
        if size is None and b"transfer-encoding" not in headers:
            return receive
        if size is not None and (not size.isdigit() or int(size[:20]) > LARGEST_JSON):
            raise _too_large()
        pieces: list[bytes] = []
        try:
            async with asyncio.timeout(BODY_S):
                async for piece in self._pieces(receive):
                    pieces.append(piece)
            body = b"".join(pieces)
            deep = too_deep(body) if len(body) < 1 << 16 else await asyncio.to_thread(too_deep, body)
        except TimeoutError:
            raise Refused(408, "Invalid", f"The body did not come within {BODY_S:g} s.") from None
        except _Gone:
            return _replayed({"type": "http.disconnect"}, receive)
        finally:
            self._held -= sum(map(len, pieces))
        if deep:
            raise Refused(422, "Invalid", f"body: lists and objects are nested deeper than {DEEPEST} levels.")
        return _replayed({"type": "http.request", "body": body, "more_body": False}, receive)

    async def _pieces(self, receive: Receive) -> AsyncIterator[bytes]:
        total, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            piece = message.get("body", b"")
            total += len(piece)
            if total > LARGEST_JSON:
                raise _too_large()
            if self._held + len(piece) > MOST_HELD:
                raise Refused(429, "TooMany", "Too much is being sent at once. Try again.", ((b"retry-after", b"1"),))
            self._held += len(piece)
            yield piece
            more = message.get("more_body", False)


class _Gone(Exception):
    """The caller has gone before the body was whole."""


def too_deep(body: bytes, deepest: int = DEEPEST) -> bool:
    """True if JSON is nested deeper than that, without parsing it. What is no JSON may be either.

    Innermost pairs of brackets are taken away, one level a round, each by a scan in C.

    >>> too_deep(b"[" * 65 + b"]" * 65), too_deep(b'{"a": "' + b"[" * 99 + b'"}')
    (True, False)
    """
    if body.count(b"[") + body.count(b"{") <= deepest:
        return False
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _OTHERS)
    left = b"".join(plain.split(b'"')[::2])  # what stands outside of texts
    for _ in range(deepest):
        shorter = left.replace(b"[]", b".").replace(b"{}", b".").translate(None, b".")
        if not shorter or shorter == left:
            return len(shorter) > deepest
        left = shorter
    return True


def _replayed(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _timed(receive: Receive) -> Receive:
    """Each piece within a time, until the body is whole; then waiting for the caller to go away has no end."""
    whole = False

    async def timed() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(BODY_S):
                message = await receive()
        except TimeoutError:
            return {"type": "http.disconnect"}
        whole = not message.get("more_body", False)
        return message

    return timed


def _with_headers(send: Send, added: tuple[tuple[bytes, bytes], ...]) -> Send:
    """Headers for every answer that does not set them itself."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            present = {key.lower() for key, _ in headers}
            message = {**message, "headers": [*headers, *(pair for pair in added if pair[0] not in present)]}
        await send(message)

    return sending


async def _refuse(error: Refused, send: Send) -> None:
    body = msgspec.json.encode({"error": {"code": error.code, "message": error.message}})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # what is left of the request is not read
        *error.headers,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
