"""PyTorch programs answer as their modules do; weights alone and files that would run code are refused."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_text
from modelyard.engines.loading import load_model

torch = pytest.importorskip("torch", reason="PyTorch is missing: pip install 'modelyard[torch]'")

ROWS = np.random.default_rng(0).normal(size=(40, 3))
INPUTS = tuple(FeatureSpec(name=name) for name in "abc")
SIGNATURES = {
    "binary": Signature(inputs=INPUTS, task="binary", classes=("no", "yes")),
    "multiclass": Signature(inputs=INPUTS, task="multiclass", classes=(10, 20, 30)),
    "regression": Signature(inputs=INPUTS, task="regression"),
}
HEADS = {
    "binary": (1, torch.nn.Sigmoid()),
    "multiclass": (3, torch.nn.Softmax(dim=1)),
    "regression": (1, torch.nn.Flatten(0)),
}


def network(task="multiclass"):
    torch.manual_seed(1)
    width, head = HEADS[task]
    layers = (torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(8, width), head)
    return torch.nn.Sequential(*layers).eval()


def scripted(module, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def exported(module, path, *rows, batch="n"):
    rows = rows or (torch.zeros(4, 3),)
    shapes = tuple({0: torch.export.Dim(batch)} for _ in rows) if batch else None
    torch.export.save(torch.export.export(module, rows, dynamic_shapes=shapes), path)
    return path


def rewritten(path, change):
    """The archive with its members as `change(name, content)` gives them; None leaves one out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: change(name, archive.read(name)) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)
    return path


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("task", SIGNATURES)
@pytest.mark.parametrize("save", [scripted, exported])
def test_a_saved_module_answers_as_the_module_does(tmp_path, task, save):
    module = network(task)
    model = load_model(save(module, tmp_path / ("m.pt" if save is scripted else "m.pt2")), SIGNATURES[task])
    for count in (1, 2, 7, 40):
        with torch.inference_mode():
            expected = module(torch.from_numpy(ROWS[:count].astype(np.float32))).numpy()
        if task == "regression":
            assert np.allclose(model.predict(ROWS[:count]), expected, atol=1e-6)
            continue
        told = model.predict_proba(ROWS[:count])
        assert np.allclose(told[:, 1:] if task == "binary" else told, expected, atol=1e-6)
        likeliest = (expected[:, 0] > 0.5).astype(int) if task == "binary" else expected.argmax(axis=1)
        assert model.predict(ROWS[:count]).tolist() == [SIGNATURES[task].classes[one] for one in likeliest]


def test_a_module_saved_while_training_answers_without_its_dropout(tmp_path):
    model = load_model(scripted(network().train(), tmp_path / "m.pt"), SIGNATURES["multiclass"])
    assert np.array_equal(model.predict_proba(ROWS), model.predict_proba(ROWS))


def test_tables_of_every_kind_give_the_same_answer(tmp_path):
    model = load_model(exported(network(), tmp_path / "m.pt2"), SIGNATURES["multiclass"])
    records = [dict(zip("abc", row, strict=True)) for row in ROWS.tolist()]
    assert np.array_equal(model.predict_proba(records), model.predict_proba(ROWS))
    with pytest.raises(Invalid, match="lacks the feature 'c'"):
        model.predict([{"a": 1.0, "b": 2.0}])
    with pytest.raises(Invalid, match="SHAP or LIME"):
        model.contributions(ROWS)


def test_a_package_answers_with_its_own_signature(tmp_path):
    exported(network(), tmp_path / "model.pt2")
    manifest = PackageManifest(
        name="net",
        framework="torch",
        primary="torch",
        files={"torch": "model.pt2"},
        signature=SIGNATURES["multiclass"],
    )
    (tmp_path / "modelyard.json").write_text(manifest_text(manifest))
    assert load_model(tmp_path).predict(ROWS).shape == (40,)


def test_weights_alone_are_refused_with_what_to_save(tmp_path):
    torch.save(network().state_dict(), tmp_path / "state.pt")
    torch.save(network().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(network(), tmp_path / "whole.pt")
    (tmp_path / "state.pt2").write_bytes((tmp_path / "state.pt").read_bytes())
    for name in ("state.pt", "old.pt", "whole.pt", "state.pt2"):
        with pytest.raises(Invalid, match=rf"{name[:-3]}.*torch\.export\.save"):
            load_model(tmp_path / name, SIGNATURES["multiclass"])


def test_the_content_decides_and_not_the_ending(tmp_path):
    scripted(network(), tmp_path / "m.pt2")
    exported(network(), tmp_path / "m.pt")
    for name in ("m.pt2", "m.pt"):
        assert load_model(tmp_path / name, SIGNATURES["multiclass"]).predict(ROWS).shape == (40,)


def test_pickled_code_in_a_program_does_not_run(tmp_path):
    inner = io.BytesIO()
    torch.save(((Touch(tmp_path / "ran"),), {}), inner)
    path = exported(network(), tmp_path / "m.pt2")
    rewritten(path, lambda name, content: inner.getvalue() if "sample_inputs" in name else content)
    with pytest.raises((Invalid, Damaged)):
        load_model(path, SIGNATURES["multiclass"])
    assert not (tmp_path / "ran").exists()
    (tmp_path / "n.pt").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(Invalid, match="runs code"):
        load_model(tmp_path / "n.pt", SIGNATURES["multiclass"])
    assert not (tmp_path / "ran").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_pickled_code_among_the_weights_does_not_run(tmp_path):
    inner = io.BytesIO()
    torch.save(Touch(tmp_path / "ran"), inner)

    def poisoned(name, content):
        if name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return inner.getvalue() if "/weight_" in name else content

    path = rewritten(exported(network(), tmp_path / "m.pt2"), poisoned)
    with pytest.raises((Invalid, Damaged)):
        load_model(path, SIGNATURES["multiclass"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "size",
    ["open('{0}', 'w')", "S(\"open('{0}','w')\")", "Symbol('s0').__class__", "().__class__", "[x for x in y]", "("],
)
def test_a_size_that_is_code_is_refused(tmp_path, size):
    path = exported(network(), tmp_path / "m.pt2")
    code = size.format(tmp_path / "ran")

    def poisoned(name, content):
        if not name.endswith("models/model.json"):
            return content
        told = json.loads(content)
        for one in told["graph_module"]["graph"]["tensor_values"].values():
            for size in one["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = code
        return json.dumps(told).encode()

    with pytest.raises(Invalid, match="as code"):
        load_model(rewritten(path, poisoned), SIGNATURES["multiclass"])
    assert not (tmp_path / "ran").exists()


def test_sizes_that_are_computed_are_no_code(tmp_path):
    class Windows(torch.nn.Module):
        def forward(self, rows):
            twice = torch.cat([rows, rows, rows[:1]])[: rows.shape[0] * 2]
            return twice.reshape(2, -1, 3).sum(dim=(0, 2)) / 2

    model = load_model(exported(Windows(), tmp_path / "m.pt2"), SIGNATURES["regression"])
    assert np.allclose(model.predict(ROWS), ROWS.sum(axis=1), atol=1e-5)


def test_a_library_compiled_into_the_file_is_refused(tmp_path):
    path = exported(network(), tmp_path / "m.pt2")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("m/data/aotinductor/model/x.so", b"\x7fELF")
    with pytest.raises(Invalid, match="compiled"):
        load_model(path, SIGNATURES["multiclass"])


def test_damage_is_told_and_ends_no_process(tmp_path):
    whole = [scripted(network(), tmp_path / "m.pt").read_bytes(), exported(network(), tmp_path / "m.pt2").read_bytes()]
    random = np.random.default_rng(3)
    contents = [b"", b"\x00" * 50, b"PK\x03\x04nonsense", *(one[: len(one) // 2] for one in whole)]
    for one in whole:
        for _ in range(40):
            broken = bytearray(one)
            for place in random.integers(0, len(one), size=8):
                broken[place] = int(random.integers(0, 256))
            contents.append(bytes(broken))
    for content in contents:
        (tmp_path / "broken.pt").write_bytes(content)
        with contextlib.suppress(Damaged, Invalid):  # a change that reaches nothing that counts may pass
            load_model(tmp_path / "broken.pt", SIGNATURES["multiclass"])


def test_a_member_that_is_missing_is_told(tmp_path):
    for part in ("model.json", "weights_config.json", "weight_0", "archive_version"):
        path = exported(network(), tmp_path / "m.pt2")
        rewritten(path, lambda name, content, part=part: None if name.endswith(part) else content)
        with pytest.raises((Damaged, Invalid)):
            load_model(path, SIGNATURES["multiclass"])


def test_a_module_that_does_not_fit_its_signature_is_refused_when_loaded(tmp_path):
    three = SIGNATURES["multiclass"]
    cases = {
        r"exactly 4 rows.*dynamic_shapes": (exported(network(), tmp_path / "a.pt2", batch=None), three),
        "takes 3 inputs.*names 2": (
            exported(network(), tmp_path / "b.pt2"),
            Signature(inputs=INPUTS[:2], task="multiclass", classes=(1, 2, 3)),
        ),
        "cannot take": (
            scripted(network(), tmp_path / "c.pt"),
            Signature(inputs=INPUTS[:2], task="multiclass", classes=(1, 2, 3)),
        ),
        r"shape \(2, 3\)": (exported(network(), tmp_path / "d.pt2"), SIGNATURES["regression"]),
        "no probabilities.*softmax": (exported(torch.nn.Linear(3, 3), tmp_path / "e.pt2"), three),
        "takes 2 arguments": (
            exported(torch.nn.Bilinear(3, 3, 1), tmp_path / "f.pt2", torch.zeros(4, 3), torch.zeros(4, 3)),
            SIGNATURES["regression"],
        ),
        "names no inputs": (exported(network(), tmp_path / "g.pt2"), None),
        "job is text": (
            exported(network(), tmp_path / "h.pt2"),
            Signature(inputs=(FeatureSpec(name="job", kind="string"),), task="regression"),
        ),
        "without its classes": (exported(network(), tmp_path / "i.pt2"), Signature(inputs=INPUTS, task="binary")),
    }
    for said, (path, signature) in cases.items():
        with pytest.raises(Invalid, match=said):
            load_model(path, signature)


def test_what_is_not_there_is_not_found(tmp_path):
    with pytest.raises(NotFound):
        load_model(tmp_path / "m.pt2", SIGNATURES["binary"])
