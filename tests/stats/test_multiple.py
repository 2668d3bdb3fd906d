"""Adjusted p-values against SciPy and against the step procedures themselves."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modelyard.stats.multiple import benjamini_hochberg, holm

some = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@given(some)
def test_benjamini_hochberg_agrees_with_scipy(p_values):
    np.testing.assert_allclose(
        benjamini_hochberg(np.array(p_values)), stats.false_discovery_control(p_values), atol=1e-12
    )


@given(some, st.floats(0.001, 0.5))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values, alpha):
    rejected = set()
    for step, i in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[i] * (len(p_values) - step) > alpha:
            break
        rejected.add(int(i))
    assert set(np.flatnonzero(holm(np.array(p_values)) <= alpha).tolist()) == rejected
