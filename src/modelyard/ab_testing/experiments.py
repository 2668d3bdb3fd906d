"""Experiments as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from modelyard.ab_testing.metrics import ANY_SUCCESS, Metric, Role
from modelyard.core.instants import Instant

CONTROL, TREATMENT = "control", "treatment"
ANY_GOAL = replace(ANY_SUCCESS, role=Role.GOAL)


class TestStatus(Enum):
    """Where a test stands."""

    __test__ = False  # pytest collects classes called Test...

    DRAFT = "draft"
    RUNNING = "running"
    STOPPED = "stopped"
    CONCLUDED = "concluded"


class TrafficSplitStrategy(Enum):
    """Who gets which variant.

    HASH_BASED and RAMP are sticky: a unit always meets the same variant (in a ramp, once it has met a treatment).
    RANDOM draws for each request; PERCENTAGE spreads requests evenly, so the split is exact after a few of them.
    """

    HASH_BASED = "hash_based"
    RANDOM = "random"
    PERCENTAGE = "percentage"
    RAMP = "ramp"

    @property
    def sticky(self) -> bool:
        """Whether a unit is needed and always gets its variant again."""
        return self in (TrafficSplitStrategy.HASH_BASED, TrafficSplitStrategy.RAMP)


class Inference(Enum):
    """How a test decides.

    FREQUENTIST holds the rate of false findings however often it is looked at. BAYESIAN weighs chances and losses under a
    stated prior. THOMPSON also moves units, round by round, to the variant that is likely to be the best.
    """

    FREQUENTIST = "frequentist"
    BAYESIAN = "bayesian"
    THOMPSON = "thompson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Units that take part in no test: `share` of all, the same ones for everybody who asks for this name."""

    name: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A stretch of a Thompson-sampling test in which the shares stand still; `assigned` units were given theirs in it."""

    number: int
    shares: Mapping[str, float]
    assigned: int
    started_at: Instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One arm of a test: its name, the model version behind it and its share of the units (0 to 1)."""

    name: str
    model: str
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTest:
    """One experiment. The plan never changes once it is created: a changed experiment is a new one."""

    test_id: str
    name: str
    description: str
    strategy: TrafficSplitStrategy
    status: TestStatus
    variants: tuple[Variant, ...]  # control first
    created_by: str
    created_at: Instant
    started_at: Instant | None = None
    ended_at: Instant | None = None
    unit: str = "unit"  # what a unit is, in words
    endpoint: str = ""  # where its traffic is split, if serving does that
    planned_units: int | None = None
    horizon: int = 10_000
    ramp_seconds: float = 0.0
    exclusive_group: str = ""
    group_share: float = 1.0
    group_start: float = 0.0
    metrics: tuple[Metric, ...] = (ANY_GOAL,)  # the success rate first
    inference: Inference = Inference.FREQUENTIST
    prior: tuple[float, float] | None = None
    tolerated_loss: float = 0.001
    round_units: int = 500
    guard_alpha: float = 0.001  # of taking treatments off an endpoint that are no worse than the control; 0: no guard
    latency_margin: float = 1.0  # twice as slow: a test may be meant to trade latency for something
    latency_floor_ms: float = 2.0  # slower by less than this is no harm
    holdouts: tuple[Held, ...] = ()
    winner: str = ""
    conclusion: str = ""
    taken_back: str = ""  # the treatment that the guard has taken off its endpoint

    @property
    def control(self) -> Variant:
        """What the treatments are compared with."""
        return self.variants[0]

    @property
    def treatments(self) -> tuple[Variant, ...]:
        """What is tried."""
        return self.variants[1:]

    @property
    def shares(self) -> Mapping[str, float]:
        """Variant name to its share."""
        return {variant.name: variant.share for variant in self.variants}

    @property
    def goals(self) -> tuple[Metric, ...]:
        """What the test looks for."""
        return tuple(metric for metric in self.metrics if metric.role is Role.GOAL)

    @property
    def adaptive(self) -> bool:
        """Whether shares change with what the variants have shown."""
        return self.inference is Inference.THOMPSON

    @property
    def needs_units(self) -> bool:
        """Whether a variant can only be told of a named unit."""
        return self.strategy.sticky or bool(self.exclusive_group) or bool(self.holdouts) or self.adaptive
