"""A model package's manifest as JSON text, and back: checked, so that what is read can be trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged
from modelyard.core.models import FeatureKind, FeatureSpec, PackageManifest, Parity, Signature, Task

FORMAT_VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")


def manifest_text(manifest: PackageManifest) -> str:
    """The text of `modelyard.json`."""
    return dumps(manifest, indent=2) + "\n"


def manifest_of(text: str | bytes, where: str = "modelyard.json") -> PackageManifest:
    """The manifest that the text of a `modelyard.json` holds; Damaged if it is none.

    >>> spec = Signature(inputs=(FeatureSpec(name="age"),), task="binary", classes=(0, 1))
    >>> manifest = PackageManifest(name="m", framework="onnx", primary="onnx", files={"onnx": "m.onnx"}, signature=spec)
    >>> manifest_of(manifest_text(manifest)) == manifest
    True
    """
    try:
        values = json.loads(text)
        if values["format_version"] > FORMAT_VERSION:
            raise Damaged(f"{where} has format {values['format_version']}. Upgrade modelyard: pip install -U modelyard")
        return _manifest(values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{where} is no model package manifest ({type(error).__name__}: {error}).") from error


def signature_of(values: Mapping[str, Any]) -> Signature:
    """The signature that a JSON object holds; ValueError, KeyError or TypeError if it is none."""
    if values["task"] not in get_args(Task):
        raise ValueError(f"unknown task {values['task']!r}")
    return Signature(
        inputs=tuple(_feature(spec) for spec in values["inputs"]),
        task=values["task"],
        classes=tuple(values.get("classes", ())),
    )


def _manifest(values: Mapping[str, Any]) -> PackageManifest:
    files = {str(key): str(name) for key, name in values["files"].items()}
    for name in files.values():
        if not _FILE_NAME.match(name):
            raise ValueError(f"{name!r} is no plain file name")
    if values["primary"] not in files:
        raise ValueError(f"the primary form {values['primary']!r} has no file")
    parity = values.get("parity")
    return PackageManifest(
        name=str(values["name"]),
        framework=str(values["framework"]),
        primary=str(values["primary"]),
        files=files,
        signature=signature_of(values["signature"]),
        parity=Parity(**parity) if parity else None,
        metrics=dict(values.get("metrics", {})),
        parameters=dict(values.get("parameters", {})),
        environment=dict(values.get("environment", {})),
        training=dict(values.get("training", {})),
        format_version=int(values["format_version"]),
    )


def _feature(values: Mapping[str, Any]) -> FeatureSpec:
    kind = values.get("kind", "float")
    if kind not in get_args(FeatureKind):
        raise ValueError(f"unknown kind {kind!r}")
    categories = values.get("categories")
    return FeatureSpec(
        name=str(values["name"]),
        kind=kind,
        nullable=bool(values.get("nullable", False)),
        categories=None if categories is None else tuple(str(category) for category in categories),
    )
