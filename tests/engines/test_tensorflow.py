"""Keras files and SavedModels answer as their models do; what would run Python code is refused."""

from __future__ import annotations

import contextlib
import gc
import warnings
import zipfile

import numpy as np
import pytest

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import FeatureSpec, Signature
from modelyard.engines.loading import load_model

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorFlow's own
    tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is missing: pip install 'modelyard[tensorflow]'")

# Keras reads a TensorFlow variable by an array protocol that NumPy 2 calls old, when it saves a model.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROWS = np.random.default_rng(0).normal(size=(40, 3))
INPUTS = tuple(FeatureSpec(name=name) for name in "abc")
SIGNATURES = {
    "binary": Signature(inputs=INPUTS, task="binary", classes=("no", "yes")),
    "multiclass": Signature(inputs=INPUTS, task="multiclass", classes=(10, 20, 30)),
    "regression": Signature(inputs=INPUTS, task="regression"),
}
HEADS = {"binary": (1, "sigmoid"), "multiclass": (3, "softmax"), "regression": (1, None)}
layers = tensorflow.keras.layers


class Doubled(layers.Layer):
    """A layer that only this module knows."""

    def call(self, rows):
        return rows * 2


def network(*extra, task="multiclass", batch=None):
    tensorflow.keras.utils.set_random_seed(1)
    width, activation = HEADS[task]
    last = layers.Dense(width, activation=activation)
    inner = [layers.Dense(8, activation="relu"), layers.Dropout(0.5)]
    return tensorflow.keras.Sequential([layers.Input((3,), batch_size=batch), *inner, *extra, last])


def filed(model, folder):
    model.save(folder / "m.keras")
    return folder / "m.keras"


def exported(model, folder):
    model.export(folder / "m", verbose=False)
    return folder / "m"


def traced(model, folder):
    tensorflow.saved_model.save(model, str(folder / "m"))
    return folder / "m"


@pytest.mark.parametrize("task", SIGNATURES)
@pytest.mark.parametrize("save", [filed, exported, traced])
def test_a_saved_model_answers_as_the_model_does(tmp_path, task, save):
    module = network(task=task)
    model = load_model(save(module, tmp_path), SIGNATURES[task])
    gc.collect()  # a SavedModel's variables live only as long as the object that loading gave
    for count in (1, 2, 7, 40):
        expected = module(ROWS[:count].astype(np.float32), training=False).numpy()
        if task == "regression":
            assert np.allclose(model.predict(ROWS[:count]), expected[:, 0], atol=1e-5)
            continue
        told = model.predict_proba(ROWS[:count])
        assert np.allclose(told[:, 1:] if task == "binary" else told, expected, atol=1e-5)
        likeliest = (expected[:, 0] > 0.5).astype(int) if task == "binary" else expected.argmax(axis=1)
        assert model.predict(ROWS[:count]).tolist() == [SIGNATURES[task].classes[one] for one in likeliest]


def test_tables_of_every_kind_give_the_same_answer(tmp_path):
    model = load_model(filed(network(), tmp_path), SIGNATURES["multiclass"])
    records = [dict(zip("abc", row, strict=True)) for row in ROWS.tolist()]
    assert np.array_equal(model.predict_proba(records), model.predict_proba(ROWS))
    with pytest.raises(Invalid, match="lacks the feature 'c'"):
        model.predict([{"a": 1.0, "b": 2.0}])
    with pytest.raises(Invalid, match="SHAP or LIME"):
        model.contributions(ROWS)


def test_a_lambda_layer_is_refused_and_does_not_run(tmp_path):
    ran = tmp_path / "ran"

    def touching(rows, place=str(ran)):
        open(place, "w").close()
        return rows

    path = filed(network(layers.Lambda(touching, output_shape=(8,))), tmp_path)
    lambdas = tmp_path / "lambdas"
    lambdas.mkdir()
    other = filed(network(layers.Lambda(lambda rows: rows * 2)), lambdas)
    ran.unlink(missing_ok=True)
    for one in (path, other):
        with pytest.raises(Invalid, match=r"Lambda layer.*SavedModel"):
            load_model(one, SIGNATURES["multiclass"])
    assert not ran.exists()


def test_a_layer_of_the_maker_is_refused_as_keras_file_and_answers_as_saved_model(tmp_path):
    module = network(Doubled())
    with pytest.raises(Invalid, match=r"only its maker has.*model\.export"):
        load_model(filed(module, tmp_path), SIGNATURES["multiclass"])
    model = load_model(exported(module, tmp_path), SIGNATURES["multiclass"])
    assert np.allclose(model.predict_proba(ROWS), module(ROWS.astype(np.float32)).numpy(), atol=1e-5)


def test_a_saved_model_of_float64_takes_the_rows_as_they_are(tmp_path):
    class Sum(tensorflow.Module):
        @tensorflow.function(input_signature=[tensorflow.TensorSpec((None, 3), tensorflow.float64)])
        def __call__(self, rows):
            return {"total": tensorflow.reduce_sum(rows, axis=1)}

    module = Sum()
    tensorflow.saved_model.save(module, str(tmp_path / "m"), signatures=module.__call__)
    assert np.allclose(load_model(tmp_path / "m", SIGNATURES["regression"]).predict(ROWS), ROWS.sum(axis=1), atol=1e-12)


def test_a_model_that_does_not_fit_its_signature_is_refused_when_loaded(tmp_path):
    def place(name):
        (tmp_path / name).mkdir()
        return tmp_path / name

    two = [layers.Input((3,)), layers.Input((3,))]
    added = tensorflow.keras.Model(two, layers.Dense(1)(layers.Add()(two)))
    fewer = Signature(inputs=INPUTS[:2], task="multiclass", classes=(1, 2, 3))
    linear = tensorflow.keras.Sequential([layers.Input((3,)), layers.Dense(3)])
    bare = tensorflow.Module()
    tensorflow.saved_model.save(bare, str(place("i")))
    three, number = SIGNATURES["multiclass"], SIGNATURES["regression"]
    for said, path, signature in (
        ("takes 3 inputs.*names 2", filed(network(), place("a")), fewer),
        ("takes 3 inputs.*names 2", exported(network(), place("b")), fewer),
        (r"\(5, 3\).*any number of rows", filed(network(batch=5), place("c")), three),
        (r"shape \(2, 3\)", filed(network(), place("d")), number),
        ("no probabilities.*softmax", filed(linear, place("e")), three),
        ("takes 2 tensors", filed(added, place("f")), number),
        ("takes 2 tensors", exported(added, place("g")), number),
        ("names no inputs", filed(network(), place("h")), None),
        ("serving_default", tmp_path / "i", three),
    ):
        with pytest.raises(Invalid, match=said):
            load_model(path, signature)


def test_damage_is_told(tmp_path):
    whole = filed(network(), tmp_path).read_bytes()
    random = np.random.default_rng(3)
    contents = [b"", b"\x00" * 50, b"PK\x03\x04nonsense", whole[: len(whole) // 2]]
    for _ in range(20):
        broken = bytearray(whole)
        for spot in random.integers(0, len(whole), size=8):
            broken[spot] = int(random.integers(0, 256))
        contents.append(bytes(broken))
    for content in contents:
        (tmp_path / "broken.keras").write_bytes(content)
        with contextlib.suppress(Damaged, Invalid):  # a change that reaches nothing that counts may pass
            load_model(tmp_path / "broken.keras", SIGNATURES["multiclass"])


def test_a_keras_file_without_a_member_is_told(tmp_path):
    path = filed(network(), tmp_path)
    for lost in ("config.json", "model.weights.h5"):
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(tmp_path / "less.keras", "w") as less:
            for name in archive.namelist():
                if name != lost:
                    less.writestr(name, archive.read(name))
        with pytest.raises((Damaged, Invalid)):
            load_model(tmp_path / "less.keras", SIGNATURES["multiclass"])


def test_a_broken_saved_model_is_told(tmp_path):
    path = exported(network(), tmp_path)
    (path / "variables" / "variables.index").unlink()
    with pytest.raises((Damaged, Invalid)):
        load_model(path, SIGNATURES["multiclass"])
    (path / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(Damaged):
        load_model(path, SIGNATURES["multiclass"])


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        load_model(tmp_path / "m.keras", SIGNATURES["binary"])
