"""Long batches, answered piece by piece while they are computed: POST /predict/ENDPOINT/stream.

Rows come as {"features": [...]} or as JSON lines, one row a line. Answers leave as JSON lines or, where the client accepts
text/event-stream, as Server-Sent Events: each is what /predict would answer to those rows, with the place of its first row;
the last says how many rows there were, so that an answer that broke off is told from a whole one.

One arm answers the whole stream. Each piece counts, is logged and is judged as a request of its own, under the request id
ID/ROW. The next piece is computed when the client has taken the one before; none is once it has hung up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from time import perf_counter_ns
from typing import Any

import msgspec

from modelyard.core.errors import Invalid, YardError
from modelyard.serving import large
from modelyard.serving.asked import DEADLINE_S, Asked, Features, deadline
from modelyard.serving.http import Question
from modelyard.serving.inference import MAX_IN_FLIGHT, Inference
from modelyard.serving.large import LARGE
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.replies import Refused, Reply
from modelyard.serving.routing import Route
from modelyard.serving.stages import Stages

PIECE_MICROS = 20_000.0  # a piece is as many rows as are computed in about that time
LEAST, MOST = 16, 4096
LINES, EVENTS = b"application/x-ndjson", b"text/event-stream"
log = logging.getLogger("modelyard.serving")

_rows = msgspec.json.Decoder(Features).decode
_lines = msgspec.json.Decoder(dict[str, Any]).decode_lines
Write = Callable[[str, bytes], bytes]


class Streaming:
    """Answers long batches through an inference."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    def predict(self, name: str, _: str | None, question: Question) -> Reply | Awaitable[Reply]:
        """The beginning of the answer, and what follows; what is wrong with the first piece is told as by /predict."""
        inference = self._inference
        start = perf_counter_ns()
        route = inference.desk.routes.find(name)
        if inference.desk.in_flight >= MAX_IN_FLIGHT:
            text = f"{inference.desk.in_flight} requests are in flight. Try again in a second."
            return inference.told(Refused(503, text, (b"retry-after", b"1")), name)
        if len(question.body) > LARGE:
            return self._large(route, question, start)
        try:
            given = Features(_lines(question.body)) if _by_line(question) else _rows(question.body)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return inference.told(_unread(error), name)
        return self._begun(route, given, question, start)

    async def _large(self, route: Route, question: Question, start: int) -> Reply:
        """The same for a body that takes long to read."""
        body = question.body
        try:
            async with self._inference.reading:
                given = Features(await large.lines(body)) if _by_line(question) else await large.named(body)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return self._inference.told(_unread(error), route.traffic.endpoint)
        return self._begun(route, given, question, start)

    def _begun(self, route: Route, given: Features, question: Question, start: int) -> Reply:
        inference = self._inference
        try:
            asked = inference.ask(
                route, None, question.headers, unit=given.unit_id, request_id=given.request_id, start=start
            )
            end = None if asked.deadline is None else start / 1e9 + deadline(asked.deadline)
            rows, size = given.features, piece_rows(asked.model, question.headers.get(b"x-piece-rows"))
            if not isinstance(rows, list) or not rows:
                raise Invalid("There are no rows. Send a list of them as features, or one a line as JSON.")
            asked.model.batch(rows[:size])
        except Invalid as error:
            return inference.told(error, route.traffic.endpoint)
        events = EVENTS in question.headers.get(b"accept", b"")
        if question.stages is not None:
            inference.parsed(asked, question.stages, len(rows))
        pieces = self._pieces(asked, rows, size, end, _event if events else _row, stages=question.stages)
        kind, headers = (EVENTS, ((b"cache-control", b"no-store"),)) if events else (LINES, ())
        return inference.from_arm(asked, Reply(200, b"", kind, headers, stream=pieces))

    async def _pieces(
        self, asked: Asked, rows: list[Any], size: int, end: float | None, write: Write, *, stages: Stages | None
    ) -> AsyncGenerator[bytes]:
        desk, done, row = self._inference.desk, b"", 0
        desk.in_flight += 1
        try:
            while row < len(rows):
                piece = rows[row : row + size]
                reply = await self._answered(asked, piece, row, end)
                if reply.status != 200:
                    _note(stages, reply.status)
                    yield write("error", b'{"first_row":%d,"status":%d,%s' % (row, reply.status, reply.body[1:]))
                    return
                yield write("predictions", b'{"first_row":%d,%s' % (row, reply.body[1:]))
                row += len(piece)
                await asyncio.sleep(0)  # others' requests have their turn between two pieces
            done = msgspec.json.encode({"rows": len(rows), "request_id": asked.request_id})
            yield write("end", done)
        except Exception:
            log.exception("A stream of %s broke off.", asked.route.traffic.endpoint)  # a fault of ours, told and logged
            _note(stages, 500)
            yield write("error", b'{"first_row":%d,"status":500,"error":"modelyard failed to answer."}' % row)
        finally:
            desk.in_flight -= 1

    async def _answered(self, asked: Asked, piece: list[Any], row: int, end: float | None) -> Reply:
        """The answer to one piece, as /predict would give it; a deadline is that of the whole."""
        start = perf_counter_ns()
        left = DEADLINE_S if end is None else end - start / 1e9
        if left <= 0:
            return self._inference.told(Refused(504, f"The time was over after {row} rows."))
        limit = b"%.3f" % (min(left, DEADLINE_S) * 1000)
        own = replace(asked, request_id=f"{asked.request_id}/{row}", start=start, deadline=limit, features=piece)
        try:
            coming: Reply | Awaitable[Reply] = self._inference.answered(own, asked.model.batch(piece))
            return coming if isinstance(coming, Reply) else await coming
        except YardError as error:
            return self._inference.told(error)


def piece_rows(model: LoadedModel, wanted: bytes | None) -> int:
    """How many rows a piece has: X-Piece-Rows, or as many as the model answers in about 20 ms."""
    if wanted is None:
        return min(max(int(PIECE_MICROS / max(model.per_row, 0.1)), LEAST), MOST)
    if not wanted.isdigit() or not 1 <= int(wanted) <= MOST:
        raise Invalid(f"X-Piece-Rows is {wanted[:40].decode('latin-1')!r}. Send a whole number from 1 to {MOST}.")
    return int(wanted)


def _by_line(question: Question) -> bool:
    """Whether a body has a row a line, as its type says."""
    kind = question.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    return kind in (LINES, b"application/jsonl", b"application/json-lines")


def _unread(error: Exception) -> Invalid:
    return Invalid(
        f'{error}. Send {{"features": [row, ...]}}, or a row a line with the content type application/x-ndjson.'
    )


def _note(stages: Stages | None, status: int) -> None:
    """For whom follows a stream: that it breaks off."""
    if stages is not None:
        stages.broken = status


def _row(_: str, told: bytes) -> bytes:
    return told + b"\n"


def _event(name: str, told: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), told)
