"""When a request's stages ended, for whom wants to know: the header Server-Timing, and traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from modelyard.serving.replies import Headers

ASKED = b"server-timing"  # as a header of a request, with any value
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


@dataclass(slots=True)
class Stages:
    """One request, by perf_counter_ns: when it began, was parsed, its model's call began and ended, and it was encoded."""

    start: int
    timed: bool  # the client wants to be told
    traced: Any = None  # the context of its span, as the tracer has it
    epoch: int = 0  # of these times, in nanoseconds of the calendar's, once it is traced
    parsed: int = 0
    begun: int = 0
    ended: int = 0
    encoded: int = 0
    arm: str = ""
    version: str = ""
    request_id: str = ""
    rows: int = 0
    closed: int = 0  # when a stream ended, and with which status where it broke off
    broken: int = 0

    def called(self, begun: int = 0, ended: int = 0) -> None:
        """Note the model's call, by default one that began as soon as the request was parsed and ends now."""
        self.begun, self.ended = begun or self.parsed, ended or perf_counter_ns()

    def spans(self) -> list[tuple[str, int, int]]:
        """Each stage that there was: its name, its beginning and its end."""
        marks = (("parse", self.start), ("queue", self.parsed), ("predict", self.begun), ("encode", self.ended))
        ends = (self.parsed, self.begun, self.ended, self.encoded)
        found = [(name, begin, end) for (name, begin), end in zip(marks, ends, strict=True) if begin and end]
        return [*found, ("stream", self.encoded, self.closed)] if self.closed else found

    def header(self) -> Headers:
        """The stages as Server-Timing, in milliseconds."""
        told = [b"%s;dur=%.3f" % (name.encode(), (end - begin) / 1e6) for name, begin, end in self.spans()]
        told.append(b"total;dur=%.3f" % ((self.encoded - self.start) / 1e6))
        return ((ASKED, b", ".join(told)),)


def over_http(method: str, path: str, status: int) -> tuple[str, dict[str, Any]]:
    """The name and the attributes of a request's span, as OpenTelemetry's conventions have them."""
    route = _route(path)
    told = {"http.request.method": method, "url.path": path, "http.route": route, "http.response.status_code": status}
    return f"{method} {route}", told


def over_grpc(service: str, method: str, code: int) -> tuple[str, dict[str, Any]]:
    """The same of a call."""
    told = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method, "rpc.grpc.status_code": code}
    return f"{service}/{method}", told


def _route(path: str) -> str:
    """A path with names for what differs, so that there are few of them."""
    parts = path.strip("/").split("/")
    if parts[0] == "predict" and len(parts) > 1:
        parts[1] = "{endpoint}"
    if parts[:2] == ["v2", "models"] and len(parts) > 2:
        parts[2] = "{model}"
        if parts[3:4] == ["versions"] and len(parts) > 4:
            parts[4] = "{version}"
    return f"/{'/'.join(parts)}" if parts[0] in ("predict", "v2") else "/{path}"


def tracing_wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's own variables ask for traces."""
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    return not off and any(environment.get(name) for name in _ENDPOINTS)
