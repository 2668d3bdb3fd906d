"""Admission against the clock and against files: real models in, hostile files out. Run: python benchmarks/artifacts.py

    python benchmarks/artifacts.py --fuzz 600    fuzzes every parser for so many seconds and says what was found

Times are those of judging the bytes (CPU seconds are what neighbours hardly disturb), and of a whole admission with fsync.
"""

from __future__ import annotations

import argparse
import io
import pickle
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import joblib
import lightgbm
import numpy as np
import onnx.helper
import onnx.numpy_helper
import skops.io
import xgboost
from sklearn.ensemble import RandomForestClassifier

from modelyard.artifacts import ArtifactStore
from modelyard.artifacts.admission import inspect
from modelyard.artifacts.inspection import Malformed

SAMPLES = Path(__file__).parent.parent / "tests" / "artifacts"
sys.path.insert(0, str(SAMPLES))
SIZE = 10 << 20
REPEATS = 15


def counts() -> None:
    """How many real models come in and how many hostile files do not."""
    import honest_models
    from hostile_samples import HOSTILE

    honest = {name: _judged(data) for name, data in honest_models.files()}
    models = {name.partition(",")[0] for name in honest}
    formats = Counter(format for format, _ in honest.values())
    print(f"real models: {len(models)} in {len(honest)} files, {sum(not why for _, why in honest.values())} accepted")
    print("  " + ", ".join(f"{format} {count}" for format, count in formats.most_common()))
    hostile = {name: _judged(data) for name, data in {**HOSTILE, **_hostile_networks()}.items()}
    print(f"hostile files: {len(hostile)}, {sum(bool(why) for _, why in hostile.values())} refused")


def _hostile_networks() -> dict[str, bytes]:
    import test_networks

    samples = {name: data for name, data in test_networks.SAMPLES.items() if name.startswith("hostile")}
    programs = {name: test_networks._program(change) for name, change in test_networks.HOSTILE_PROGRAMS.items()}
    return {
        **samples,
        **programs,
        **{f"SavedModel: {name}": data for name, data in test_networks.HOSTILE_GRAPHS.items()},
    }


def _judged(data: bytes) -> tuple[str, str]:
    try:
        found = inspect(io.BytesIO(data), len(data))
    except Malformed as error:
        return "", str(error)
    unknown = "it is none of the known formats" if found.format in ("binary", "empty") else ""
    return found.format, "; ".join(found.unsafe) or unknown


def large() -> Iterator[tuple[str, bytes]]:
    """A file of about 10 MB of each format."""
    draw = np.random.default_rng(0)
    numbers = draw.normal(size=SIZE // 4).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [onnx.helper.make_tensor_value_info("y", 1, numbers.shape)], [onnx.numpy_helper.from_array(numbers, "w")],
    )  # fmt: skip
    yield "ONNX", onnx.helper.make_model(graph).SerializeToString()
    header = f'{{"w":{{"dtype":"F32","shape":[{len(numbers)}],"data_offsets":[0,{numbers.nbytes}]}}}}'.encode()
    yield "safetensors", struct.pack("<Q", len(header)) + header + numbers.tobytes()
    raw = io.BytesIO()
    np.save(raw, numbers)
    yield "npy", raw.getvalue()
    x = draw.normal(size=(4_000, 20))
    y = (x[:, 0] + draw.normal(size=len(x)) > 0).astype(int)
    forest = RandomForestClassifier(140, n_jobs=2, random_state=0).fit(x, y)
    yield "pickle, a forest", pickle.dumps(forest)
    for name, compress in (("joblib, a forest", 0), ("compressed joblib, a forest", 3)):
        raw = io.BytesIO()
        joblib.dump(forest, raw, compress=compress)
        yield name, raw.getvalue()
    yield "skops, a forest", skops.io.dumps(RandomForestClassifier(96, n_jobs=2, random_state=0).fit(x, y))
    settings = {"num_threads": 2, "num_leaves": 500, "min_data_in_leaf": 1, "verbose": -1, "objective": "binary"}
    yield "LightGBM text", lightgbm.train(settings, lightgbm.Dataset(x, y), 340).model_to_string().encode()
    booster = xgboost.train(
        {"nthread": 2, "max_depth": 12, "min_child_weight": 0, "eta": 0.02}, xgboost.DMatrix(x, y), 330
    )
    yield "XGBoost ubj", bytes(booster.save_raw("ubj"))
    yield "XGBoost JSON", bytes(booster.save_raw("json"))


def speed() -> None:
    """Time to judge a file of 10 MB and to admit it, by format."""
    print(f"\n{'a file of about 10 MB':32}{'MB':>7}{'judged p50 ms':>15}{'CPU ms':>9}{'admitted p50 ms':>17}")
    for name, data in large():
        walls, cpu = [], time.process_time()
        for _ in range(REPEATS):
            begun = time.perf_counter()
            found = inspect(io.BytesIO(data), len(data))
            walls.append(time.perf_counter() - begun)
        cpu = (time.process_time() - cpu) / REPEATS
        assert not found.unsafe, (name, found)
        whole = statistics.median(_admitted(data))
        judged = statistics.median(walls)
        print(f"{name:32}{len(data) / 1e6:7.1f}{judged * 1e3:15.1f}{cpu * 1e3:9.1f}{whole * 1e3:17.1f}")


def _admitted(data: bytes) -> Iterator[float]:
    with tempfile.TemporaryDirectory() as place:
        file, store = Path(place) / "model", ArtifactStore(Path(place) / "yard")
        for number in range(5):
            file.write_bytes(data)
            if number:  # every admission is of new bytes
                store.store.blobs.delete(f"sha256/{found.digest[:2]}/{found.digest}")  # noqa: F821 - of the last turn
                with store.store.work() as work:
                    work.rows.run("DELETE FROM artifacts")
            begun = time.perf_counter()
            found = store.add(file)  # noqa: F841 - used in the next turn
            yield time.perf_counter() - begun


def fuzz(seconds: int) -> int:
    """libFuzzer's exit status after so many seconds; what fails is left in ./crash-*."""
    with tempfile.TemporaryDirectory() as corpus:
        command = [sys.executable, str(SAMPLES / "fuzzing.py"), corpus, f"-max_total_time={seconds}"]
        return subprocess.run(command, check=False).returncode


def main() -> None:
    """Count and measure, or fuzz."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fuzz", type=int, default=0, metavar="SECONDS")
    chosen = parser.parse_args()
    if chosen.fuzz:
        sys.exit(fuzz(chosen.fuzz))
    counts()
    speed()


if __name__ == "__main__":
    main()
