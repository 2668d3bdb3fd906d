"""Versions sort as semver.org says, and winners are found by stated rules."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cmp_to_key
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.core.errors import Invalid
from modelyard.core.models import ModelStage, ModelVersion
from modelyard.core.people import folded
from modelyard.core.refs import SemVer
from modelyard.registry import checks, comparison, rules
from modelyard.registry.checks import sort_key

# semver.org 2.0.0, items 9 to 11
IN_ORDER = [
    "1.0.0-alpha",
    "1.0.0-alpha.1",
    "1.0.0-alpha.beta",
    "1.0.0-beta",
    "1.0.0-beta.2",
    "1.0.0-beta.11",
    "1.0.0-rc.1",
    "1.0.0",
    "2.0.0",
    "2.1.0",
    "2.1.1",
    "10.0.0",
]
NUMBERS = st.integers(0, 10**30) | st.integers(0, 20)
IDENTIFIERS = NUMBERS.map(str) | st.from_regex(r"[0-9]*[A-Za-z-][0-9A-Za-z-]{0,4}", fullmatch=True)
VERSIONS = st.builds(
    lambda v, a, b, c, pre: f"{v}{a}.{b}.{c}" + ("-" + ".".join(pre) if pre else ""),
    st.sampled_from(["", "v"]),
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.lists(IDENTIFIERS, max_size=3),
)


def _compare(one: str, two: str) -> int:
    """semver.org, item 11, word for word."""
    first, second = (text.removeprefix("v").partition("-") for text in (one, two))
    for a, b in zip(first[0].split("."), second[0].split("."), strict=True):
        if int(a) != int(b):
            return -1 if int(a) < int(b) else 1
    if not first[2] or not second[2]:
        return (not first[2]) - (not second[2])
    left, right = first[2].split("."), second[2].split(".")
    for a, b in zip(left, right, strict=False):
        if a == b:
            continue
        if a.isdigit() and b.isdigit():
            return -1 if int(a) < int(b) else 1
        if a.isdigit() != b.isdigit():
            return -1 if a.isdigit() else 1
        return -1 if a < b else 1
    return (len(left) > len(right)) - (len(left) < len(right))


def test_the_specifications_own_examples_are_in_order() -> None:
    for low, high in pairwise(IN_ORDER):
        assert sort_key(low) < sort_key(high)
        assert _compare(low, high) == -1


@given(st.lists(VERSIONS, max_size=12))
def test_the_sort_key_orders_versions_as_the_specification_does(versions: list[str]) -> None:
    brute = sorted(versions, key=cmp_to_key(_compare))
    by_key = sorted(versions, key=lambda version: sort_key(version).encode())
    assert [_compare(a, b) for a, b in zip(brute, by_key, strict=True)] == [0] * len(versions)


@given(VERSIONS, VERSIONS)
def test_key_and_value_agree(one: str, two: str) -> None:
    assert (sort_key(one) < sort_key(two)) == (SemVer.parse(one) < SemVer.parse(two))


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "1",
        "1.2",
        "1.2.3.4",
        "01.2.3",
        "1.2.3-",
        "1.2.3-01",
        "V1.2.3",
        " 1.2.3",
        "1.2.3\n",
        "1.٣.0",
        "1.1٣.0",
        "1.2.3-é",
        "x" * 200,
    ],
)
def test_malformed_versions_are_refused(bad: str) -> None:
    with pytest.raises(Invalid, match="semantic version"):
        sort_key(bad)


@pytest.mark.parametrize(
    "bad", ["", "../x", "a/b", "<img onerror=x>", "a:b", "a@b", "é", "a\n", "x" * 129, "a'; DROP TABLE models"]
)
def test_malformed_model_names_are_refused(bad: str) -> None:
    with pytest.raises(Invalid, match="no model name"):
        checks.checked_model_name(bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, "0.9", None, True, [1.0], 10**400])
def test_a_metric_that_is_no_finite_number_is_refused_by_name(bad: object) -> None:
    with pytest.raises(Invalid, match=r"metrics\['auc'\]"):
        checks.checked_metrics({"auc": bad})


def test_spellings_of_one_person_are_one() -> None:
    assert len({folded(name) for name in ("Ana@Example.com", " ana@example.com ", "ａｎａ@example.com")}) == 1


def test_every_transition_is_either_a_promotion_a_demotion_or_none() -> None:
    for stage in ModelStage:
        assert not rules.PROMOTIONS[stage] & rules.DEMOTIONS[stage]
        assert stage not in rules.PROMOTIONS[stage] | rules.DEMOTIONS[stage]
    assert all(ModelStage.PRODUCTION not in targets for targets in rules.DEMOTIONS.values()), (
        "never without an approval"
    )


@pytest.mark.parametrize(
    ("name", "up"),
    [
        ("accuracy", True),
        ("val_loss", False),
        ("logLoss", False),
        ("rmse", False),
        ("r2", True),
        ("latency_p95", False),
        ("auc", True),
        ("closeness", True),
        ("error_rate", False),
    ],
)
def test_the_words_of_a_metrics_name_say_which_way_is_better(name: str, up: bool) -> None:
    assert comparison.higher_is_better(name) is up


def _model(version: str, **metrics: float) -> ModelVersion:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return ModelVersion(
        name="m", version=version, framework="onnx", stage=ModelStage.DEVELOPMENT, digest=version, created_by="a",
        created_at=now, updated_at=now, metrics=metrics,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "winner"),
    [
        ({"auc": 0.8}, {"auc": 0.9}, "2.0.0"),
        ({"loss": 0.8}, {"loss": 0.9}, "1.0.0"),
        ({"auc": 0.8, "loss": 0.1}, {"auc": 0.9, "loss": 0.1}, "2.0.0"),
        ({"auc": 0.8, "loss": 0.1}, {"auc": 0.9, "loss": 0.2}, None),
        ({"auc": 0.8}, {"auc": 0.8}, None),
        ({"auc": 0.8}, {"loss": 0.8}, None),
    ],
)
def test_a_winner_is_better_somewhere_and_worse_nowhere(first: dict, second: dict, winner: str | None) -> None:
    assert comparison.compare(_model("1.0.0", **first), _model("2.0.0", **second))["winner"] == winner


def test_a_relative_difference_to_nothing_is_undefined_and_to_a_negative_one_keeps_its_sign() -> None:
    figures = comparison.compare(_model("1.0.0", a=0.0, b=-2.0), _model("2.0.0", a=1.0, b=-1.0))["metrics_comparison"]
    assert figures["a"]["relative_difference"] is None
    assert figures["b"]["relative_difference"] == 0.5
