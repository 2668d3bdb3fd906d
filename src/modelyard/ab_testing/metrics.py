"""What an experiment looks at: metrics as values, and how a unit's results become the numbers of one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from modelyard.core.errors import Invalid, nearest

RESULTS, SUCCESS, LATENCY = "results", "success", "latency"
TEXTS = ("numerator", "denominator", "covariate", "covariate_denominator", "strata")
BUILT_IN = frozenset({RESULTS, SUCCESS, LATENCY})  # names that every result has by itself


class Kind(Enum):
    """How results become one number an arm."""

    RATE = "rate"  # the successes among the results; only of `success`
    MEAN = "mean"  # the mean over units of a unit's total
    AVERAGE = "average"  # the mean over all recorded values, whichever unit they belong to
    RATIO = "ratio"  # one total over another, both over units
    QUANTILE = "quantile"  # of the recorded values, within 1 %


class Role(Enum):
    """What a metric decides."""

    GOAL = "goal"  # a difference is what the test looks for
    GUARDRAIL = "guardrail"  # must be shown not to get worse by more than its margin
    SECONDARY = "secondary"  # is told, and decides nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of a test. `margin` is the part of the control's value by which a guardrail may get worse.

    `numerator` and `denominator` are names that results are recorded with, or `success`, `latency` and `results` (1 for
    each result). `covariate` names a number a unit that was known before the test; a ratio's covariate has a denominator.
    `strata` names one that says which of some groups a unit belongs to, 0 to 999.
    """

    name: str
    kind: Kind
    role: Role = Role.SECONDARY
    direction: str = "up"
    margin: float = 0.0
    numerator: str = ""
    denominator: str = ""
    covariate: str = ""
    covariate_denominator: str = ""
    strata: str = ""
    quantile: float = 0.0

    @property
    def better(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.direction == "up" else -1

    @property
    def size(self) -> int:
        """How many numbers a unit gives: see `modelyard.stats.ratios`."""
        pair = 1 if self.kind is Kind.MEAN else 2
        return 2 * pair if self.covariate else pair

    @property
    def summed(self) -> bool:
        """Whether it is computed from sums over units; else from counts of successes or a histogram."""
        return self.kind in (Kind.MEAN, Kind.AVERAGE, Kind.RATIO)


ANY_LATENCY = Metric(name=LATENCY, kind=Kind.AVERAGE, direction="down", numerator=LATENCY)
ANY_SUCCESS = Metric(name=SUCCESS, kind=Kind.RATE, numerator=SUCCESS)


def average(name: str) -> Metric:
    """The metric of a recorded number that the plan does not name."""
    return ANY_LATENCY if name == LATENCY else Metric(name=name, kind=Kind.AVERAGE, numerator=name)


def parsed(told: Sequence[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """The metrics of a plan, the success rate first; it is the goal unless another metric is. Invalid for odd ones.

    >>> [(metric.name, metric.role.value) for metric in parsed([{"name": "revenue", "kind": "mean", "role": "goal"}])]
    [('success', 'secondary'), ('revenue', 'goal')]
    """
    metrics = [checked(one) for one in told]
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Invalid(f"The metric {twice[0]!r} is planned twice. Give each a name of its own.")
    given = next((metric for metric in metrics if metric.name == SUCCESS), None)
    others = [metric for metric in metrics if metric is not given]
    aims = any(metric.role is Role.GOAL for metric in others)
    first = given or Metric(name=SUCCESS, kind=Kind.RATE, role=Role.SECONDARY if aims else Role.GOAL, numerator=SUCCESS)
    found = (first, *others)
    if not any(metric.role is Role.GOAL for metric in found):
        raise Invalid("No metric has the role goal, so there is nothing to decide on. Give one of them that role.")
    return found


def from_plain(told: Iterable[Mapping[str, Any]]) -> tuple[Metric, ...]:
    """The metrics that a stored plan holds."""
    return tuple(Metric(**{**one, "kind": Kind(one["kind"]), "role": Role(one["role"])}) for one in told)


def covariates(metrics: Iterable[Metric]) -> frozenset[str]:
    """The names that are known before the test."""
    return frozenset(
        name for metric in metrics for name in (metric.covariate, metric.covariate_denominator, metric.strata) if name
    )


@dataclass(frozen=True, slots=True)
class Layout:
    """What counting asks of a plan, worked out once."""

    summed: tuple[Metric, ...] = ()
    covariates: frozenset[str] = frozenset()
    spotted: frozenset[str] = frozenset({LATENCY})  # names that have a histogram
    clustered: frozenset[str] = frozenset()  # those among them whose quantiles are compared over units
    taken: frozenset[str] = frozenset()  # names that need no average of their own

    @property
    def columnar(self) -> bool:
        """Whether units can be counted column by column: no quantiles are compared over units."""
        return not self.clustered


def layout(metrics: Sequence[Metric]) -> Layout:
    """The layout of a plan. The latency has an average and a histogram always."""
    known = covariates(metrics)
    used = {name for metric in metrics for name in (metric.name, metric.numerator, metric.denominator)}
    summed = tuple(metric for metric in metrics if metric.summed)
    clustered = frozenset(metric.numerator for metric in metrics if metric.kind is Kind.QUANTILE)
    own = {LATENCY} - {metric.name for metric in summed}
    return Layout(summed, known, clustered | {LATENCY}, clustered, frozenset((used | known) - own - {""}))


def checked(told: Mapping[str, Any]) -> Metric:
    """One metric of a plan; Invalid for an odd one."""
    known = [field.name for field in fields(Metric)]
    for name in told:
        if name not in known:
            raise Invalid(f"A metric has no {name!r}. {nearest(str(name), known)}")
    name = str(told.get("name", ""))
    if not name or not name.isprintable():
        raise Invalid(f"{dict(told)} has no name. Name each metric as results are recorded with it.")
    kind = _choice(Kind, told.get("kind", _usual_kind(name, told)), name)
    given: dict[str, Any] = {**told, "name": name, "kind": kind}
    given["role"] = _choice(Role, told.get("role", "secondary"), name)
    given.setdefault("direction", "down" if LATENCY in (name, told.get("numerator")) else "up")
    given.setdefault("numerator", name)
    metric = Metric(**given)
    for fault in _unnamed(metric) or _faults(metric):
        raise Invalid(f"The metric {name!r} {fault}")
    return metric


def _usual_kind(name: str, told: Mapping[str, Any]) -> str:
    if name == SUCCESS:
        return Kind.RATE.value
    if "denominator" in told:
        return Kind.RATIO.value
    return Kind.QUANTILE.value if "quantile" in told else Kind.AVERAGE.value


def _choice(kind: type[Any], value: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value
    known = [member.value for member in kind]
    if value not in known:
        raise Invalid(
            f"The metric {name!r} has the {kind.__name__.lower()} {value!r}; known: {', '.join(known)}. "
            f"{nearest(str(value), known)}"
        )
    return kind(value)


def _unnamed(metric: Metric) -> list[str]:
    """What should be the name of a number and is no text."""
    odd = [(name, getattr(metric, name)) for name in TEXTS if not isinstance(getattr(metric, name), str)]
    return [f"has {value!r:.40} as its {name}; give the name that results are recorded with." for name, value in odd]


def _faults(metric: Metric) -> Iterable[str]:
    """What is wrong with a metric, each with what to do."""
    numbers = (metric.margin, metric.quantile)
    if metric.direction not in ("up", "down"):
        yield f"has the direction {metric.direction!r}; say up where more is better, down where less is."
    if metric.kind is Kind.RATE and metric.direction != "up":
        yield "cannot have the direction down: more success is better. Record what you wish for as success."
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers):
        yield "has a margin or a quantile that is no number."
    if (metric.role is Role.GUARDRAIL) != (metric.margin > 0) or metric.margin >= 1:
        yield "must have a margin between 0 and 1 (a part of the control's value) if it is a guardrail, and none otherwise."
    if (metric.kind is Kind.RATE) != (metric.name == SUCCESS):
        yield "cannot be of that kind: a rate is of success, and success is a rate."
    if (metric.kind is Kind.RATIO) != bool(metric.denominator):
        yield "must have a denominator if it is a ratio, and none otherwise."
    if (metric.kind is Kind.QUANTILE) != (0 < metric.quantile < 1):
        yield "must have a quantile between 0 and 1 if it is of that kind, and none otherwise."
    if metric.name in (LATENCY, RESULTS) and metric.kind is not Kind.AVERAGE:
        yield f"needs another name, and {metric.name} as its numerator: that name is the average's."
    if metric.covariate and (not metric.summed or metric.kind is Kind.AVERAGE):
        yield "cannot have a covariate: means and ratios can."
    if (metric.kind is Kind.RATIO and bool(metric.covariate)) != bool(metric.covariate_denominator):
        yield "must have a covariate_denominator together with a ratio's covariate, and only then."
    if metric.strata and metric.kind is not Kind.MEAN:
        yield "cannot have strata: means can."
    if {metric.covariate, metric.covariate_denominator, metric.strata} & BUILT_IN:
        yield "has a covariate that results bring along; a covariate is a number known before the test."
