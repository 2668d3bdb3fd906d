"""When an experiment may be looked at and how far a difference must stand out then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from modelyard.ab_testing.experiments import ABTest
from modelyard.core.errors import Invalid
from modelyard.stats.sequential import sequence_p, sequence_z

LOOK_APART = 0.01  # of the planned information: a look nearer than that to the last is not spent

Design = Literal["fixed", "group_sequential", "confidence_sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One analysis that spent error probability: when in information, and what crossed its bound.

    `significant` names treatments, and `treatment:metric` where the goal is not the success rate alone. `p_values` pay for
    all looks up to this one, and `guardrails` are the states that were shown, both by `treatment:metric`.
    """

    fraction: float
    alpha: float
    significant: tuple[str, ...] = ()
    p_values: Mapping[str, float] = field(default_factory=dict)
    guardrails: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruler:
    """How far a difference must stand out now: the design, whether this look counts, and what was shown before.

    `alpha` is for all hypotheses together, `each` is the part that one of them has before any is decided; `z` goes with it.
    """

    design: Design
    alpha: float
    each: float
    z: float
    fraction: float
    counts: bool
    decided: tuple[str, ...]
    note: str
    times: tuple[float, ...] = ()
    p_values: Mapping[str, float] = field(default_factory=dict)  # the least of earlier looks
    guardrails: Mapping[str, str] = field(default_factory=dict)  # what earlier looks have shown

    def limit(self, alpha: float) -> float:
        """How many standard errors it takes at another alpha."""
        if self.design == "confidence_sequence":
            return sequence_z(self.fraction, alpha)
        from modelyard.stats.group_sequential import bounds  # needs numpy

        return bounds(self.times, alpha)[-1] if self.times else math.inf

    def sequential_p(self, name: str, z: float) -> float | None:
        """The p value of `treatment:metric` that holds however often it is read; None before the first look that counts.

        Of a confidence sequence, that of its e-value. With a planned sample, the least over the looks so far of the alpha
        whose bounds would have been passed: secondary metrics pay for looks as goals do.
        """
        if self.design == "confidence_sequence":
            return sequence_p(z, self.fraction, self.each)
        known = self.p_values.get(name)
        if not self.open:
            return 1.0 if known is None and self.times else known
        from modelyard.stats.group_sequential import sequential_p  # needs numpy

        found = sequential_p(self.times, z)
        return found if known is None else min(known, found)

    @property
    def open(self) -> bool:
        """Whether a difference that stands out now may be decided on."""
        return math.isfinite(self.z) and (self.design == "confidence_sequence" or self.counts)

    @property
    def repeated(self) -> bool:
        """Whether the test is looked at more than once, so that the first odd moment may end it."""
        return self.design != "fixed"


def checked_level(confidence_level: float) -> float:
    """The level; Invalid unless it lies between 0 and 1."""
    if not 0 < confidence_level < 1:
        raise Invalid(f"confidence_level is {confidence_level}; it must lie between 0 and 1, for example 0.95.")
    return confidence_level


def ruler(
    test: ABTest, units: float, looks: Sequence[Look], confidence_level: float, *, fraction: float | None = None
) -> Ruler:
    """The bounds that this look is held to after `units` units in all.

    With a planned sample: group-sequential bounds (a single look at the planned sample is the fixed test). Without: a
    confidence sequence tuned to the test's horizon, `fraction` of which is told where units do not say it.
    """
    alpha = 1 - checked_level(confidence_level)
    each = alpha / (len(test.treatments) * len(test.goals))
    if test.planned_units is not None:
        return _planned(units / test.planned_units, looks, alpha, each, test.planned_units)
    fraction = units / test.horizon if fraction is None else fraction
    return Ruler(
        design="confidence_sequence",
        alpha=alpha,
        each=each,
        z=sequence_z(fraction, each),
        fraction=fraction,
        counts=False,
        decided=(),
        note=f"always-valid confidence sequence tuned to {test.horizon:,} units; look whenever you like",
    )


def between_looks(
    test: ABTest, units: float, looks: Sequence[Look], confidence_level: float, *, fraction: float | None = None
) -> Ruler:
    """The bounds of the last look that was spent, for one that is not: what stands out decides nothing."""
    held = ruler(test, units, looks, confidence_level, fraction=fraction)
    if not held.counts:
        return held
    last = looks[-1].fraction * units / held.fraction if looks else 0.0
    return replace(ruler(test, last, looks, confidence_level), fraction=held.fraction)


def _planned(fraction: float, looks: Sequence[Look], alpha: float, each: float, planned: int) -> Ruler:
    from modelyard.stats.group_sequential import bounds

    before = [look.fraction for look in looks]
    last = before[-1] if before else 0.0
    counts = last < 1 and fraction > last and (fraction - last >= LOOK_APART or fraction >= 1)
    times = (*before, fraction) if counts else tuple(before)
    alone = len(times) == 1 and times[0] >= 1
    note = (
        f"one look at the planned {planned:,} units" if alone else f"look {len(times)} of a plan of {planned:,} units"
    )
    if not times:
        note = f"before the first look of a plan of {planned:,} units"
    if not counts and times:
        again = math.ceil((last + LOOK_APART) * planned)
        note += f"; the next look counts from {again:,} units" if last < 1 else "; it is over"
    as_sure = [
        look for look in looks if look.alpha <= alpha * (1 + 1e-9)
    ]  # what a laxer look has shown is not shown here
    return Ruler(
        design="fixed" if alone else "group_sequential",
        alpha=alpha,
        each=each,
        z=bounds(times, each)[-1] if times else math.inf,
        fraction=fraction,
        counts=counts,
        decided=tuple(sorted({name for look in as_sure for name in look.significant})),
        note=note,
        times=times,
        p_values={
            name: min(look.p_values.get(name, 1.0) for look in looks) for look in looks for name in look.p_values
        },
        guardrails={name: state for look in as_sure for name, state in look.guardrails.items()},
    )
