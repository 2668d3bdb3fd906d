"""What was installed is what runs: code and model files that change or vanish on the disk between install and load."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lightgbm
import pytest
from runtime_samples import LABELS, NAMES, ROWS

from modelyard.core.errors import Damaged, NotFound
from modelyard.core.traffic import Arm, Traffic
from modelyard.serving import ModelServer
from modelyard.serving.loaded import load

CODE = """
import numpy as np
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output


class Sum:
    signature = Signature(inputs=(FeatureSpec(name="a"), FeatureSpec(name="b")), task="regression")

    def predict(self, batch):
        return Output(predictions=batch.sum(axis=1))
"""


def _booster(path: Path, rounds: int = 5) -> Path:
    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    lightgbm.train(settings, lightgbm.Dataset(ROWS, LABELS, feature_name=NAMES), rounds).save_model(path)
    return path


@pytest.mark.parametrize("how", ["file", "module"])
def test_code_that_was_changed_since_is_not_run(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"pinned_{how}.py"
    file.write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = ModelServer(tmp_path / "yard")
    server.configure("e", {"trusted_code": True})
    reference = f"{file}:Sum" if how == "file" else f"pinned_{how}:Sum"
    installed = server.install("e", "e", "v1", reference, "python")
    assert load(installed).batch({"a": 1, "b": 2}).tolist() == [[1.0, 2.0]]
    server.apply(Traffic(endpoint="e", generation=1, arms=(Arm(name="baseline", model="e", version="v1", weight=1.0),)))
    assert server.places.read_models()["e", "v1"] == installed
    file.write_text(CODE.replace("sum", "prod"))
    with pytest.raises(Damaged, match="holds something else now"):
        load(installed)
    assert load(server.install("e", "e", "v1", reference, "python")).told()["runtime"] == "PythonRuntime"


def test_a_file_that_vanished_or_changed_is_told_and_never_answered_by_what_was_compiled_of_another(
    tmp_path: Path,
) -> None:
    file = _booster(tmp_path / "m.txt")
    installed = ModelServer(tmp_path / "yard").install("e", "m", "v1", file, "lightgbm")
    assert load(installed).told()["compiled"]
    _booster(file, rounds=9)
    changed = load(installed)
    rows = ROWS[:20]
    assert type(changed.runtime).__name__ == "LightgbmRuntime"
    assert changed.answer(rows).probabilities[:, 1].tolist() == lightgbm.Booster(model_file=file).predict(rows).tolist()
    for spoil in (lambda: os.truncate(file, 100), lambda: file.write_bytes(b"tree\n\x00\xff")):
        spoil()
        with pytest.raises(Damaged):
            load(installed)
    file.unlink()
    with pytest.raises(NotFound, match="has no file"):
        load(installed)
    file.mkdir()
    with pytest.raises((NotFound, Damaged)):
        load(installed)


def test_a_compiled_form_that_is_lost_or_damaged_is_done_without(tmp_path: Path) -> None:
    file = _booster(tmp_path / "m.txt")
    installed = ModelServer(tmp_path / "yard").install("e", "m", "v1", file, "lightgbm")
    assert installed.compiled is not None
    form = Path(installed.compiled.path)
    for spoil in (lambda: form.write_bytes(form.read_bytes()[:-50]), form.unlink):
        spoil()
        model = load(installed)
        assert type(model.runtime).__name__ == "LightgbmRuntime"
    shutil.rmtree(form.parent)
    assert load(installed).answer(ROWS[:3]).probabilities is not None
