"""One address for the servers of several regions: `python -m modelyard.serving.regions_router eu=URL us=URL --port 8090`.

For clients that cannot choose by themselves. Each request goes whole to the nearest healthy region, and to the next server
where it gets no answer: with the request id that it has, or one that it is given here. Nothing is kept between requests.
"""

from __future__ import annotations

import argparse
import logging
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import msgspec
import uvicorn

from modelyard.core.errors import YardError
from modelyard.serving.http import MAX_BODY, Receive, body_of
from modelyard.serving.plane import Scope, Send
from modelyard.serving.regions import ARM, Place, another, parse
from modelyard.serving.regions_health import Health, Probes

TIMEOUT_S = 30.0
CONNECTIONS = 256
HOP = {
    b"connection",
    b"keep-alive",
    b"transfer-encoding",
    b"te",
    b"trailer",
    b"upgrade",
    b"proxy-authorization",
    b"host",
}
READY = "/v2/health/ready"
log = logging.getLogger("modelyard.serving")

Headers = list[tuple[bytes, bytes]]


class Router:
    """The ASGI application. It is ready while one of its places is."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._health = Health(places)
        self._probes = Probes(self._health)
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as the place does that it is handed to."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        if scope["path"] == READY:
            ready = any(seen.healthy for seen in self._health.seen.values())
            body = msgspec.json.encode({"ready": ready, "region": self._health.region})
            await _answer(send, 200 if ready else 503, [(b"content-type", b"application/json")], body)
            return
        asked = await body_of(receive)
        if asked is None:
            return
        if len(asked) > MAX_BODY:
            await _refuse(send, 413, f"The body is larger than {MAX_BODY} bytes. Send smaller batches.")
            return
        await self._forward(scope, asked, send)

    async def _forward(self, scope: Scope, body: bytes, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name.lower() not in HOP]
        if not any(name == b"x-request-id" for name, _ in headers):
            headers.append((b"x-request-id", secrets.token_hex(12).encode()))
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        target = f"{path}?{query}" if query else path
        last: httpx.Response | None = None
        for place in self._health.order():
            answer = await self._asked(place, scope["method"], target, headers, body)
            if answer is None:
                continue
            last = answer
            if not another(answer.status_code, by_model=ARM in answer.headers):
                break
            self._health.failed(place.url)
        if last is None:
            await _refuse(send, 503, "No region answers. Try again in a second.", (b"retry-after", b"1"))
            return
        given = [(name, value) for name, value in last.headers.raw if name.lower() not in HOP | {b"content-length"}]
        await _answer(send, last.status_code, given, last.content)

    async def _asked(
        self, place: Place, method: str, target: str, headers: Headers, body: bytes
    ) -> httpx.Response | None:
        """The place's whole answer; None where it gave none."""
        try:
            return await self._http.request(method, place.url + target, headers=headers, content=body)
        except (httpx.TransportError, AttributeError) as error:  # anyio's, of a connection that was closed under it
            self._health.failed(place.url, at_once=isinstance(error, httpx.ConnectError))
            log.info("%s (%s) did not answer: %r", place.url, place.region, error)
            return None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._probes.stop()
        await self._http.aclose()
        await send({"type": "lifespan.shutdown.complete"})


async def _answer(send: Send, status: int, headers: Headers, body: bytes) -> None:
    told = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    body = msgspec.json.encode({"error": text})
    await _answer(send, status, [(b"content-type", b"application/json"), *headers], body)


def regions_of(texts: Sequence[str]) -> Mapping[str, list[str]]:
    """The URLs by region of texts such as eu=http://eu1:8081.

    >>> dict(regions_of(["eu=http://eu1:8081", "eu=http://eu2:8081"]))
    {'eu': ['http://eu1:8081', 'http://eu2:8081']}
    """
    found: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        region, _, url = text.partition("=")
        found[region].append(url)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Route until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving.regions_router", description=__doc__)
    parser.add_argument("places", nargs="+", metavar="REGION=URL")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    given = parser.parse_args(arguments)
    try:
        router: Any = Router(parse(regions_of(given.places)))
    except YardError as error:
        parser.error(str(error))
    uvicorn.run(router, host=given.host, port=given.port, log_level="warning", access_log=False, ws="none")


if __name__ == "__main__":
    main()
