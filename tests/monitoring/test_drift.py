"""Drift alarms: quiet where nothing changed, right where something did, and named where it is a unit error."""

from __future__ import annotations

import asyncio

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_breast_cancer

from modelyard.core import plugins
from modelyard.core.errors import Conflict, Invalid
from modelyard.core.events import EventSeverity
from modelyard.core.measures import Measurement
from modelyard.monitoring import MLMonitor
from modelyard.monitoring.drift.ks import ks
from modelyard.monitoring.drift.wasserstein import wasserstein
from modelyard.monitoring.profile import profile, reference_profile


def table(rows, seed, *, shift=0.0):
    """Twenty numbers (normal, skewed, zero-inflated, bounded, correlated), five categories with 2 to 1,000 levels."""
    rng = np.random.default_rng(seed)
    common, columns = rng.normal(size=rows), {}
    for i in range(20):
        noise = rng.normal(size=rows)
        zeros = np.where(rng.random(rows) < 0.4, 0.0, np.abs(noise))
        made = (noise, np.exp(noise), zeros, stats.norm.cdf(noise), 0.8 * common + 0.6 * noise)
        columns[f"number_{i}"] = made[i % 5] + (shift if i == 0 else 0.0)
    for levels in (2, 5, 10, 50, 1000):
        shares = 1 / np.arange(1, levels + 1)
        drawn = rng.choice(levels, rows, p=shares / shares.sum())
        columns[f"levels_{levels}"] = np.array([f"level {k}" for k in range(levels)], dtype=object)[drawn]
    return columns


def checked(reference, window, **options):
    monitor = MLMonitor("credit", "v1.0.0")
    monitor.set_reference_data(reference, **options)
    return asyncio.run(monitor.check_drift(window))


@pytest.mark.parametrize(("rows", "size"), [(1000, 1000), (4000, 500)])
def test_a_window_from_the_reference_law_rarely_alarms(rows, size):
    """Nominal 0.05 over all 25 columns together; 100 seeded windows, each with a fresh reference."""
    alarmed = 0
    for run in range(100):
        whole = table(rows + size, 31_000_000 + rows + run)
        reference = {name: values[:rows] for name, values in whole.items()}
        alarmed += bool(checked(reference, {name: values[rows:] for name, values in whole.items()}))
    assert stats.binomtest(alarmed, 100, 0.05, alternative="greater").pvalue > 0.001


def test_half_a_standard_deviation_in_one_of_25_columns_is_found_and_named():
    reference = table(10_000, 1)
    for seed in range(2, 6):
        alerts = checked(reference, table(1000, seed, shift=0.5))
        assert alerts[0].feature_name == "number_0"
        assert alerts[0].adjusted_p_value < 1e-6
        assert alerts[0].test == "anderson_darling"


def test_columns_are_found_whatever_changed():
    rng = np.random.default_rng(0)
    reference = table(5000, 1)
    window = table(2000, 2)
    window["number_4"] = np.where(rng.random(2000) < 0.05, np.nan, window["number_4"])
    window["levels_5"] = np.where(rng.random(2000) < 0.03, "never seen", window["levels_5"])
    window["levels_2"] = np.where(rng.random(2000) < 0.05, None, window["levels_2"])
    window["number_10"] = window["number_10"] * 1.4
    found = {alert.feature_name: alert for alert in checked(reference, window)}
    assert set(found) == {"number_4", "levels_5", "levels_2", "number_10"}
    assert found["number_4"].test == "missing"
    assert "missing values moved by +" in found["number_4"].message


def test_the_wisconsin_table_is_quiet_against_itself_and_one_scaled_column_is_exactly_that():
    rows = load_breast_cancer(as_frame=True).data.sample(frac=1, random_state=0)
    reference, same = rows.iloc[:300], rows.iloc[300:]
    assert checked(reference, same) == []
    moved = same.assign(**{"mean radius": same["mean radius"] * 1.5})
    alerts = checked(reference, moved)
    assert [alert.feature_name for alert in alerts] == ["mean radius"]
    assert "looks multiplied by about 1.5" in alerts[0].message
    assert alerts[0].severity is EventSeverity.CRITICAL


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda age: age * 12, "multiplied by about 12 (a unit error? years in months"),
        (lambda age: age * 365.25, "multiplied by about 365.25 (a unit error? years in days)"),
        (lambda age: age / 12, "multiplied by about 1/12"),
        (lambda age: age / 100, "about 1/100 (a unit error? the reverse of a share in percent)"),
        (lambda age: age * 1.8 + 32, "Celsius in Fahrenheit"),
    ],
)
def test_a_unit_error_is_named(change, told):
    rng = np.random.default_rng(1)
    reference = {"age": rng.gamma(9, 4, 4000) + 1}
    alerts = checked(reference, {"age": change(rng.gamma(9, 4, 800) + 1)})
    assert told in alerts[0].message


@pytest.mark.parametrize(
    "change", [lambda x: x + 10, lambda x: x**1.5, lambda x: np.random.default_rng(0).permutation(100 - x)]
)
def test_an_ordinary_change_is_not_called_a_unit_error(change):
    rng = np.random.default_rng(1)
    alerts = checked({"age": rng.normal(40, 12, 4000)}, {"age": change(np.abs(rng.normal(40, 12, 800)))})
    assert alerts
    assert "unit error" not in alerts[0].message


def test_reported_statistics_agree_with_scipy():
    rng = np.random.default_rng(2)
    x, y = rng.lognormal(size=8000), rng.lognormal(0.1, 1.1, size=3000)
    reference = reference_profile({"x": x})
    columns = reference.columns["x"], profile(reference, {"x": y}).columns["x"]
    assert ks(*columns).value == pytest.approx(stats.ks_2samp(x, y).statistic, abs=0.001)
    assert wasserstein(*columns).value == pytest.approx(stats.wasserstein_distance(x, y), rel=0.03)


def test_every_registered_statistic_answers_every_kind_of_column_with_a_measurement():
    reference = reference_profile({"x": np.arange(100.0), "k": np.array(["a", "b"] * 50, dtype=object)})
    window = profile(reference, {"x": np.full(7, np.nan), "k": np.array(["c"] * 7, dtype=object)})
    for name in plugins.names("drift"):
        for column in ("x", "k"):
            found = plugins.load("drift", name)(reference.columns[column], window.columns[column])
            assert isinstance(found, Measurement)
            assert found.name == name


def test_an_all_missing_window_column_is_drift():
    assert [a.feature_name for a in checked({"x": np.arange(100.0)}, {"x": np.full(50, np.nan)})] == ["x"]


def test_a_constant_column_stays_quiet_and_alarms_when_it_moves():
    reference = {"x": np.full(200, 3.0)}
    assert checked(reference, {"x": np.full(100, 3.0)}) == []
    assert checked(reference, {"x": np.full(100, 4.0)})[0].feature_name == "x"


def test_one_row_is_never_evidence():
    assert checked(table(1000, 1), {name: values[:1] for name, values in table(10, 2).items()}) == []


def test_identifiers_that_are_all_distinct_are_quiet():
    ids = np.array([f"user-{i}" for i in range(9000)], dtype=object)
    assert checked({"id": ids[:6000]}, {"id": ids[6000:]}) == []


@pytest.mark.parametrize("sensitivity", [0, 1, -0.1, 5])
def test_a_sensitivity_that_is_no_chance_is_refused(sensitivity):
    with pytest.raises(Invalid, match="sensitivity"):
        checked({"x": np.arange(20.0)}, {"x": np.arange(20.0)}, sensitivity=sensitivity)


def test_a_check_without_reference_or_with_a_misspelt_column_says_what_to_do():
    with pytest.raises(Conflict, match="set_reference_data"):
        asyncio.run(MLMonitor("credit", "v1.0.0").check_drift({"x": [1.0]}))
    with pytest.raises(Invalid, match="Did you mean income"):
        checked({"income": np.arange(20.0)}, {"incone": np.arange(20.0)})
    with pytest.raises(Invalid, match="no table"):
        checked({"income": np.arange(20.0)}, 7)


def test_a_check_looks_at_its_argument_alone():
    reference, drifted, same = table(3000, 1), table(500, 2, shift=2.0), table(500, 3)
    monitor = MLMonitor("credit", "v1.0.0")
    monitor.set_reference_data(pd.DataFrame(reference))
    first = asyncio.run(monitor.check_drift(same))
    assert asyncio.run(monitor.check_drift(drifted))
    assert [a.feature_name for a in asyncio.run(monitor.check_drift(same))] == [a.feature_name for a in first]
