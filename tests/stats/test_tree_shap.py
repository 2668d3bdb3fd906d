"""TreeSHAP against the shap package, against brute force over all coalitions, and against its own axioms."""

from __future__ import annotations

import warnings
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.tree import DecisionTreeRegressor

from modelyard.core.errors import Invalid
from modelyard.stats.tree_shap import TreeArrays, TreeShap, tree_shap


def arrays(estimator, output=0):
    tree = estimator.tree_
    value = tree.value[:, 0, output]
    return TreeArrays(
        tree.children_left, tree.children_right, tree.feature, tree.threshold, value, tree.weighted_n_node_samples,
        tree.missing_go_to_left,
    )  # fmt: skip


def data(rows=300, columns=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    return x, x[:, 0] * x[:, 1] + np.sin(3 * x[:, 2]) + 0.1 * rng.normal(size=rows)


def shap_values(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

        explainer = shap.TreeExplainer(model, feature_perturbation="tree_path_dependent")
        return np.asarray(explainer.shap_values(x)), np.ravel(explainer.expected_value)


def known_value(tree, row, known, node=0):
    """The tree's output with only the features in `known`: the others are averaged by cover."""
    if tree.children_left[node] < 0:
        return tree.value[node]
    left, right = tree.children_left[node], tree.children_right[node]
    if tree.feature[node] in known:
        return known_value(tree, row, known, left if row[tree.feature[node]] <= tree.threshold[node] else right)
    return (
        tree.cover[left] * known_value(tree, row, known, left)
        + tree.cover[right] * known_value(tree, row, known, right)
    ) / tree.cover[node]


def brute_force(tree, row):
    columns = range(len(row))
    result = np.zeros(len(row))
    for j in columns:
        others = [i for i in columns if i != j]
        for size in range(len(row)):
            for known in combinations(others, size):
                gain = known_value(tree, row, {*known, j}) - known_value(tree, row, set(known))
                result[j] += gain / (comb(len(row) - 1, size) * len(row))
    return result


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 8), columns=st.integers(1, 5))
def test_tiny_trees_match_the_definition_over_all_coalitions(seed, depth, columns):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(40, columns)).astype(np.float32)
    tree = arrays(DecisionTreeRegressor(max_depth=depth, random_state=0).fit(x, rng.normal(size=40)))
    values, base = tree_shap([tree], x[:5])
    assert base == pytest.approx(known_value(tree, x[0], set()), abs=1e-12)
    for row, found in zip(x, values, strict=False):
        np.testing.assert_allclose(found, brute_force(tree, row), atol=1e-12)


def test_a_forest_matches_the_shap_package():
    x, y = data()
    model = RandomForestRegressor(20, max_depth=9, random_state=0).fit(x, y)
    values, base = tree_shap([arrays(e) for e in model.estimators_], x[:30])
    expected, expected_base = shap_values(model, x[:30])
    np.testing.assert_allclose(values / 20, expected, atol=1e-6)
    assert base / 20 == pytest.approx(expected_base[0], abs=1e-6)


def test_a_classifying_forest_matches_the_shap_package_for_its_last_class():
    x, y = data()
    model = RandomForestClassifier(15, max_depth=7, random_state=0).fit(x, y > 0)
    values, _ = tree_shap([arrays(e, 1) for e in model.estimators_], x[:20])
    expected, _ = shap_values(model, x[:20])
    np.testing.assert_allclose(values / 15, expected[..., 1], atol=1e-6)


def test_boosting_matches_the_shap_package_up_to_its_learning_rate():
    x, y = data()
    model = GradientBoostingRegressor(n_estimators=25, max_depth=4, random_state=0).fit(x, y)
    values, _ = tree_shap([arrays(e) for e in model.estimators_[:, 0]], x[:20])
    expected, _ = shap_values(model, x[:20])
    np.testing.assert_allclose(values * model.learning_rate, expected, atol=1e-6)


def test_base_and_values_add_up_to_the_prediction_of_deep_trees():
    x, y = data(2000, 12)
    model = RandomForestRegressor(10, max_depth=20, random_state=0).fit(x, y)
    values, base = TreeShap([arrays(e) for e in model.estimators_]).values(x[:40])
    np.testing.assert_allclose((base + values.sum(axis=1)) / 10, model.predict(x[:40]), atol=1e-9)


def test_missing_values_follow_the_direction_the_tree_learnt():
    x, y = data()
    x[::3, 0], x[::5, 2] = np.nan, np.nan
    model = DecisionTreeRegressor(max_depth=6, random_state=0).fit(x, y)
    values, base = tree_shap([arrays(model)], x)
    np.testing.assert_allclose(base + values.sum(axis=1), model.predict(x), atol=1e-9)


def test_a_branch_without_cover_counts_only_for_the_rows_that_take_it():
    tree = TreeArrays(
        *(np.array(a) for a in ([1, -1, -1], [2, -1, -1], [0, 0, 0], [0.0, 0, 0], [0.0, 1, 5], [3, 3, 0]))
    )
    values, base = tree_shap([tree], np.array([[-1.0], [1.0]]))
    assert base == 1.0
    assert values.tolist() == [[0.0], [4.0]]


def test_a_tree_of_one_leaf_is_its_base_value():
    leaf = TreeArrays(*(np.array([a]) for a in (-1, -1, -2, -2.0, 7.0, 10.0)))
    values, base = tree_shap([leaf, leaf], np.zeros((3, 2)))
    assert base == 14.0
    assert values.tolist() == [[0.0, 0.0]] * 3
    assert tree_shap([], np.zeros((3, 2)))[1] == 0.0


def test_rows_with_too_few_columns_are_refused():
    x, y = data()
    tree = arrays(DecisionTreeRegressor(max_depth=3).fit(x, y))
    with pytest.raises(Invalid, match="columns"):
        tree_shap([tree], x[:, :1])
    with pytest.raises(Invalid, match="shape"):
        tree_shap([tree], x[0])
