"""One model version in this process: loaded through its framework's runtime, warmed up, and timed."""

from __future__ import annotations

import asyncio
import signal
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite
from operator import itemgetter
from time import perf_counter_ns
from typing import Any

import numpy as np

from modelyard.core import plugins
from modelyard.core.batches import batch_reader
from modelyard.core.errors import Damaged, Invalid, Unfit, YardError
from modelyard.core.models import FeatureSpec, Signature
from modelyard.core.ports import Output, Runtime
from modelyard.serving.batching import PAYS, Joiner
from modelyard.serving.composed import Part, check_code, check_pin, closed
from modelyard.serving.forms import compiled_runtime, located
from modelyard.serving.rules import WARM_MICROS
from modelyard.serving.values import Installed

MANY = 64
_NUMBERS, _RECORDS = frozenset((float, int)), {dict}


class ModelFailed(YardError):
    """A model raised instead of answering."""

    status = 500


class CodeFailed(YardError):
    """Code of this machine's own raised: what, in which class and line."""


class Refusal(Unfit):
    """A model, or code of this machine's own, says that its input is wrong: the client's fault, and not the arm's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A version that has answered its warm-up, and what one call costs: fixed and by row, in microseconds."""

    installed: Installed
    runtime: Runtime
    signature: Signature
    read: Any  # batch_reader(signature)
    plain: bool  # every input is a float
    pick: Any  # a record's values in the signature's order
    fixed: float
    per_row: float
    joiner: Joiner | None = None  # where one call for many requests pays
    marked: bool = True  # its calls are noted, since it may end or hang the process: all but compiled trees
    begin: Callable[[np.ndarray, Callable[[], object]], Future[Output]] | None = (
        None  # of a coroutine, in which many requests may wait
    )
    parts: tuple[LoadedModel, ...] = ()  # those that a service is given

    def told(self) -> dict[str, Any]:
        """How this process answers with it, for the model's metadata."""
        form = self.installed.compiled
        return {
            "runtime": type(self.runtime).__name__,
            "compiled": form is not None and form.path != "",
            "not_compiled_because": form.reason if form is not None else "",
            "micro_batching": self.joiner is not None,
            "uses": {one.name: f"{one.installed.model}:{one.installed.version}" for one in self.installed.uses},
            "fixed_us": round(self.fixed, 1),
            "row_us": round(self.per_row, 2),
        }

    def slow(self, rows: int) -> bool:
        """Whether a batch of that many rows belongs in a thread."""
        return self.fixed + self.per_row * rows > WARM_MICROS or self.begin is not None

    def batch(self, features: Any) -> np.ndarray:
        """The batch of one record or a list of records; Invalid names the feature that is wrong."""
        records = [features] if isinstance(features, dict) else features
        quick = (self._quick if len(records) == 1 else self._quick_many)(records) if isinstance(records, list) else None
        if quick is not None:
            return quick
        if not isinstance(records, list) or not records:
            raise Invalid(
                "features is empty or no object. Send an object of named features, or a list of such objects."
            )
        return self.array(self.read(records))

    def _quick(self, records: list[Any]) -> np.ndarray | None:
        """One record of plain finite numbers as the batch; None for anything that has to be looked at more closely."""
        record = records[0]
        if not self.plain or not isinstance(record, dict) or len(record) != len(self.signature.inputs):
            return None
        try:
            values = self.pick(record)
            # a sum is finite only if every term is; one that overflows is looked at more closely
            fine = _NUMBERS.issuperset(map(type, values)) and isfinite(sum(values))
            return np.array((values,), dtype=np.float64) if fine else None
        except (KeyError, ValueError, TypeError, OverflowError):
            return None

    def _quick_many(self, records: list[Any]) -> np.ndarray | None:
        """The same for many records, a third of the work: what is looked at one by one is looked at in C."""
        width = len(self.signature.inputs)
        if not self.plain or set(map(type, records)) != _RECORDS or set(map(len, records)) != {width}:
            return None
        try:
            values = list(chain.from_iterable(map(self.pick, records)))
            if not _NUMBERS.issuperset(map(type, values)):
                return None
            batch = np.frombuffer(bytearray(struct.pack(f"{len(values)}d", *values)), np.float64).reshape(-1, width)
        except (KeyError, OverflowError, struct.error):
            return None
        return batch if np.isfinite(batch).all() else None

    def array(self, rows: list[list[Any]]) -> np.ndarray:
        """Checked rows as the runtime's matrix."""
        return np.array(rows, dtype=np.float64 if self.signature.numeric else object)

    def answer(self, batch: np.ndarray) -> Output:
        """The model's answer; ModelFailed for whatever it raises, since its input was checked, but for a Refusal.

        SystemExit and its like too: they would end the connection, or the process, and the arm would not be charged.
        """
        try:
            output = self.runtime.predict(batch)
            if len(output.predictions) != len(batch):
                raise ValueError(f"{len(output.predictions)} predictions for {len(batch)} rows")
            return output
        except Refusal:
            raise
        except Unfit as error:
            raise Refusal(str(error)) from error
        except BaseException as error:
            if _interrupted(error):
                raise
            raise self._failed(error) from error

    async def awaited(self, batch: np.ndarray, begun: Callable[[], object]) -> Output:
        """The answer of a coroutine, which is cancelled where nobody waits for it any longer; `begun` is its turn."""
        assert self.begin is not None
        try:
            return await asyncio.wrap_future(self.begin(batch, begun))
        except Refusal:
            raise
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> ModelFailed:
        one = self.installed
        what = str(error) if isinstance(error, CodeFailed) else f"{type(error).__name__}: {error}"
        return ModelFailed(f"{one.model} {one.version} failed: {what}")


def _interrupted(error: BaseException) -> bool:
    """Whether it was the user who interrupted, at a terminal or in a notebook, and not the model that raised this."""
    return (
        isinstance(error, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def load(installed: Installed, part: Callable[[Installed], LoadedModel] | None = None) -> LoadedModel:
    """Load a version, let it answer, and time it. NotFound, Damaged or Invalid say why it cannot be served.

    `part` gets the models that a service is given; without it they are loaded for that alone. Libraries, and code of this
    machine's own, raise what they like: that is told as Damaged.
    """
    try:
        return _load(installed, part or load)
    except YardError:
        raise
    except BaseException as error:
        if _interrupted(error):
            raise
        raise Damaged(
            f"{installed.model} {installed.version} cannot be loaded from {installed.path} with {installed.framework}: "
            f"{type(error).__name__}: {error}. Export it again, or name the framework it was made with."
        ) from error


def _load(installed: Installed, part: Callable[[Installed], LoadedModel]) -> LoadedModel:
    check_code(installed)
    parts = _parts(installed, part)
    runtime = _opened(installed, parts)
    signature = runtime.signature
    read = closed(signature, batch_reader(signature))
    row = _tried(installed, runtime, read)
    kind = np.float64 if signature.numeric else object
    plain = all(spec.kind == "float" for spec in signature.inputs)
    one, many = np.array(row, dtype=kind), np.array(row * MANY, dtype=kind)
    model = LoadedModel(
        installed=installed,
        runtime=runtime,
        signature=signature,
        read=read,
        plain=plain,
        pick=_picker(signature.names),
        fixed=0.0,
        per_row=0.0,
        marked=getattr(runtime, "marked", True),
        begin=runtime.begin if getattr(runtime, "waits", False) else None,  # type: ignore[attr-defined]  # a PythonRuntime
        parts=tuple(parts.values()),
    )
    try:
        model.answer(one)  # the warm-up: lazy set-up inside the library is not what a call costs
    except Refusal as error:
        raise Invalid(
            f"it refuses the row that it is tried with: {error} Give its class an example that it takes."
        ) from error
    first, last = _micros(model, one), _micros(model, many)
    per_row = max(last - first, 0.0) / (MANY - 1)
    # a service may ask all of its models for a row, though it asked one for the row that was timed
    per_row, fixed = (
        max(per_row, sum(part.per_row for part in parts.values())),
        max(first - per_row, sum(part.fixed for part in parts.values()), 0.0),
    )
    timed = replace(model, fixed=fixed, per_row=per_row)
    joins = timed.fixed > PAYS and timed.begin is None
    return replace(timed, joiner=Joiner(timed.answer, timed.slow)) if joins else timed


def _parts(installed: Installed, part: Callable[[Installed], LoadedModel]) -> dict[str, LoadedModel]:
    """The models that a service is given, their content as it was when the service was installed."""
    for one in installed.uses:
        check_pin(installed, one)
    return {one.name: part(one.installed) for one in installed.uses}


def _opened(installed: Installed, parts: Mapping[str, LoadedModel]) -> Runtime:
    """The runtime on a version's file."""
    arguments, framework = located(installed)
    if parts:
        arguments = (*arguments, {name: _part(one) for name, one in parts.items()})
    quick = compiled_runtime(installed, arguments, framework)
    if quick is not None:
        return quick
    runtime: Runtime = plugins.load("runtime", framework)(*arguments)
    return runtime


def _part(model: LoadedModel) -> Part:
    one = model.installed
    return Part(f"{one.model} {one.version}", model.signature, model.answer)


def _picker(names: tuple[str, ...]) -> Callable[[dict[str, Any]], Any]:
    if len(names) > 1:
        return itemgetter(*names)  # a tuple, made in C
    return lambda record: [record[name] for name in names]


def _tried(installed: Installed, runtime: Runtime, read: Callable[[Any], list[list[Any]]]) -> list[list[Any]]:
    """The row that warms a model up: the example that its code gives, or zeros."""
    example = getattr(runtime, "example", None)
    if example is None:
        return read([{spec.name: _sample(spec) for spec in runtime.signature.inputs}])
    try:
        return read([example])
    except Invalid as error:
        raise Invalid(f"the example of {installed.path} does not fit its signature: {error}") from error


def _sample(spec: FeatureSpec) -> Any:
    if spec.kind == "string":
        return spec.categories[0] if spec.categories else ""
    return 0


def _micros(model: LoadedModel, batch: np.ndarray) -> float:
    best = float("inf")
    for _ in range(3):
        start = perf_counter_ns()
        model.answer(batch)
        best = min(best, (perf_counter_ns() - start) / 1000)
    return best
