"""PyTorch: answers with a program saved by `torch.export.save` (.pt2) or by `torch.jit.save` (.pt)."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from modelyard.core.errors import Damaged, Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output
from modelyard.engines.answers import network_output, network_signature
from modelyard.engines.torch_files import kind_of

Array = np.ndarray[Any, np.dtype[Any]]

WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_UNREADABLE = (
    RuntimeError, ValueError, OSError, LookupError, AssertionError, AttributeError, TypeError, EOFError, ArithmeticError,
)  # fmt: skip  # what PyTorch raises at damaged files
_loading = Lock()


class TorchRuntime:
    """Answers with a module that takes float32 (n, inputs) and gives numbers (n,), or probabilities (n, classes).

    One probability a row is that of the last of two classes. The signature is needed: the file names no inputs. Opening
    a file unpickles none of its code. What it then computes is its maker's program: deploy only those you trust.
    """

    def __init__(self, path: Path, signature: Signature | None = None) -> None:
        if not path.exists():
            raise NotFound(f"There is no model file {path}. Check the path.")
        self._signature = network_signature(path, signature)
        kind = kind_of(path)
        try:
            self.native = _script(path) if kind == "script" else _program(path, len(self._signature.inputs))
        except Invalid:
            raise
        except pickle.UnpicklingError as error:
            raise Invalid(f"{path.name} holds a pickle of more than tensors, which runs code when opened.") from error
        except _UNREADABLE as error:
            raise Damaged(f"{path} cannot be read by PyTorch: {_first_line(error)}") from error
        self.predict(np.zeros((2, len(self._signature.inputs))))  # an answer that does not fit is told now

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self._signature

    def predict(self, batch: Array) -> Output:
        """The answer to a float batch of shape (n, inputs); Invalid for a module that does not fit its signature."""
        rows = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
        try:
            with torch.inference_mode():
                answer = self.native(rows)
        except RuntimeError as error:
            raise Invalid(f"The PyTorch module cannot take {tuple(rows.shape)} float32: {_last_line(error)}") from error
        if not isinstance(answer, torch.Tensor):
            raise Invalid(f"The PyTorch module gives a {type(answer).__name__}. Let it give one tensor.")
        return network_output(answer.cpu().numpy(), len(batch), self._signature)

    def contributions(self, batch: Array) -> tuple[Array, Array]:  # noqa: ARG002
        """Always Invalid: a network has no contributions of its own."""
        raise Invalid("A PyTorch module has no contributions of its own. Explain it with SHAP or LIME.")

    def unload(self) -> None:
        """Free the module."""
        self.native = None


def _script(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the caller's files are what they are
        return torch.jit.load(str(path), map_location="cpu").eval()


def _program(path: Path, inputs: int) -> Any:
    with _tensors_only(), path.open("rb") as opened:
        program = torch.export.load(opened)
    names = program.graph_signature.user_inputs
    shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in names]
    if len(names) != 1 or len(shapes[0]) != 2:
        raise Invalid(f"{path.name} takes {len(names)} arguments of the shapes {shapes}. It must take one matrix.")
    (count, width), *_ = shapes
    if isinstance(count, int):
        raise Invalid(
            f"{path.name} was exported for batches of exactly {count} rows. "
            'Export it with dynamic_shapes=({0: torch.export.Dim("n")},).'
        )
    if width != inputs:
        raise Invalid(f"{path.name} takes {width} inputs, and its signature names {inputs}.")
    return program.module(check_guards=False)  # guards are code made from the file; PyTorch checks the shapes besides


@contextmanager
def _tensors_only() -> Iterator[None]:
    """torch.load refuses whatever is no tensor; torch.export.load would unpickle code where that fails."""
    with _loading:
        before = os.environ.get(WEIGHTS_ONLY)
        os.environ[WEIGHTS_ONLY] = "1"
        try:
            yield
        finally:
            os.environ.pop(WEIGHTS_ONLY) if before is None else os.environ.update({WEIGHTS_ONLY: before})


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
