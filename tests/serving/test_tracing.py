"""Traces as an OpenTelemetry collector gets them from real processes, and Server-Timing as a client does."""

from __future__ import annotations

import importlib.util
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer
from modelyard.serving.stages import tracing_wanted

pytest.importorskip("opentelemetry.sdk", reason="uv pip install 'modelyard[otel]'")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from modelyard.serving.tracing import Tracer

ROW = {"features": {"a": 0.25, "b": 0}}
GRPC = importlib.util.find_spec("grpc") is not None
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """An OTLP collector over HTTP that keeps what it is sent."""

    def __init__(self) -> None:
        kept: list[tuple[dict[str, str], Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    named = {one.key: one.value.string_value for one in resource.resource.attributes}
                    kept.extend((named, span) for scope in resource.scope_spans for span in scope.spans)
                assert self.path == "/v1/traces"
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.spans = kept
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory, tools: Any
) -> Iterator[tuple[ModelServer, str, Collector, Any, str | None]]:
    """A worker that traces what its parent has sampled and nothing else, and its collector."""
    server, collector = ModelServer(tmp_path_factory.mktemp("traces")), Collector()
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    server.configure("slow", {"trusted_code": True})
    server.install("slow", "s", "v1", tools.reference(slow=20, fail=0.5), "python")
    only = Arm(name="baseline", model="s", version="v1", weight=1.0)
    server.apply(Traffic(endpoint="slow", generation=1, arms=(only,)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        patch.setenv("OTEL_SERVICE_NAME", "scoring")
        serving = server.start(workers=1, grpc_port=0 if GRPC else None)
    yield server, serving.url, collector, tools, serving.grpc
    serving.stop()
    collector.close()


def spans_of(served: Any, trace: str) -> list[Any]:
    """The spans of a trace, once a request's own is there: it is made last."""
    collector, tools = served[2:4]

    def spans() -> list[Any]:
        found = [span for _, span in collector.spans if span.trace_id.hex() == trace]
        return found if any(span.kind == 2 for span in found) else []

    return tools.until(spans)  # type: ignore[no-any-return]


def traced(served: Any, path: str, body: Any, trace: str, **headers: str) -> tuple[httpx.Response, list[Any]]:
    """The answer to a request of a sampled trace, and the trace's spans."""
    head = {"traceparent": f"00-{trace}-{PARENT}-01", **headers}
    answer = httpx.post(served[1] + path, json=body, headers=head, timeout=120)
    return answer, spans_of(served, trace)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_sampled_request_is_a_span_of_its_parents_trace_with_its_stages_inside(served: Any) -> None:
    answer, spans = traced(served, "/predict/e", {**ROW, "request_id": "r1"}, TRACE, tracestate="vendor=1")
    (server,) = [span for span in spans if span.kind == 2]
    assert (server.name, server.parent_span_id.hex(), server.trace_state) == (
        "POST /predict/{endpoint}",
        PARENT,
        "vendor=1",
    )
    told = attributes(server)
    assert told == {
        "http.request.method": "POST",
        "url.path": "/predict/e",
        "http.route": "/predict/{endpoint}",
        "http.response.status_code": 200,
        "modelyard.endpoint": "e",
        "modelyard.arm": "baseline",
        "modelyard.version": "v1",
        "modelyard.request_id": "r1",
        "modelyard.rows": 1,
    }
    inside = sorted((span for span in spans if span is not server), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in inside] == ["parse", "queue", "predict", "encode"]
    assert {span.parent_span_id for span in inside} == {server.span_id}
    times = [time for span in inside for time in (span.start_time_unix_nano, span.end_time_unix_nano)]
    assert times == sorted(times)
    assert (times[0], times[-1]) == (server.start_time_unix_nano, server.end_time_unix_nano)
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{server.span_id.hex()}-01"
    named = next(named for named, span in served[2].spans if span is server)
    assert named["service.name"] == "scoring"
    assert re.search(r"-\d+$", named["service.instance.id"])


def test_waiting_tensors_and_faults_are_traced(served: Any) -> None:
    tensor = {"name": "x", "shape": [2, 2], "datatype": "FP64", "data": [1.7, 1, 1.7, 1]}
    _, spans = traced(served, "/v2/models/slow/versions/v1/infer", {"inputs": [tensor]}, "1" * 32)
    (server,) = [span for span in spans if span.kind == 2]
    assert server.name == "POST /v2/models/{model}/versions/{version}/infer"
    assert attributes(server)["modelyard.rows"] == 2
    (predict,) = [span for span in spans if span.name == "predict"]
    assert predict.end_time_unix_nano - predict.start_time_unix_nano >= 20_000_000
    answer, spans = traced(served, "/predict/slow", ROW, "2" * 32)
    (server,) = [span for span in spans if span.kind == 2]
    assert answer.status_code == attributes(server)["http.response.status_code"] == 500
    assert server.status.code == 2
    answer, spans = traced(served, "/predict/e", {"features": {"a": 1}}, "3" * 32)
    assert (answer.status_code, [span.name for span in spans]) == (400, ["POST /predict/{endpoint}"])
    assert spans[0].status.code == 0  # a client's fault is none of the server


def test_the_span_of_a_stream_lasts_until_its_end_and_tells_where_it_broke_off(served: Any) -> None:
    rows = {"features": [{"a": 1.7, "b": 0}] * 5}
    answer, spans = traced(served, "/predict/slow/stream", rows, "6" * 32, **{"x-piece-rows": "2"})
    assert len(answer.text.splitlines()) == 4
    (server,) = [span for span in spans if span.kind == 2]
    (stream,) = [span for span in spans if span.name == "stream"]
    assert (server.status.code, attributes(server)["modelyard.rows"]) == (0, 5)
    assert stream.end_time_unix_nano == server.end_time_unix_nano
    assert stream.end_time_unix_nano - stream.start_time_unix_nano >= 3 * 20_000_000
    assert answer.headers["traceresponse"].split("-")[2] == server.span_id.hex()
    rows["features"][3] = {"a": 0.25, "b": 0}  # this model fails at it
    answer, spans = traced(served, "/predict/slow/stream", rows, "7" * 32, **{"x-piece-rows": "2"})
    assert '"status":500' in answer.text
    assert [span.status.code for span in spans if span.kind == 2] == [2]


@pytest.mark.skipif(not GRPC, reason="pip install 'modelyard[grpc]'")
def test_calls_over_grpc_are_traced_and_timed(served: Any) -> None:
    import grpc

    from modelyard.serving.grpc_messages import SERVICE, message

    request = message("ModelInferRequest")(model_name="slow", id="g1")
    for name in "ab":
        request.inputs.add(name=name, datatype="FP64", shape=[1]).contents.fp64_contents.append(1.7)
    metadata = [("traceparent", f"00-{'8' * 32}-{PARENT}-01"), ("server-timing", "1")]
    with grpc.insecure_channel(served[4]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        _, call = infer.with_call(request.SerializeToString(), timeout=120, metadata=metadata)
        told = dict(call.trailing_metadata())
        spans = spans_of(served, "8" * 32)
        (server,) = [span for span in spans if span.kind == 2]
        assert (server.name, server.parent_span_id.hex()) == (f"{SERVICE}/ModelInfer", PARENT)
        kept = attributes(server)
        assert (kept["rpc.system"], kept["rpc.method"], kept["modelyard.request_id"]) == ("grpc", "ModelInfer", "g1")
        assert {span.name for span in spans} >= {"parse", "queue", "predict", "encode"}
        assert told["traceresponse"].split("-")[2] == server.span_id.hex()
        assert float(dict(re.findall(r"(\w+);dur=([\d.]+)", told["server-timing"]))["predict"]) >= 20
        _, call = infer.with_call(request.SerializeToString(), timeout=120)
        assert not {"server-timing", "traceresponse"} & set(dict(call.trailing_metadata()))
        wrong = message("ModelInferRequest")(model_name="nobody").SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            infer(wrong, timeout=120, metadata=[("traceparent", f"00-{'9' * 32}-{PARENT}-01")])
        assert "traceresponse" in dict(caught.value.trailing_metadata())
    assert attributes(spans_of(served, "9" * 32)[0])["rpc.grpc.status_code"] == 5


@pytest.mark.parametrize("sent", [None, f"00-{'4' * 32}-{PARENT}-00", "00-nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_what_is_not_sampled_leaves_no_span(served: Any, sent: str | None) -> None:
    url, collector = served[1:3]
    answer = httpx.post(f"{url}/predict/e", json=ROW, headers={"traceparent": sent} if sent else {})
    assert answer.status_code == 200
    assert "traceresponse" not in answer.headers
    traced(served, "/predict/e", ROW, "5" * 32)  # and what is sent after it has arrived
    assert {span.trace_id.hex()[0] for _, span in collector.spans} <= set("012356789")


def test_server_timing_is_told_to_who_asks_and_to_nobody_else(served: Any) -> None:
    url = served[1]
    assert "server-timing" not in httpx.post(f"{url}/predict/e", json=ROW).headers
    answer = httpx.post(f"{url}/predict/slow", json={"features": {"a": 1.7, "b": 1}}, headers={"server-timing": "1"})
    told = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    assert list(told) == ["parse", "queue", "predict", "encode", "total"]
    assert float(told["predict"]) >= 20
    parts = sum(float(told[name]) for name in ("parse", "queue", "predict", "encode"))
    assert parts == pytest.approx(float(told["total"]), abs=0.01)
    refused = httpx.post(f"{url}/predict/nobody", json=ROW, headers={"server-timing": "1"})
    assert (refused.status_code, refused.headers["server-timing"][:10]) == (404, "total;dur=")


def test_the_rate_of_the_sampler_holds_and_an_unknown_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    tenth = Tracer({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"})
    parent = {b"traceparent": f"00-{TRACE}-{PARENT}-01".encode()}
    assert 120 < sum(tenth.context(parent) is not None for _ in range(2000)) < 290  # five standard deviations
    every = Tracer({"OTEL_TRACES_SAMPLER": "jaeger_remote"})
    assert every.context({}) is not None
    assert "jaeger_remote" in caplog.text
    tenth.close()
    every.close()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_opentelemetrys_own_variables_turn_it_on_and_off(environment: dict[str, str], wanted: bool) -> None:
    assert tracing_wanted(environment) is wanted
