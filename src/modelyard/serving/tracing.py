"""OpenTelemetry traces of requests, sent over OTLP (HTTP, protobuf) by the SDK, as its own variables say.

A request's W3C context (traceparent, tracestate) is its span's parent. Whether it is sampled is decided before anything is
made: by the parent's flag, or at the rate of OTEL_TRACES_SAMPLER. Spans are made once the answer is there.
"""

from __future__ import annotations

import logging
import os
import random
import re
import socket
import time
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, Status, StatusCode, get_current_span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from modelyard.serving.replies import Headers
from modelyard.serving.stages import Stages

TIMEOUT_S = 5.0
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?\Z")
_RATES = {"always_on": 1.0, "always_off": 0.0, "parentbased_always_on": 1.0, "parentbased_always_off": 0.0}
_propagator = TraceContextTextMapPropagator()
log = logging.getLogger("modelyard.serving")


class Tracer:
    """Decides which requests are traced, and sends their spans."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        sampler = environment.get("OTEL_TRACES_SAMPLER", "parentbased_always_on")
        self._follows = sampler.startswith("parentbased_")
        self._rate = (
            _RATES[sampler] if sampler in _RATES else _rate(sampler, environment.get("OTEL_TRACES_SAMPLER_ARG"))
        )
        named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "modelyard"}
        own = {**named, "service.instance.id": f"{socket.gethostname()}-{os.getpid()}"}
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=TIMEOUT_S)))
        self._tracer = self._provider.get_tracer("modelyard.serving")

    def context(self, headers: Mapping[bytes, bytes]) -> Context | None:
        """The context of a request that is to be traced; None for one that is not."""
        given = headers.get(b"traceparent")
        parent = None if given is None else _PARENT.match(given)
        if parent is not None and self._follows:
            if not int(parent[1], 16) & 1:
                return None
        elif random.random() >= self._rate:  # noqa: S311 - sampling, no secret
            return None
        if parent is None:
            return Context()
        told = {"traceparent": (given or b"").decode("latin-1")}
        if b"tracestate" in headers:
            told["tracestate"] = headers[b"tracestate"].decode("latin-1")
        return _propagator.extract(told, Context())

    def begin(self, stages: Stages, name: str, attributes: Mapping[str, Any]) -> Headers:
        """Begin the span of a request that has an answer; what that says of it (W3C Trace Context, traceresponse)."""
        stages.epoch = time.time_ns() - perf_counter_ns()
        span = self._tracer.start_span(
            name,
            context=stages.traced,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=stages.start + stages.epoch,
        )
        stages.traced = set_span_in_context(span, stages.traced)
        told = span.get_span_context()
        return ((b"traceresponse", b"00-%032x-%016x-%02x" % (told.trace_id, told.span_id, told.trace_flags)),)

    def end(self, stages: Stages, endpoint: str, status: int) -> None:
        """End it, with its stages inside."""
        epoch, span = stages.epoch, get_current_span(stages.traced)
        attributes: dict[str, Any] = {
            "modelyard.endpoint": endpoint,
            "modelyard.arm": stages.arm,
            "modelyard.version": stages.version,
            "modelyard.request_id": stages.request_id,
            "modelyard.rows": stages.rows,
        }
        span.set_attributes({name: value for name, value in attributes.items() if value != ""})
        for name, begin, end in stages.spans():
            self._tracer.start_span(name, context=stages.traced, start_time=begin + epoch).end(end + epoch)
        if max(status, stages.broken) >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end((stages.closed or stages.encoded) + epoch)

    def close(self) -> None:
        """Send what has been made."""
        self._provider.shutdown()


def _rate(sampler: str, argument: str | None) -> float:
    try:
        rate = float(argument) if argument else 1.0
        if sampler.removeprefix("parentbased_") == "traceidratio" and 0 <= rate <= 1:
            return rate
    except ValueError:
        pass
    log.warning("OTEL_TRACES_SAMPLER %s with the argument %s is unknown: every request is traced.", sampler, argument)
    return 1.0
