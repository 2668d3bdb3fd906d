"""Checks of MLflow model folders: what `MLmodel` makes MLflow import, and code that lies beside it.

Source: mlflow/models/model.py and mlflow/pyfunc/__init__.py: a flavour's `loader_module` is imported, and its `code`
folder is put on Python's path.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from modelyard.artifacts.inspection import Inspection, Malformed

MANIFEST = "MLmodel"
YAML_LIMIT = 256 << 10
EVENTS_LIMIT = 20_000
DEPTH = 30
LOADERS = {
    f"mlflow.{name}"
    for name in (
        "sklearn", "xgboost", "lightgbm", "onnx", "catboost", "tensorflow", "keras", "pytorch", "spark", "statsmodels",
        "prophet", "pmdarima",
    )
}  # fmt: skip
CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".ipynb", ".whl", ".egg", ".pth", ".sh")


def findings(files: Mapping[str, Inspection], read: Any) -> Iterator[str]:
    """Why the folder is unsafe to load with MLflow."""
    for name in files:
        if name.lower().endswith(CODE):
            yield f"{name}: it is code, which MLflow may import"
        if "/" not in name and name.endswith((".yaml", ".yml")):
            plain_yaml(read(name, YAML_LIMIT + 1), name)
    manifest = plain_yaml(read(MANIFEST, YAML_LIMIT + 1), MANIFEST)
    flavours = manifest.get("flavors") if isinstance(manifest, dict) else None
    if not isinstance(flavours, dict):
        raise Malformed(f"{MANIFEST} names no flavours")
    for flavour, settings in flavours.items():
        if not isinstance(settings, dict):
            raise Malformed(f"{MANIFEST} describes the flavour {str(flavour)[:80]!r} in an unknown way")
        yield from _flavour(str(flavour)[:80], settings)


def _flavour(flavour: str, settings: Mapping[Any, Any]) -> Iterator[str]:
    loader = settings.get("loader_module")
    if loader is not None and loader not in LOADERS:
        yield f"{MANIFEST}: its flavour {flavour} imports {str(loader)[:80]!r}"
    if settings.get("code"):
        yield f"{MANIFEST}: its flavour {flavour} puts {str(settings['code'])[:80]!r} on Python's path"
    for key, value in settings.items():
        if isinstance(value, str) and (value.startswith(("/", "~")) or ".." in value.split("/") or "://" in value):
            yield f"{MANIFEST}: its flavour {flavour} leads outside the folder ({str(key)[:40]}: {value[:80]!r})"


def plain_yaml(data: bytes, name: str) -> Any:
    """The value of a YAML text of plain maps, lists and scalars: anchors and tags are Malformed, for they grow or run.

    >>> plain_yaml(b"a: [1, x]", "x.yaml")
    {'a': [1, 'x']}
    """
    if len(data) > YAML_LIMIT:
        raise Malformed(f"{name} is larger than {YAML_LIMIT:,} bytes")
    depth = 0
    try:
        for count, event in enumerate(yaml.parse(data, yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or getattr(event, "tag", None):
                raise Malformed(f"{name} uses anchors, aliases or tags")
            if count > EVENTS_LIMIT or depth > DEPTH:
                raise Malformed(f"{name} holds too much, or is nested too deeply")
        return yaml.load(data, yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, Malformed):
            raise
        raise Malformed(f"{name} is no YAML: {str(error)[:120]}") from error
