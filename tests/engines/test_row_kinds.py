"""Rows of every mix of kinds get the library's own answer, or the name of the feature that it refuses: natively and compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn import compose, ensemble, impute, linear_model, pipeline, preprocessing

from modelyard.core import plugins
from modelyard.core.batches import batch_reader
from modelyard.core.errors import Invalid
from modelyard.core.models import FeatureSpec, Signature
from modelyard.engines import trees_compile
from modelyard.engines.flat import opened
from modelyard.serving.composed import closed

RNG = np.random.default_rng(11)
N = 400
TABLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, N),
        "visits": np.where(RNG.random(N) < 0.2, np.nan, RNG.integers(0, 9, N)),
        "income": np.where(RNG.random(N) < 0.2, np.nan, RNG.normal(3, 1, N)),
        "member": RNG.random(N) < 0.5,
        "job": np.where(RNG.random(N) < 0.1, None, RNG.choice(["cook", "smith", "été", ""], N)),
        "day": RNG.choice(["2026-01-31", "2026-02-01", "2025-12-24"], N),
    }
)
Y = ((TABLE["age"] > 50) ^ (TABLE["job"] == "cook") ^ TABLE["member"]).astype(int)
INPUTS = (
    FeatureSpec(name="age", kind="int"),
    FeatureSpec(name="visits", kind="int", nullable=True),
    FeatureSpec(name="income", nullable=True),
    FeatureSpec(name="member", kind="bool"),
    FeatureSpec(name="job", kind="string", nullable=True),
    FeatureSpec(name="day", kind="string"),
)
SIGNATURE = Signature(inputs=INPUTS, task="binary", classes=(0, 1))


def _columns(*, marked: bool = True, **unknown: Any) -> Any:
    numbers = pipeline.make_pipeline(impute.SimpleImputer(add_indicator=marked), preprocessing.StandardScaler())
    words = preprocessing.OneHotEncoder(**unknown)
    return compose.ColumnTransformer(
        [("n", numbers, ["age", "visits", "income"]), ("w", words, ["job", "day"])], remainder="passthrough"
    )


MODELS = {
    "forest, open": (_columns(handle_unknown="ignore"), ensemble.RandomForestClassifier(10, random_state=0, n_jobs=1)),
    "forest, closed": (_columns(handle_unknown="error"), ensemble.RandomForestClassifier(10, random_state=0, n_jobs=1)),
    "boosted": (
        _columns(handle_unknown="ignore", sparse_output=False), ensemble.HistGradientBoostingClassifier(max_iter=10),
    ),
    "lines": (_columns(marked=False, handle_unknown="ignore"), linear_model.LogisticRegression(max_iter=500)),
}  # fmt: skip
TEXT = st.one_of(
    st.none(),
    st.sampled_from(["cook", "smith", "été", "", "Cook", "cook ", "e\u0301te\u0301", "\0"]),
    st.text(max_size=3),
)
ROW = st.fixed_dictionaries(
    {
        "age": st.one_of(st.integers(-(2**62), 2**62), st.sampled_from([18, 50, 51, -0.0, 89.0, True])),
        "visits": st.one_of(st.none(), st.integers(-2, 10), st.just(float("nan"))),
        "income": st.one_of(
            st.none(), st.floats(-1e30, 1e30), st.integers(-5, 5), st.sampled_from([-0.0, 5e-324, float("nan")])
        ),
        "member": st.sampled_from([True, False, 0, 1, 0.0, 1.0]),
        "job": TEXT,
        "day": st.sampled_from(["2026-01-31", "2026-02-01", "2025-12-24", "2026-1-31", "heute"]),
    }
)


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    """The library's pipeline, its runtime, and its compiled form, which has to prove itself alike."""
    folder = tmp_path_factory.mktemp("kinds")
    fitted = pipeline.make_pipeline(*MODELS[request.param]).fit(TABLE, Y)
    skops.io.dump(fitted, folder / "m.skops")
    native = plugins.load("runtime", "sklearn")(folder / "m.skops", SIGNATURE)
    assert trees_compile.compiled(folder / "m.skops", "sklearn", SIGNATURE, folder / "m.npz").passed
    native.predict(np.array(batch_reader(native.signature)([TABLE.iloc[0].to_dict()]), dtype=object))
    return fitted, native, opened(folder / "m.npz")


def _own(fitted: Any, row: dict[str, Any]) -> Any:
    """What the library says to a table with this row, typed as in training; None where it refuses."""
    job = row["job"]
    table = pd.DataFrame(
        {
            "age": [float(row["age"])],
            "visits": [np.nan if row["visits"] is None else float(row["visits"])],
            "income": [np.nan if row["income"] is None else float(row["income"])],
            "member": [bool(row["member"])],
            "job": pd.Series([job], dtype=TABLE["job"].dtype),
            "day": [row["day"]],
        }
    )
    try:
        return fitted.predict_proba(table)
    except ValueError:
        return None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROW)
def test_a_row_gets_the_librarys_answer_or_a_word_on_why_not(model: Any, row: dict[str, Any]) -> None:
    fitted, native, quick = model
    wanted = _own(fitted, row)
    for form in (native, quick):
        if wanted is None:
            with pytest.raises(Invalid) as refused:
                _told(form, row)
            assert any(f"'{name}'" in str(refused.value) for name in row)
        else:
            np.testing.assert_allclose(_told(form, row), wanted, atol=1e-9)


def _told(form: Any, row: dict[str, Any]) -> Any:
    rows = closed(form.signature, batch_reader(form.signature))([row])
    return form.predict(np.array(rows, dtype=object)).probabilities
