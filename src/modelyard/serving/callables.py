"""Models that are code of this machine's own: the framework `python`, for trusted references only."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from modelyard.core.errors import Invalid, NotFound
from modelyard.core.models import Signature
from modelyard.core.ports import Output
from modelyard.serving.composed import Part, columns_of
from modelyard.serving.loaded import CodeFailed, Refusal

log = logging.getLogger("modelyard.serving")


class PythonRuntime:
    """A `Runtime` around the object that a local factory makes.

    The reference is `module:factory` or `/path/file.py:factory`, with `@argument` at its end where the factory takes
    one text argument (a path, say); `parts` are given to it by name. The object has a `signature` and one of
    `predict(batch)`, which gets a matrix, and `predict_columns(columns)`, which gets named columns; either may be a
    coroutine function. It gives an Output, or raises Invalid for an input that it cannot take: the client's fault then.
    `contributions` and `unload` are optional, and so is `example`, a row of named features that it is tried with (zeros
    without it).
    """

    def __init__(self, reference: str | Path, parts: Mapping[str, Part] | None = None) -> None:
        place, argument = split(str(reference))
        factory, self._file = _factory(place, str(reference))
        given = [argument] if argument else []
        _check_names(factory, given, dict(parts or {}), str(reference))
        self._model = factory(*given, **(parts or {}))
        if not isinstance(getattr(self._model, "signature", None), Signature):
            raise Invalid(f"{reference} made an object without a signature. Give it a modelyard Signature.")
        self._named = hasattr(self._model, "predict_columns")
        if not self._named and not hasattr(self._model, "predict"):
            raise Invalid(f"{reference} made an object that answers nothing. Give it predict(batch).")
        self._ask = self._model.predict_columns if self._named else self._model.predict
        self._loop = _Loop() if inspect.iscoroutinefunction(self._ask) else None
        self._told: set[tuple[str, type]] = set()

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        found: Signature = self._model.signature
        return found

    @property
    def example(self) -> Any:
        """The row that it wants to be tried with, if it has one."""
        return getattr(self._model, "example", None)

    @property
    def waits(self) -> bool:
        """Whether it answers by a coroutine, so that many requests can wait in it at once."""
        return self._loop is not None

    def predict(self, batch: np.ndarray) -> Output:
        """The answer to a batch of shape (n, inputs); Refusal or CodeFailed says why there is none."""
        if self._loop is not None:
            return self.begin(batch).result()
        try:
            return _checked(self._ask(self._given(batch)), self._model.signature, len(batch))
        except Exception as error:
            raise self._explained(error) from error

    def begin(self, batch: np.ndarray, begun: Callable[[], object] = bool) -> Future[Output]:
        """The answer of a coroutine, which runs in the model's own event loop; `begun` is called when its turn comes."""
        assert self._loop is not None
        return self._loop.run(self._awaited(batch, begun))

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

    def _given(self, batch: np.ndarray) -> Any:
        return columns_of(self._model.signature, batch) if self._named else batch

    async def _awaited(self, batch: np.ndarray, begun: Callable[[], object]) -> Output:
        begun()
        try:
            return _checked(await self._ask(self._given(batch)), self._model.signature, len(batch))
        except BaseException as error:  # SystemExit, say, would end the loop that all requests to this model wait in
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise self._explained(error) from error

    def _explained(self, error: BaseException) -> Refusal | CodeFailed:
        """What a client is told: the class and line where it happened. The traceback goes to this process's log, once."""
        if isinstance(error, Invalid):
            return Refusal(str(error))
        where = f"{type(self._model).__name__}.{self._ask.__name__}"
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == self._file]
        if lines:
            where += f", line {lines[-1]} of {Path(self._file).name}"
        if (where, type(error)) not in self._told:
            self._told.add((where, type(error)))
            log.error("%s failed, which is told once:\n%s", where, "".join(traceback.format_exception(error)))
        return CodeFailed(f"{type(error).__name__} in {where}: {error}")


class _Loop:
    """An event loop in a thread of its own, which ends with the model."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run, args=(self._loop,), name="modelyard-service", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, Output]) -> Future[Output]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def __del__(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # of a task that the model began by itself
            log.error("A task of a Python service raised %r, which ends nothing here.", error)  # noqa: TRY400 - no fault of ours
        else:
            loop.close()  # it was told to stop
            return


def _checked(output: Any, signature: Signature, rows: int) -> Output:
    """The code's answer, if it is one to that many rows."""
    if not isinstance(output, Output):
        raise TypeError(f"it gave a {type(output).__name__}, not an Output")
    predictions = np.asarray(output.predictions)
    if predictions.shape != (rows,):
        raise ValueError(f"its predictions have the shape {predictions.shape} for {rows} rows")
    if output.probabilities is None:
        return Output(predictions=predictions)
    probabilities = np.asarray(output.probabilities, dtype=np.float64)
    if probabilities.shape != (rows, len(signature.classes)):
        wanted = (rows, len(signature.classes))
        raise ValueError(f"its probabilities have the shape {probabilities.shape}, and not {wanted}")
    return Output(predictions=predictions, probabilities=probabilities)


def _check_names(factory: Any, given: list[str], parts: dict[str, Part], reference: str) -> None:
    """The models that the factory takes are those that it is given."""
    try:
        inspect.signature(factory).bind(*given, **parts)
    except TypeError as error:
        told = ", ".join(parts) or "no models"
        raise Invalid(f"{reference} cannot be made with {told}: {error}. Name in uses what it takes.") from error
    except ValueError:  # a factory written in C has no signature to look at
        return


def split(reference: str) -> tuple[str, str]:
    """The place of the factory and its argument.

    >>> split("demo.models:late@/models/v1")
    ('demo.models:late', '/models/v1')
    """
    place, _, argument = reference.partition("@")
    if ":" not in place:
        raise Invalid(f"{reference!r} names no factory. Write module:factory or /path/file.py:factory.")
    return place, argument


def _factory(place: str, reference: str) -> tuple[Any, str]:
    """The factory and the file that it is in."""
    where, _, name = place.rpartition(":")
    module = _file_module(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise NotFound(f"{reference} has no callable {name!r}. Check the reference.")
    return factory, str(getattr(module, "__file__", ""))


def _file_module(path: Path) -> Any:
    name = f"modelyard_local_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise NotFound(f"There is no Python file {path}. Check the reference.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
