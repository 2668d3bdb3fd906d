"""Fairness measures agree with fairlearn, add up over replicas, and refuse verdicts they cannot support."""

import fairlearn.metrics as oracle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelyard.core import plugins
from modelyard.governance.fairness.counts import CountTable, count_table
from modelyard.governance.values import BiasType, BiasVerdict

PEERS = {
    BiasType.STATISTICAL_PARITY: oracle.demographic_parity_difference,
    BiasType.DISPARATE_IMPACT: oracle.demographic_parity_ratio,
    BiasType.EQUAL_OPPORTUNITY: oracle.equal_opportunity_difference,
    BiasType.EQUALIZED_ODDS: oracle.equalized_odds_difference,
}


def measure(kind, table, **given):
    return plugins.load("fairness", kind.value).report("g", table, **{"threshold": 0.1, **given})


def sample(rng, n, rates, truth=0.5):
    group = rng.integers(0, len(rates), n)
    y_true = (rng.random(n) < truth).astype(int)
    y_pred = (rng.random(n) < np.asarray(rates)[group]).astype(int)
    return y_true, y_pred, group


@pytest.mark.parametrize("kind", PEERS, ids=lambda kind: kind.value)
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_fairlearn(kind, seed):
    rng = np.random.default_rng(seed)
    y_true, y_pred, group = sample(rng, 3000, rng.uniform(0.1, 0.9, 4))
    report = measure(kind, count_table(y_true, y_pred, group))
    assert report.bias_score == pytest.approx(PEERS[kind](y_true, y_pred, sensitive_features=group), abs=1e-12)
    assert report.interval[0] <= report.bias_score <= report.interval[1]


def test_group_rates_equal_fairlearn():
    y_true, y_pred, group = sample(np.random.default_rng(1), 2000, [0.3, 0.6, 0.5])
    rows = {row.group: row for row in measure(BiasType.STATISTICAL_PARITY, count_table(y_true, y_pred, group)).groups}
    frame = oracle.MetricFrame(
        metrics={
            "selection_rate": oracle.selection_rate,
            "tpr": oracle.true_positive_rate,
            "fpr": oracle.false_positive_rate,
        },
        y_true=y_true,
        y_pred=y_pred,
        sensitive_features=group,
    ).by_group
    for name in frame.index:
        for column in frame.columns:
            assert getattr(rows[str(name)], column) == pytest.approx(frame.loc[name, column])


@given(
    arrays.arrays(np.int64, st.tuples(st.integers(1, 60), st.just(2)), elements=st.integers(0, 1)),
    st.lists(st.sampled_from(["a", "b", None, 1, 2.0, float("nan"), "1"]), min_size=60, max_size=60),
    st.integers(0, 60),
)
@settings(max_examples=60, deadline=None)
def test_tables_of_parts_add_up_to_the_table_of_the_whole(labels, groups, cut):
    groups = np.array(groups[: len(labels)], dtype=object)
    whole = count_table(labels[:, 0], labels[:, 1], groups)
    assert whole.cells.sum() == len(labels)
    parts = [part for part in (slice(None, cut), slice(cut, None)) if len(labels[part])]
    merged = None
    for part in parts:
        table = count_table(labels[part, 0], labels[part, 1], groups[part])
        merged = table if merged is None else merged.merge(table)
    assert dict(zip(merged.groups, merged.cells.tolist(), strict=True)) == dict(
        zip(whole.groups, whole.cells.tolist(), strict=True)
    )


@pytest.mark.parametrize("rates", [[0.3, 0.45], [0.2, 0.25, 0.3, 0.45]], ids=["two groups", "four groups"])
@pytest.mark.parametrize("kind", [BiasType.STATISTICAL_PARITY, BiasType.DISPARATE_IMPACT], ids=lambda kind: kind.value)
def test_the_interval_covers_the_true_gap_at_least_as_often_as_it_says(rates, kind):
    rng = np.random.default_rng(7)
    true = max(rates) - min(rates) if kind is BiasType.STATISTICAL_PARITY else min(rates) / max(rates)
    covered = 0
    for seed in range(200):
        report = measure(kind, count_table(*sample(rng, 1200, rates)), seed=seed)
        covered += report.interval[0] <= true <= report.interval[1]
    assert covered >= 184  # 95 % of 200 less about three standard errors


def test_many_small_groups_without_a_difference_are_not_found_to_differ():
    """The largest of many noisy gaps is large: the interval must know."""
    rng = np.random.default_rng(3)
    verdicts = [
        measure(BiasType.STATISTICAL_PARITY, count_table(*sample(rng, 900, [0.5] * 15)), threshold=0.0, seed=seed)
        for seed in range(100)
    ]
    assert np.mean([report.bias_score for report in verdicts]) > 0.2  # the naive reading would find bias each time
    assert sum(report.is_biased for report in verdicts) <= 11


def test_a_group_without_positives_leaves_equal_opportunity_undefined_where_fairlearn_finds_a_gap():
    y_true = np.array([0] * 50 + [0, 1] * 50)
    y_pred = np.array([0, 1] * 25 + [0, 1] * 50)
    group = np.array(["rare"] * 50 + ["rest"] * 100)
    report = measure(BiasType.EQUAL_OPPORTUNITY, count_table(y_true, y_pred, group))
    assert (report.verdict, report.bias_score, report.interval) == (BiasVerdict.UNDEFINED, None, None)
    assert "rare" in report.reason
    assert "positives = 0" in report.reason
    assert not report.is_biased
    assert oracle.equal_opportunity_difference(y_true, y_pred, sensitive_features=group) == 1.0
    assert measure(BiasType.STATISTICAL_PARITY, count_table(y_true, y_pred, group)).bias_score is not None


def test_small_groups_are_shown_by_name_and_left_out_of_the_verdict():
    y_true = np.tile([0, 1], 105)
    y_pred = np.tile([0, 1], 105)
    y_pred[-10:] = 0
    group = np.array(["a"] * 100 + ["b"] * 100 + ["tiny"] * 10)
    report = measure(BiasType.STATISTICAL_PARITY, count_table(y_true, y_pred, group))
    assert report.bias_score == 0.0
    assert "tiny" in report.reason
    tiny = next(row for row in report.groups if row.group == "tiny")
    assert (tiny.n, tiny.selection_rate) == (10, 0.0)
    assert "fewer than 30" in tiny.left_out
    alone = measure(BiasType.STATISTICAL_PARITY, count_table(y_true[-10:], y_pred[-10:], group[-10:]))
    assert alone.verdict is BiasVerdict.UNDEFINED


def test_a_handful_of_records_with_a_rate_of_one_is_no_certainty():
    """Resampling such a group never changes its rate, so a naive bootstrap calls 30 records certain."""
    y_pred = np.array([1] * 30 + [1] * 27 + [0] * 3)
    table = count_table(np.ones(60, dtype=int), y_pred, np.array(["all"] * 30 + ["most"] * 30))
    report = measure(BiasType.EQUAL_OPPORTUNITY, table, threshold=0.05)
    assert report.bias_score == pytest.approx(0.1)
    assert report.verdict is BiasVerdict.UNCLEAR


def test_verdicts_follow_the_near_end_of_the_interval():
    y_true, y_pred, group = sample(np.random.default_rng(5), 4000, [0.3, 0.5])
    table = count_table(y_true, y_pred, group)
    low, high = measure(BiasType.STATISTICAL_PARITY, table).interval
    for threshold, verdict in (
        (low - 0.01, BiasVerdict.BIASED),
        ((low + high) / 2, BiasVerdict.UNCLEAR),
        (high + 0.01, BiasVerdict.WITHIN),
    ):
        assert measure(BiasType.STATISTICAL_PARITY, table, threshold=threshold).verdict is verdict
    low, high = measure(BiasType.DISPARATE_IMPACT, table).interval
    for threshold, verdict in (
        (high + 0.01, BiasVerdict.BIASED),
        ((low + high) / 2, BiasVerdict.UNCLEAR),
        (low - 0.01, BiasVerdict.WITHIN),
    ):
        assert measure(BiasType.DISPARATE_IMPACT, table, threshold=threshold).verdict is verdict


def test_the_same_counts_and_seed_give_the_same_report_whatever_the_number_of_records():
    table = count_table(*sample(np.random.default_rng(2), 500, [0.4, 0.6]))
    assert measure(BiasType.EQUALIZED_ODDS, table) == measure(BiasType.EQUALIZED_ODDS, table)
    large = CountTable(table.groups, table.cells * 10_000_000)
    low, high = measure(BiasType.STATISTICAL_PARITY, large).interval
    assert high - low < 0.001


def test_nobody_selected_is_a_difference_of_zero_and_no_ratio():
    table = count_table([0, 1] * 50, [0] * 100, ["a", "b"] * 50)
    assert measure(BiasType.STATISTICAL_PARITY, table).bias_score == 0.0
    assert measure(BiasType.DISPARATE_IMPACT, table).verdict is BiasVerdict.UNDEFINED
    table = count_table([0, 1] * 50, [0, 1] * 50, ["a", "b"] * 50)
    report = measure(BiasType.DISPARATE_IMPACT, table, threshold=0.8)
    assert (report.bias_score, report.interval[0], report.verdict) == (0.0, 0.0, BiasVerdict.BIASED)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "group", "message"),
    [
        ([0, 1], [0, 2], ["a", "b"], "neither 0 nor 1"),
        ([0, 1], [0, float("nan")], ["a", "b"], "neither 0 nor 1"),
        ([0, 1], ["yes", "no"], ["a", "b"], "not 0 or 1"),
        ([0, 1, 1], [0, 1], ["a", "b"], "3 values"),
        ([[0], [1]], [0, 1], ["a", "b"], "shape"),
        ([], [], [], "no records"),
        (np.zeros(500), np.zeros(500), np.arange(500) / 7, "at most 100 groups"),
    ],
)
def test_bad_columns_are_refused_with_a_reason(y_true, y_pred, group, message):
    with pytest.raises(ValueError, match=message):
        count_table(y_true, y_pred, group)


def test_missing_values_are_a_group_and_whole_numbers_have_one_name():
    table = count_table([1] * 5, [1] * 5, np.array([1, 1.0, None, float("nan"), "1"], dtype=object))
    assert dict(zip(table.groups, table.cells[:, 1, 1].tolist(), strict=True)) == {"1": 3, "(missing)": 2}
    assert count_table([1, 1], [1, 1], np.array([1.0, 2.0])).groups == ("1", "2")
    assert count_table([1] * 12, [1] * 12, np.arange(12)).groups == tuple(str(n) for n in range(12))
    for kind in (np.int8, np.int64, np.uint8, np.uint64, float):
        values = np.array([120, 3, 120, 7]).astype(kind)
        table = count_table([0, 0, 1, 1], [1, 1, 1, 1], values)
        assert dict(zip(table.groups, table.cells[:, :, 1].tolist(), strict=True)) == {
            "3": [1, 0],
            "7": [0, 1],
            "120": [1, 1],
        }
    assert count_table([1, 1], [1, 1], np.array([-128, 127], dtype=np.int8)).groups == ("-128", "127")
