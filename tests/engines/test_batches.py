"""Records become batches only where every value fits the signature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.batches import batch_of
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature

KINDS = st.sampled_from(["float", "int", "bool", "string"])
SPECS = st.lists(
    st.tuples(st.text(min_size=1, max_size=5), KINDS, st.booleans()), min_size=1, max_size=6, unique_by=lambda s: s[0]
)
VALUES = {
    "float": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-1000, 1000),
    "int": st.integers(-(2**53), 2**53),
    "bool": st.booleans(),
    "string": st.text(max_size=5),
}


@st.composite
def fitting(draw):
    specs = tuple(FeatureSpec(name=name, kind=kind, nullable=null) for name, kind, null in draw(SPECS))
    record = {s.name: draw(VALUES[s.kind] | (st.none() if s.nullable else st.nothing())) for s in specs}
    order = draw(st.permutations(list(record)))
    return Signature(inputs=specs, task="binary"), {name: record[name] for name in order}


@given(fitting())
def test_a_fitting_record_keeps_its_values_in_the_models_order(case):
    signature, record = case
    row = batch_of(signature, [record])[0]
    for value, spec in zip(row, signature.inputs, strict=True):
        sent = record[spec.name]
        if sent is None:
            assert value is None or math.isnan(value)
        else:
            assert value == sent
            assert type(value) is (str if spec.kind == "string" else float)


@given(fitting(), st.data())
def test_any_one_fault_is_refused_and_the_feature_named(case, data):
    signature, record = case
    spec = data.draw(st.sampled_from(signature.inputs))
    fault = data.draw(st.sampled_from(["missing", "extra", "null", "type"]))
    if fault == "missing":
        record.pop(spec.name)
    elif fault == "extra":
        record["a name of more than five letters"] = 1
    elif fault == "null":
        record[spec.name] = None
        signature = Signature(
            inputs=tuple(FeatureSpec(name=s.name, kind=s.kind) for s in signature.inputs), task="binary"
        )
        record = {s.name: record[s.name] if record[s.name] is not None or s == spec else 0 for s in signature.inputs}
        record = {
            s.name: "x" if s.kind == "string" and record[s.name] == 0 else record[s.name] for s in signature.inputs
        }
        record[spec.name] = None
    else:
        record[spec.name] = data.draw(
            st.sampled_from([[1], {"a": 1}, b"1"] + ([] if spec.kind == "string" else ["1", "x"]))
        )
    named = "a name of more" if fault == "extra" else repr(spec.name)[:40]
    with pytest.raises(Invalid) as told:
        batch_of(signature, [record])
    assert named in str(told.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=3),
    )
)
def test_garbage_is_refused_by_invalid_and_nothing_else(value):
    signature = Signature(
        inputs=(FeatureSpec(name="a"), FeatureSpec(name="b", kind="int", nullable=True)), task="binary"
    )
    for record in (value, {"a": value, "b": 1}, {"a": 1, "b": value}):
        try:
            row = batch_of(signature, [record])[0]
        except Invalid:
            continue
        assert math.isfinite(row[0])
        assert math.isnan(row[1]) or row[1].is_integer()


def test_a_misspelt_feature_is_answered_with_the_nearest():
    signature = Signature(inputs=(FeatureSpec(name="income"), FeatureSpec(name="age")), task="binary")
    with pytest.raises(Invalid, match=r"unknown feature 'incom'.*Did you mean income"):
        batch_of(signature, [{"age": 1, "incom": 2}])


def test_numpy_scalars_count_as_numbers_and_rows_are_numbered():
    signature = Signature(inputs=(FeatureSpec(name="a", kind="int"),), task="binary")
    assert batch_of(signature, [{"a": np.int64(3)}, {"a": np.float32(4)}]) == [[3.0], [4.0]]
    with pytest.raises(Invalid, match=r"Row 1: the feature 'a' is 1\.5"):
        batch_of(signature, [{"a": 3}, {"a": 1.5}])
    with pytest.raises(Invalid, match="finite"):
        batch_of(signature, [{"a": math.inf}])
    with pytest.raises(Invalid, match="'a'"):
        batch_of(signature, [{"a": 10**400}])
