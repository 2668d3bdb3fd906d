"""Models that are code of this machine's own: the framework `python`, for trusted references only."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output


class PythonRuntime:
    """A `Runtime` around the object that a local factory makes.

    The reference is `module:factory` or `/path/file.py:factory`, with `@argument` at its end where the factory takes
    one text argument (a path, say). The object has a `signature` and a `predict(batch)` that gives an Output, as any
    runtime; `contributions` and `unload` are optional.
    """

    def __init__(self, reference: str | Path) -> None:
        place, argument = split(str(reference))
        factory = _factory(place, str(reference))
        self._model = factory(argument) if argument else factory()
        if not isinstance(getattr(self._model, "signature", None), Signature):
            raise Invalid(f"{reference} made an object without a signature. Give it a modelyard Signature.")

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        found: Signature = self._model.signature
        return found

    def predict(self, batch: np.ndarray) -> Output:
        """The answer to a batch of shape (n, inputs)."""
        output: Output = self._model.predict(batch)
        return output

    def contributions(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The model's own contributions, where it has them; Invalid otherwise."""
        if not hasattr(self._model, "contributions"):
            raise Invalid("This Python model has no contributions of its own. Explain it with SHAP or LIME.")
        found: tuple[np.ndarray, np.ndarray] = self._model.contributions(batch)
        return found

    def unload(self) -> None:
        """Free what the model holds."""
        if hasattr(self._model, "unload"):
            self._model.unload()


def split(reference: str) -> tuple[str, str]:
    """The place of the factory and its argument.

    >>> split("demo.models:late@/models/v1")
    ('demo.models:late', '/models/v1')
    """
    place, _, argument = reference.partition("@")
    if ":" not in place:
        raise Invalid(f"{reference!r} names no factory. Write module:factory or /path/file.py:factory.")
    return place, argument


def _factory(place: str, reference: str) -> Any:
    where, _, name = place.rpartition(":")
    module = _file_module(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise NotFound(f"{reference} has no callable {name!r}. Check the reference.")
    return factory


def _file_module(path: Path) -> Any:
    name = f"modelyard_local_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NotFound(f"There is no Python file {path}. Check the reference.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
