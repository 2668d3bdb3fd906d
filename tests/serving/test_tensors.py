"""Tensors of the Open Inference Protocol: JSON and bytes to arrays and back, and nothing but Invalid for the rest."""

from __future__ import annotations

import json
import struct
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelyard.core.batches import batch_reader
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output
from modelyard.serving import feeds, tensors
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.values import Installed

NUMBERS = Signature(inputs=(FeatureSpec(name="a"), FeatureSpec(name="b", nullable=True)), task="binary", classes=(0, 1))
MIXED = Signature(
    inputs=(FeatureSpec(name="colour", kind="string"), FeatureSpec(name="n", kind="int")), task="regression"
)


def answered(request: tensors.InferRequest, output: Output) -> tuple[bytes, int]:
    """The body of the answer and the length of its JSON part."""
    reply = tensors.answer(request, output, tensors.Head("m", "v1", "baseline", "r1"))
    return reply.body, int(dict(reply.headers)[b"inference-header-content-length"])


def taken(signature: Signature, body: bytes, length: int | None = None) -> np.ndarray:
    sent = tensors.parse(body, None if length is None else b"%d" % length)
    return feeds.batch(signature, tensors.arrays(sent.request, sent.rest), batch_reader(signature))


def with_bytes(inputs: list[dict[str, object]], *pieces: bytes) -> tuple[bytes, int]:
    text = json.dumps({"inputs": inputs}).encode()
    return text + b"".join(pieces), len(text)


def test_hand_built_bytes_become_the_batch() -> None:
    body, length = with_bytes(
        [
            {"name": "a", "shape": [2, 1], "datatype": "FP32", "parameters": {"binary_data_size": 8}},
            {"name": "b", "shape": [2], "datatype": "INT16", "parameters": {"binary_data_size": 4}},
        ],
        b"\x00\x00\x80\x3f\x00\x00\x00\xc0",  # 1.0 and -2.0 as IEEE 754, little-endian
        b"\x05\x00\xff\xff",
    )
    assert taken(NUMBERS, body, length).tolist() == [[1.0, 5.0], [-2.0, -1.0]]


def test_hand_built_texts_become_the_batch_and_json_and_bytes_may_be_mixed() -> None:
    data = struct.pack("<I", 3) + b"red" + struct.pack("<I", 5) + "gr\u00fcn".encode()
    body, length = with_bytes(
        [
            {"name": "colour", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}},
            {"name": "n", "shape": [2, 1], "datatype": "INT64", "data": [[1], [2]]},
        ],
        data,
    )
    assert taken(MIXED, body, length).tolist() == [["red", 1.0], ["grün", 2.0]]


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(2)), elements=st.floats(-1e300, 1e300)),
    st.booleans(),
)
def test_one_matrix_arrives_as_it_was_sent(matrix: np.ndarray, nested: bool) -> None:
    data = matrix.tolist() if nested else matrix.ravel().tolist()
    body = json.dumps({"inputs": [{"name": "x", "shape": list(matrix.shape), "datatype": "FP64", "data": data}]})
    assert np.array_equal(taken(NUMBERS, body.encode()), matrix)
    raw = matrix.astype("<f8").tobytes()
    packed, length = with_bytes(
        [{"name": "x", "shape": list(matrix.shape), "datatype": "FP64", "parameters": {"binary_data_size": len(raw)}}],
        raw,
    )
    assert np.array_equal(taken(NUMBERS, packed, length), matrix)


FP = {"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}
B = {"name": "b", "shape": [1], "datatype": "FP64", "data": [1.0]}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([FP], "'b' is missing"),
        ([FP, FP], "twice"),
        ([FP, B, {**B, "name": "c"}], "no input 'c'"),
        ([{**FP, "shape": [2]}, B], "holds 2"),
        ([{**FP, "shape": [-1]}, B], "none negative"),
        ([{**FP, "shape": []}, B], "1 to 8 sizes"),
        ([{**FP, "shape": [2**40]}, B], "elements"),
        ([{**FP, "datatype": "FP65"}, B], "unknown datatype 'FP65'. Did you mean FP64"),
        ([{**FP, "datatype": "BYTES", "data": ["x"]}, B], "'a' takes FP64"),
        ([{**FP, "data": ["x"]}, B], "'a'"),
        ([{**FP, "data": [None]}, B], "'a' is missing a value"),
        ([{**FP, "data": [True]}, B], "'a'"),
        ([{**FP, "datatype": "INT64", "data": [1.5]}, B], "'a'"),
        ([{**FP, "datatype": "INT8", "data": [300]}, B], "INT8 cannot hold"),
        ([{**FP, "datatype": "UINT8", "data": [-1]}, B], "UINT8 cannot hold"),
        ([{**FP, "datatype": "FP16", "data": [1e30]}, B], "infinite"),
        ([{**FP, "data": [[1.0], [2.0, 3.0]]}, B], "2 lists, but"),
        ([{**FP, "parameters": {"binary_data_size": 8}}, B], "0 bytes are left"),
        ([{**FP, "parameters": {"binary_data_size": "8"}}, B], "binary_data_size"),
        ([{"name": "a", "shape": [1], "datatype": "FP64"}, B], "no data"),
        ([{"name": "x", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}], "3 columns"),
        ([{"name": "x", "shape": [0, 2], "datatype": "FP64", "data": []}], "0 rows"),
        ([{**FP, "shape": [1, 1, 1]}, B], r"\(rows\) or"),
        ([{**FP, "shape": [2], "data": [1, 2]}, B], "rows"),
        ([], "'a' is missing"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs: list[dict[str, object]], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        taken(NUMBERS, json.dumps({"inputs": inputs}).encode())


def test_bytes_that_nobody_announced_or_that_lack_are_refused() -> None:
    body, length = with_bytes([FP, B], b"\0\0")
    with pytest.raises(Invalid, match="2 bytes follow"):
        taken(NUMBERS, body, length)
    with pytest.raises(Invalid, match="Inference-Header-Content-Length"):
        taken(NUMBERS, body, len(body) + 1)
    torn = {"name": "colour", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 5}}
    body, length = with_bytes([torn], struct.pack("<I", 9) + b"r")
    with pytest.raises(Invalid, match="within an element"):
        taken(MIXED, body, length)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
tensor_like = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["a", "b", "x"]) | st.text(max_size=3),
        "shape": st.lists(st.integers(-2, 3), max_size=3) | json_values,
        "datatype": st.sampled_from([*tensors.DTYPES, "BYTES", "what"]),
    },
    optional={
        "data": json_values | st.lists(st.floats() | st.none(), max_size=4),
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-3, 20) | json_values}),
    },
)


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        json_values.map(lambda v: json.dumps(v).encode()),
        st.lists(tensor_like, max_size=3).map(lambda v: json.dumps({"inputs": v}).encode()),
    ),
    st.binary(max_size=20),
    st.booleans(),
    st.sampled_from([NUMBERS, MIXED]),
)
def test_any_body_is_either_a_finite_batch_or_invalid(
    head: bytes, tail: bytes, announced: bool, signature: Signature
) -> None:
    try:
        batch = taken(signature, head + tail, len(head) if announced else None)
    except Invalid:
        return
    assert batch.ndim == 2
    assert batch.shape[1] == 2


def test_deeply_nested_json_is_refused_and_not_a_crash() -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(Invalid):
        taken(NUMBERS, nested)
    with pytest.raises(Invalid):
        taken(NUMBERS, b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP64","data":' + nested + b"}]}")


@given(
    st.sampled_from(["<f8", "<f4", "<i8", "<i4", "?", "<u1"]).flatmap(
        lambda dtype: hnp.arrays(np.dtype(dtype), st.integers(1, 6))
    )
)
def test_an_output_comes_back_from_its_bytes(predictions: np.ndarray) -> None:
    request = tensors.InferRequest(inputs=[], parameters={"binary_data_output": True})
    body, length = answered(request, Output(predictions=predictions))
    told = json.loads(body[:length])["outputs"][0]
    back = np.frombuffer(body[length:], dtype=tensors.DTYPES[told["datatype"]]).reshape(told["shape"])
    assert told["parameters"]["binary_data_size"] == len(body) - length
    assert np.array_equal(back, predictions, equal_nan=predictions.dtype.kind == "f")


def test_text_answers_go_out_as_lengths_and_utf8() -> None:
    request = tensors.InferRequest(inputs=[], outputs=[tensors.Wanted("predictions", {"binary_data": True})])
    output = Output(predictions=np.array(["ja", "grün"], dtype=object))
    body, length = answered(request, output)
    assert body[length:] == b"\x02\0\0\0ja\x05\0\0\0gr\xc3\xbcn"


VALUES = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.none(), st.booleans())
ROWS = st.one_of(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.lists(VALUES, max_size=4))
SHAPES = st.sampled_from([[1, 3], [1, 3], [3], [1, 2], [3, 1]])


@given(ROWS, st.sampled_from(["FP32", "FP64", "INT64"]), SHAPES, st.sampled_from([b"", b"x"]))
def test_the_short_way_for_one_row_gives_what_the_long_way_gives_or_leaves_it_to_it(
    values: list[object], datatype: str, shape: list[int], rest: bytes
) -> None:
    signature = Signature(inputs=tuple(FeatureSpec(name=name) for name in "abc"), task="regression")
    body, length = with_bytes([{"name": "x", "shape": shape, "datatype": datatype, "data": values}], rest)
    try:
        sent = tensors.parse(body, b"%d" % length)
    except Invalid:
        return  # not-a-number and infinity are no JSON
    short = tensors.one_row(sent.request, sent.rest, 3)
    plain_row = (
        not rest
        and shape == [1, 3]
        and datatype != "INT64"
        and len(values) == 3
        and all(type(value) is float and abs(value) < 1e38 for value in values)
    )
    assert (short is not None) or not plain_row
    if short is not None:
        long = taken(signature, body, length)
        assert (short.dtype, short.tolist()) == (long.dtype, long.tolist())


RECORDS = st.lists(
    st.fixed_dictionaries({"a": VALUES, "b": VALUES}) | st.dictionaries(st.sampled_from("abc"), VALUES), max_size=4
)
PLAIN = st.lists(st.fixed_dictionaries({"a": st.floats(-1e9, 1e9), "b": st.integers(-9, 9)}), min_size=2, max_size=4)


@given(PLAIN | RECORDS, st.sampled_from(["ab", "a"]))
def test_the_short_way_for_records_gives_what_the_long_way_gives_or_leaves_it_to_it(
    records: list[dict[str, object]], names: str
) -> None:
    signature = Signature(inputs=tuple(FeatureSpec(name=name) for name in names), task="regression")
    model = local_model(signature)
    try:
        expected = np.array(model.read(records), dtype=np.float64)
    except Invalid:
        with pytest.raises(Invalid):
            model.batch(records)
        return
    if not records:
        with pytest.raises(Invalid, match="empty"):
            model.batch(records)
        return
    found = model.batch(records)
    assert (found.dtype, found.shape, found.tolist()) == (expected.dtype, expected.shape, expected.tolist())
    assert found.flags.writeable
    assert found.flags.c_contiguous


def local_model(signature: Signature) -> LoadedModel:
    """A model that is asked for batches only."""
    only = Installed(model="m", version="v1", path="", framework="python")
    pick = itemgetter(*signature.names) if len(signature.names) > 1 else lambda record: [record[signature.names[0]]]
    return LoadedModel(
        installed=only,
        runtime=None,  # type: ignore[arg-type]
        signature=signature,
        read=batch_reader(signature),
        plain=True,
        pick=pick,
        fixed=0.0,
        per_row=0.0,
    )
