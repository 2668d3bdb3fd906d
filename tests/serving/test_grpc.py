"""The gRPC service: the same inference as over HTTP, its own ways to be wrong, streams, drain, and speed where it matters least."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid, Unavailable
from modelyard.core.ports import Output
from modelyard.serving import ModelServer, tensors
from modelyard.serving.listening import grpc_reserved

grpc = pytest.importorskip("grpc.aio", reason="pip install 'modelyard[grpc]'") and sys.modules["grpc"]

from modelyard.serving.grpc_messages import HEALTH, SERVICE, message  # noqa: E402
from modelyard.serving.grpc_tensors import Called, arrays  # noqa: E402

Request, Response = message("ModelInferRequest"), message("ModelInferResponse")
Streamed = message("ModelStreamInferResponse")
ROWS = np.array([[1.0, 2.0], [-3.0, 0.5]])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Iterator[Any]:
    server = ModelServer(tmp_path_factory.mktemp("grpc"))
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=1.0))
    tools.install(server, "slow", v1=tools.reference(), slow=tools.reference(slow=300.0))
    server.apply(tools.split("e", 1, 0.25))
    import dataclasses

    one = tools.split("slow", 1)
    server.apply(dataclasses.replace(one, arms=(dataclasses.replace(one.arms[0], version="slow"),)))
    with server.start(workers=2, grpc_port=0) as serving:
        yield type("Served", (), {"server": server, "serving": serving})


@pytest.fixture
def channel(served: Any) -> Iterator[Any]:
    with grpc.insecure_channel(served.serving.grpc) as channel:
        yield channel


def method(channel: Any, name: str, service: str = SERVICE) -> Callable[..., bytes]:
    call: Callable[..., bytes] = channel.unary_unary(f"/{service}/{name}")
    return call


def matrix(rows: np.ndarray = ROWS, model: str = "e", raw: bool = True, **more: Any) -> Any:
    """A request with one tensor."""
    request = Request(model_name=model, **more)
    tensor = request.inputs.add(name="x", datatype="FP64", shape=rows.shape)
    if raw:
        request.raw_input_contents.append(rows.astype("<f8").tobytes())
    else:
        tensor.contents.fp64_contents.extend(rows.ravel().tolist())
    return request


def infer(channel: Any, request: Any, *metadata: tuple[str, str], **more: Any) -> Any:
    body = request if isinstance(request, bytes) else request.SerializeToString()
    return Response.FromString(method(channel, "ModelInfer")(body, metadata=metadata, timeout=120, **more))


def numbers(response: Any, place: int) -> list[Any]:
    """An output's elements, in whichever form they came."""
    told = response.outputs[place]
    if response.raw_output_contents:
        return np.frombuffer(response.raw_output_contents[place], tensors.DTYPES[told.datatype]).tolist()
    ((_, found),) = told.contents.ListFields()
    return list(found)


@pytest.mark.parametrize("raw", [True, False])
def test_it_answers_what_http_answers_in_the_form_of_the_request(served: Any, channel: Any, raw: bool) -> None:
    for arm in ("baseline", "canary"):
        body = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP64", "data": ROWS.tolist()}]}
        header = {"x-modelyard-arm": arm}
        told = httpx.post(f"{served.serving.url}/v2/models/e/infer", json=body, headers=header).json()
        found = infer(channel, matrix(raw=raw, id="q1"), ("x-modelyard-arm", arm))
        assert (found.model_name, found.model_version, found.id) == ("e", told["model_version"], "q1")
        assert found.parameters["arm"].string_param == arm
        for place, one in enumerate(told["outputs"]):
            assert found.outputs[place].name == one["name"]
            assert list(found.outputs[place].shape) == one["shape"]
            assert numbers(found, place) == one["data"]


def test_arms_are_chosen_counted_and_logged_as_over_http(served: Any, channel: Any, tools: Any) -> None:
    server = served.server
    before = server.counts("e").arms
    units = [f"u{place}" for place in range(60)]
    seen = [infer(channel, matrix(id=f"by-{unit}"), ("x-unit-id", unit)).model_version for unit in units]
    assert 0 < seen.count("v2") < 40
    over_http = [
        httpx.post(f"{served.serving.url}/predict/e", json={"features": {"a": 1, "b": 2}, "unit_id": unit}).json()[
            "model_version"
        ]
        for unit in units[:20]
    ]
    assert over_http == seen[:20]
    infer(channel, matrix(), ("x-modelyard-arm", "canary"))  # a tester's request is not counted
    after = server.counts("e").arms
    more = {name: after[name].requests - before[name].requests for name in after}
    assert sum(more.values()) == 80
    rows = tools.until(
        lambda: len(found := [row for row in server.payload_rows("e") if row["unit"] in units]) >= 140 and found
    )
    assert {row["request_id"] for row in rows} >= {f"by-{unit}" for unit in units}
    text = httpx.get(f"{served.serving.url}/metrics").text
    assert 'modelyard_requests_total{endpoint="e",arm="canary",code="200"}' in text


def fails(channel: Any, request: Any, *metadata: tuple[str, str], **more: Any) -> tuple[str, str]:
    """The status and the words with which a call fails."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(channel, request, *metadata, **more)
    return caught.value.code().name, caught.value.details()


def changed(how: Callable[[Any], None]) -> Any:
    request = matrix()
    how(request)
    return request


def typed(datatype: str, field: str, *values: Any, shape: tuple[int, ...] = (2, 1)) -> Any:
    request = Request(model_name="e")
    for name in "ab":
        tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
        getattr(tensor.contents, field).extend(values)
    return request


WRONG = {
    "no message": (b"\xff\xff\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
    "unknown model": (matrix(model="nobody"), "NOT_FOUND", "no endpoint 'nobody'"),
    "unknown version": (matrix(model_version="v9"), "NOT_FOUND", "no arm 'v9'"),
    "fewer raw": (
        changed(lambda r: r.inputs.add(name="y", datatype="FP64", shape=[1])),
        "INVALID_ARGUMENT",
        "2 inputs",
    ),
    "more raw": (changed(lambda r: r.raw_input_contents.append(b"")), "INVALID_ARGUMENT", "2 raw_input_contents"),
    "both": (changed(lambda r: r.inputs[0].contents.fp64_contents.append(1)), "INVALID_ARGUMENT", "contents and raw"),
    "short raw": (changed(lambda r: r.raw_input_contents.__setitem__(0, b"1")), "INVALID_ARGUMENT", "1 bytes"),
    "negative": (changed(lambda r: r.inputs[0].shape.__setitem__(0, -1)), "INVALID_ARGUMENT", "none negative"),
    "huge": (changed(lambda r: r.inputs[0].shape.__setitem__(0, 2**62)), "INVALID_ARGUMENT", "elements"),
    "no shape": (changed(lambda r: r.inputs[0].ClearField("shape")), "INVALID_ARGUMENT", "1 to 8 sizes"),
    "datatype": (changed(lambda r: setattr(r.inputs[0], "datatype", "FP65")), "INVALID_ARGUMENT", "Did you mean"),
    "twice": (
        changed(lambda r: (r.inputs.append(r.inputs[0]), r.raw_input_contents.append(b""))),
        "INVALID_ARGUMENT",
        "twice",
    ),
    "no inputs": (Request(model_name="e"), "INVALID_ARGUMENT", "'a' is missing"),
    "wrong field": (typed("FP64", "int_contents", 1, 2), "INVALID_ARGUMENT", "has int_contents. Send fp64_contents"),
    "too few": (typed("FP64", "fp64_contents", 1.0), "INVALID_ARGUMENT", "1 values"),
    "too large": (typed("INT8", "int_contents", 1, 300), "INVALID_ARGUMENT", "INT8 cannot hold"),
    "half typed": (typed("FP16", "fp32_contents", 1, 2), "INVALID_ARGUMENT", "only goes as bytes"),
    "no text": (typed("BYTES", "bytes_contents", b"\xff", b""), "INVALID_ARGUMENT", "no UTF-8"),
    "texts": (typed("BYTES", "bytes_contents", b"1", b"2"), "INVALID_ARGUMENT", "takes FP64"),
    "no rows": (matrix(np.empty((0, 2))), "INVALID_ARGUMENT", "0 rows"),
    "output": (changed(lambda r: r.outputs.add(name="what")), "INVALID_ARGUMENT", "no output 'what'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_malformed_is_told_by_status_and_words(channel: Any, name: str) -> None:
    request, code, words = WRONG[name]
    found, said = fails(channel, request)
    assert (found, words in said) == (code, True), said


def test_a_parameter_that_is_wrong_and_an_unknown_arm_are_told(channel: Any) -> None:
    request = matrix()
    request.parameters["unit_id"].int64_param = 3
    assert fails(channel, request) == ("INVALID_ARGUMENT", "unit_id is '3', a int. Send text.")
    assert fails(channel, matrix(), ("x-modelyard-arm", "blue"))[0] == "NOT_FOUND"


def test_what_is_too_large_is_refused_and_the_server_stays(channel: Any) -> None:
    request = Request(model_name="e", raw_input_contents=[bytes(17 << 20)])
    assert fails(channel, request)[0] == "RESOURCE_EXHAUSTED"
    assert infer(channel, matrix()).model_name == "e"


def test_a_small_message_that_unpacks_to_a_huge_one_is_refused(served: Any, channel: Any) -> None:
    bomb = Request(model_name="e", raw_input_contents=[bytes(400 << 20)]).SerializeToString()
    assert fails(channel, bomb, compression=grpc.Compression.Gzip)[0] == "RESOURCE_EXHAUSTED"
    for pid in served.serving.pids:
        peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
        assert int(peak.split()[1]) < 300 << 10, peak
    assert infer(channel, matrix(), compression=grpc.Compression.Gzip).model_name == "e"


def test_the_deadline_of_the_call_ends_it_and_calls_at_once_do_not_wait_for_each_other(served: Any) -> None:
    async def main() -> None:
        async with grpc.aio.insecure_channel(served.serving.grpc) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            slow = matrix(model="slow").SerializeToString()
            late = [asyncio.ensure_future(ask(slow, timeout=0.1)) for _ in range(4)]
            quick = [ask(matrix(id=f"q{place}").SerializeToString(), timeout=120) for place in range(50)]
            ids = [Response.FromString(body).id for body in await asyncio.gather(*quick)]
            assert ids == [f"q{place}" for place in range(50)]
            for one in await asyncio.gather(*late, return_exceptions=True):
                assert one.code() == grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[union-attr]
            said = await asyncio.gather(
                ask(slow, metadata=[("x-timeout-ms", "50")], timeout=120), return_exceptions=True
            )
            assert "did not answer within 0.05 seconds" in said[0].details()  # type: ignore[union-attr]

    asyncio.run(main())


def test_health_is_told_in_the_words_of_grpcs_own_protocol(channel: Any) -> None:
    check = method(channel, "Check", HEALTH)
    kind = message("HealthCheckRequest")
    for service in ("", SERVICE):
        answer = check(kind(service=service).SerializeToString(), timeout=120)
        assert message("HealthCheckResponse").FromString(answer).status == 1
    with pytest.raises(grpc.RpcError) as caught:
        check(kind(service="other").SerializeToString(), timeout=120)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_message_that_is_none_is_refused_by_every_method(channel: Any) -> None:
    for name in (
        "ModelReady",
        "ModelMetadata",
        "ModelConfig",
        "ModelStatistics",
        "RepositoryIndex",
        "RepositoryModelLoad",
    ):
        with pytest.raises(grpc.RpcError) as caught:
            method(channel, name)(b"\xff\xff", timeout=120)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_is_answered_in_order_and_goes_on_after_what_is_wrong(channel: Any) -> None:
    requests = [matrix(id=str(place)).SerializeToString() for place in range(30)]
    requests[4] = matrix(np.eye(3), id="4").SerializeToString()
    requests[5] = b"\xff"
    answers = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter(requests), timeout=120)
    found = [Streamed.FromString(body) for body in answers]
    assert [one.infer_response.id for one in found] == [str(place) if place != 5 else "" for place in range(30)]
    assert "3 columns" in found[4].error_message
    assert "no ModelInferRequest" in found[5].error_message
    assert all((one.error_message == "") == (place not in (4, 5)) for place, one in enumerate(found))


def test_a_worker_that_is_told_to_end_answers_what_it_has_and_sends_streams_elsewhere(
    tmp_path: Path, tools: Any
) -> None:
    server, held = ModelServer(tmp_path / "yard"), tmp_path / "held"
    tools.install(server, "e", v1=tools.reference(slow=20, held=str(held)))
    server.apply(tools.split("e", 1))

    async def main(address: str, end: Callable[[], None]) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(timeout=120)
            await stream.write(matrix(id="s").SerializeToString())
            assert Streamed.FromString(await stream.read()).infer_response.id == "s"
            held.touch()
            begun = [asyncio.ensure_future(ask(matrix(id=str(i)).SerializeToString(), timeout=120)) for i in range(3)]
            while tools.in_flight(server) < 3:
                await asyncio.sleep(0.01)
            end()
            while any(one.ready for one in server.processes()):
                await asyncio.sleep(0.01)
            held.unlink()
            assert [Response.FromString(body).id for body in await asyncio.gather(*begun)] == ["0", "1", "2"]
            with pytest.raises(grpc.RpcError):
                await stream.read()
            assert await stream.code() == grpc.StatusCode.UNAVAILABLE

    with server.start(workers=1, grpc_port=0) as serving:
        asyncio.run(main(serving.grpc, lambda: os.kill(serving.pids[0], signal.SIGTERM)))
        tools.until(lambda: serving.restarts == 1 and any(one.ready for one in server.processes()))
        with grpc.insecure_channel(serving.grpc) as channel:
            assert infer(channel, matrix()).model_name == "e"


def test_calls_go_on_while_the_workers_change(tmp_path: Path, tools: Any) -> None:
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    with server.start(workers=2, grpc_port=0) as serving, grpc.insecure_channel(serving.grpc) as channel:
        for place in range(300):
            if place in (80, 160):
                serving.scale_to(1 if place == 80 else 2)
            assert infer(channel, matrix(id=str(place)), wait_for_ready=True).id == str(place)


def test_the_port_is_held_and_a_taken_one_is_refused(served: Any) -> None:
    host, port = served.serving.grpc.rsplit(":", 1)
    with pytest.raises(Unavailable, match="in use"):
        grpc_reserved(host, int(port))
    with grpc_reserved(host, 0) as held, pytest.raises(Unavailable, match="in use"):
        grpc_reserved(host, held.getsockname()[1])
    with socket.create_server((host, 0)) as other, pytest.raises(Unavailable, match="in use"):
        grpc_reserved(host, other.getsockname()[1])


@pytest.mark.skipif(
    not (Path(__file__).parents[2] / ".peers/tritonclient").exists(), reason="scripts/peers.sh tritonclient"
)
def test_names_and_numbers_of_the_fields_are_those_of_the_clients(tmp_path: Path) -> None:
    import json
    import subprocess

    code = """
import json, sys
def told(found, message):
    kinds = {f.name: [f.number, f.is_repeated, f.type, f.message_type and f.message_type.name] for f in message.fields}
    found[message.full_name.split(".", 1)[1]] = kinds
    for inner in message.nested_types:
        told(found, inner)
found = {}
module = __import__(sys.argv[1], fromlist=["DESCRIPTOR"])
files = [module.DESCRIPTOR, *module.DESCRIPTOR.dependencies]
for file in files:
    for message in file.message_types_by_name.values():
        told(found, message)
print(json.dumps(found))
"""
    peers = Path(__file__).parents[2] / ".peers"
    for peer, module in (("tritonclient", "tritonclient.grpc.service_pb2"), ("kserve", KSERVE)):
        python = peers / peer / "bin" / "python"
        done = subprocess.run([python, "-c", code, module], capture_output=True, check=True, cwd="/")
        theirs = json.loads(done.stdout)
        mine = {name for name in theirs if known(name)}
        if peer == "kserve":  # whose repository has messages of its own, by other numbers
            mine -= {name for name in mine if name.startswith("Repository")}
        assert len(mine) >= 15
        for name in mine:
            for field in message(name).DESCRIPTOR.fields:
                if field.name in theirs[name] or (peer == "tritonclient" and not name.startswith("Repository")):
                    ours = [field.number, field.is_repeated, field.type, field.message_type and field.message_type.name]
                    number, repeated, kind, of = theirs[name][field.name]
                    assert ours == [number, repeated, ENUMERATED.get(kind, kind), of]


ENUMERATED = {14: 5}  # an enumeration is a number on the wire
KSERVE = "kserve.protocol.grpc.grpc_predict_v2_pb2"


def known(name: str) -> bool:
    try:
        message(name)
    except KeyError:
        return False
    return True


VALUES = {
    "BOOL": ("bool_contents", st.booleans()),
    "INT8": ("int_contents", st.integers(-130, 130)),
    "INT16": ("int_contents", st.integers(-(2**15) - 2, 2**15 + 2)),
    "INT32": ("int_contents", st.integers(-(2**31), 2**31 - 1)),
    "INT64": ("int64_contents", st.integers(-(2**63), 2**63 - 1)),
    "UINT8": ("uint_contents", st.integers(0, 260)),
    "UINT16": ("uint_contents", st.integers(0, 2**16 + 2)),
    "UINT32": ("uint_contents", st.integers(0, 2**32 - 1)),
    "UINT64": ("uint64_contents", st.integers(0, 2**64 - 1)),
    "FP32": ("fp32_contents", st.floats(width=32)),
    "FP64": ("fp64_contents", st.floats()),
    "BYTES": ("bytes_contents", st.text(max_size=4).map(str.encode) | st.binary(max_size=3)),
}
CODES = dict(zip(VALUES, ["?", "b", "h", "i", "q", "B", "H", "I", "Q", "f", "d"], strict=False))


@settings(max_examples=300)
@given(st.sampled_from(sorted(VALUES)), st.data())
def test_typed_contents_are_read_as_struct_packs_them_or_refused(datatype: str, data: st.DataObject) -> None:
    field, elements = VALUES[datatype]
    values = data.draw(st.lists(elements, max_size=6))
    shape = data.draw(st.sampled_from([[len(values)], [len(values), 1], [1, len(values)], [len(values) + 1]]))
    request = Request()
    tensor = request.inputs.add(name="x", datatype=datatype, shape=shape)
    getattr(tensor.contents, field).extend(values)
    try:
        if datatype == "BYTES":
            expected: Any = [one.decode() for one in values]
        else:
            expected = [
                struct.unpack("<" + CODES[datatype], struct.pack("<" + CODES[datatype], one))[0] for one in values
            ]
        fits = shape != [len(values) + 1]
    except (struct.error, UnicodeDecodeError):
        fits = False
    if not fits:
        with pytest.raises(Invalid):
            arrays(request)
        return
    found = arrays(request)["x"]
    assert list(found.shape) == shape
    assert np.array_equal(found.ravel().tolist(), expected, equal_nan=datatype.startswith("FP"))


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_request_or_invalid(body: bytes) -> None:
    with suppress(Invalid):
        arrays(Called.read(body).request)


@pytest.mark.parametrize("dtype", ["<f8", "<f4", "<f2", "<i8", "<i1", "<u4", "?", "O"])
@pytest.mark.parametrize("raw", [True, False])
def test_every_type_of_answer_goes_out_in_both_forms(dtype: str, raw: bool) -> None:
    predictions = np.array(["ja", "grün"], dtype=object) if dtype == "O" else np.array([0, 1], dtype=dtype)
    called = Called.read(matrix(raw=raw).SerializeToString())
    reply = called.reply(tensors.Head("m", "v1", "baseline", "r1"), Output(predictions=predictions))
    response = Response.FromString(reply.body)
    if dtype == "O":
        expected: list[Any] = [one.encode() for one in predictions]
        found = list(response.outputs[0].contents.bytes_contents)
        if raw:
            assert response.raw_output_contents[0] == b"\x02\0\0\0ja\x05\0\0\0gr\xc3\xbcn"
        assert raw or found == expected
        return
    assert numbers(response, 0) == predictions.tolist()


def test_bodies_and_open_streams_are_bounded_over_all_calls(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modelyard.serving import grpc_service
    from modelyard.serving.desk import Desk
    from modelyard.serving.metrics import RequestMetrics
    from modelyard.serving.plane import Plane

    monkeypatch.setattr(grpc_service, "MAX_BODIES", 2000)
    monkeypatch.setattr(grpc_service, "MAX_STREAMS", 1)
    server = ModelServer(tmp_path)
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    desk = Desk(server.places)
    desk.routes.refresh()
    plane = Plane(desk, RequestMetrics(desk.places, desk.slot.number))

    async def main(address: str) -> None:
        service = grpc_service.GrpcService(plane, address)
        await service.start()
        async with grpc.aio.insecure_channel(address) as channel:
            ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            with pytest.raises(grpc.RpcError) as caught:
                await ask(matrix(id="x" * 2000).SerializeToString(), timeout=120)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            for place in range(50):  # what was answered is given back
                body = await ask(matrix(id=f"{place}" + "x" * 1000).SerializeToString(), timeout=120)
                assert Response.FromString(body).id.startswith(str(place))
            stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
            first, second = stream(timeout=120), stream(timeout=120)
            await first.write(matrix(id="first").SerializeToString())
            await first.read()
            assert await second.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await first.done_writing()
            assert await first.code() == grpc.StatusCode.OK
            third = stream(timeout=120)
            await third.write(matrix(id="third").SerializeToString())
            assert Streamed.FromString(await third.read()).infer_response.id == "third"
        await service.drain(1)

    with grpc_reserved("127.0.0.1", 0) as held:
        asyncio.run(main(f"127.0.0.1:{held.getsockname()[1]}"))
    plane.close()
    desk.stop()
