"""Traffic: how an endpoint's requests are split between versions, what guards the split, and what was counted.

Deployment and experiments decide a `Traffic`; serving carries it out and counts. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BASELINE, CANARY = "baseline", "canary"
LATENCY_LIMIT = "limit"  # what `ArmCounts.slower` calls answers above `Guard.latency_limit_ms`
PREVIOUS = "previous"  # the last arm of some: kept in memory for a way back, where it can still be loaded
DISTANCES = (0.0, 1e-6, 1e-4, 1e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # upper ends that a shadow's are counted by


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One version that may answer an endpoint's requests, with its share of them (0 to 1)."""

    name: str
    model: str
    version: str
    weight: float


def known_part(servers: int) -> float:
    """Of a guard's alpha, the part for what all servers have told each other: each sees it alike, so that it is spent once.

    The rest is for what each of them sees by itself, a little before the others and also while it cannot hear them.

    >>> known_part(1), known_part(3)
    (1.0, 0.8)
    """
    return 1.0 if servers == 1 else 0.8


def tolerated_ms(quantile_ms: float, margin: float, floor_ms: float) -> float:
    """Up to how many milliseconds a watched arm is no slower than a quantile of the control: a part more, or so many more.

    >>> round(tolerated_ms(20.0, 0.1, 0.5), 2), tolerated_ms(0.2, 0.1, 0.5)
    (22.0, 0.7)
    """
    return max(quantile_ms * (1 + margin), quantile_ms + floor_ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What the serving processes watch by themselves while an arm is on trial against a control, and take it back on.

    A bad event is an error, or a slow answer: slower than a frozen quantile of the control, for the watched arm slower than
    what is tolerated of that quantile (`tolerated_ms`). Under 'no worse than the control, and slower by the margin at most'
    an event of the two falls on the arm with a probability of at most `share`, its part of what both of them get, so the
    e-values of stats.eprocess hold at any look. `carried` holds the tests of earlier steps (stats.rollback); `latency_ms`
    the frozen quantiles. Of answers above `latency_limit_ms` no more is made here than a count, of both arms.
    """

    rollout_id: str  # or the id of the A/B test whose treatments are on trial
    step: int
    share: float
    arm: str = CANARY
    control: str = BASELINE
    alpha: float = 0.001
    warmup: int = 0
    latency_ms: Mapping[str, float] = field(default_factory=dict)  # for example {"p50": 2.1, "p95": 4.0, "p99": 9.2}
    latency_margin: float = 0.0
    latency_floor_ms: float = 0.0
    latency_limit_ms: float | None = None
    carried: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The whole routing of one endpoint. A new one has a higher `generation` and replaces the old at once.

    `guards` watch one arm each, all against one control and in one step: once one of them trips, the control has it all.
    `shadow` gets a copy of `shadow_share` of the requests; its answers are compared and never returned.
    Requests with a unit (a user, say) go where the hash of `salt` and unit says; others at random.
    """

    endpoint: str
    generation: int
    arms: tuple[Arm, ...]
    shadow: Arm | None = None
    shadow_share: float = 0.0
    guards: tuple[Guard, ...] = ()
    salt: str = ""
    shadow_tolerance: float | None = None  # how far its answers may lie from the primary's and still agree

    @property
    def guard(self) -> Guard | None:
        """The first guard, whose rollout, step, control, warm-up and latencies are those of all; None without one."""
        return self.guards[0] if self.guards else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCounts:
    """What one arm did in one generation. `slower` counts answers above each frozen quantile of the guard,
    and above its hard limit; `latency` is a log-bucket histogram in microseconds (stats.sketch).

    With a guard, `units` are what `errors` and `slower` are counted of, after the warm-up: each request that has no
    unit, and each unit once, however often it comes, fails or waits. None where nobody counted them: then of requests.
    `tests` is how far the tests of the guard that watches it are (stats.rollback): what the next step's guard carries on.
    """

    requests: int = 0
    errors: int = 0
    units: int | None = None
    slower: Mapping[str, int] = field(default_factory=dict)
    latency: Mapping[int, int] = field(default_factory=dict)
    tests: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowCounts:
    """How a shadow's answers compare with the primary's. `distances` counts them up to each of DISTANCES, and beyond."""

    compared: int = 0
    agreed: int = 0
    errors: int = 0
    dropped: int = 0
    distances: tuple[int, ...] = ()
    latency: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficCounts:
    """Counts of one endpoint in one generation, merged over its serving processes on so many servers of one database."""

    endpoint: str
    generation: int
    servers: int = 1
    arms: Mapping[str, ArmCounts] = field(default_factory=dict)
    shadow: ShadowCounts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardTrip:
    """A serving process's own decision to send everything back to the control, with the numbers it rests on."""

    endpoint: str
    generation: int
    rollout_id: str
    step: int
    metric: str  # what weighed most: "errors" or "latency"
    e_value: float  # times its test's part of alpha, so that it is held against 1 / alpha
    threshold: float
    counts: TrafficCounts
    reason: str
    at: float  # seconds since 1970, the deciding process's clock
    arm: str = CANARY  # what the evidence is against
    share: float = 0.0  # its part of what it and the control get, w
    evidence: Mapping[str, float] = field(default_factory=dict)  # test -> log of its e-value times its part of alpha


def against(guard: Guard, counts: TrafficCounts, *, slow: bool) -> str:
    """What has been counted against the watched arm, in words: its failures, or how slow it was."""
    tried, control = (counts.arms.get(name, ArmCounts()) for name in (guard.arm, guard.control))
    what = "units" if tried.units is not None and tried.units < tried.requests - guard.warmup else "requests"
    new, old = (arm.requests if arm.units is None else arm.units for arm in (tried, control))
    if not slow:
        failed = f"{tried.errors} of {new} {what} failed on the {guard.arm}"
        return f"{failed}, {control.errors} of {old} on the {guard.control}"
    above = ", ".join(
        f"{tried.slower.get(name, 0)} against {control.slower.get(name, 0)} above {guard.latency_ms[name]:.3g} ms ({name})"
        for name in sorted(guard.latency_ms)
    )
    granted = [f"{guard.latency_margin:.0%}"] if guard.latency_margin else []
    granted += [f"{guard.latency_floor_ms:g} ms"] if guard.latency_floor_ms else []
    beyond = f" by more than {' and '.join(granted)}" if granted else ""
    failed = f", failed {tried.errors} against {control.errors}" if tried.errors or control.errors else ""
    return f"answers slower than the {guard.control}'s quantiles{beyond}: {above}{failed}; {what} {new} against {old}"


def versions_in(traffic: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """The (model, version) pairs that a traffic, as an event tells it, routes to or shadows.

    >>> versions_in({"arms": [{"model": "fraud", "version": "v1.0.0"}], "shadow": None})
    [('fraud', 'v1.0.0')]
    """
    if not traffic:
        return []
    arms = [*traffic["arms"], *([traffic["shadow"]] if traffic.get("shadow") else [])]
    return [(arm["model"], arm["version"]) for arm in arms]
