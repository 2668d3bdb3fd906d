"""The data plane of one process: which request goes where. No database, no framework, one call a request.

Open Inference Protocol v2 under /v2, named features under /predict/ENDPOINT, Prometheus under /metrics. The worker's own
HTTP calls `answer`; as an ASGI application the same plane runs on any server.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from time import perf_counter_ns
from typing import Any, Protocol
from urllib.parse import unquote

import msgspec

from modelyard.core.errors import NotFound, YardError
from modelyard.serving import exposition, metrics
from modelyard.serving.desk import Desk
from modelyard.serving.http import MAX_BODY, Question, Receive, body_of
from modelyard.serving.inference import Inference
from modelyard.serving.replies import Headers, Refused, Reply
from modelyard.serving.repository import SERVER, Repository, parsed
from modelyard.serving.stages import ASKED, Stages, over_http
from modelyard.serving.streaming import Streaming

KNOWN_PATHS = 4096
log = logging.getLogger("modelyard.serving")

Scope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Handler = Callable[[str, str | None, Question], Reply | Awaitable[Reply]]
_encode = msgspec.json.encode


class Tracer(Protocol):
    """Who follows requests across services."""

    def context(self, headers: Mapping[bytes, bytes]) -> Any:
        """The context of a request that is to be traced; None for one that is not."""
        ...

    def begin(self, stages: Stages, name: str, attributes: Mapping[str, Any]) -> Headers:
        """Begin the span of a request that has an answer; what that says of it."""
        ...

    def end(self, stages: Stages, endpoint: str, status: int) -> None:
        """End it."""
        ...

    def close(self) -> None:
        """Send what waits."""
        ...


class Plane:
    """Answers every request of one process."""

    def __init__(self, desk: Desk, request_metrics: metrics.RequestMetrics, *, model_control: bool = False) -> None:
        self.desk = desk
        self.repository = Repository(desk, model_control=model_control)
        self.metrics = request_metrics
        desk.routes.shelf.on_load = request_metrics.loaded
        self.inference = Inference(desk, request_metrics)
        self.streaming = Streaming(self.inference)
        self.tracer: Tracer | None = None
        self.ready = False
        self.draining = False
        self._paths: dict[bytes, tuple[Handler, str, str | None]] = {}  # of predictions, by the target as it is sent

    def answer(self, question: Question) -> Reply | Awaitable[Reply]:
        """The reply, at once or later."""
        start = perf_counter_ns()
        if ASKED in question.headers or self.tracer is not None:
            question.stages = self.staged(question.headers, start, traced=question.method == b"POST")
        try:
            known = self._paths.get(question.target) or self._asking(question.target)
            if known is None:
                reply: Reply | Awaitable[Reply] = self._shown(question)
            else:
                handler, name, version = known
                _check(question, b"POST")
                reply = handler(name, version, question)
        except YardError as error:
            reply = self.inference.told(error)
        except Exception:
            # the rim of the process: a fault of ours is told and logged, and the connection goes on
            log.exception("%r could not be answered.", question.target[:200])
            reply = Reply(500, b'{"error":"modelyard failed to answer. The reason is in its log."}')
        if type(reply) is Reply:
            self._count(reply, start)
            if question.stages is not None:
                self._show(question, question.stages, reply)
            return reply
        return self.awaited(reply, question.target, start, question)  # type: ignore[arg-type]  # what is no reply is awaited

    async def awaited(
        self, coming: Awaitable[Reply], target: bytes, start: int, question: Question | None = None
    ) -> Reply:
        """The reply once it is there, whatever happens, and counted."""
        try:
            reply = await coming
        except YardError as error:
            reply = self.inference.told(error)
        except Exception:
            log.exception("%r could not be answered.", target[:200])  # as above
            reply = Reply(500, b'{"error":"modelyard failed to answer. The reason is in its log."}')
        self._count(reply, start)
        if question is not None and question.stages is not None:
            self._show(question, question.stages, reply)
        return reply

    def staged(self, headers: Mapping[bytes, bytes], start: int, *, traced: bool) -> Stages | None:
        """Where the stages of a request are noted, if its client or its trace wants them."""
        timed = ASKED in headers
        context = self.tracer.context(headers) if traced and self.tracer is not None else None
        return Stages(start, timed, context) if timed or context is not None else None

    def shown(self, stages: Stages, reply: Reply, name: str, attributes: Mapping[str, Any]) -> Headers:
        """Tell the stages of an answered request; what its answer says of them."""
        stages.encoded = perf_counter_ns()
        told = stages.header() if stages.timed else ()
        if stages.traced is None or self.tracer is None:
            return told
        told += self.tracer.begin(stages, name, attributes)
        if reply.stream is None:
            self.tracer.end(stages, reply.endpoint, reply.status)
        else:
            reply.stream = _followed(self.tracer, stages, reply, reply.stream)
        return told

    def _show(self, question: Question, stages: Stages, reply: Reply) -> None:
        method, path = question.method.decode("latin-1"), question.target.partition(b"?")[0].decode("latin-1")
        reply.headers = (*reply.headers, *self.shown(stages, reply, *over_http(method, path, reply.status)))

    def _count(self, reply: Reply, start: int) -> None:
        if reply.endpoint:
            self.metrics.count(reply.endpoint, reply.arm, reply.status, (perf_counter_ns() - start) / 1000)

    def _asking(self, target: bytes) -> tuple[Handler, str, str | None] | None:
        """Who predicts for a target; None where it asks for something else."""
        match _parts(target):
            case ["predict", name]:
                known: tuple[Handler, str, str | None] = (self.inference.predict, name, None)
            case ["predict", name, "stream"]:
                known = (self.streaming.predict, name, None)
            case ["v2", "models", name, "infer"]:
                known = (self.inference.infer, name, None)
            case ["v2", "models", name, "versions", version, "infer"]:
                known = (self.inference.infer, name, version)
            case _:
                return None
        if len(self._paths) < KNOWN_PATHS:
            self._paths[target] = known
        return known

    def _shown(self, question: Question) -> Reply | Awaitable[Reply]:
        """What is looked at: health, metadata, metrics; and the repository."""
        parts = _parts(question.target)
        if parts[:2] == ["v2", "repository"]:
            return self._repository(parts[2:], question)
        reply = self._page(parts, question.headers.get(b"accept", b""))
        if reply is None:
            text = question.target[:200].decode("latin-1")
            raise NotFound(f"There is nothing at {text!r}. Try /v2, /predict/ENDPOINT or /metrics.")
        _check(question, b"GET")
        return reply

    def _page(self, parts: list[str], accept: bytes) -> Reply | Awaitable[Reply] | None:
        match parts:
            case ["v2"]:
                return Reply(200, _encode(SERVER))
            case ["v2", "models", "stats"]:
                return self._statistics(None, None)
            case ["v2", "health", "live"]:
                return Reply(200, _encode({"live": True}))
            case ["v2", "health", "ready"]:
                ready = self.ready and not self.draining
                return Reply(200 if ready else 503, _encode({"ready": ready}))
            case ["v2", "models", name]:
                return self._model("", name, None)
            case ["v2", "models", name, "versions", version]:
                return self._model("", name, version)
            case ["v2", "models", name, what]:
                return self._model(what, name, None)
            case ["v2", "models", name, "versions", version, what]:
                return self._model(what, name, version)
            case ["metrics"]:
                return self._metrics(accept)
        return None

    async def _metrics(self, accept: bytes) -> Reply:
        kind = exposition.accepted(accept)
        text = await self.inference.threaded(metrics.prometheus, self.desk.places, kind)
        return Reply(200, text.encode(), kind)

    def _model(self, what: str, name: str, version: str | None) -> Reply | Awaitable[Reply] | None:
        told = self.repository
        match what:
            case "":
                return Reply(200, _encode(told.metadata(name, version)))
            case "ready":
                return Reply(200, _encode(told.ready(name, version)))
            case "config":
                return Reply(200, _encode(told.configuration(name, version)))
            case "stats":
                return self._statistics(name, version)
        return None

    async def _statistics(self, name: str | None, version: str | None) -> Reply:
        return Reply(200, _encode(await self.inference.threaded(self.repository.statistics, name, version)))

    async def _repository(self, parts: list[str], question: Question) -> Reply:
        """The repository extension: its index, and loading and unloading."""
        _check(question, b"POST")
        given = parsed(question.body)
        match parts:
            case ["index"]:
                return Reply(200, _encode(await self.inference.threaded(self.repository.index, given.ready)))
            case ["models", name, "load"]:
                await self.repository.load(name, given.parameters)
            case ["models", name, "unload"]:
                await self.repository.unload(name, given.parameters)
            case _:
                raise NotFound("The repository answers to index, models/NAME/load and models/NAME/unload.")
        return Reply(200, b"{}")

    def close(self) -> None:
        """End the prediction threads."""
        self.inference.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The same as an ASGI application."""
        if scope["type"] != "http":
            return
        body = await body_of(receive)
        if body is None:
            return
        raw = scope.get("raw_path") or scope["path"].encode()
        question = Question(scope["method"].encode(), raw, dict(scope["headers"]), body)
        if len(body) > MAX_BODY:
            text = f"The body is larger than {MAX_BODY} bytes. Send smaller batches."
            reply = self.inference.told(Refused(413, text, (b"connection", b"close")))
        else:
            coming = self.answer(question)
            reply = coming if isinstance(coming, Reply) else await coming
        headers = [(b"content-type", reply.content_type), *reply.headers]
        if reply.stream is None:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if reply.stream is not None:
            async with aclosing(reply.stream) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": reply.body})


async def _followed(
    tracer: Tracer, stages: Stages, reply: Reply, stream: AsyncGenerator[bytes]
) -> AsyncGenerator[bytes]:
    """A stream whose span ends with it: also where its client hangs up, or it fails."""
    try:
        async with aclosing(stream) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        stages.closed = perf_counter_ns()
        tracer.end(stages, reply.endpoint, reply.status)


def _parts(target: bytes) -> list[str]:
    """The segments of a target's path; a proxy's target has scheme and host before it (RFC 9112, 3.2.2)."""
    path = target.partition(b"?")[0].decode("latin-1")
    if path[:4].lower() == "http" and "://" in path:
        path = path.partition("://")[2].partition("/")[2]
    path = path.strip("/")
    return [unquote(part) for part in path.split("/")] if "%" in path else path.split("/")


def _check(question: Question, allowed: bytes) -> None:
    """Refuse another method, and a body that is not as it is."""
    method = question.method
    if method != allowed and not (allowed == b"GET" and method == b"HEAD"):
        raise Refused(
            405, f"{method.decode('latin-1')} is not answered here. Use {allowed.decode()}.", (b"allow", allowed)
        )
    if question.headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused(415, "The body is compressed. Send it as it is, without Content-Encoding.")
