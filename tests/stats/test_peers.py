"""Tests, intervals and sample sizes against statsmodels and tea-tasting, each in an environment of its own."""

import json
import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

from modelyard.stats import ratios
from modelyard.stats.cross import Cross, exact
from modelyard.stats.multiple import benjamini_hochberg, holm
from modelyard.stats.power import mean_sample_size, sample_size
from modelyard.stats.proportions import newcombe, score_test

RATES = {"events": [1210, 50], "n": [95_000, 5_000]}
P_VALUES = [0.001, 0.012, 0.02, 0.04, 0.3, 0.9]


@pytest.fixture(scope="module")
def units():
    random = np.random.default_rng(12)
    n = 4000
    habit = random.gamma(2.0, 1.0, n)
    variant = random.random(n) < 0.3
    e, d = 1 + random.poisson(habit), 1 + random.poisson(habit * (1 + 0.02 * variant))
    z = random.gamma(habit, 2.0)
    x = 0.8 * z + random.gamma(d, 1.0) * (1 + 0.05 * variant)
    return {"variant": variant.astype(int), "x": x, "d": d.astype(float), "z": z, "e": e.astype(float)}


@pytest.fixture(scope="module")
def judged(peer, units):
    told = {
        "units": {name: values.tolist() for name, values in units.items()},
        "rates": RATES,
        "p_values": P_VALUES,
        "effect": 2 * (math.asin(math.sqrt(0.105)) - math.asin(math.sqrt(0.1))),
    }
    command = [str(peer("experiments") / "bin" / "python"), str(Path(__file__).with_name("judge.py"))]
    return json.loads(
        subprocess.run(command, input=json.dumps(told), check=True, capture_output=True, text=True).stdout
    )


def arms(units, names):
    """Both arms' exact sums."""
    found = []
    for variant in (0, 1):
        cross = Cross(len(names))
        for values in zip(*(units[name][units["variant"] == variant] for name in names), strict=True):
            cross.add([exact(float(value)) for value in values])
        found.append(cross.spread())
    return found


def told(control, treatment):
    found = ratios.difference(control, treatment)
    half = ratios.wide(1.959963985, found.df) * found.error
    return [found.value, found.value - half, found.value + half, found.p_value]


def test_rates_are_those_of_statsmodels(judged):
    four = (RATES["events"][0], RATES["n"][0], RATES["events"][1], RATES["n"][1])
    assert score_test(*four)[1] == pytest.approx(judged["ztest"], rel=1e-9)
    assert newcombe(*four) == pytest.approx(judged["newcombe"], abs=1e-9)


def test_means_are_those_of_statsmodels(judged, units):
    control, treatment = (ratios.mean(spread) for spread in arms(units, ["x"]))
    _, low, high, p_value = told(control, treatment)
    assert [p_value, low, high] == pytest.approx(judged["welch"], rel=1e-6)


def test_ratios_by_the_delta_method_are_those_of_tea_tasting(judged, units):
    control, treatment = (ratios.ratio(spread) for spread in arms(units, ["x", "d"]))
    assert told(control, treatment) == pytest.approx(judged["ratio"][1:], rel=1e-6)


def test_a_covariate_gives_the_regressions_estimate_and_tea_tastings_interval(judged, units):
    """tea-tasting's slope is that of both arms together, ours the regression's within arms: the reference allows 1e-3."""
    control, treatment, reduced = ratios.adjusted(*(ratios.mean(spread) for spread in arms(units, ["x", "z"])))
    assert reduced > 0.3
    assert treatment.value - control.value == pytest.approx(judged["ancova"], rel=1e-9)
    assert told(control, treatment)[:3] == pytest.approx(judged["mean"][1:4], abs=2e-3 * abs(control.value))
    assert told(control, treatment)[3] == pytest.approx(judged["mean"][4], rel=0.05)


def test_a_ratio_with_a_covariate_is_tea_tastings(judged, units):
    found = ratios.adjusted(*(ratios.ratio(spread) for spread in arms(units, ["x", "d", "z", "e"])))
    assert found[2] > 0.05
    width = judged["ratio_less"][3] - judged["ratio_less"][2]
    assert told(*found[:2])[:3] == pytest.approx(judged["ratio_less"][1:4], abs=0.02 * width)


def test_adjusted_p_values_are_those_of_statsmodels(judged):
    assert holm(np.array(P_VALUES)).tolist() == pytest.approx(judged["holm"])
    assert benjamini_hochberg(np.array(P_VALUES)).tolist() == pytest.approx(judged["bh"])


def test_sample_sizes_agree_with_cohens_and_with_each_other(judged):
    rates = sample_size(0.10, 0.05)
    assert rates / 2 == pytest.approx(judged["cohen"], rel=1e-3)
    deviation = math.sqrt((0.1 * 0.9 + 0.105 * 0.895) / 2)
    assert mean_sample_size(0.05, mean=0.10, deviation=deviation) == pytest.approx(rates, abs=2)
