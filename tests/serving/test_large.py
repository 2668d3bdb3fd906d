"""A large body read in slices says what it says read whole, whatever stands in it; and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.serving import ModelServer, feeds, inference, large, tensors
from modelyard.serving.asked import Features
from modelyard.serving.desk import Desk
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.plane import Plane

QUIET = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
NUMBER = st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), st.none())


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large and what a slice, so that small bodies are cut too."""
    for name, value in (("SLICE", 30), ("MOST", 300)):
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(inference, "LARGE", 200)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> Iterator[Plane]:
    server = ModelServer(tmp_path_factory.mktemp("large"))
    tools.install(server, "e", v1=tools.reference())
    server.apply(tools.split("e", 1))
    desk = Desk(server.places)
    desk.routes.refresh()
    plane = Plane(desk, RequestMetrics(server.places, desk.slot.number))
    yield plane
    plane.close()
    desk.stop()


def told(work: Callable[[], Any]) -> Any:
    """What comes of it, an error as its class."""
    try:
        return work()
    except (Invalid, msgspec.MsgspecError, ValueError):
        return "refused"


ROW = st.fixed_dictionaries({"a": NUMBER, "b": st.one_of(NUMBER, st.text(max_size=8), st.lists(st.just({"a": 1})))})
BODY = st.fixed_dictionaries(
    {"features": st.lists(ROW, min_size=1, max_size=30)},
    optional={"request_id": st.text(']}[{",:a', max_size=12), "more": st.lists(st.just({"features": [1]}), max_size=3)},
)


@QUIET
@given(
    BODY, st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", ":")]), st.integers(0, 2000), st.sampled_from(' ,]}["\\')
)
@pytest.mark.parametrize("broken", [False, True])
def test_named_rows_are_what_they_are_read_whole(
    plane: Plane, broken: bool, body: dict[str, Any], how: tuple[str, str], place: int, mark: str
) -> None:
    text = json.dumps(body, separators=how)
    if broken:
        text = text[: place % len(text)] + mark + text[place % len(text) :]
    model, data = plane.desk.routes.find("e").models[0], text.encode()
    chosen: list[Features] = []

    def choose(given: Features) -> LoadedModel:
        chosen.append(given)
        return model

    def whole() -> Any:
        given = msgspec.json.decode(data, type=Features)
        return given.request_id, model.batch(given.features)

    expected, found = told(whole), told(lambda: asyncio.run(large.rows(data, choose)))
    if expected == "refused":
        assert isinstance(found, str)
        return
    assert not isinstance(found, str)
    assert np.array_equal(found, expected[1], equal_nan=True)
    assert chosen[-1].request_id == expected[0]
    assert asyncio.run(large.named(data)) == msgspec.json.decode(data, type=Features)


@QUIET
@given(
    st.lists(NUMBER, min_size=2, max_size=60),
    st.sampled_from(["FP64", "FP32", "INT64", "UINT8", "BOOL", "BYTES"]),
    st.booleans(),
    st.integers(0, 3000),
    st.sampled_from(["", " ", ",", "]", "[", '"', "1"]),
)
def test_tensors_are_what_they_are_read_whole(
    values: list[Any], datatype: str, nested: bool, place: int, mark: str
) -> None:
    if datatype in ("INT64", "UINT8"):
        values = [int(one or 0) % 200 for one in values]
    if datatype == "BOOL":
        values = [bool(one) for one in values]
    rows = len(values) // 2
    data = [values[2 * n : 2 * n + 2] for n in range(rows)] if nested else values
    shape = [rows, 2] if nested else [len(values), 1]
    one = {"name": 'a"data":[1', "shape": shape, "datatype": datatype, "data": data}
    text = json.dumps(
        {"id": "data", "inputs": [one, {**one, "name": "b"}], "parameters": {"data": 1}}, separators=(",", ":")
    )
    text = text[: place % len(text)] + mark + text[place % len(text) :]

    def read(sent: tensors.Sent) -> Any:
        found = tensors.arrays(sent.request, sent.rest)
        return [(name, array.dtype.str, array.tolist()) for name, array in found.items()]

    expected = told(lambda: read(tensors.parse(text.encode(), None)))
    found = told(lambda: read(asyncio.run(large.sent(text.encode()))))
    assert repr(found) == repr(expected)


def test_an_error_names_the_row_and_the_byte_of_the_whole() -> None:
    rows = [{"a": 1, "b": 2}] * 40
    rows[33] = {"a": 1, "b": "two"}  # type: ignore[dict-item]
    signature = Signature(inputs=(FeatureSpec(name="a"), FeatureSpec(name="b")), task="regression")

    class Model:
        def batch(self, records: Any) -> np.ndarray:
            from modelyard.core.batches import batch_reader

            return np.array(batch_reader(signature)(records))

    def read(text: str) -> str:
        with pytest.raises((Invalid, msgspec.DecodeError)) as error:
            asyncio.run(large.rows(text.encode(), lambda _: Model()))  # type: ignore[arg-type,return-value]
        return str(error.value)

    text = json.dumps({"features": rows})
    assert read(text).startswith("Row 33: the feature 'b'")
    at = text.index('"two"')
    with pytest.raises(msgspec.DecodeError) as whole:
        msgspec.json.decode(text[:at] + "tow" + text[at + 5 :], type=Features)
    assert read(text[:at] + "tow" + text[at + 5 :]) == str(whole.value)
    with pytest.raises(msgspec.ValidationError) as other:
        msgspec.json.decode(text.replace('{"a": 1, "b": "two"}', "7"), type=Features)
    assert read(text.replace('{"a": 1, "b": "two"}', "7")) == str(other.value)


@pytest.mark.parametrize("path", ["/predict/e", "/v2/models/e/infer"])
def test_a_small_request_is_answered_while_a_large_one_is_read(plane: Plane, path: str) -> None:
    if path == "/predict/e":
        body: dict[str, Any] = {"features": [{"a": n, "b": 0.5} for n in range(2000)]}
    else:
        body = {
            "inputs": [{"name": "x", "shape": [2000, 2], "datatype": "FP64", "data": [[n, 0.5] for n in range(2000)]}]
        }
    order: list[str] = []

    async def ask(client: httpx.AsyncClient, where: str, what: Any, name: str) -> httpx.Response:
        answer = await client.post(where, content=json.dumps(what, separators=(",", ":")))
        order.append(name)
        return answer

    async def both() -> tuple[httpx.Response, ...]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(plane), base_url="http://x") as client:
            small = {"features": {"a": 1, "b": 2}}
            return tuple(
                await asyncio.gather(ask(client, path, body, "large"), ask(client, "/predict/e", small, "small"))
            )

    answer, _ = asyncio.run(both())
    assert order == ["small", "large"]
    told = answer.json()
    found = told["predictions"] if "predictions" in told else told["outputs"][0]["data"]
    assert found == [1] * 2000


@QUIET
@given(st.lists(ROW, max_size=20), st.integers(0, 2000), st.sampled_from(["", "\n", "{", ",", "x"]))
def test_lines_are_what_they_are_read_whole(rows: list[dict[str, Any]], place: int, mark: str) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    data = (text[: place % (len(text) + 1)] + mark + text[place % (len(text) + 1) :]).encode()
    expected = told(lambda: msgspec.json.Decoder(dict[str, Any]).decode_lines(data))
    assert told(lambda: asyncio.run(large.lines(data))) == expected


def test_an_array_has_the_size_that_its_shape_says() -> None:
    request = tensors.InferRequest([tensors.Tensor("a", [3], "FP64", {}, np.zeros(2))])
    with pytest.raises(Invalid, match="it has 2 values, but the shape"):
        tensors.arrays(request, memoryview(b""))
    assert feeds.MAX_ROWS > large.SLICE
