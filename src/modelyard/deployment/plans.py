"""What a rollout is asked to be: its steps and terms from the arguments of `start`, and how that differs from what stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.core import plugins
from modelyard.core.canonical import plain
from modelyard.core.declared import Change
from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name
from modelyard.core.refs import ModelRef
from modelyard.deployment import rules
from modelyard.deployment.guardrails import guardrails_from
from modelyard.deployment.rollouts import (
    Deployment,
    DeploymentStrategy,
    Step,
    Terms,
    check_number,
    parsed_reference,
    strategy_named,
)

FIXED = (
    "alpha",
    "warmup",
    "latency_margin",
    "latency_floor_ms",
    "error_limit",
    "latency_limit",
    "guardrails",
    "tolerance",
)  # what the serving processes' guard was given for this step and its budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A rollout as it is asked for."""

    endpoint: str
    candidate: ModelRef
    baseline: ModelRef | None
    strategy: DeploymentStrategy | str
    steps: tuple[Step, ...]
    terms: Terms
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    after_generation: int = 0


def wanted(
    endpoint: str,
    version: str,
    *,
    strategy: DeploymentStrategy | str = DeploymentStrategy.CANARY,
    baseline: str = "",
    steps: Sequence[float] | None = None,
    gates: Sequence[int] | None = None,
    step_units: Sequence[int] | None = None,
    step_seconds: Sequence[float] | None = None,
    freeze: Sequence[str] | None = None,
    latency_ms: Mapping[str, float] | None = None,
    after_generation: int = 0,
    guardrails: Sequence[Mapping[str, Any]] | None = None,
    **terms: Any,
) -> Wanted:
    """The rollout that arguments ask for; Invalid for one that cannot be."""
    checked_name(endpoint, "endpoint")
    if after_generation < 0:
        raise Invalid(f"after_generation is {after_generation}; it must be 0 or more.")
    strategy = strategy_named(strategy)
    planned = _gated(_ending(strategy, plugins.load("strategy", plain(strategy))(steps)), gates or [])
    planned = _with(_with(planned, "minimum_units", step_units), "minimum_seconds", step_seconds)
    return Wanted(
        endpoint=endpoint,
        candidate=parsed_reference(version, endpoint, "new"),
        baseline=parsed_reference(baseline, endpoint, "baseline") if baseline else None,
        strategy=strategy,
        steps=planned,
        terms=Terms(freeze=tuple(freeze or ()), guardrails=guardrails_from(guardrails or ()), **terms),
        latency_ms=_checked_latency(latency_ms or {}),
        after_generation=after_generation,
    )


def _ending(strategy: DeploymentStrategy | str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps, if the last one gives the new version everything or nothing: else a rollout would have no end."""
    if not steps or steps[-1].shadow_share or steps[-1].share not in (0.0, 1.0):
        raise Invalid(f"The strategy {plain(strategy)} plans no end: its last step has to have the share 0 or 1.")
    return steps


def _gated(steps: tuple[Step, ...], gates: Sequence[int]) -> tuple[Step, ...]:
    for gate in gates:
        check_number("A gate", gate)
        if not 0 <= gate < len(steps) - 1:
            known = f"Choose from 0 to {len(steps) - 2}." if len(steps) > 1 else "This rollout has one step only."
            raise Invalid(
                f"Step {gate} cannot have a gate: a gate holds a step until it may be left, the last never is. {known}"
            )
    return tuple(replace(step, gate=place in gates) for place, step in enumerate(steps))


def _with(steps: tuple[Step, ...], name: str, values: Sequence[float] | None) -> tuple[Step, ...]:
    """The steps with a minimum of their own each. The last one, which is never left, needs none."""
    if values is None:
        return steps
    left = len(steps) - 1
    if not left <= len(values) <= len(steps):
        short = name.replace("minimum", "step")
        raise Invalid(f"{short} has {len(values)} values, but {left} steps are left. Give one for each of them.")
    given = [*values, None][: len(steps)]
    changes: list[dict[str, Any]] = [{} if value is None else {name: value} for value in given]
    return tuple(replace(step, **change) for step, change in zip(steps, changes, strict=True))


def _checked_latency(latency_ms: Mapping[str, float]) -> dict[str, float]:
    for name, value in latency_ms.items():
        if name not in rules.QUANTILES:
            raise Invalid(f"latency_ms has an unknown quantile {name!r}. {nearest(name, list(rules.QUANTILES))}")
        check_number(f"latency_ms {name}", value)
        if not 0 < value < float("inf"):
            raise Invalid(f"latency_ms {name} is {value}; it must be a number of milliseconds above 0.")
    given = [latency_ms[name] for name in rules.QUANTILES if name in latency_ms]
    if given != sorted(given):
        raise Invalid(f"latency_ms {dict(latency_ms)} falls: p50, p95 and p99 rise.")
    return dict(latency_ms)


def changes(one: Wanted, stands: Deployment) -> tuple[Change, ...]:
    """What is asked for otherwise than a rollout has it, by key."""
    found = [
        Change(key="version", now=f"{stands.model_name}:{stands.model_version}", wanted=str(one.candidate)),
        Change(key="strategy", now=plain(stands.strategy), wanted=plain(one.strategy)),
    ]
    if one.baseline:
        found.append(Change(key="baseline", now=stands.baseline, wanted=str(one.baseline)))
    for place in range(max(len(one.steps), len(stands.steps))):
        now, then = (_told(steps, place) for steps in (stands.steps, one.steps))
        found.append(Change(key=f"steps[{place}]", now=now, wanted=then))
    terms = stands.terms or Terms()
    found += [
        Change(key=name, now=plain(getattr(terms, name)), wanted=plain(getattr(one.terms, name)))
        for name in Terms.__slots__
    ]
    return tuple(change for change in found if change.now != change.wanted)


def new(one: Wanted, before: str) -> tuple[Change, ...]:
    """A rollout that is not there yet, as changes."""
    steps = [Change(key=f"steps[{i}]", now=None, wanted=_told(one.steps, i)) for i in range(len(one.steps))]
    defaults = Terms()
    terms = [
        Change(key=name, now=plain(getattr(defaults, name)), wanted=plain(getattr(one.terms, name)))
        for name in Terms.__slots__
        if getattr(one.terms, name) != getattr(defaults, name)
    ]
    first = Change(key="version", now=before or None, wanted=str(one.candidate))
    return (first, Change(key="strategy", now=None, wanted=plain(one.strategy)), *steps, *terms)


def fixed(change: Change, step: int) -> bool:
    """Whether a change cannot be made to a rollout that is in this step."""
    if change.key.startswith("steps["):
        place = int(change.key[6:-1])
        return place < step or (place == step and _shares(change.now) != _shares(change.wanted))
    return change.key in ("version", "strategy", "baseline", *FIXED)


def _shares(told: str | None) -> list[str]:
    """What a step asks of the routing: its share, and how many are copied."""
    return [part for part in (told or "").split(", ") if part.endswith("%") or part.startswith("copies")]


def _told(steps: tuple[Step, ...], place: int) -> str | None:
    if place >= len(steps):
        return None
    step = steps[place]
    parts = [f"{step.share:.4%}".rstrip("%").rstrip("0").rstrip(".") + " %"]
    parts += [f"copies {step.shadow_share:g}"] if step.shadow_share else []
    parts += [f"{step.minimum_units} units"] if step.minimum_units is not None else []
    parts += [f"{step.minimum_seconds:g} s"] if step.minimum_seconds is not None else []
    return ", ".join([*parts, *(["gate"] if step.gate else [])])
