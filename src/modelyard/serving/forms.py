"""Which file of an installed version answers, and how it is opened."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from modelyard.core import plugins
from modelyard.core.canonical import dumps
from modelyard.core.errors import NotFound, YardError
from modelyard.core.models import PACKAGE_MANIFEST, PackageManifest
from modelyard.core.packages import manifest_of
from modelyard.core.ports import Runtime
from modelyard.serving.values import Installed

FORMAT = "flat-1"  # of the compiled files; another number makes all of them anew


def located(installed: Installed) -> tuple[tuple[Any, ...], str]:
    """What a runtime is opened with, and which: of a package, the primary form and the package's signature."""
    if installed.framework == "python":
        return (installed.path,), "python"
    path = Path(installed.path)
    if not path.exists():
        raise NotFound(f"{installed.model} {installed.version} has no file {path}. Install it with a path that exists.")
    manifest_file = path / PACKAGE_MANIFEST
    if not manifest_file.is_file():
        files = [path] if path.is_file() else [entry for entry in sorted(path.iterdir()) if entry.is_file()]
        file = files[0] if len(files) == 1 else path
        return (file,) if installed.signature is None else (file, installed.signature), installed.framework
    manifest = manifest_of(manifest_file.read_bytes(), str(manifest_file))
    wanted = installed.framework
    framework = wanted if wanted in manifest.files and wanted != manifest.framework else manifest.primary
    return _of_package(path, manifest, framework), framework


def native(installed: Installed) -> tuple[Any, ...] | None:
    """What scikit-learn's form of a package is opened with, where the package answers by another form."""
    path = Path(installed.path)
    file = path / PACKAGE_MANIFEST
    if installed.framework == "python" or not file.is_file():
        return None
    manifest = manifest_of(file.read_bytes(), str(file))
    return _of_package(path, manifest, "sklearn") if "sklearn" in manifest.files else None


def _of_package(path: Path, manifest: PackageManifest, framework: str) -> tuple[Any, ...]:
    more = (manifest.training,) if framework == "sklearn" else ()
    return (path / manifest.files[framework], manifest.signature, *more)


def compiled_runtime(installed: Installed, arguments: tuple[Any, ...], framework: str) -> Runtime | None:
    """The compiled form, opened; None where there is none, or where the model's file is another by now."""
    form = installed.compiled
    if form is None or not form.path or form.digest != digest_of(arguments, framework):
        return None
    try:
        runtime: Runtime = plugins.load("runtime", "trees")(Path(form.path))
    except (ImportError, YardError):  # another machine than the one that compiled: the model answers itself
        return None
    return runtime


def digest_of(arguments: tuple[Any, ...], framework: str) -> str:
    """What names a compiled file: the content of the model's file, and how it is read."""
    content = hashlib.sha256(f"{FORMAT} {framework} {dumps(list(arguments[1:]))}\n".encode())
    content.update(Path(arguments[0]).read_bytes())
    return content.hexdigest()
