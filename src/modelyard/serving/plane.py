"""The data plane: a bare ASGI callable that parses, routes, predicts, counts and encodes in one event loop.

Open Inference Protocol v2 under /v2, named features under /predict/ENDPOINT, Prometheus under /metrics.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid, NotFound, YardError
from modelyard.serving import metrics, tensors
from modelyard.serving.desk import Desk
from modelyard.serving.loaded import LoadedModel, ModelFailed
from modelyard.serving.routing import Route

MAX_BODY = 16 << 20
MAX_IN_FLIGHT = 256
THREADS = 4
JSON = b"application/json"
SERVER = {"name": "modelyard", "version": "0.1.0", "extensions": ["binary_tensor_data"]}

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Refused(YardError):
    """A request that is answered with a status and words."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class HungUp(YardError):
    """The client went away before its request was whole."""


class Features(msgspec.Struct):
    """The body of POST /predict/ENDPOINT."""

    features: dict[str, Any] | list[dict[str, Any]]
    request_id: str | None = None
    unit_id: str | None = None


class Answer(msgspec.Struct, gc=False):
    """The body of its answer."""

    predictions: list[Any]
    probabilities: list[list[float]] | None
    model_version: str
    arm: str
    request_id: str


@dataclass(slots=True)
class Reply:
    """A whole answer."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    endpoint: str = ""
    arm: str = ""


@dataclass(slots=True)
class Asked:
    """One request's routing: which arm answers it, and whether it counts."""

    route: Route
    arm: int
    hashed: int | None
    unit: str | None
    pinned: bool
    request_id: str

    @property
    def model(self) -> LoadedModel:
        """The version that answers."""
        return self.route.models[self.arm]


class Plane:
    """The ASGI application of one worker process."""

    def __init__(self, desk: Desk, request_metrics: metrics.RequestMetrics) -> None:
        self.desk = desk
        self.metrics = request_metrics
        self.ready = False
        self.draining = False
        self._encode = msgspec.json.Encoder(enc_hook=_plain).encode
        self._features = msgspec.json.Decoder(Features).decode
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="modelyard-predict")
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        start = perf_counter_ns()
        try:
            reply = await self._reply(scope, receive)
        except HungUp:
            return
        except YardError as error:
            reply = self._told(error)
        if reply.endpoint:
            self.metrics.count(reply.endpoint, reply.arm, reply.status, (perf_counter_ns() - start) / 1000)
        headers = [(b"content-type", reply.content_type), (b"content-length", b"%d" % len(reply.body)), *reply.headers]
        if self.draining:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def _told(self, error: YardError) -> Reply:
        status = 400 if isinstance(error, Invalid) else error.status
        headers = list(error.headers) if isinstance(error, Refused) else []
        return Reply(status, self._encode({"error": str(error)}), headers=headers)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        method, parts = scope["method"], scope["path"].strip("/").split("/")
        match parts:
            case ["predict", name]:
                _only(method, "POST")
                return await self._bounded(self._predict, name, None, scope, receive)
            case ["v2", "models", name, "infer"]:
                _only(method, "POST")
                return await self._bounded(self._infer, name, None, scope, receive)
            case ["v2", "models", name, "versions", version, "infer"]:
                _only(method, "POST")
                return await self._bounded(self._infer, name, version, scope, receive)
        reply = await self._shown(parts)
        if reply is None:
            raise NotFound(f"There is nothing at {scope['path'][:200]!r}. Try /v2, /predict/ENDPOINT or /metrics.")
        _only(method, "GET")
        return reply

    async def _shown(self, parts: list[str]) -> Reply | None:
        """What GET answers at a path; None where there is nothing."""
        match parts:
            case ["v2"]:
                return Reply(200, self._encode(SERVER))
            case ["v2", "health", "live"]:
                return Reply(200, self._encode({"live": True}))
            case ["v2", "health", "ready"]:
                ready = self.ready and not self.draining
                return Reply(200 if ready else 503, self._encode({"ready": ready}))
            case ["v2", "models", name]:
                return self._model(name, None)
            case ["v2", "models", name, "versions", version]:
                return self._model(name, version)
            case ["v2", "models", name, "ready"]:
                return self._model_ready(name, None)
            case ["v2", "models", name, "versions", version, "ready"]:
                return self._model_ready(name, version)
            case ["metrics"]:
                text = await self._threaded(metrics.prometheus, self.desk.places)
                return Reply(200, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")
        return None

    async def _bounded(self, handler: Any, name: str, version: str | None, scope: Scope, receive: Receive) -> Reply:
        """Read the body, then answer unless too much is being answered already."""
        headers = dict(scope["headers"])
        body = await _body(headers, receive)
        desk = self.desk
        if desk.in_flight >= MAX_IN_FLIGHT:
            return self._overloaded(name)
        desk.in_flight += 1
        try:
            reply: Reply = await handler(name, version, headers, body)
            return reply
        finally:
            desk.in_flight -= 1

    def _overloaded(self, name: str) -> Reply:
        text = f"{self.desk.in_flight} requests are in flight. Try again in a second."
        reply = self._told(Refused(503, text, (b"retry-after", b"1")))
        reply.endpoint = name if name in self.desk.routes.by_name else ""
        return reply

    async def _predict(self, name: str, version: str | None, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        start = perf_counter_ns()
        route = self.desk.routes.find(name)
        try:
            given = self._features(body)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self._bad_input(
                route, Invalid(f'{error}. Send {{"features": {{name: value, ...}}}} or a list of rows.')
            )
        try:
            asked = self._ask(route, version, headers, given.unit_id, given.request_id)
            batch = asked.model.batch(given.features)
        except Invalid as error:
            return self._bad_input(route, error)
        return await self._answered(
            asked, given.features, batch, start, lambda output: (self._plain(asked, output), None)
        )

    def _plain(self, asked: Asked, output: Any) -> bytes:
        arm = asked.route.traffic.arms[asked.arm]
        probabilities = output.probabilities
        body: bytes = self._encode(
            Answer(
                predictions=output.predictions.tolist(),
                probabilities=None if probabilities is None else probabilities.tolist(),
                model_version=arm.version,
                arm=arm.name,
                request_id=asked.request_id,
            )
        )
        return body

    async def _infer(self, name: str, version: str | None, headers: Mapping[bytes, bytes], body: bytes) -> Reply:
        start = perf_counter_ns()
        route, index = self.desk.routes.find_model(name, version)
        try:
            request, rest = tensors.parse(body, _json_length(headers))
            asked = self._ask(route, index, headers, request.parameters.get("unit_id"), request.id)
            model = asked.model
            batch = tensors.one_row(request, rest, len(model.signature.inputs)) if model.plain else None
            if batch is None:
                batch = tensors.batch(model.signature, tensors.arrays(request, rest), model.read)
            _check_outputs(request, model)
        except Invalid as error:
            return self._bad_input(route, error)
        arm = route.traffic.arms[asked.arm]
        head = {
            "model_name": name,
            "model_version": arm.version,
            "id": asked.request_id,
            "parameters": {"arm": arm.name},
        }
        return await self._answered(
            asked, None, batch, start, lambda output: tensors.answer(request, output, head, self._encode)
        )

    def _ask(
        self, route: Route, pin: int | str | None, headers: Mapping[bytes, bytes], unit: Any, request_id: str | None
    ) -> Asked:
        """Choose the arm: pinned by a tester's header or a version in the path, else by unit, else at random."""
        header = headers.get(b"x-unit-id")
        if header is not None:
            unit = header.decode("latin-1")
        if unit is not None and not isinstance(unit, str):
            raise Invalid(f"unit_id is {str(unit)[:40]!r}, a {type(unit).__name__}. Send text.")
        pinned = headers.get(b"x-modelyard-arm")
        if pinned is not None:
            pin = pinned.decode("latin-1")
        if request_id is None:
            request_id = headers.get(b"x-request-id", b"").decode("latin-1") or f"{self._prefix}{next(self._numbers):x}"
        arm, hashed = route.choose(unit) if pin is None else (route.arm(pin) if isinstance(pin, str) else pin, None)
        return Asked(route, arm, hashed, unit, pin is not None, request_id)

    async def _answered(
        self,
        asked: Asked,
        features: Any,
        batch: np.ndarray,
        start: int,
        encode: Callable[[Any], tuple[bytes, int | None]],
    ) -> Reply:
        """Predict, here or in a thread, count, and encode."""
        route, model = asked.route, asked.model
        arm = route.traffic.arms[asked.arm]
        try:
            output = await self._threaded(model.answer, batch) if model.slow(len(batch)) else model.answer(batch)
            body, json_length = encode(output)
        except ModelFailed as error:
            self._count(asked, start, failed=True)
            reply = self._told(error)
        else:
            micros = self._count(asked, start, failed=False)
            if not asked.pinned:
                kept = self.desk.after(
                    route,
                    asked.arm,
                    request_id=asked.request_id,
                    features=features,
                    batch=batch,
                    output=output,
                    micros=micros,
                    unit=asked.unit,
                )
                if kept is not None:
                    await kept
            reply = Reply(200, body)
            if json_length is not None:
                reply.content_type = b"application/octet-stream"
                reply.headers.append((b"inference-header-content-length", b"%d" % json_length))
        reply.headers += route.headers[asked.arm]
        reply.endpoint, reply.arm = route.traffic.endpoint, arm.name
        return reply

    def _count(self, asked: Asked, start: int, *, failed: bool) -> float:
        micros = (perf_counter_ns() - start) / 1000
        if not asked.pinned:
            self.desk.count(asked.route, asked.arm, asked.hashed, micros=micros, failed=failed)
        return micros

    async def _threaded(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def _bad_input(self, route: Route, error: Invalid) -> Reply:
        reply = self._told(error)
        reply.endpoint = route.traffic.endpoint
        return reply

    def _model(self, name: str, version: str | None) -> Reply:
        route, index = self.desk.routes.find_model(name, version)
        model = route.models[route.baseline if index is None else index]
        told = {
            "name": name,
            "versions": [arm.version for arm in route.traffic.arms],
            "platform": f"modelyard_{model.installed.framework}",
            **tensors.metadata(model.signature),
        }
        return Reply(200, self._encode(told))

    def _model_ready(self, name: str, version: str | None) -> Reply:
        self.desk.routes.find_model(name, version)  # a route exists once its versions have answered
        return Reply(200, self._encode({"name": name, "ready": True}))

    def close(self) -> None:
        """End the prediction threads."""
        self._pool.shutdown(wait=True)


def _only(method: str, allowed: str) -> None:
    if method != allowed and not (allowed == "GET" and method == "HEAD"):
        raise Refused(405, f"{method} is not answered here. Use {allowed}.", (b"allow", allowed.encode()))


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
    """The whole body; refused when it is larger than 16 MiB or encoded.

    What is too large is still read, up to four times the limit, and thrown away: closing on a client that is sending
    would take the answer from it.
    """
    if headers.get(b"content-encoding", b"identity") != b"identity":
        raise Refused(415, "The body is compressed. Send it as it is, without Content-Encoding.")
    pieces: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HungUp("The client hung up.")
        piece: bytes = message["body"]
        more = message.get("more_body", False)
        size += len(piece)
        if size <= MAX_BODY:
            pieces.append(piece)
        if not more or size > 4 * MAX_BODY:
            break
    if size > MAX_BODY:
        raise Refused(
            413, f"The body is larger than {MAX_BODY} bytes. Send smaller batches.", (b"connection", b"close")
        )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _json_length(headers: Mapping[bytes, bytes]) -> int | None:
    told = headers.get(b"inference-header-content-length")
    if told is None:
        return None
    if not told.isdigit() or len(told) > 12:
        raise Invalid("Inference-Header-Content-Length is no number. Send the length of the JSON part.")
    return int(told)


def _check_outputs(request: tensors.InferRequest, model: LoadedModel) -> None:
    """Refuse an unknown output before the model is asked, so that it is the client's fault and not the arm's."""
    if request.outputs is None:
        return
    known = [one["name"] for one in tensors.metadata(model.signature)["outputs"]]
    for one in request.outputs:
        if one.name not in known:
            raise Invalid(f"There is no output {one.name!r}. Known: {', '.join(known)}.")


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
