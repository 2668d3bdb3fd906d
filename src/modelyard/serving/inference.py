"""From a request's bytes to its answer: read, choose the arm, predict, count, encode. The hot path, in one place.

What can be answered within about a millisecond is answered at once. The rest (a slow model, a large batch, one that joins
others, an answer that must first be on the disk) comes as an awaitable.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import Invalid, YardError
from modelyard.core.ports import Output
from modelyard.serving import large, malformed, tensors
from modelyard.serving.asked import Answer, Asked, Features, Tensors, deadline, timeout
from modelyard.serving.calls import THREADS, Calls, Underway
from modelyard.serving.desk import Desk
from modelyard.serving.http import Question
from modelyard.serving.large import LARGE
from modelyard.serving.loaded import LoadedModel, ModelFailed, Refusal
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.replies import Refused, Reply
from modelyard.serving.routing import Route
from modelyard.serving.stages import Stages

MAX_IN_FLIGHT = 256  # answers that are being waited for, in this process
LONGEST = 1000  # words of an error

Encode = Callable[[Any], bytes]


class Inference:
    """Answers requests for predictions through a desk."""

    def __init__(self, desk: Desk, metrics: RequestMetrics) -> None:
        self.desk, self.metrics = desk, metrics
        self._encode: Encode = msgspec.json.Encoder(enc_hook=_plain).encode
        self._features = msgspec.json.Decoder(Features).decode
        self.calls = Calls()
        self._pool = ThreadPoolExecutor(THREADS, "modelyard-predict", self.calls.join)
        self.reading = asyncio.Lock()  # of large bodies
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count()

    def predict(self, name: str, _: str | None, question: Question) -> Reply | Awaitable[Reply]:
        """The answer to named features: one row, or a list of rows."""
        start = perf_counter_ns()
        route = self.desk.routes.find(name)
        if len(question.body) > LARGE:
            return self._large_rows(route, question, start)
        try:
            given = self._features(question.body)
            asked = self.ask(
                route, None, question.headers, unit=given.unit_id, request_id=given.request_id, start=start
            )
            asked.features, asked.stages = given.features, question.stages
            batch = asked.model.batch(given.features)
        except Invalid as error:
            return self.told(error, name)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self.told(Invalid(malformed.fault(question.body) or _unread(error)), name)
        return self.answered(asked, batch)

    async def _large_rows(self, route: Route, question: Question, start: int) -> Reply:
        """The same for a body that takes long to read: in slices, and one such body at a time."""
        asked: Asked

        def choose(given: Features) -> LoadedModel:
            nonlocal asked
            asked = self.ask(
                route, None, question.headers, unit=given.unit_id, request_id=given.request_id, start=start
            )
            asked.stages = question.stages
            return asked.model

        try:
            async with self.reading:
                batch = await large.rows(question.body, choose)
        except Invalid as error:
            return self.told(error, route.traffic.endpoint)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self.told(Invalid(_unread(error)), route.traffic.endpoint)
        return await _awaited(self.answered(asked, batch))

    def infer(self, name: str, version: str | None, question: Question) -> Reply | Awaitable[Reply]:
        """The answer to tensors: Open Inference Protocol v2, JSON or binary."""
        start = perf_counter_ns()
        route, index = self.desk.routes.find_model(name, version)
        headers = question.headers
        told = headers.get(b"inference-header-content-length")
        if told is None and len(question.body) > LARGE:
            return self._large_tensors(route, index, question, start)
        try:
            sent = tensors.parse(question.body, told)
        except Invalid as error:
            return self.told(error, route.traffic.endpoint)
        return self.given(sent, route, index, headers, start, stages=question.stages)

    async def _large_tensors(self, route: Route, index: int | None, question: Question, start: int) -> Reply:
        """The same for JSON that takes long to read."""
        try:
            async with self.reading:
                sent = await large.sent(question.body)
        except Invalid as error:
            return self.told(error, route.traffic.endpoint)
        return await _awaited(self.given(sent, route, index, question.headers, start, stages=question.stages))

    def given(
        self,
        sent: Tensors,
        route: Route,
        pin: int | None,
        headers: Mapping[bytes, bytes],
        start: int,
        *,
        stages: Stages | None = None,
    ) -> Reply | Awaitable[Reply]:
        """The answer to tensors, whichever protocol brought them; `headers` choose arm, unit, request id and deadline."""
        try:
            asked = self.ask(route, pin, headers, unit=sent.parameters.get("unit_id"), request_id=sent.id, start=start)
            asked.tensors, asked.stages = sent, stages
            if sent.parameters and asked.deadline is None:
                asked.deadline = timeout(sent.parameters.get("timeout"))
            batch = sent.batch(asked.model)
        except Invalid as error:
            return self.told(error, route.traffic.endpoint)
        return self.answered(asked, batch)

    def told(self, error: YardError, endpoint: str = "") -> Reply:
        """An error as an answer."""
        status = 400 if isinstance(error, Invalid) else error.status
        headers = error.headers if isinstance(error, Refused) else ()
        return Reply(status, self._encode({"error": _short(str(error))}), headers=headers, endpoint=endpoint)

    @property
    def waiting(self) -> int:
        """How many calls wait for a prediction thread; those that wait to be joined are in flight."""
        return self._pool._work_queue.qsize()

    def close(self) -> None:
        """End the prediction threads."""
        self._pool.shutdown(wait=True)

    async def threaded(self, function: Callable[..., Any], *args: Any) -> Any:
        """The result of a call in one of the prediction threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def ask(
        self,
        route: Route,
        pin: int | str | None,
        headers: Mapping[bytes, bytes],
        *,
        unit: Any,
        request_id: str | None,
        start: int,
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
        if not request_id:
            request_id = headers.get(b"x-request-id", b"").decode("latin-1") or f"{self._prefix}{next(self._numbers):x}"
        arm, hashed = route.choose(unit) if pin is None else (route.arm(pin) if isinstance(pin, str) else pin, None)
        limit = headers.get(b"x-timeout-ms")
        if limit is not None:
            deadline(limit)  # what is no number is told, also where the answer comes at once
        return Asked(route, arm, hashed, unit, pin is not None, request_id, start, limit)

    def answered(self, asked: Asked, batch: np.ndarray) -> Reply | Awaitable[Reply]:
        """Predict at once, or later where that takes long."""
        model = asked.model
        if asked.stages is not None:
            self.parsed(asked, asked.stages, len(batch))
        if model.joiner is not None or model.slow(len(batch)):
            return self._later(asked, batch)
        try:
            if model.marked:
                output = self.calls.here(asked.mark, asked.hashed, model.answer, batch)
            else:
                output = model.answer(batch)
        except ModelFailed as error:
            return self._failed(asked, batch, error)
        except Refusal as error:
            return self.told(error, asked.route.traffic.endpoint)
        if asked.stages is not None:
            asked.stages.called()
        return self._finished(asked, batch, output)

    @staticmethod
    def parsed(asked: Asked, stages: Stages, rows: int) -> None:
        """Note that a request is read, and what it is."""
        arm = asked.route.traffic.arms[asked.arm]
        stages.parsed, stages.rows = perf_counter_ns(), rows
        stages.arm, stages.version, stages.request_id = arm.name, arm.version, asked.request_id

    async def _later(self, asked: Asked, batch: np.ndarray) -> Reply:
        """Predict in a thread, alone or with others, within the request's time.

        It is here that too much is refused: of requests that came in one turn of the loop, none is in flight before.
        """
        desk = self.desk
        if desk.in_flight >= MAX_IN_FLIGHT:
            text = f"{desk.in_flight} requests are in flight. Try again in a second."
            return self.told(Refused(503, text, (b"retry-after", b"1")), asked.route.traffic.endpoint)
        desk.in_flight += 1
        try:
            limit = deadline(asked.deadline)
            async with asyncio.timeout(limit - (perf_counter_ns() - asked.start) / 1e9):
                output = await self._waited(asked, batch, asked.start + int(limit * 1e9))
        except Invalid as error:
            return self.told(error, asked.route.traffic.endpoint)
        except asyncio.CancelledError:
            self.calls.abandoned()
            if not asked.pinned:
                waited = (perf_counter_ns() - asked.start) / 1000
                self.desk.left(asked.route, asked.arm, asked.hashed, micros=waited)
            raise
        except TimeoutError:
            return self._failed(asked, batch, Refused(504, f"The model did not answer within {limit:g} seconds."))
        except ModelFailed as error:
            return self._failed(asked, batch, error)
        finally:
            desk.in_flight -= 1
        self._measured(asked)
        reply = self._finished(asked, batch, output)
        return reply if isinstance(reply, Reply) else await reply

    def _measured(self, asked: Asked) -> None:
        """Count how long a request waited for its call, and of how many rows that call was."""
        underway, arm = asked.underway, asked.route.traffic.arms[asked.arm]
        if asked.stages is not None:
            asked.stages.called(*((underway.begun, underway.ended) if underway is not None else ()))
        if underway is None or not underway.begun:
            return
        self.metrics.queued(asked.route.traffic.endpoint, arm.name, (underway.begun - asked.start) / 1000)
        if underway.joined:
            self.metrics.joined(arm.model, arm.version, underway.joined)

    def _waited(self, asked: Asked, batch: np.ndarray, until: int) -> Awaitable[Output]:
        """The model's answer by one of three ways: with other requests, as a coroutine, in a thread."""
        model = asked.model
        asked.underway = Underway(self.calls, asked.mark, asked.hashed, until)
        if model.begin is not None and model.joiner is None:
            return self._coroutine(model, batch, asked.underway)
        if model.joiner is not None:
            return model.joiner.ask(batch, self._pool, asked.underway)
        return self.threaded(asked.underway.timed, model.answer, batch)

    async def _coroutine(self, model: LoadedModel, batch: np.ndarray, underway: Underway) -> Output:
        with self.calls.awaiting(underway.marked, underway.unit):
            return await model.awaited(batch, underway.begins)

    def _failed(self, asked: Asked, batch: np.ndarray, error: YardError) -> Reply:
        """The arm's fault, counted as such and kept."""
        self.desk.failed(
            asked.route,
            asked.arm,
            asked.hashed,
            request_id=asked.request_id,
            batch=batch,
            error=error,
            micros=(perf_counter_ns() - asked.start) / 1000,
            unit=asked.unit,
            pinned=asked.pinned,
            call=0 if asked.underway is None else asked.underway.begun,
        )
        return self.from_arm(asked, self.told(error))

    def _finished(self, asked: Asked, batch: np.ndarray, output: Output) -> Reply | Awaitable[Reply]:
        """Count, hand to the shadow and the log, and encode."""
        arm = asked.route.traffic.arms[asked.arm]
        if asked.tensors is None:
            reply = Reply(200, self._plain(asked, output))
        else:
            head = tensors.Head(asked.route.traffic.endpoint, arm.version, arm.name, asked.request_id)
            reply = asked.tensors.reply(head, output)
        micros = (perf_counter_ns() - asked.start) / 1000
        if not asked.pinned:
            self.desk.count(asked.route, asked.arm, asked.hashed, micros=micros, failed=False)
        reply = self.from_arm(asked, reply)
        if asked.pinned:
            return reply
        kept = self.desk.after(
            asked.route,
            asked.arm,
            request_id=asked.request_id,
            batch=batch,
            output=output,
            micros=micros,
            unit=asked.unit,
        )
        return reply if kept is None else self._kept(kept, reply)

    async def _kept(self, kept: asyncio.Future[None], reply: Reply) -> Reply:
        """The answer, once it is on the disk."""
        try:
            await kept
        except YardError as error:
            return self.told(error, reply.endpoint)
        return reply

    def _plain(self, asked: Asked, output: Output) -> bytes:
        arm = asked.route.traffic.arms[asked.arm]
        probabilities = output.probabilities
        return self._encode(
            Answer(
                output.predictions.tolist(),
                None if probabilities is None else probabilities.tolist(),
                arm.version,
                arm.name,
                asked.request_id,
            )
        )

    @staticmethod
    def from_arm(asked: Asked, reply: Reply) -> Reply:
        """The reply, saying which arm it is from."""
        route = asked.route
        reply.headers = (*reply.headers, *route.headers[asked.arm]) if reply.headers else route.headers[asked.arm]
        reply.endpoint, reply.arm = route.traffic.endpoint, route.traffic.arms[asked.arm].name
        return reply


async def _awaited(reply: Reply | Awaitable[Reply]) -> Reply:
    return reply if isinstance(reply, Reply) else await reply


def _unread(error: Exception) -> str:
    return f'{error}. Send {{"features": {{name: value, ...}}}} or a list of rows.'


def _short(text: str) -> str:
    """Words of an error, without the middle where a client's own text makes them long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
