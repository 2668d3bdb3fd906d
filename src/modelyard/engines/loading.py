"""Opens a model package or a bare model file, and answers tables with it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.batches import batch_reader
from modelyard.core.errors import Damaged, Invalid, NotFound, nearest
from modelyard.core.models import PACKAGE_MANIFEST, FeatureSpec, PackageManifest, Signature
from modelyard.core.packages import manifest_of
from modelyard.core.ports import Output, Runtime

Array = np.ndarray[Any, np.dtype[Any]]

_PICKLES = (".pkl", ".pickle", ".joblib", ".p")
_BY_ENDING = {
    ".onnx": "onnx",
    ".skops": "sklearn",
    ".txt": "lightgbm",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".pt2": "torch",
    ".pt": "torch",
    ".keras": "tensorflow",
}


class PackageRuntime:
    """A package's primary form answers; its native form, loaded on first use, tells contributions."""

    def __init__(self, primary: Runtime, open_native: Callable[[], Runtime | None]) -> None:
        self._primary = primary
        self._open_native = open_native

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._primary.signature

    @cached_property
    def native(self) -> Runtime | None:
        """The native form, if there is one."""
        return self._open_native()

    def predict(self, batch: Array) -> Output:
        """The primary form's answer to a batch of shape (n, inputs)."""
        return self._primary.predict(batch)

    def contributions(self, batch: Array) -> tuple[Array, Array]:
        """The native form's SHAP values (n, inputs) and base values (n,)."""
        return (self.native or self._primary).contributions(batch)

    def unload(self) -> None:
        """Free both forms."""
        self._primary.unload()
        self.__dict__.pop("native", None)


class LoadedModel:
    """A model ready to answer. A table is a DataFrame, a mapping of columns, a list of records, or a matrix (n, inputs)."""

    def __init__(self, runtime: Runtime, path: Path, manifest: PackageManifest | None = None) -> None:
        self.runtime = runtime
        self.path = path
        self.manifest = manifest

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.runtime.signature

    @property
    def native(self) -> Any:
        """The underlying estimator or booster; None for a bare ONNX graph."""
        form = self.runtime.native if isinstance(self.runtime, PackageRuntime) else self.runtime
        return getattr(form, "native", None)

    def predict(self, table: Any) -> Array:
        """Predictions (n,): class labels or numbers. Invalid, naming the feature, for a table that does not fit."""
        return self.runtime.predict(batch_from(self.signature, table)).predictions

    def predict_proba(self, table: Any) -> Array:
        """Probabilities (n, classes), in the order of `signature.classes`; Invalid for a regressor."""
        found = self.runtime.predict(batch_from(self.signature, table)).probabilities
        if found is None:
            raise Invalid(f"{self.path.name} predicts numbers and has no probabilities. Call predict.")
        return np.asarray(found, dtype=np.float64)

    def contributions(self, table: Any) -> tuple[Array, Array]:
        """SHAP values (n, inputs) and base values (n,), on the model's own scale, for the last class of a classifier."""
        return self.runtime.contributions(batch_from(self.signature, table))

    def __repr__(self) -> str:
        return f"LoadedModel({str(self.path)!r}, {self.signature.task}, {len(self.signature.inputs)} inputs)"


def load_model(path: str | Path, signature: Signature | None = None) -> LoadedModel:
    """The model in a package folder (with modelyard.json) or in a bare file: ONNX, LightGBM text, XGBoost JSON, skops.

    `signature` names the inputs of a bare file that does not name them itself. Pickles are refused: they run code.

    >>> model = load_model(model_file)
    >>> model.signature.names
    ('a', 'b', 'c')
    >>> model.predict([{"a": 1.0, "b": 0.0, "c": 0.0}]).tolist()
    [1]
    """
    place = Path(path)
    if not place.exists():
        raise NotFound(f"There is no model at {place}. Check the path.")
    if (place / PACKAGE_MANIFEST).is_file():
        return _package(place)
    file = _single(place) if place.is_dir() else place
    return LoadedModel(plugins.load("runtime", framework_of(file))(file, signature), place)


def framework_of(file: Path) -> str:
    """The framework whose file this is, by its content first and its ending second."""
    if (file / "saved_model.pb").is_file():
        return "tensorflow"
    if file.suffix.lower() in _PICKLES:
        raise Invalid(
            f"{file.name} is a pickle, and opening one runs whatever code it holds. "
            "Save the model with skops (sklearn), as text (LightGBM), as JSON (XGBoost), or as ONNX."
        )
    with file.open("rb") as opened:
        head = opened.read(16)
    if head.startswith(b"tree\n"):
        return "lightgbm"
    if head.startswith(b"PK\x03\x04") and _holds(file, "schema.json"):
        return "sklearn"
    if head.startswith((b"{L\x00", b'{"learner"', b'{\n  "learner"')):
        return "xgboost"
    found = _BY_ENDING.get(file.suffix.lower())
    if found is None and head[:1] == b"\x08":  # field 1 of a ModelProto, the IR version
        return "onnx"
    if found is None:
        raise Invalid(f"{file.name} is no model file known here. Known endings: {', '.join(sorted(_BY_ENDING))}.")
    return found


def batch_from(signature: Signature, table: Any) -> Array:
    """The table as a batch in the signature's column order: float64 (n, inputs), or object where some input is text.

    Invalid names the feature that is missing, unknown, null where it may not be, or of another type.
    """
    if isinstance(table, np.ndarray):
        return _matrix(signature, table)
    if isinstance(table, (list, tuple)) and (not table or isinstance(table[0], dict)):
        rows = batch_reader(signature)(table)
        return np.array(rows, dtype=_dtype(signature)).reshape(len(rows), len(signature.inputs))
    columns = plugins.load("tables", "pandas").columns(table)
    _same_names(signature, list(columns))
    batch = np.empty((len(next(iter(columns.values()), ())), len(signature.inputs)), dtype=_dtype(signature))
    for position, spec in enumerate(signature.inputs):
        batch[:, position] = _column(spec, columns[spec.name])
    return batch


def _dtype(signature: Signature) -> Any:
    return np.float64 if signature.numeric else np.object_


def _matrix(signature: Signature, table: Array) -> Array:
    if table.ndim != 2 or table.shape[1] != len(signature.inputs):
        raise Invalid(
            f"The matrix has the shape {table.shape}, the model takes (n, {len(signature.inputs)}): "
            f"{', '.join(signature.names[:8])}."
        )
    columns = [_column(spec, table[:, position]) for position, spec in enumerate(signature.inputs)]
    return np.array(columns, dtype=_dtype(signature)).T.copy()


def _column(spec: FeatureSpec, values: Array) -> Array:
    """The values of one feature, checked; whole columns of plain numbers go without a look at each."""
    if values.dtype.kind in "fiub" and spec.kind != "string":
        numbers = values.astype(np.float64)
        finite = np.isfinite(numbers)
        fine = finite.all() or (spec.nullable and np.isnan(numbers[~finite]).all())
        known = numbers[finite]
        if fine and (spec.kind == "float" or np.equal(known, np.rint(known)).all()) and spec.kind != "bool":
            return numbers
    read = batch_reader(Signature(inputs=(spec,), task="regression"))
    rows = read([{spec.name: value} for value in values.tolist()])
    return np.array([row[0] for row in rows], dtype=object if spec.kind == "string" else np.float64)


def _same_names(signature: Signature, found: list[str]) -> None:
    known = list(signature.names)
    extra = [name for name in found if name not in known]
    lacking = [name for name in known if name not in found]
    if extra:
        raise Invalid(f"The table has the unknown feature {extra[0]!r}. {nearest(extra[0], lacking or known)}")
    if lacking:
        raise Invalid(f"The table lacks the feature {', '.join(map(repr, lacking[:5]))}. Pass every input.")


def _package(folder: Path) -> LoadedModel:
    file = folder / PACKAGE_MANIFEST
    manifest = manifest_of(file.read_bytes(), str(file))

    def opened(framework: str) -> Runtime:
        extra = (manifest.training,) if framework == "sklearn" else ()
        file = folder / manifest.files[framework]
        runtime: Runtime = plugins.load("runtime", framework)(file, manifest.signature, *extra)
        return runtime

    def native() -> Runtime | None:
        return opened("sklearn") if "sklearn" in manifest.files else None

    return LoadedModel(PackageRuntime(opened(manifest.primary), native), folder, manifest)


def _single(folder: Path) -> Path:
    if (folder / "saved_model.pb").is_file():
        return folder
    files = [entry for entry in sorted(folder.iterdir()) if entry.is_file()]
    if len(files) != 1:
        raise Invalid(f"{folder} holds {len(files)} files and no {PACKAGE_MANIFEST}. Pass the model file itself.")
    return files[0]


def _holds(file: Path, member: str) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return member in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise Damaged(f"{file} is a damaged archive: {error}") from error
