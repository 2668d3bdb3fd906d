"""A shadow's answers against the primary's, by the type of the output."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.core.ports import Output
from modelyard.core.traffic import DISTANCES, Arm
from modelyard.serving import ModelServer
from modelyard.serving.comparing import compared

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5)


def numbers(values: Any) -> Output:
    return Output(predictions=np.array(values, dtype=np.float64))


def classes(labels: Any, probabilities: Any = None) -> Output:
    return Output(
        predictions=np.array(labels), probabilities=None if probabilities is None else np.array(probabilities)
    )


@settings(max_examples=50)
@given(NUMBERS)
def test_numbers_agree_with_themselves_and_not_with_numbers_one_percent_off(values: list[float]) -> None:
    one = numbers(values)
    assert compared(one, one, regression=True, tolerance=None).agrees
    off = compared(one, numbers([value * 1.01 + 1 for value in values]), regression=True, tolerance=None)
    assert not off.agrees
    assert compared(one, numbers(np.array(values) * 1.01), regression=True, tolerance=0.011).agrees


@settings(max_examples=100)
@given(st.integers(2, 5).flatmap(lambda n: st.tuples(*[st.lists(st.floats(0.01, 1), min_size=n, max_size=n)] * 2)))
def test_the_distance_of_probabilities_is_the_largest_difference_over_all_sets_of_classes(both: Any) -> None:
    p, q = (np.array(one) / sum(one) for one in both)
    every = chain.from_iterable(combinations(range(len(p)), size) for size in range(len(p) + 1))
    brute = max(abs(p[list(chosen)].sum() - q[list(chosen)].sum()) for chosen in every)
    found = compared(classes([0], [p]), classes([0], [q]), regression=False, tolerance=None)
    assert found.agrees
    assert found.distance == pytest.approx(brute, abs=1e-12)
    assert compared(classes([0], [p]), classes([0], [q]), regression=False, tolerance=brute * 1.01 + 1e-9).agrees
    assert (
        brute < 1e-6
        or not compared(classes([0], [p]), classes([0], [q]), regression=False, tolerance=brute * 0.9).agrees
    )


@pytest.mark.parametrize(
    ("one", "other", "agrees", "distance"),
    [
        (classes(["a", "b"]), classes(["a", "b"]), True, 0.0),
        (classes(["a", "b", "a", "a"]), classes(["a", "a", "a", "a"]), False, 0.25),
        (classes([1]), classes([1, 1]), False, 1.0),
        (classes([0], [[1.0, 0.0]]), classes([0], [[1.0, 0.0, 0.0]]), True, 0.0),
        (classes(np.array(["a", None], object)), classes(np.array(["a", None], object)), True, 0.0),
        (classes(["1", "2"]), classes([1, 2]), False, 1.0),
        (classes([True, False]), classes([1, 0]), True, 0.0),
        (classes(["no", "yes"]), classes(np.array(["no", "no"], object)), False, 0.5),
        (classes([[0, 1], [1, 1]]), classes([[0, 1], [1, 0]]), False, 0.5),
        (classes([0], [[float("nan"), 1.0]]), classes([0], [[float("nan"), 1.0]]), True, 0.0),
        (classes([0], [[float("nan"), 1.0]]), classes([0], [[0.5, 0.5]]), True, float("inf")),
        (classes([1], [[0.75]]), classes([1], [[0.5, 0.5]]), True, 0.25),
        (classes([1], [0.75]), classes([1], [0.5]), True, 0.25),
        (classes([]), classes([]), True, 0.0),
        (numbers([[1.0, 2.0], [3.0, 4.0]]), numbers([[1.0, 2.0], [3.0, 5.0]]), False, 0.2),
        (numbers([[1.0], [2.0]]), numbers([1.0, 2.0]), True, 0.0),
        (numbers([1.0, 2.0]), numbers([[1.0, 2.0]]), False, 1.0),
        (numbers([1.0]), classes(["1"]), True, 0.0),
        (numbers([1.0]), classes(["high"]), False, float("inf")),
        (numbers([1.0]), classes(np.array([None])), False, float("inf")),
        (numbers([1.0, float("nan")]), numbers([1.0, float("nan")]), True, 0.0),
        (numbers([1.0]), numbers([float("nan")]), False, float("inf")),
        (numbers([float("inf")]), numbers([float("inf")]), True, 0.0),
        (numbers([0.0]), numbers([0.5e-9]), True, 0.0),
        (numbers([0.0]), numbers([1e-3]), False, 1.0),
    ],
)
def test_what_cannot_be_subtracted_is_compared_too(one: Output, other: Output, agrees: bool, distance: float) -> None:
    regression = one.predictions.dtype.kind == "f"
    found = compared(one, other, regression=regression, tolerance=None)
    assert (found.agrees, found.distance) == (agrees, distance)


@given(st.permutations(["a", "b", 3]), st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_probabilities_are_compared_class_by_class_whatever_their_order(order: list[Any], raw: list[float]) -> None:
    p = dict(zip(["a", "b", 3], np.array(raw) / sum(raw), strict=True))
    one, other = classes(["a"], [list(p.values())]), classes(["a"], [[p[name] for name in order]])
    found = compared(one, other, regression=False, tolerance=1e-9, classes=(tuple(p), tuple(order)))
    assert found.agrees
    assert found.distance == pytest.approx(0, abs=1e-12)


def test_a_class_that_one_of_them_does_not_know_is_impossible_there() -> None:
    one, other = classes(["a"], [[0.75, 0.25]]), classes(["a"], [[0.5, 0.25, 0.25]])
    found = compared(one, other, regression=False, tolerance=None, classes=(("a", "b"), ("a", "c", "b")))
    assert (found.agrees, found.distance) == (True, 0.25)


def test_distances_are_counted_by_their_upper_ends(server: ModelServer, tools: Any) -> None:
    tools.install(server, "e", v1=tools.reference(), v2=tools.reference(shift=0.05))
    shadow = Arm(name="shadow", model="m", version="v2", weight=0.0)
    server.apply(tools.split("e", 1, shadow=shadow, shadow_share=1.0, shadow_tolerance=0.001))
    with server.start(workers=1) as serving, httpx.Client(base_url=serving.url) as client:
        for _ in range(20):
            client.post("/predict/e", json={"features": {"a": 0.25, "b": 0}}).raise_for_status()
        found = tools.until(lambda: (c := server.counts("e").shadow) is not None and c.compared == 20 and c, 120)
    p, q = (1 / (1 + np.exp(-score)) for score in (0.25, 0.20))
    place = next(i for i, end in enumerate(DISTANCES) if end >= p - q)
    assert found.distances == tuple(20 if i == place else 0 for i in range(len(DISTANCES) + 1))
    assert found.agreed == 0  # the classes are the same, the probabilities 0.012 apart
