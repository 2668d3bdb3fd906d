"""Model files open by what they hold; what is damaged, unsafe or misfitting is refused by name."""

from __future__ import annotations

import pickle

import lightgbm
import numpy as np
import pandas as pd
import pytest
import xgboost
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from skops import io as skops_io

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.engines.loading import load_model

X = np.random.default_rng(0).normal(size=(300, 3))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


def test_a_booster_file_answers_as_lightgbm_itself(small_model):
    model = load_model(small_model)
    frame = pd.DataFrame(X, columns=["c", "a", "b"])
    expected = lightgbm.Booster(model_file=str(small_model)).predict(frame[["a", "b", "c"]].to_numpy())
    assert np.allclose(model.predict_proba(frame)[:, 1], expected)
    assert np.allclose(model.predict_proba(frame.to_dict("records"))[:, 1], expected)
    assert np.allclose(model.predict_proba(frame.to_dict("list"))[:, 1], expected)
    assert np.allclose(model.predict_proba(frame[["a", "b", "c"]].to_numpy())[:, 1], expected)
    values, base = model.contributions(frame)
    assert np.allclose(values.sum(axis=1) + base, np.log(expected / (1 - expected)))


def test_xgboost_files_answer_as_xgboost_itself(tmp_path):
    for task, target in (("binary:logistic", Y), ("multi:softprob", Y + (X[:, 2] > 1)), ("reg:squarederror", X[:, 0])):
        params = {"objective": task, "nthread": 1, "verbosity": 0, **({"num_class": 3} if "multi" in task else {})}
        booster = xgboost.train(params, xgboost.DMatrix(X, target), num_boost_round=4)
        for ending in ("json", "ubj"):
            booster.save_model(tmp_path / f"m.{ending}")
            model = load_model(tmp_path / f"m.{ending}")
            expected = booster.predict(xgboost.DMatrix(X))
            told = model.predict(X) if task.startswith("reg") else model.predict_proba(X)
            assert np.allclose(told[:, 1] if task.startswith("binary") else told, expected, atol=1e-6)


def test_a_bare_skops_file_names_its_inputs_by_number_or_by_frame(tmp_path):
    skops_io.dump(LogisticRegression().fit(X, Y), tmp_path / "m.skops")
    assert load_model(tmp_path / "m.skops").signature.names == ("x0", "x1", "x2")
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    skops_io.dump(LogisticRegression().fit(frame, np.where(Y, "yes", "no")), tmp_path / "n.skops")
    assert load_model(tmp_path / "n.skops").signature.classes == ("no", "yes")


def test_a_file_that_could_run_code_is_refused_with_its_types(tmp_path):
    skops_io.dump(FunctionTransformer(np.log1p), tmp_path / "fine.skops")
    skops_io.dump(FunctionTransformer(len), tmp_path / "bad.skops")
    with pytest.raises(Invalid, match=r"builtins\.len"):
        load_model(tmp_path / "bad.skops")
    (tmp_path / "m.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(Invalid, match="pickle"):
        load_model(tmp_path / "m.pkl")


@pytest.mark.parametrize("name", ["m.txt", "m.onnx", "m.json", "m.ubj", "m.skops"])
@pytest.mark.parametrize(
    "content", [b"", b"tree\nnonsense", b"PK\x03\x04nonsense", b"{}", b"\x08\x07\x12", b"\x00" * 50]
)
def test_garbage_is_damaged_or_invalid_and_ends_no_process(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises((Damaged, Invalid)):
        load_model(tmp_path / name)


def test_a_truncated_booster_is_damaged(tmp_path, small_model):
    text = small_model.read_text()
    for cut in (50, len(text) // 3, len(text) // 2):
        (tmp_path / "m.txt").write_text(text[:cut])
        with pytest.raises(Damaged):
            load_model(tmp_path / "m.txt")


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        load_model(tmp_path / "nothing")


def test_a_table_that_does_not_fit_is_refused_by_feature(small_model, tmp_path):
    skops_io.dump(LogisticRegression().fit(pd.DataFrame(X, columns=["aa", "bb", "cc"]), Y), tmp_path / "m.skops")
    model = load_model(tmp_path / "m.skops")
    good = pd.DataFrame(X, columns=["aa", "bb", "cc"])
    for bad, said in (
        (good.drop(columns="bb"), "lacks the feature 'bb'"),
        (good.rename(columns={"bb": "bbb"}), "unknown feature 'bbb'.*Did you mean bb"),
        (good.assign(dd=1), "unknown feature 'dd'"),
        (good.assign(bb="x"), "'bb' is 'x'"),
        (good.assign(bb=np.nan), "'bb' is missing"),
        (good.assign(bb=np.inf), "'bb'.*finite"),
        (X[:, :2], r"\(300, 2\)"),
    ):
        with pytest.raises(Invalid, match=said):
            model.predict(bad)


def test_a_damaged_manifest_is_told(tmp_path):
    (tmp_path / "modelyard.json").write_text('{"format_version": 1, "files": {"onnx": "../../etc/passwd"}}')
    with pytest.raises(Damaged, match="passwd"):
        load_model(tmp_path)
    (tmp_path / "modelyard.json").write_text('{"format_version": 99}')
    with pytest.raises(Damaged, match="Upgrade"):
        load_model(tmp_path)
