"""What serving takes and gives: frameworks, requests, responses and an endpoint's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from modelyard.core.errors import Invalid, nearest
from modelyard.core.models import Parity, Signature


class ModelFramework(Enum):
    """What a model file is loaded with."""

    ONNX = "onnx"
    SKLEARN = "sklearn"
    LIGHTGBM = "lightgbm"
    XGBOOST = "xgboost"
    PYTORCH = "torch"
    TENSORFLOW = "tensorflow"
    PYTHON = "python"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRequest:
    """One question to an endpoint: named features of one row, or a list of rows."""

    request_id: str
    endpoint_id: str
    features: Any
    unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionResponse:
    """The answer: one prediction a row, probabilities (rows, classes) for a classifier, and which version gave it."""

    request_id: str
    endpoint_id: str
    model_version: str
    predictions: list[Any]
    probabilities: list[list[float]] | None
    latency_ms: float
    arm: str = "baseline"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """How an endpoint is scaled and logged.

    `target_cpu` is the share of one core that a worker may be busy; `payload_sampling` the share of answers that are
    kept; `trusted_code` allows the framework `python`, which runs code of this machine's own. With `payload_durable` an
    answer leaves once it is on the disk. The log keeps the last `payload_days` and `payload_mib` of answers, 0 all;
    the features `payload_hidden` (personal ones, say) are never written to it.
    """

    min_replicas: int = 2
    max_replicas: int = 2
    target_cpu: float = 0.7
    target_latency_ms: float = 100.0
    payload_sampling: float = 1.0
    payload_durable: bool = False
    payload_days: float = 0.0
    payload_mib: float = 0.0
    payload_hidden: tuple[str, ...] = ()
    trusted_code: bool = False

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> EndpointConfig:
        """The settings in a mapping; Invalid for an unknown or impossible one."""
        values = dict(given or {})
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise Invalid(f"{name!r} is no endpoint setting. {nearest(str(name), known)}")
        hidden = values.get("payload_hidden", ())
        if isinstance(hidden, str) or not all(isinstance(one, str) for one in hidden):
            raise Invalid(f"payload_hidden is {hidden!r}. Give a list of the names of features.")
        values["payload_hidden"] = tuple(hidden)
        values.setdefault("max_replicas", max(_whole(values, "min_replicas", 2), 2))
        config = cls(**values)
        config._check()
        return config

    def _check(self) -> None:
        for name in ("min_replicas", "max_replicas"):
            _whole({name: getattr(self, name)}, name, 2)
        if self.max_replicas < self.min_replicas or self.max_replicas > 50:
            raise Invalid(
                f"max_replicas is {self.max_replicas}. Choose a number from min_replicas ({self.min_replicas}) to 50."
            )
        tops = {
            "target_cpu": 0.9,
            "target_latency_ms": 1e6,
            "payload_sampling": 1.0,
            "payload_days": 1e5,
            "payload_mib": 1e9,
        }
        for name, top in tops.items():
            value = getattr(self, name)
            low_is_fine = name.startswith("payload_") and value == 0
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not (0 < value <= top or low_is_fine):
                raise Invalid(f"{name} is {value!r}. Choose a number above 0 and up to {top:g}.")
        for name in ("trusted_code", "payload_durable"):
            if not isinstance(getattr(self, name), bool):
                raise Invalid(f"{name} is {getattr(self, name)!r}. Choose True or False.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A version's faster form at `path`, and how alike it answers; without a path, the reason why there is none.

    `digest` is that of the model's file (and of how it is read): the form of another file is not used.
    """

    digest: str
    path: str = ""
    parity: Parity | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A model version that workers can load: what its file is, how to load it, and its faster form if one was tried.

    `signature` is what the registry says of a file that says nothing itself; `uses` are the versions that a Python service
    is given, and `code` is the digest of the file that it is in.
    """

    model: str
    version: str
    path: str
    framework: str
    compiled: Compiled | None = None
    signature: Signature | None = None
    uses: tuple[Used, ...] = ()
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """A version that a Python service is given under a name, pinned by the digest of its content."""

    name: str
    installed: Installed
    digest: str


def _whole(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 50:
        raise Invalid(f"{name} is {value!r}. Choose a whole number from 1 to 50.")
    return value
