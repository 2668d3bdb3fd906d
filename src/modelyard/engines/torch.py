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
from modelyard.core.runlog import RunLog, plain_settings
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


class Watch:
    """Logs a training loop through PyTorch's own hooks: every `every`-th step of the optimizer, the last loss since then, the
    learning rate and the norm of the gradients. It counts steps from 0. `stop` takes the hooks off again.

    The loss must be a module, such as torch.nn.CrossEntropyLoss(): functions have no hooks. It is logged while gradients
    are recorded, so not in evaluation under torch.no_grad().
    """

    def __init__(self, run: RunLog, model: Any, optimizer: Any, loss: Any = None, *, every: int = 1) -> None:
        self._run, self._every, self._step, self._loss = run, every, 0, None
        groups = optimizer.param_groups[0]
        told = {name: value for name, value in groups.items() if name != "params"}
        sizes = [value.numel() for value in model.parameters()]
        run.log_params(
            {
                "model": type(model).__name__,
                "optimizer": type(optimizer).__name__,
                "parameters": sum(sizes),
                **plain_settings(told),
            }
        )
        self._hooks = [optimizer.register_step_pre_hook(self._stepping)]
        if loss is not None:
            self._hooks.append(loss.register_forward_hook(self._judged))

    def stop(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _judged(self, _module: Any, _given: Any, loss: Any) -> None:
        if torch.is_grad_enabled():
            self._loss = loss.detach()

    def _stepping(self, optimizer: Any, _arguments: Any, _named: Any) -> None:
        """Before the step: the gradients are there still, whatever the loop does after."""
        if self._step % self._every == 0:
            grads = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
            metrics = {"lr": float(optimizer.param_groups[0]["lr"])}
            if grads:
                metrics["gradient norm"] = float(torch.nn.utils.get_total_norm(grads))
            if self._loss is not None:
                metrics["loss"] = float(self._loss.mean())
            self._run.log_metrics(metrics, step=self._step)
        self._step += 1


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _last_line(error: BaseException) -> str:
    return next(iter(reversed(str(error).strip().splitlines())), type(error).__name__)
