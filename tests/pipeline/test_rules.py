"""What a run decides about a table, held against scikit-learn and against planted faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from modelyard.core.errors import Invalid
from modelyard.pipeline import PipelineConfig, rules
from modelyard.pipeline.columns import target_of, tidy
from modelyard.stats.parity import parity


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_separation_is_the_area_under_the_roc_curve(pairs):
    values = np.array([float(v) for v, _ in pairs])
    positive = np.array([p for _, p in pairs])
    if positive.all() or not positive.any():
        assert rules.separation(values, positive) == 0.5
    else:
        auc = roc_auc_score(positive, values)
        assert rules.separation(values, positive) == pytest.approx(max(auc, 1 - auc))


@settings(max_examples=200)
@given(
    st.lists(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | st.text(max_size=3),
        min_size=1,
        max_size=8,
    )
)
def test_any_column_becomes_numbers_or_text(values):
    held = np.array(values, dtype=object)
    tidied, kind = tidy(held)
    assert len(tidied) == len(values)
    assert tidied.dtype == (object if kind == "string" else np.float64)


def test_the_task_is_told_from_the_target():
    def task(values, kind):
        return target_of(np.array(values), kind, "auto")[1:]

    assert task([0.0, 1.0, 1.0], "int") == ("binary", (0, 1))
    assert task([0.0, 1.0, 2.0], "int") == ("multiclass", (0, 1, 2))
    assert task([0.0, 1.0], "bool") == ("binary", (False, True))
    assert task([0.5, 1.5, 2.0], "float") == ("regression", ())
    assert task(list(np.arange(50.0)), "int") == ("regression", ())
    with pytest.raises(Invalid, match="1 distinct"):
        task([1.0, 1.0], "int")


def test_parity_tells_exact_near_and_wrong_apart():
    native = np.full((10, 2), 0.5)
    assert parity(native, native, sample=8).tolerance == 1e-6
    near = parity(native, native + 5e-6, sample=8)
    assert near.passed
    assert "float32" in near.reason
    wrong = native.copy()
    wrong[9] += 0.1
    told = parity(native, wrong, sample=8)
    assert not told.passed
    assert "0 of 8 ordinary rows and 1 of 2 boundary" in told.reason
    wrong[3] = np.nan
    assert not parity(native, wrong, sample=8).passed


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "lightgmb"}, "Did you mean lightgbm"),
        ({"test_size": 0.0}, "test_size"),
        ({"test_size": 0.6, "validation_size": 0.4}, "leave less"),
        ({"metrics": ["acuracy"]}, "Did you mean accuracy"),
        ({"cross_validation_folds": 1}, "cross_validation_folds"),
        ({"random_seed": -1}, "random_seed"),
        ({"random_seed": True}, "random_seed"),
        ({"name": "../x"}, "pipeline name"),
        ({"target_column": ""}, "target_column"),
        ({"param_space": {"max_depth": {"type": "int", "low": 5, "high": 2}}}, "max_depth"),
        ({"param_space": {"c": {"type": "float", "low": 0, "high": 2, "log": True}}}, "log"),
        ({"param_space": {"c": {"type": "real"}}}, "int, float or categorical"),
        ({"param_space": {"c": {"type": "categorical", "choices": []}}}, "choices"),
        ({"feature_transforms": [{"type": "scael", "columns": ["a"]}]}, "Did you mean scale"),
        ({"feature_transforms": [{"type": "scale"}]}, "columns"),
        ({"feature_transforms": [{"type": "scale", "columns": ["a"], "method": "minmx"}]}, "minmax"),
        ({"tuning_timeout": float("nan")}, "tuning_timeout"),
    ],
)
def test_a_wrong_field_is_refused_when_the_configuration_is_made(fields, said):
    with pytest.raises(Invalid, match=said):
        PipelineConfig(**{"name": "t", "target_column": "y", **fields})


def test_an_unknown_field_of_a_file_is_answered_with_the_nearest():
    with pytest.raises(Invalid, match="Did you mean target_column"):
        PipelineConfig.of({"name": "t", "target_colum": "y"})
