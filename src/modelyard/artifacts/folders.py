"""What a folder of inspected files is as a whole: a package, an MLflow model, a SavedModel, or just files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from modelyard.artifacts import mlflow, saved_model
from modelyard.artifacts.inspection import External, Inspection, Malformed
from modelyard.core.errors import Damaged
from modelyard.core.models import PACKAGE_MANIFEST
from modelyard.core.packages import manifest_of

MANIFEST_LIMIT = 16 << 20
FORMATS_OF = {  # what a package may hold for each framework it names
    "onnx": {"onnx"},
    "sklearn": {"skops"},
    "lightgbm": {"lightgbm"},
    "xgboost": {"xgboost-json", "xgboost-ubj"},
    "torch": {"torch-program", "torch", "safetensors"},
    "tensorflow": {"keras"},
}

Read = Callable[[str, int], bytes]


def inspect_folder(files: Mapping[str, Inspection], sizes: Mapping[str, int], read: Read) -> Inspection:
    """What the files are together, by relative path. `read` gives the first bytes of one."""
    unsafe = _saved_models(files)
    needed = {path for name, one in files.items() for path in _needed(name, one, sizes)} | _variables(files)
    for name, one in files.items():
        if one.format == "binary" and name not in needed:
            raise Malformed(f"{name} is none of the formats that modelyard knows")
        unsafe += [f"{name}: {why}" for why in one.unsafe]
    kind = "folder"
    if "saved_model.pb" in files:
        kind = "saved-model"
    if mlflow.MANIFEST in files:
        kind = "mlflow"
        unsafe += mlflow.findings(files, read)
    if PACKAGE_MANIFEST in files:
        kind = "modelyard"
        _check_manifest(read(PACKAGE_MANIFEST, MANIFEST_LIMIT), files)
    return Inspection(format=kind, unsafe=tuple(unsafe))


def _saved_models(files: Mapping[str, Inspection]) -> list[str]:
    """Why what TensorFlow would open by its name may not be what its content was checked as."""
    unsafe = []
    for name, one in files.items():
        last = name.rpartition("/")[2]
        if last in saved_model.OTHER_FORMS:
            unsafe.append(f"{name}: TensorFlow reads it in a form that is not checked. Keep saved_model.pb alone")
        if last == "saved_model.pb" and one.format != "saved-model":
            raise Malformed(f"{name} is {one.format}, which TensorFlow would read as a SavedModel")
    return unsafe


def _variables(files: Mapping[str, Inspection]) -> set[str]:
    """The files beside a SavedModel that hold its variables, which are numbers without a format of their own."""
    places = [name.removesuffix("saved_model.pb") for name, one in files.items() if one.format == "saved-model"]
    return {
        name
        for name in files
        for place in places
        if name.startswith(place) and saved_model.BINARIES.fullmatch(name.removeprefix(place))
    }


def _needed(name: str, found: Inspection, sizes: Mapping[str, int]) -> list[str]:
    """The members of the folder that a file refers to; Malformed where it reaches outside or past an end."""
    return [_resolved(name, external, sizes) for external in found.needs]


def _resolved(name: str, external: External, sizes: Mapping[str, int]) -> str:
    parts = external.path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in external.path or ":" in parts[0]:
        raise Malformed(f"{name} refers to {external.path[:80]!r}, which is no plain path beside it")
    path = str(PurePosixPath(name).parent / external.path)
    if path not in sizes:
        raise Malformed(f"{name} refers to {external.path[:80]!r}, which is not in the folder")
    if external.offset + (external.length or 0) > sizes[path]:
        raise Malformed(f"{name} refers to bytes past the end of {external.path[:80]!r}")
    return path


def _check_manifest(manifest: bytes, files: Mapping[str, Inspection]) -> None:
    """Each file that a package names must be there and be what it is named for."""
    try:
        named = manifest_of(manifest).files
    except Damaged as error:
        raise Malformed(str(error)) from error
    for framework, name in named.items():
        if name not in files:
            raise Malformed(f"{PACKAGE_MANIFEST} names {name}, which is not in the folder")
        expected = FORMATS_OF.get(framework)
        if expected is not None and files[name].format not in expected:
            raise Malformed(f"{PACKAGE_MANIFEST} calls {name} {framework}, but it is {files[name].format}")
