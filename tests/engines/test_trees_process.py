"""A model that ends or stalls what compiles it does no harm to who asked for it."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from modelyard.core import plugins
from modelyard.core.errors import Invalid, Unavailable
from modelyard.engines import trees_process
from modelyard.engines.flat import opened

ROWS = np.random.default_rng(0).normal(size=(200, 3))


def _booster(path: Path) -> Path:
    data = lightgbm.Dataset(ROWS, (ROWS[:, 0] > 0).astype(int))
    lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 5).save_model(path)
    return path


def test_one_process_compiles_many_models_and_says_why_not(tmp_path: Path) -> None:
    compiled = plugins.load("compiler", "trees")
    file = _booster(tmp_path / "m.txt")
    assert compiled(file, "lightgbm", None, tmp_path / "a.npz").passed
    first = trees_process._COMPILER._child
    (tmp_path / "broken.txt").write_text("tree\nnothing\n")
    with pytest.raises((Invalid, Unavailable), match=r"broken\.txt"):
        compiled(tmp_path / "broken.txt", "lightgbm", None, tmp_path / "b.npz")
    assert compiled(file, "lightgbm", None, tmp_path / "c.npz").passed
    assert trees_process._COMPILER._child is first
    found = opened(tmp_path / "c.npz").predict(ROWS).probabilities
    assert found is not None
    np.testing.assert_allclose(found[:, 1], lightgbm.Booster(model_file=file).predict(ROWS), atol=1e-12)


def test_it_gives_its_memory_back_when_there_is_nothing_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees_process._COMPILER.close()
    monkeypatch.setattr(trees_process, "IDLE_S", 0.5)
    file = _booster(tmp_path / "m.txt")
    assert trees_process.compiled(file, "lightgbm", None, tmp_path / "a.npz").passed
    child = trees_process._COMPILER._child
    assert child is not None
    assert child.wait(120) == 0
    assert trees_process.compiled(file, "lightgbm", None, tmp_path / "b.npz").passed
    trees_process._COMPILER.close()


def test_a_file_that_is_never_read_to_its_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    monkeypatch.setattr(trees_process, "PATIENCE_S", 0.5)
    with pytest.raises(Unavailable, match=r"took longer than 0\.5 s"):
        trees_process.compiled(tmp_path / "m.onnx", "onnx", None, tmp_path / "m.npz")


def test_a_process_that_is_ended_is_told_and_the_next_model_gets_another(tmp_path: Path) -> None:
    file = _booster(tmp_path / "m.txt")
    assert trees_process.compiled(file, "lightgbm", None, tmp_path / "a.npz").passed
    child = trees_process._COMPILER._child
    assert child is not None
    os.mkfifo(tmp_path / "m.onnx")
    with ThreadPoolExecutor(1) as pool:
        stalled = pool.submit(trees_process.compiled, tmp_path / "m.onnx", "onnx", None, tmp_path / "m.npz")
        with (tmp_path / "m.onnx").open("wb"):  # opens once the process reads it
            child.send_signal(signal.SIGSEGV)
            with pytest.raises(Unavailable, match=r"ended the process that did it \(SIGSEGV\)"):
                stalled.result()
    assert trees_process.compiled(file, "lightgbm", None, tmp_path / "b.npz").passed
