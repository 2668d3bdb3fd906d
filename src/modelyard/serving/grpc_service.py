"""The Open Inference Protocol's gRPC service of one worker process, beside its HTTP and through the same inference.

Every worker listens on the same port (SO_REUSEPORT), and the kernel spreads connections over them. A client's connection
is one worker's, so many requests at once want several channels.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter_ns
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf.json_format import ParseDict

from modelyard.core.errors import Invalid, NotFound, Unavailable
from modelyard.serving.grpc_messages import HEALTH, SERVICE, message
from modelyard.serving.grpc_tensors import Called, decoded, streamed, values
from modelyard.serving.http import MAX_BODIES, MAX_BODY
from modelyard.serving.plane import Plane
from modelyard.serving.replies import Headers, Refused, Reply
from modelyard.serving.repository import SERVER
from modelyard.serving.stages import Stages, over_grpc

Context = Any  # grpc.aio.ServicerContext, whose type parameters say nothing
Handler = Callable[[bytes, Context], Awaitable[bytes]]
Told = Callable[[Any], dict[str, Any] | Awaitable[dict[str, Any]]]

MAX_CALLS = 512  # at once in this process; more are told RESOURCE_EXHAUSTED
HOLD_S = 0.1  # answers are held back for so long before clients are told to go
MAX_STREAMS = MAX_CALLS // 2  # which may stay open for long: half of the calls are left to the others
log = logging.getLogger("modelyard.serving")

_OPTIONS = [
    ("grpc.so_reuseport", 1),
    ("grpc.max_receive_message_length", MAX_BODY),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_concurrent_streams", MAX_CALLS // 4),  # of one connection, which waits with more: others have calls too
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_time_ms", 60_000),  # a client that is gone without a word gives its calls back
]
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_HEADERS = frozenset(
    ("x-unit-id", "x-modelyard-arm", "x-request-id", "x-timeout-ms", "server-timing", "traceparent", "tracestate")
)
# Triton's numbers of data types in a model's configuration
_TYPES = ["INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
_TYPES += ["FP16", "FP32", "FP64", "STRING", "BF16"]
_Streamed, _Response = message("ModelStreamInferResponse"), message("ModelInferResponse")


class GrpcService:
    """Answers over gRPC what a plane answers over HTTP."""

    def __init__(self, plane: Plane, address: str) -> None:
        self._plane = plane
        self._address = address
        self._server: Any = None
        self._bodies = self._streams = 0  # bytes of requests in work, and open streams
        self._draining, self._leaving = asyncio.Event(), asyncio.Event()

    async def start(self) -> None:
        """Listen; Unavailable for an address that cannot be had."""
        server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
        server.add_generic_rpc_handlers(self._handlers())
        try:
            server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise Unavailable(f"{self._address} cannot be listened on for gRPC. Choose another port.") from error
        await server.start()
        self._server = server

    async def drain(self, seconds: float) -> None:
        """Take no new calls, end streams between two messages, and wait for what is being answered.

        gRPC cancels calls that have been sent and not been taken up as clients are told to go elsewhere. So answers are held
        back for a moment before that: a client that waits for one has sent nothing more.
        """
        self._draining.set()
        if self._server is None:
            return
        await asyncio.sleep(HOLD_S)
        ending = asyncio.create_task(self._server.stop(seconds))
        await asyncio.sleep(0)  # it has begun, and clients know
        self._leaving.set()
        await ending

    async def _held(self) -> None:
        if self._draining.is_set():
            await self._leaving.wait()

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        named = {
            name: grpc.unary_unary_rpc_method_handler(self._telling(name, how)) for name, how in self._told.items()
        }
        methods = {
            **named,
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self._infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        check = self._telling("HealthCheck", self._health)
        return (
            grpc.method_handlers_generic_handler(SERVICE, methods),
            grpc.method_handlers_generic_handler(HEALTH, {"Check": grpc.unary_unary_rpc_method_handler(check)}),
        )

    @property
    def _told(self) -> dict[str, Told]:
        """What is told by the name of the method: from its request to the fields of its response."""
        told, threaded = self._plane.repository, self._plane.inference.threaded

        async def statistics(asked: Any) -> dict[str, Any]:
            found: dict[str, Any] = await threaded(told.statistics, asked.name or None, asked.version or None)
            return found

        async def index(asked: Any) -> dict[str, Any]:
            return {"models": await threaded(told.index, asked.ready)}

        return {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._ready},
            "ModelReady": lambda asked: {"ready": told.answers(asked.name, asked.version or None)},
            "ServerMetadata": lambda _: SERVER,
            "ModelMetadata": lambda asked: told.metadata(asked.name, asked.version or None),
            "ModelConfig": lambda asked: {"config": _configured(told.configuration(asked.name, asked.version or None))},
            "ModelStatistics": statistics,
            "RepositoryIndex": index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }

    @property
    def _ready(self) -> bool:
        return self._plane.ready and not self._plane.draining

    async def _load(self, asked: Any) -> dict[str, Any]:
        name = (
            asked.model_name or asked.repository_name
        )  # KServe's message has the model's name where Triton's has that
        await self._plane.repository.load(name, values(asked.parameters))
        return {"model_name": name, "isLoaded": True}

    async def _unload(self, asked: Any) -> dict[str, Any]:
        name = asked.model_name or asked.repository_name
        await self._plane.repository.unload(name, values(asked.parameters))
        return {"model_name": name, "isUnloaded": True}

    def _health(self, asked: Any) -> dict[str, Any]:
        if asked.service not in ("", SERVICE):
            raise NotFound(f"There is no service {asked.service!r}. Ask for {SERVICE}, or for none.")
        return {"status": 1 if self._ready else 2}  # SERVING, NOT_SERVING

    def _telling(self, name: str, how: Told) -> Handler:
        """A handler that answers with what is told."""
        question, answer = message(f"{name}Request"), message(f"{name}Response")

        async def handler(body: bytes, context: Context) -> bytes:
            async def reply() -> Reply:
                told = how(decoded(question, body))
                fields = told if isinstance(told, dict) else await told
                return Reply(200, ParseDict(fields, answer(), ignore_unknown_fields=True).SerializeToString())

            told = await self._plane.awaited(reply(), name.encode(), perf_counter_ns())
            await self._held()
            return await _said(told, context)

        return handler

    async def _infer(self, body: bytes, context: Context) -> bytes:
        reply, told = await self._answered("ModelInfer", body, _headers(context))
        if told:
            context.set_trailing_metadata(tuple((name.decode(), value.decode("latin-1")) for name, value in told))
        await self._held()
        return await _said(reply, context)

    async def _answered(self, name: str, body: bytes, headers: dict[bytes, bytes]) -> tuple[Reply, Headers]:
        """The reply to a request, and what is told besides of when its stages ended."""
        start, plane = perf_counter_ns(), self._plane
        stages = plane.staged(headers, start, traced=True)
        reply = await plane.awaited(self._asked(body, headers, start, stages), name.encode(), start)
        if stages is None:
            return reply, ()
        return reply, plane.shown(stages, reply, *over_grpc(SERVICE, name, _code(reply).value[0]))

    async def _asked(self, body: bytes, headers: dict[bytes, bytes], start: int, stages: Stages | None) -> Reply:
        if self._bodies + len(body) > MAX_BODIES:
            raise Refused(503, "Too many large requests are being answered. Try again in a second.")
        self._bodies += len(body)
        try:
            called, routes = Called.read(body), self._plane.desk.routes
            route, pin = routes.find_model(called.request.model_name, called.request.model_version or None)
            reply = self._plane.inference.given(called, route, pin, headers, start, stages=stages)
            return reply if isinstance(reply, Reply) else await reply
        finally:
            self._bodies -= len(body)

    async def _stream(self, bodies: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """One answer to each request, in their order; one that fails is told in its answer, and the stream goes on."""
        if self._streams >= MAX_STREAMS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_STREAMS} streams are open. Try again later.")
        self._streams += 1
        try:
            headers, coming = _headers(context), aiter(bodies)
            headers.pop(b"x-timeout-ms", None)  # the deadline is the stream's
            while (body := await self._next(coming)) is not None:
                reply, _ = await self._answered("ModelStreamInfer", body, headers)
                yield streamed(reply.body) if reply.status == 200 else _failed(reply, body)
        finally:
            self._streams -= 1
        if self._draining.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, "This process is ending. Open the stream again.")

    async def _next(self, coming: AsyncIterator[bytes]) -> bytes | None:
        """The next request of a stream; None at its end, and when this process ends."""
        reading = asyncio.ensure_future(anext(coming, None))
        ending = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        finally:
            ending.cancel()
            if not reading.done():
                reading.cancel()


async def _said(reply: Reply, context: Context) -> bytes:
    """The body of a good reply; of another, its words as the status of the call."""
    if reply.status != 200:
        await context.abort(_code(reply), _words(reply))
    return reply.body


def _code(reply: Reply) -> Any:
    return grpc.StatusCode.OK if reply.status == 200 else _CODES.get(reply.status, grpc.StatusCode.INTERNAL)


def _failed(reply: Reply, body: bytes) -> bytes:
    """What a stream says of a request that could not be answered."""
    told: bytes = _Streamed(error_message=_words(reply), infer_response=_Response(id=_id(body))).SerializeToString()
    return told


def _id(body: bytes) -> str:
    """What the client calls a request that could not be answered."""
    try:
        return Called.read(body).id or ""
    except Invalid:
        return ""


def _words(reply: Reply) -> str:
    text: str = msgspec.json.decode(reply.body)["error"]
    return text


def _headers(context: Context) -> dict[bytes, bytes]:
    """What a call says besides its message: metadata by the names of HTTP's headers, and the time that is left."""
    found = {
        key.encode(): value.encode() if isinstance(value, str) else value
        for key, value in context.invocation_metadata() or ()
        if key in _HEADERS
    }
    left = context.time_remaining()
    if left is not None and b"x-timeout-ms" not in found:
        found[b"x-timeout-ms"] = b"%.3f" % min(max(1000 * left, 0.001), 3.6e6)
    return found


def _configured(told: dict[str, Any]) -> dict[str, Any]:
    """A configuration with its types as numbers."""
    for tensor in (*told["input"], *told["output"]):
        tensor["data_type"] = _TYPES.index(tensor["data_type"].removeprefix("TYPE_"))
    return told
