"""What an experiment is asked to be: a test from the arguments of `create_test`, and how that differs from what stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelyard.ab_testing import metrics as measured
from modelyard.ab_testing.experiments import (
    CONTROL,
    TREATMENT,
    ABTest,
    Inference,
    TestStatus,
    TrafficSplitStrategy,
    Variant,
)
from modelyard.ab_testing.metrics import Kind, Role
from modelyard.core.canonical import plain
from modelyard.core.errors import Invalid, nearest
from modelyard.core.ids import checked_name
from modelyard.core.refs import ModelRef
from modelyard.core.traffic import BASELINE, CANARY, PREVIOUS

FEWEST = 100  # units of a round of Thompson sampling: its comparison rests on the normal law
TAKEN = (CONTROL, BASELINE, CANARY, PREVIOUS)  # arms that mean something by themselves
NOT_YET = datetime(1970, 1, 1, tzinfo=UTC)  # when a test began that is only asked for
LARGEST = 1 << 63


def wanted(
    name: str,
    *,
    control_variant: str,
    treatment_variant: str | Sequence[str],
    treatment_names: Sequence[str] | None = None,
    description: str = "",
    unit: str = "unit",
    traffic_split: float | Sequence[float] = 0.5,
    strategy: TrafficSplitStrategy | str = TrafficSplitStrategy.HASH_BASED,
    planned_units: int | None = None,
    horizon: int = 10_000,
    ramp_seconds: float = 0.0,
    exclusive_group: str = "",
    group_share: float = 1.0,
    metrics: Sequence[Mapping[str, Any]] | None = None,
    inference: Inference | str = Inference.FREQUENTIST,
    prior: Sequence[float] | None = None,
    tolerated_loss: float = 0.001,
    round_units: int = 500,
    guard_alpha: float = 0.001,
    latency_margin: float = 1.0,
    latency_floor_ms: float = 2.0,
) -> ABTest:
    """The test that arguments ask for, without an id; Invalid for one that cannot be."""
    _check_texts(name=name, description=description, unit=unit)
    whole = {"planned_units": planned_units, "horizon": horizon, "round_units": round_units}
    parts = {"ramp_seconds": ramp_seconds, "group_share": group_share, "tolerated_loss": tolerated_loss}
    guard = {"guard_alpha": guard_alpha, "latency_margin": latency_margin, "latency_floor_ms": latency_floor_ms}
    _check_numbers(whole, {**parts, **guard})
    _check_guard(guard)
    chosen: TrafficSplitStrategy = _member(TrafficSplitStrategy, strategy, "strategy")
    _check_plan(planned_units, horizon, chosen, ramp_seconds)
    if not 0 < group_share <= 1 or (group_share < 1 and not exclusive_group):
        raise Invalid(f"group_share is {group_share}; give a part of 1 together with the name of an exclusive_group.")
    test = ABTest(
        test_id="",
        name=name,
        description=description,
        unit=unit,
        strategy=chosen,
        status=TestStatus.DRAFT,
        variants=_variants(control_variant, treatment_variant, traffic_split, treatment_names),
        created_by="",
        created_at=NOT_YET,
        planned_units=planned_units,
        horizon=horizon,
        ramp_seconds=ramp_seconds,
        exclusive_group=checked_name(exclusive_group, "group") if exclusive_group else "",
        group_share=group_share,
        metrics=measured.parsed(metrics or []),
        inference=_member(Inference, inference, "inference"),
        prior=None if prior is None else _pair(prior),
        tolerated_loss=tolerated_loss,
        round_units=round_units,
        guard_alpha=guard_alpha,
        latency_margin=latency_margin,
        latency_floor_ms=latency_floor_ms,
    )
    _check_inference(test)
    return test


def _check_texts(**texts: object) -> None:
    for name, text in texts.items():
        if not isinstance(text, str) or (name != "description" and not (text.strip() and text.isprintable())):
            raise Invalid(f"{name} is {text!r:.80}; give text that says something, in one line.")


def _check_numbers(whole: Mapping[str, Any], parts: Mapping[str, Any]) -> None:
    for name, number in {**whole, **parts}.items():
        if number is None:
            continue
        known = isinstance(number, int | float) and not isinstance(number, bool)
        if not known or not abs(number) < LARGEST:  # NaN is not either
            raise Invalid(f"{name} is {number!r:.80}; it must be a number.")
        if name in whole and not float(number).is_integer():
            raise Invalid(f"{name} is {number}; it must be a whole number.")


def _member(kind: type[Any], value: Any, what: str) -> Any:
    """One of an enumeration's members; Invalid for anything else."""
    known = [member.value for member in kind]
    if plain(value) not in known:
        raise Invalid(f"There is no {what} {value!r:.80}. {nearest(str(value), known)}")
    return kind(value)


def _variants(
    control: str, treatments: str | Sequence[str], split: float | Sequence[float], names: Sequence[str] | None
) -> tuple[Variant, ...]:
    """The control and the treatments with their shares; Invalid for shares that leave nothing for the control."""
    models = [treatments] if isinstance(treatments, str) else list(treatments)
    shares = [split] * len(models) if isinstance(split, (int, float)) else list(split)
    if not models or len(models) != len(shares):
        raise Invalid(f"{len(shares)} shares do not fit {len(models)} treatments. Give each treatment one.")
    if (
        any(not isinstance(share, int | float) or not 0 < share < 1 for share in shares)
        or not 0 < math.fsum(shares) < 1
    ):
        raise Invalid(f"traffic_split {split} must leave each arm a share: parts above 0 with a sum below 1.")
    if names is None:
        names = [TREATMENT, *(f"{TREATMENT}_{number}" for number in range(2, len(models) + 1))]
    _check_names(names, len(models))
    for model in (control, *models):
        ModelRef.parse(model)
    rest = Variant(name=CONTROL, model=control, share=1 - math.fsum(shares))
    return rest, *(Variant(name=n, model=m, share=float(s)) for n, m, s in zip(names, models, shares, strict=True))


def _check_names(names: Sequence[str], treatments: int) -> None:
    if isinstance(names, str) or len(names) != treatments:
        raise Invalid(f"treatment_names {names!r:.80} do not fit {treatments} treatments. Give each treatment one.")
    for name in names:
        check_treatment(name)
        if list(names).count(name) > 1:
            raise Invalid(f"Two treatments are called {name}. Give each a name of its own.")


def check_treatment(name: str) -> None:
    """Invalid for what no treatment can be called."""
    checked_name(name, "variant")
    if name in TAKEN:
        raise Invalid(f"A treatment cannot be called {name}: that name has a meaning already. Choose another.")


def _check_plan(planned: int | None, horizon: int, strategy: TrafficSplitStrategy, ramp_seconds: float) -> None:
    if planned is not None and planned < 2:
        raise Invalid(
            f"planned_units is {planned}; a test compares at least two units. Leave it out to look at any time."
        )
    if horizon < 2:
        raise Invalid(f"horizon is {horizon}; give the number of units at which the answer matters most, 2 or more.")
    if (strategy is TrafficSplitStrategy.RAMP) != (ramp_seconds > 0):
        raise Invalid("ramp_seconds above 0 and the strategy ramp go together: give both or neither.")


def _check_guard(terms: Mapping[str, float]) -> None:
    alpha = terms["guard_alpha"]
    if not 0 <= alpha <= 0.5:
        raise Invalid(f"guard_alpha is {alpha}; it must be 0, for no guard, or a chance of at most 0.5, say 0.001.")
    for name in ("latency_margin", "latency_floor_ms"):
        if terms[name] < 0:
            raise Invalid(
                f"{name} is {terms[name]}; it must not be negative. A margin of 1 tolerates twice the latency."
            )


def _pair(prior: Sequence[float]) -> tuple[float, float]:
    if len(prior) != 2 or not all(isinstance(number, int | float) and math.isfinite(number) for number in prior):
        raise Invalid(f"The prior {prior} is not two numbers: [a, b] for a rate, [mean, deviation] otherwise.")
    return float(prior[0]), float(prior[1])


def _check_inference(test: ABTest) -> None:
    """Invalid for settings that do not go with the inference."""
    prior, asked = test.prior, test.inference.value
    if test.inference is Inference.FREQUENTIST:
        if prior is not None:
            raise Invalid("A prior goes with the inference bayesian or thompson. Leave it out, or choose one of them.")
        return
    goal = test.goals[0]
    if len(test.goals) != 1 or goal.kind is Kind.QUANTILE:
        raise Invalid(f"The inference {asked} decides on one goal that is no quantile. Make the others secondary.")
    if test.planned_units is not None:
        raise Invalid(f"planned_units does not go with the inference {asked}, which may end at any time.")
    if prior is not None and not (prior[1] > 0 and (goal.kind is not Kind.RATE or prior[0] > 0)):
        raise Invalid(
            f"The prior {prior} must be [a, b] above 0 for a rate, or [mean, deviation] with a deviation above 0."
        )
    if not 0 < test.tolerated_loss < 1:
        raise Invalid(f"tolerated_loss is {test.tolerated_loss}; give a part of the control's value between 0 and 1.")
    if test.adaptive and any(metric.role is Role.GUARDRAIL for metric in test.metrics):
        raise Invalid(
            "Thompson sampling cannot hold a guardrail: no sound relative interval is known while shares move. Make the "
            "metric secondary, or choose another inference."
        )
    if test.adaptive and (test.round_units < FEWEST or test.strategy is not TrafficSplitStrategy.HASH_BASED):
        raise Invalid(f"Thompson sampling needs rounds of {FEWEST} units or more and the strategy hash_based.")
