"""Explanations: they add up, agree with an independent implementation, and say how they were found."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import KNeighborsRegressor

from modelyard.core import plugins
from modelyard.core.errors import Conflict, Invalid, MissingExtra
from modelyard.monitoring import MLMonitor

NAMES = ["age", "income", "debt"]


def data(rows=300):
    x = np.random.default_rng(0).normal(size=(rows, 3))
    return pd.DataFrame(x, columns=NAMES), 2 * x[:, 0] - x[:, 1]


def row():
    return {"age": 1.0, "income": -0.5, "debt": 0.25}


def monitor_for(model, model_type="auto", *, reference=True):
    monitor = MLMonitor("credit", "v1.0.0")
    if reference:
        monitor.set_reference_data(data()[0])
    monitor.set_explainer(model, NAMES, model_type)
    return monitor


def test_a_forest_is_explained_by_its_own_trees_and_the_parts_add_up():
    x, y = data()
    model = RandomForestClassifier(20, max_depth=4, random_state=0).fit(x, y > 0)
    found = monitor_for(model, "tree", reference=False).explain_prediction(row())
    assert found["method"] == "contributions"
    assert set(found["feature_importance"]) == set(NAMES)
    assert found["output"] == pytest.approx(model.predict_proba(pd.DataFrame([row()]))[0, 1])
    assert found["prediction"] is True
    assert abs(found["feature_importance"]["age"]) > abs(found["feature_importance"]["debt"])


def test_a_linear_model_is_coefficient_times_distance_from_the_mean():
    x, y = data()
    found = monitor_for(LinearRegression().fit(x, y), "linear").explain_prediction(row())
    assert found["feature_importance"]["debt"] == pytest.approx(0, abs=1e-9)
    assert found["output"] == pytest.approx(2.5)
    assert found["feature_importance"]["age"] == pytest.approx(2.0, abs=0.3)


def test_a_model_that_tells_nothing_is_probed_by_shap_and_agrees_with_the_definition():
    x, y = data()
    model = KNeighborsRegressor(20).fit(x, y)
    monitor = monitor_for(model)
    found = monitor.explain_prediction(row())
    assert found["method"] == "shap"
    assert found["output"] == pytest.approx(model.predict(pd.DataFrame([row()]))[0])
    assert found == monitor.explain_prediction(row())
    linear = monitor_for(LinearRegression().fit(x, y), "other").explain_prediction(row())
    assert linear["method"] == "shap"
    assert linear["output"] == pytest.approx(2.5)
    assert linear["feature_importance"]["income"] == pytest.approx(0.5, abs=0.15)


def test_without_shap_lime_answers_and_without_both_the_extra_is_named(monkeypatch):
    x, y = data()
    monitor = monitor_for(KNeighborsRegressor(20).fit(x, y))
    forget(monkeypatch, "shap")
    found = monitor.explain_prediction(row())
    assert found["method"] == "lime"
    assert found["feature_importance"]["age"] > abs(found["feature_importance"]["debt"])
    forget(monkeypatch, "lime")
    with pytest.raises(MissingExtra, match=r"modelyard\[explain\]"):
        monitor.explain_prediction(row())


def forget(monkeypatch, package):
    """Make the package as if it were not installed."""
    monkeypatch.delitem(sys.modules, f"modelyard.engines.{package}", raising=False)
    for name in [n for n in sys.modules if n == package or n.startswith(package + ".")]:
        monkeypatch.delitem(sys.modules, name)
    real = plugins.importlib.import_module

    def absent(name, *rest):
        if name == f"modelyard.engines.{package}":
            raise ModuleNotFoundError(name=package)
        return real(name, *rest)

    monkeypatch.setattr(plugins.importlib, "import_module", absent)


def test_a_stored_model_explains_itself(small_model):
    monitor = MLMonitor("demo", "v1.0.0")
    loaded = plugins.load("loader", "path")(small_model)
    monitor.set_explainer(loaded, ["a", "b", "c"], model_type="tree")
    found = monitor.explain_prediction({"a": 1.0, "b": 0.0, "c": 0.0})
    assert found["method"] == "contributions"
    chance = loaded.predict_proba([{"a": 1.0, "b": 0.0, "c": 0.0}])[0, 1]
    assert 1 / (1 + np.exp(-found["output"])) == pytest.approx(chance)


def test_what_cannot_be_explained_says_why():
    x, y = data()
    monitor = MLMonitor("credit", "v1.0.0")
    with pytest.raises(Invalid, match="set_explainer"):
        monitor.explain_prediction(row())
    with pytest.raises(Invalid, match="is no model"):
        monitor.set_explainer("model.pkl", NAMES)
    with pytest.raises(Invalid, match="Did you mean income"):
        monitor.set_explainer(LinearRegression().fit(x, y), ["age", "incone", "debt"])
    monitor.set_explainer(KNeighborsRegressor(5).fit(x, y), NAMES)
    with pytest.raises(Conflict, match="set_reference_data"):
        monitor.explain_prediction(row())
    with pytest.raises(Invalid, match="lacks the feature 'debt'"):
        monitor.explain_prediction({"age": 1, "income": 2})
    with pytest.raises(Invalid, match="no number"):
        monitor.explain_prediction({**row(), "age": "old"})
