"""Rollouts as values: strategies, steps, limits, and what a deployment looks like from outside."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from modelyard.core import plugins
from modelyard.core.declared import Change
from modelyard.core.errors import Invalid, nearest
from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import Traffic
from modelyard.deployment.windows import parsed_window


class DeploymentStrategy(Enum):
    """How a new version takes over."""

    DIRECT = "direct"
    SHADOW = "shadow"
    CANARY = "canary"
    BLUE_GREEN = "blue_green"
    ROLLING = "rolling"


def strategy_named(name: DeploymentStrategy | str) -> DeploymentStrategy | str:
    """The strategy of a name: one of ours, or the name of one that another package registers; Invalid for any other.

    >>> strategy_named("canary")
    <DeploymentStrategy.CANARY: 'canary'>
    >>> strategy_named("canery")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: There is no strategy 'canery'. Did you mean canary? Known: blue_green, canary, ...
    """
    if isinstance(name, DeploymentStrategy):
        return name
    known = plugins.names("strategy")
    if name not in known:
        raise Invalid(f"There is no strategy {name!r}. {nearest(str(name), list(known))}")
    return strategy_kept(name)


def strategy_kept(name: str) -> DeploymentStrategy | str:
    """The strategy that a stored name means; another package's stays its name, whether or not the package is there."""
    return DeploymentStrategy(name) if name in [member.value for member in DeploymentStrategy] else name


class DeploymentStatus(Enum):
    """Where a deployment stands. WAITING is at a manual gate; the guard goes on watching while it waits or is paused."""

    RUNNING = "running"
    WAITING = "waiting"
    PAUSED = "paused"
    COMPLETED = "completed"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"

    @property
    def active(self) -> bool:
        """Whether the new version may still take traffic or be taken back."""
        return self in (DeploymentStatus.RUNNING, DeploymentStatus.WAITING, DeploymentStatus.PAUSED)


def status_named(name: DeploymentStatus | str) -> DeploymentStatus:
    """The status of a name; Invalid for any other.

    >>> status_named("runing")
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: There is no status 'runing'. Did you mean running? Known: aborted, completed, ...
    """
    known = {one.value: one for one in DeploymentStatus}
    if isinstance(name, DeploymentStatus):
        return name
    if name not in known:
        raise Invalid(f"There is no status {name!r}. {nearest(str(name), list(known))}")
    return known[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class PerformanceMetrics:
    """Metrics that somebody measured and reports by hand: latencies in seconds, rates between 0 and 1."""

    latency_p95: float | None = None
    error_rate: float | None = None
    latency_p50: float | None = None
    latency_p99: float | None = None
    throughput: float | None = None
    accuracy: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise Invalid(f"{name} is {value}; it must be a number of 0 or more.")
        for name in ("error_rate", "accuracy"):
            value = getattr(self, name)
            if value is not None and value > 1:
                raise Invalid(f"{name} is {value}; it is a part of 1, for example 0.01 for one in a hundred.")


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackConfig:
    """Hard limits for metrics reported by hand.

    Rolled back when the error rate is above `error_rate_threshold`, a latency above `latency_threshold_multiplier` times
    the baseline's, or the accuracy more than `accuracy_drop_threshold` below the baseline's; never before
    `min_requests_before_check` requests.
    """

    error_rate_threshold: float = 0.05
    latency_threshold_multiplier: float = 2.0
    min_requests_before_check: int = 100
    accuracy_drop_threshold: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.error_rate_threshold <= 1:
            raise Invalid(f"error_rate_threshold is {self.error_rate_threshold}; it must lie between 0 and 1.")
        if not self.latency_threshold_multiplier > 0:
            raise Invalid(f"latency_threshold_multiplier is {self.latency_threshold_multiplier}; it must be above 0.")
        if self.min_requests_before_check < 0:
            raise Invalid(f"min_requests_before_check is {self.min_requests_before_check}; it must not be negative.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step of a plan: the new version's share, its shadow copy's share, and what it takes to leave the step."""

    share: float
    shadow_share: float = 0.0
    gate: bool = False  # a person has to let it pass
    minimum_units: int | None = None  # of this step alone, where it differs from the terms
    minimum_seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("share", "shadow_share"):
            check_number(f"A step's {name}", getattr(self, name))
            if not 0 <= getattr(self, name) <= 1:
                raise Invalid(f"A step's {name} is {getattr(self, name)}; it must lie between 0 and 1.")
        _check_minima(self.minimum_units, self.minimum_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """A metric that serving does not count, with a value for canary and baseline at each look.

    Its values lie from `lowest` to `highest`; `worse` is up or down, and a mean harm above `tolerated` takes the version
    back. `canary` and `baseline` are queries to the `prometheus` server, asked every so many seconds: at least the window
    of the queries, for looks that share data are not the evidence of two. Without a server the values are reported.
    """

    name: str
    lowest: float
    highest: float
    tolerated: float = 0.0
    worse: str = "up"
    prometheus: str = ""
    canary: str = ""
    baseline: str = ""
    every: float = 60.0

    def __post_init__(self) -> None:
        for key in ("lowest", "highest", "tolerated", "every"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise Invalid(f"{key} of the guardrail {self.name} is {value!r}; it must be a number.")
        if not self.lowest < self.highest:
            raise Invalid(
                f"The guardrail {self.name} lies from {self.lowest} to {self.highest}. Give lowest below highest."
            )
        if not 0 <= self.tolerated < self.highest - self.lowest:
            raise Invalid(f"tolerated of the guardrail {self.name} is {self.tolerated}; it must lie within its bounds.")
        if self.every < 0:
            raise Invalid(f"every of the guardrail {self.name} is {self.every}. Give the seconds between two looks.")
        if self.worse not in ("up", "down"):
            raise Invalid(f"worse of the guardrail {self.name} is {self.worse!r}. Write up or down.")
        if self.prometheus and not (self.canary and self.baseline):
            raise Invalid(f"The guardrail {self.name} asks Prometheus and needs two queries: canary and baseline.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a step needs before it is left, and when it is taken back.

    `minimum_units` and `warmup` count the new version's requests; `margin` is an absolute error rate, `latency_margin`
    a part of the baseline's p95; `alpha` bounds the chance that a version as good as the baseline is ever rolled back.
    In the weekly windows `freeze` nothing is promoted; rollbacks know no such windows.
    """

    minimum_units: int = 500
    minimum_seconds: float = 0.0
    margin: float = 0.005
    latency_margin: float = 0.10
    latency_floor_ms: float = (
        0.5  # slower by less matters to nobody, and a version that is asked rarely has cold caches
    )
    alpha: float = 0.001
    warmup: int = 0
    minimum_agreement: float = 0.0
    freeze: tuple[str, ...] = ()
    error_limit: float | None = None  # the new version's error rate may not pass it, whatever the baseline's is
    latency_limit: float | None = None  # nor its p95 so many times the baseline's when the step began
    guardrails: tuple[Guardrail, ...] = ()
    tolerance: float | None = None  # of a shadow's answers: of its numbers, or the distance of its probabilities
    ready_seconds: float = 600.0  # a version that some process cannot load for so long goes back
    keep_seconds: float = 3600.0  # the baseline stays in memory for so long after the end, for an instant way back

    def __post_init__(self) -> None:
        for name in NUMBERS:
            check_number(name, getattr(self, name))
        _check_minima(self.minimum_units, self.minimum_seconds)
        if self.warmup < 0:
            raise Invalid(f"warmup is {self.warmup}; it must not be negative.")
        for window in self.freeze:
            parsed_window(window)
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise Invalid(f"tolerance is {self.tolerance}; it must be a number of 0 or more, for example 0.01.")
        if not 0 <= self.latency_floor_ms < math.inf:
            raise Invalid(f"latency_floor_ms is {self.latency_floor_ms}; it must be milliseconds, 0 or more.")
        if not 0 < self.margin < 1 or not 0 < self.latency_margin < 100:
            raise Invalid(
                f"margin {self.margin} must lie between 0 and 1 and latency_margin {self.latency_margin} above 0."
            )
        if not 0 < self.alpha <= 0.5:
            raise Invalid(f"alpha is {self.alpha}; it must be above 0 and at most 0.5, for example 0.001.")
        if self.error_limit is not None and not 0 < self.error_limit < 1:
            raise Invalid(f"error_limit is {self.error_limit}; it must lie between 0 and 1, for example 0.05.")
        if self.latency_limit is not None and not 1 <= self.latency_limit < math.inf:
            raise Invalid(f"latency_limit is {self.latency_limit}; it must be 1 or more, for example 2 for twice.")
        if not 0 <= self.minimum_agreement < 1:
            raise Invalid(f"minimum_agreement is {self.minimum_agreement}; it must be at least 0 and below 1.")
        for name in ("ready_seconds", "keep_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(f"{name} is {getattr(self, name)}; it must be a number of seconds, 0 or more.")


NUMBERS = tuple(name for name in Terms.__slots__ if name not in ("freeze", "guardrails"))


def check_number(name: str, value: object) -> None:
    """Invalid for what is there and no number, or none that can be counted to."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and (not known or (isinstance(value, int) and abs(value) >= 1 << 63)):
        raise Invalid(f"{name} is {value!r}; it must be a number.")


def _check_minima(units: int | None, seconds: float | None) -> None:
    check_number("minimum_units", units)
    check_number("minimum_seconds", seconds)
    if units is not None and not float(units).is_integer():
        raise Invalid(f"minimum_units is {units}; it must be a whole number.")
    if units is not None and units < 1:
        raise Invalid(f"minimum_units is {units}: a step without evidence decides nothing. Give 1 or more.")
    if seconds is not None and not 0 <= seconds < math.inf:
        raise Invalid(f"minimum_seconds is {seconds}; it must be a number of seconds, 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is carried from look to look and step to step: enough for another controller to go on exactly here."""

    latency_ms: Mapping[str, float] = field(default_factory=dict)  # frozen baseline quantiles of this step
    frozen_at: float | None = None  # seconds since 1970: when they were frozen, if not when the step began
    refrozen: int = 0  # how often in this step, for the baseline had moved
    carried: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # the rollback tests of earlier steps
    canary_requests: int = 0  # in the steps before this one
    guardrails: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # see guardrails.Seen
    held: tuple[str, ...] = ()  # the kinds of holds that were told of this step
    stuck_since: float | None = None  # seconds since 1970: since when some process cannot carry the step out
    released: bool = False  # whether the baseline of a completed rollout is no longer kept in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A live rollout: the plan, the terms and where it stands. Everything `rules.advance` decides from."""

    deployment_id: str
    endpoint: str
    candidate: ModelRef
    baseline: ModelRef | None
    strategy: DeploymentStrategy | str
    status: DeploymentStatus
    steps: tuple[Step, ...]
    terms: Terms
    step: int
    generation: int
    step_started_at: Instant
    progress: Progress

    @property
    def now_at(self) -> Step:
        """The step it is in."""
        return self.steps[self.step]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment as it stands. `traffic` is what the endpoint should carry out now; None for a reported one."""

    deployment_id: str
    status: DeploymentStatus
    endpoint: str
    model_version: str
    baseline: str
    step: int
    strategy: DeploymentStrategy | str
    model_name: str
    created_by: str
    created_at: Instant
    updated_at: Instant
    steps: tuple[Step, ...]
    generation: int
    reason: str = ""
    traffic: Traffic | None = None
    metrics: PerformanceMetrics | None = None
    baseline_metrics: PerformanceMetrics | None = None
    rollback_config: RollbackConfig | None = None
    terms: Terms | None = None

    @property
    def share(self) -> float:
        """The new version's share of the answers, 0 to 1."""
        if self.status is DeploymentStatus.COMPLETED:
            return self.steps[-1].share
        return self.steps[self.step].share if self.status.active else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One thing that was decided about a deployment, by whom, with the numbers it was decided from."""

    at: Instant
    actor: str
    what: str
    step: int
    share: float
    generation: int
    reasons: tuple[str, ...]
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the last look at a rollout saw, decided and waits for, by whom and when.

    `arms` has for each arm its version, weight, requests, errors, error rate and latencies in milliseconds; `shadow`
    what became of the copies. `controller` is who holds the lease until `lease_until`, if anybody does. The counts are of
    so many `servers` of one database, also of those that are no more.
    """

    deployment_id: str
    at: Instant | None = None  # None before the first look
    controller: str = ""
    lease_until: Instant | None = None
    generation: int = 0
    servers: int = 1
    verdict: str = ""
    reasons: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    shadow: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What applying a rollout file would do, and why.

    `verdict` is start, amend (the plan of the rollout that is under way), unchanged, or refused.
    """

    endpoint: str
    version: str
    verdict: str
    reason: str
    deployment_id: str = ""
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowDeployment:
    """A version that gets a copy of the traffic and answers nobody."""

    shadow_id: str
    primary_model: str
    shadow_model: str
    traffic_percentage: float
    created_by: str
    created_at: Instant


def parsed_reference(text: str, model: str, what: str) -> ModelRef:
    """The version that `v2.0.0` (of `model`) or `name:v2.0.0` names."""
    if not isinstance(text, str) or not text.strip():
        raise Invalid(f"The {what} version is empty. Write it as v1.2.3, or as name:v1.2.3.")
    return ModelRef.parse(text if ":" in text else f"{model}:{text}")


def as_numbers(metrics: PerformanceMetrics) -> dict[str, Any]:
    """The metrics that were given."""
    return {name: value for name in metrics.__slots__ if (value := getattr(metrics, name)) is not None}
