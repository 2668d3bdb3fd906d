"""Versions are compared by stated rules, and scores only on the same rows, as scipy's bootstrap compares them."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.instants import FixedClock
from modelyard.registry import ModelRegistry
from modelyard.registry.comparison import compare_all, higher_is_better, spelt
from modelyard.ui.comparison import comparison, page

ANA = "ana@example.com"


@pytest.fixture
def registry(yard: Path, clock: FixedClock, small_model: Path) -> ModelRegistry:
    made = ModelRegistry(yard, clock=clock)
    for version, auc in (("v1.0.0", 0.8), ("v2.0.0", 0.9), ("v3.0.0", 0.85)):
        made.register_model(
            "fraud", version, small_model, "lightgbm", ANA,
            metrics={"auc": auc, "loss": 1 - auc}, parameters={"depth": 3, "seed": version},
        )  # fmt: skip
    return made


def _refs(*versions: str) -> list[str]:
    return [f"fraud:{version}" for version in versions]


def test_each_version_is_beside_the_first(registry: ModelRegistry) -> None:
    found = registry.compare_versions(_refs("v1.0.0", "v2.0.0", "v3.0.0"))
    auc = found.metrics[0]
    assert auc.differences == pytest.approx({"fraud:v1.0.0": 0, "fraud:v2.0.0": 0.1, "fraud:v3.0.0": 0.05})
    assert auc.relative_differences["fraud:v2.0.0"] == pytest.approx(0.125)
    assert [one.winner for one in found.metrics] == ["fraud:v2.0.0"] * 2
    assert found.winner == "fraud:v2.0.0"
    assert list(found.parameter_differences) == ["seed"]
    assert len(set(found.digests.values())) == 1
    assert comparison(found).count("<circle") == 4


def test_chosen_metrics_alone_are_compared_and_unknown_ones_are_undefined(registry: ModelRegistry) -> None:
    found = registry.compare_versions(_refs("v2.0.0", "v1.0.0"), ["f1", "auc"])
    assert [(one.metric, one.winner) for one in found.metrics] == [("f1", None), ("auc", "fraud:v2.0.0")]
    assert set(found.metrics[0].values.values()) == {None}
    assert found.winner == "fraud:v2.0.0"


@pytest.mark.parametrize("refs", [[], ["fraud:v1.0.0"], ["fraud:v1.0.0"] * 2, ["fraud"] * 51])
def test_fewer_than_two_or_the_same_versions_are_no_comparison(registry: ModelRegistry, refs: list[str]) -> None:
    with pytest.raises(Invalid, match="refs has"):
        registry.compare_versions(refs)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["auc", "loss", "f1"]), st.sampled_from([0.0, 0.5, 1.0]), max_size=3),
        min_size=3,
        max_size=3,
    )
)
def test_the_winner_does_not_depend_on_the_order_and_nothing_beats_it(
    registry: ModelRegistry, figures: list[dict]
) -> None:
    from dataclasses import replace

    base = registry.get_model("fraud", "v1.0.0")
    versions = [replace(base, version=f"{n}.0.0", metrics=metrics) for n, metrics in enumerate(figures)]
    winners = {compare_all(order, None, ()).winner for order in permutations(versions)}
    assert len(winners) == 1
    winner = next((one for one in versions if spelt(one) in winners), None)
    shared = set.intersection(*(set(metrics) for metrics in figures))
    for other in versions if winner is not None else ():
        for name in shared:
            gain = (winner.metrics[name] - other.metrics[name]) * (1 if higher_is_better(name) else -1)
            assert gain >= 0
    if not shared:
        assert winner is None


@pytest.mark.parametrize("kind", ["0 or 1", "real"])
def test_scores_on_the_same_rows_have_scipys_paired_interval(registry: ModelRegistry, kind: str) -> None:
    draw = np.random.default_rng(3)
    one = draw.integers(0, 2, 400).astype(float) if kind == "0 or 1" else draw.normal(size=400)
    two = np.clip(one + draw.integers(-1, 2, 400), 0, 1) if kind == "0 or 1" else one + draw.normal(0.2, 0.5, 400)
    ids = [f"row {n}" for n in range(400)]
    order = draw.permutation(400)
    registry.store_scores("fraud", "v1.0.0", "may", one, ANA, metric="correct", rows=ids)
    registry.store_scores(
        "fraud", "v2.0.0", "may", two[order], ANA, metric="correct", rows=[ids[place] for place in order]
    )
    found = registry.compare_versions(_refs("v1.0.0", "v2.0.0", "v3.0.0"), resamples=9_999).scores
    assert [score.version for score in found] == ["fraud:v2.0.0"]
    theirs = stats.bootstrap(
        (one, two), lambda a, b, axis: (b - a).mean(axis=axis), paired=True, vectorized=True, n_resamples=9_999,
        method="BCa", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    spread = theirs.high - theirs.low
    assert found[0].difference.value == pytest.approx((two - one).mean())
    assert found[0].difference.low == pytest.approx(theirs.low, abs=0.06 * spread)
    assert found[0].difference.high == pytest.approx(theirs.high, abs=0.06 * spread)
    again = registry.compare_versions(_refs("v1.0.0", "v2.0.0", "v3.0.0"), resamples=9_999).scores
    assert again == found, "seeded"


def test_scores_on_other_rows_or_of_another_metric_are_not_paired(registry: ModelRegistry) -> None:
    registry.store_scores("fraud", "v1.0.0", "may", [1, 0, 1], ANA, rows=[1, 2, 3])
    registry.store_scores("fraud", "v2.0.0", "may", [1, 0, 1], ANA, rows=[1, 2, 4])
    registry.store_scores("fraud", "v3.0.0", "june", [1, 0, 1], ANA, rows=[1, 2, 3])
    registry.store_scores("fraud", "v3.0.0", "may", [1, 0, 1], ANA, rows=[1, 2, 3], metric="loss")
    assert registry.compare_versions(_refs("v1.0.0", "v2.0.0", "v3.0.0")).scores == ()
    registry.store_scores("fraud", "v2.0.0", "may", [2, 1, 2], ANA, rows=[3, 2, 1])
    (only,) = registry.compare_versions(_refs("v1.0.0", "v2.0.0")).scores
    assert (only.difference.value, only.verdict, only.difference.n) == (1.0, "undecided", 3)
    assert only.difference.note == "every row differs by the same"
    assert "<circle" in comparison(registry.compare_versions(_refs("v1.0.0", "v2.0.0")))


def test_a_lower_loss_is_better(registry: ModelRegistry) -> None:
    for version, level in (("v1.0.0", 1.0), ("v2.0.0", 0.5)):
        registry.store_scores("fraud", version, "may", [level + n / 1000 for n in range(50)], ANA, metric="log_loss")
    assert registry.compare_versions(_refs("v1.0.0", "v2.0.0")).scores[0].verdict == "better"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("row,points\n1,2\n", "no column score"),
        ("row,score\n1,high\n", "no number"),
        ("row,score\n1,nan\n", "finite"),
        ("row,score\n", "0 scores"),
        ("row,score\n1,1\n1,2\n", "once"),
        ("", "no column score"),
    ],
)
def test_a_file_that_holds_no_scores_is_told_by_what_is_wrong(
    registry: ModelRegistry, tmp_path: Path, text: str, hint: str
) -> None:
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(Invalid, match=hint):
        registry.import_scores("fraud", "v1.0.0", "may", tmp_path / "scores.csv", ANA)
    with pytest.raises(NotFound, match="no file"):
        registry.import_scores("fraud", "v1.0.0", "may", tmp_path / "other.csv", ANA)


def test_scores_go_with_their_version_and_follow_its_name(registry: ModelRegistry) -> None:
    registry.store_scores("fraud", "v1.0.0", "may", [1, 0], ANA)
    registry.rename_model("fraud", "cards", ANA)
    assert [kept.n for kept in registry.list_scores("cards", "v1.0.0")] == [2]
    registry.delete("cards", "v1.0.0", ANA)
    with registry.store.reading() as rows:
        assert rows.all("SELECT name FROM model_scores") == []


@pytest.mark.parametrize(("rows", "verdict"), [(1, "undecided"), (5, "undecided"), (6, "better"), (60, "better")])
def test_a_handful_of_rows_decides_nothing_however_much_they_agree(
    registry: ModelRegistry, rows: int, verdict: str
) -> None:
    """A sign test of five rows that all agree has p = 1/16."""
    for version, score in (("v1.0.0", 0.0), ("v2.0.0", 1.0)):
        registry.store_scores("fraud", version, "may", [score] * rows, ANA, metric="correct")
    assert registry.compare_versions(_refs("v1.0.0", "v2.0.0")).scores[0].verdict == verdict


def test_versions_are_named_by_alias_too_and_the_page_says_what_is_better(registry: ModelRegistry) -> None:
    registry.set_alias("fraud", "challenger", "v2.0.0", user=ANA)
    for version, level in (("v1.0.0", 1.0), ("v2.0.0", 0.5)):
        registry.store_scores("fraud", version, "may", [level + n / 1000 for n in range(50)], ANA, metric="log_loss")
    found = registry.compare_versions(["fraud:v1.0.0", "fraud@challenger"])
    assert found.versions == ("fraud:v1.0.0", "fraud:v2.0.0")
    for name in ("log_loss on may", "<td>lower</td>", "<td>better"):
        assert name in page(found)
    with pytest.raises(Invalid, match="different"):
        registry.compare_versions(["fraud:v2.0.0", "fraud@challenger"])
    with pytest.raises(NotFound, match="Did you mean challenger"):
        registry.compare_versions(["fraud:v1.0.0", "fraud@chalenger"])
