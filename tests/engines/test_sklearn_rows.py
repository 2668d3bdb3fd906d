"""Pipelines as people build them: columns picked by name, text, gaps; a row gets the library's own answer or a word on why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn import calibration, compose, ensemble, impute, linear_model, pipeline, preprocessing

from modelyard.core import plugins
from modelyard.core.errors import Invalid, Unfit
from modelyard.core.models import FeatureSpec, Signature

RNG = np.random.default_rng(5)
TABLE = pd.DataFrame(
    {
        "age": RNG.integers(18, 90, 300),
        "income": np.where(RNG.random(300) < 0.2, np.nan, RNG.normal(3, 1, 300)),
        "job": RNG.choice(["cook", "smith", "clerk"], 300),
        "known": RNG.random(300) < 0.5,
    }
)
Y = (TABLE["age"] + 20 * (TABLE["job"] == "cook") + 10 * TABLE["known"] > 60).astype(int)
INPUTS = (
    FeatureSpec(name="age", kind="int"),
    FeatureSpec(name="income", nullable=True),
    FeatureSpec(name="job", kind="string", nullable=True),
    FeatureSpec(name="known", kind="bool"),
)
SIGNATURE = Signature(inputs=INPUTS, task="binary", classes=(0, 1))


def _runtime(model: Any, folder: Path, signature: Signature | None = SIGNATURE) -> Any:
    skops.io.dump(model.fit(TABLE, Y), folder / "m.skops")
    return plugins.load("runtime", "sklearn")(folder / "m.skops", signature)


def _pipeline(encoder: Any, last: Any = None) -> Any:
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    columns = compose.ColumnTransformer(
        [("n", numbers, ["age", "income"]), ("c", encoder, ["job"])], remainder="passthrough"
    )
    return pipeline.make_pipeline(columns, last or ensemble.RandomForestClassifier(10, random_state=0))


def _batch(table: pd.DataFrame) -> Any:
    rows = table.to_numpy(dtype=object)
    rows[:, [0, 1, 3]] = rows[:, [0, 1, 3]].astype(float)
    return rows


def test_columns_picked_by_name_answer_as_the_library_does(tmp_path: Path) -> None:
    model = _pipeline(preprocessing.OneHotEncoder(handle_unknown="ignore"))
    runtime = _runtime(model, tmp_path)
    rows = TABLE.head(40).copy()
    rows.loc[3, "job"] = "baker"
    np.testing.assert_array_equal(runtime.predict(_batch(rows)).probabilities, model.predict_proba(rows))


def test_a_bare_file_says_which_inputs_are_text(tmp_path: Path) -> None:
    signature = _runtime(_pipeline(preprocessing.OneHotEncoder(handle_unknown="ignore")), tmp_path, None).signature
    assert [(spec.name, spec.kind) for spec in signature.inputs][2] == ("job", "string")
    assert signature.names == tuple(TABLE.columns)


def test_text_that_an_encoder_refuses_is_known_from_the_signature(tmp_path: Path) -> None:
    runtime = _runtime(_pipeline(preprocessing.OneHotEncoder()), tmp_path)
    job = runtime.signature.inputs[2]
    assert job.categories == ("clerk", "cook", "smith")
    assert not job.nullable


def test_missing_text_is_filled_as_it_was_in_training(tmp_path: Path) -> None:
    gaps = TABLE.assign(job=TABLE["job"].where(TABLE["age"] > 30, None))
    encoder = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="most_frequent"), preprocessing.OneHotEncoder(handle_unknown="error")
    )
    for one in (encoder, preprocessing.OneHotEncoder(handle_unknown="error")):
        model = _pipeline(one).fit(gaps, Y)
        skops.io.dump(model, tmp_path / "m.skops")
        runtime = plugins.load("runtime", "sklearn")(tmp_path / "m.skops", SIGNATURE)
        rows = _batch(gaps.head(30))
        rows[:, 2] = [None if word is None or isinstance(word, float) else word for word in rows[:, 2]]
        np.testing.assert_array_equal(runtime.predict(rows).probabilities, model.predict_proba(gaps.head(30)))


def test_what_the_library_refuses_is_named_with_its_row(tmp_path: Path) -> None:
    columns = compose.ColumnTransformer(
        [("c", preprocessing.OneHotEncoder(), ["age"])], remainder=preprocessing.StandardScaler()
    )
    model = pipeline.make_pipeline(columns, linear_model.LogisticRegression())
    numbers = TABLE[["age", "income", "known"]].fillna(1.0)
    skops.io.dump(model.fit(numbers, Y), tmp_path / "m.skops")
    three = Signature(inputs=(INPUTS[0], INPUTS[1], INPUTS[3]), task="binary", classes=(0, 1))
    runtime = plugins.load("runtime", "sklearn")(tmp_path / "m.skops", three)
    batch = numbers.head(5).to_numpy(dtype=float)
    runtime.predict(batch)
    batch[3, 0] = 17
    with pytest.raises(Unfit, match=r"Row 3: the model refuses the feature 'age', which is .*17.*unknown categories"):
        runtime.predict(batch)
    batch[3, 0], batch[2, 1] = 18, np.nan
    with pytest.raises(Unfit, match=r"Row 2: the model refuses the feature 'income', which is .*nan"):
        runtime.predict(batch)


def test_a_calibrated_classifier_is_loaded(tmp_path: Path) -> None:
    for method in ("sigmoid", "isotonic"):
        inner = _pipeline(preprocessing.OneHotEncoder(handle_unknown="ignore"))
        model = calibration.CalibratedClassifierCV(inner, cv=2, method=method)
        runtime = _runtime(model, tmp_path)
        rows = TABLE.head(20)
        np.testing.assert_array_equal(runtime.predict(_batch(rows)).probabilities, model.predict_proba(rows))


def test_a_signature_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    model = _pipeline(preprocessing.OneHotEncoder())
    for wrong, told in (
        (Signature(inputs=INPUTS[:3], task="binary", classes=(0, 1)), "takes 4 features"),
        (Signature(inputs=INPUTS, task="multiclass", classes=(0, 1, 2)), "has 2 classes"),
        (Signature(inputs=INPUTS, task="regression"), "classifies"),
    ):
        with pytest.raises(Invalid, match=told):
            _runtime(model, tmp_path, wrong)
