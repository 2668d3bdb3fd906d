"""Rollouts written down in a file: the arguments of `start` as YAML or JSON."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from modelyard.core.errors import Invalid, Unavailable, nearest


def read_rollout(path: str | Path, start: Callable[..., Any]) -> dict[str, Any]:
    """The arguments that a file gives for `start`; Invalid names a key that does not exist or one that is missing."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}. Pass the path of a rollout file.") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is no UTF-8 text. Write the rollout as YAML, for example endpoint: fraud.") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{path} is no YAML: {error}. Write one key a line, for example endpoint: fraud.") from error
    if not isinstance(data, dict):
        raise Invalid(
            f"{path} holds no rollout. Write one key a line, for example endpoint: fraud and version: v2.0.0."
        )
    known = [name for name in inspect.signature(start).parameters if name != "created_by"]
    for key in data:
        if key not in known:
            raise Invalid(f"{path} has an unknown key {key!r}. {nearest(str(key), known)}")
    for key in ("endpoint", "version"):
        if key not in data:
            raise Invalid(f"{path} does not say which {key}. Add a line {key}: ...")
    return data
