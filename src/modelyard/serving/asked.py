"""A request for predictions as it is asked: what its body holds, which arm answers it, and by when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np

from modelyard.core.errors import Invalid
from modelyard.core.ports import Output
from modelyard.serving import tensors
from modelyard.serving.calls import Underway
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.replies import Reply
from modelyard.serving.routing import Route
from modelyard.serving.stages import Stages

DEADLINE_S = 30.0  # unless the request says otherwise


class Features(msgspec.Struct):
    """The body of POST /predict/ENDPOINT."""

    features: dict[str, Any] | list[dict[str, Any]]
    request_id: str | None = None
    unit_id: str | None = None


class Answer(msgspec.Struct, gc=False):
    """The body of its answer."""

    predictions: list[Any]
    probabilities: list[list[float]] | None
    model_version: str
    arm: str
    request_id: str


class Tensors(Protocol):
    """A request of tensors, as one of the protocols brought it."""

    @property
    def id(self) -> str | None:
        """What the client calls it."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What it says besides."""
        ...

    def batch(self, model: LoadedModel) -> np.ndarray:
        """The batch for a model; Invalid for what does not fit it."""
        ...

    def reply(self, head: tensors.Head, output: Output) -> Reply:
        """The answer, as that protocol has it."""
        ...


@dataclass(slots=True)
class Asked:
    """One request: which arm answers it, whether it counts, and how its answer is written."""

    route: Route
    arm: int
    hashed: int | None
    unit: str | None
    pinned: bool
    request_id: str
    start: int
    deadline: bytes | None
    features: Any = None
    tensors: Tensors | None = None
    underway: Underway | None = None  # of a call that is made later
    stages: Stages | None = None  # where somebody wants to know them

    @property
    def model(self) -> LoadedModel:
        """The version that answers."""
        return self.route.models[self.arm]

    @property
    def mark(self) -> bytes:
        """How its call is noted."""
        return (self.route.pinned if self.pinned else self.route.marks)[self.arm]


def deadline(given: bytes | None) -> float:
    """The seconds that X-Timeout-Ms allows; 30 without it."""
    if given is None:
        return DEADLINE_S
    try:
        limit = float(given) / 1000
    except ValueError:
        limit = math.nan
    if not 0 < limit <= 3600:
        raise Invalid(f"X-Timeout-Ms is {given[:40]!r}. Send a number of milliseconds above 0, up to an hour.")
    return limit


def timeout(micros: Any) -> bytes | None:
    """Triton's parameter `timeout`, in microseconds, as what X-Timeout-Ms says."""
    if not micros:
        return None
    if isinstance(micros, bool) or not isinstance(micros, int):
        raise Invalid(f"timeout is {str(micros)[:40]!r}. Send a whole number of microseconds.")
    return b"%d.%03d" % divmod(micros, 1000)
