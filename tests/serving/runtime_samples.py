"""Small models of every library, each with its file, what the file does not say, and the library's own answer."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.models import FeatureSpec, Signature

Array = np.ndarray[Any, np.dtype[Any]]

INPUTS = (
    FeatureSpec(name="amount"),
    FeatureSpec(name="visits", kind="int"),
    FeatureSpec(name="member", kind="bool"),
    FeatureSpec(name="age", nullable=True),
)
BINARY = Signature(inputs=INPUTS, task="binary", classes=(0, 1))
NAMES = [spec.name for spec in INPUTS]


def table(rows: int = 300) -> Array:
    """Columns as the signature has them; ages without a gap."""
    rng = np.random.default_rng(5)
    amount, age = rng.normal(size=rows), rng.uniform(18, 80, size=rows) / 80
    return np.column_stack([amount, rng.integers(0, 5, rows), rng.integers(0, 2, rows), age]).astype(np.float64)


ROWS = table()
LABELS = (ROWS[:, 0] + 0.3 * ROWS[:, 1] - ROWS[:, 3] > 0.2).astype(int)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One model: its file or folder, its framework, and P(1) of rows (n, inputs) by its own library, called directly."""

    path: Path
    framework: str
    direct: Callable[[Array], Array]
    missing: bool = False  # whether the library itself answers rows with a gap


def onnx(folder: Path) -> Sample:
    import onnxruntime
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression().fit(ROWS, LABELS)
    path = folder / "model.onnx"
    graph = to_onnx(fitted, ROWS[:1].astype(np.float32), options={"zipmap": False}, target_opset=15)
    path.write_bytes(graph.SerializeToString())
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return Sample(
        path=path, framework="onnx", direct=lambda rows: session.run(None, {name: rows.astype(np.float32)})[1][:, 1]
    )


def sklearn(folder: Path) -> Sample:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from skops import io

    fitted = make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(ROWS, LABELS)
    io.dump(fitted, folder / "model.skops")
    return Sample(
        path=folder / "model.skops", framework="sklearn", direct=lambda rows: fitted.predict_proba(rows)[:, 1]
    )


def xgboost(folder: Path) -> Sample:
    import xgboost as library

    data = library.DMatrix(ROWS, LABELS, feature_names=NAMES)
    booster = library.train({"objective": "binary:logistic", "nthread": 1, "max_depth": 3}, data, 10)
    booster.save_model(folder / "model.json")
    return Sample(
        path=folder / "model.json",
        framework="xgboost",
        direct=lambda rows: booster.predict(library.DMatrix(rows, feature_names=NAMES)),
        missing=True,
    )


def lightgbm(folder: Path) -> Sample:
    import lightgbm as library

    settings = {"objective": "binary", "verbose": -1, "num_threads": 1}
    booster = library.train(settings, library.Dataset(ROWS, LABELS, feature_name=NAMES), 10)
    booster.save_model(folder / "model.txt")
    return Sample(path=folder / "model.txt", framework="lightgbm", direct=booster.predict, missing=True)


def torch_module() -> Any:
    import torch as library

    library.manual_seed(0)
    return library.nn.Sequential(
        library.nn.Linear(4, 8), library.nn.ReLU(), library.nn.Linear(8, 1), library.nn.Sigmoid()
    ).eval()


def _torch_answer(module: Any) -> Callable[[Array], Array]:
    import torch as library

    def answer(rows: Array) -> Array:
        with library.inference_mode():
            told: Array = module(library.from_numpy(rows.astype(np.float32))).numpy()[:, 0]
        return told

    return answer


def torch(folder: Path) -> Sample:
    import torch as library

    module, path = torch_module(), folder / "model.pt2"
    rows = {0: library.export.Dim("n")}
    library.export.save(library.export.export(module, (library.zeros(3, 4),), dynamic_shapes=(rows,)), path)
    return Sample(path=path, framework="torch", direct=_torch_answer(module))


def torchscript(folder: Path) -> Sample:
    import torch as library

    module, path = torch_module(), folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        library.jit.script(module).save(str(path))
    return Sample(path=path, framework="torch", direct=_torch_answer(module))


def _keras() -> tuple[Any, Callable[[Array], Array]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorFlow's own
        import tensorflow as library
    library.keras.utils.set_random_seed(0)
    layers = library.keras.layers
    model = library.keras.Sequential(
        [layers.Input((4,)), layers.Dense(8, activation="relu"), layers.Dense(1, "sigmoid")]
    )
    return model, lambda rows: model(rows.astype(np.float32), training=False).numpy()[:, 0]


def keras(folder: Path) -> Sample:
    model, direct = _keras()
    model.save(folder / "model.keras")
    return Sample(path=folder / "model.keras", framework="tensorflow", direct=direct)


def savedmodel(folder: Path) -> Sample:
    model, direct = _keras()
    model.export(folder / "saved", verbose=False)
    return Sample(path=folder / "saved", framework="tensorflow", direct=direct)


LIBRARIES: dict[str, tuple[str, Callable[[Path], Sample]]] = {  # registered, and served from the registry
    "onnx": ("onnxruntime", onnx),
    "sklearn": ("sklearn", sklearn),
    "xgboost": ("xgboost", xgboost),
    "lightgbm": ("lightgbm", lightgbm),
    "torch": ("torch", torch),
    "keras": ("tensorflow", keras),
    "savedmodel": ("tensorflow", savedmodel),
}


def here() -> list[str]:
    """The models whose library this environment has."""
    return [name for name, (library, _) in LIBRARIES.items() if importlib.util.find_spec(library)]


@contextmanager
def quiet_keras() -> Iterator[None]:
    """Keras reads a TensorFlow variable by an array protocol that NumPy 2 calls old, when it saves a model."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        yield
