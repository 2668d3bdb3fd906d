"""How large an experiment has to be, and how long it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf
from modelyard.stats.power import mean_sample_size, sample_size
from modelyard.stats.sequential import sequence_z

MOST_LOOKS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The units in all that find a lift: planned, with so many looks; and at any time, at the horizon's end."""

    units: int
    units_of_one_look: int
    units_at_any_time: int
    days: int | None
    days_at_any_time: int | None
    conclusion: str


def sized(
    *,
    lift: float,
    base_rate: float | None,
    mean: float | None,
    deviation: float | None,
    share: float,
    treatments: int,
    goals: int,
    looks: int,
    power: float,
    confidence_level: float,
    correlation: float,
    units_per_day: float | None,
) -> Sizing:
    """The sizes of a test of `treatments` with `share` of the units each, against a control that has the rest."""
    _check(share, treatments, goals=goals, looks=looks, correlation=correlation, units_per_day=units_per_day)
    rest = 1 - share * treatments
    alpha = (1 - confidence_level) / (treatments * goals)
    paired = share / (share + rest)
    if base_rate is not None and mean is None and deviation is None:
        pair = sample_size(base_rate, lift, alpha=alpha, power=power, treatment_share=paired)
    elif base_rate is None and mean is not None and deviation is not None:
        pair = mean_sample_size(lift, mean=mean, deviation=deviation, alpha=alpha, power=power, treatment_share=paired)
    else:
        raise Invalid("Say what is now: base_rate of a success rate, or mean and deviation of another metric.")
    one = pair / (share + rest) * (1 - correlation**2)
    planned, free = math.ceil(one * _looking(looks, alpha, power)), math.ceil(one * at_any_time(alpha, power))
    days = [None if units_per_day is None else math.ceil(units / units_per_day) for units in (planned, free)]
    return Sizing(
        units=planned,
        units_of_one_look=math.ceil(one),
        units_at_any_time=free,
        days=days[0],
        days_at_any_time=days[1],
        conclusion=_said(planned, free, looks, days[0]),
    )


def _looking(looks: int, alpha: float, power: float) -> float:
    if looks == 1:
        return 1.0
    from modelyard.stats.group_sequential import inflation  # needs numpy

    return inflation(looks, alpha=alpha, power=power)


def at_any_time(alpha: float, power: float, information: float = 1.0) -> float:
    """How many times the units of one look a confidence sequence needs: the power of its last look alone, so a little much.

    `information` is that look's, as a part of the horizon.

    >>> round(at_any_time(0.05, 0.8), 2)
    1.91
    """
    tail = normal_isf(1 - power)
    return ((sequence_z(information, alpha) + tail) / (normal_isf(alpha / 2) + tail)) ** 2


def _said(planned: int, free: int, looks: int, days: int | None) -> str:
    looked = "one look" if looks == 1 else f"{looks} looks"
    time = (
        ""
        if days is None
        else f", {days} days of traffic" + (f"; run whole weeks, {-(-days // 7) * 7} days" if days > 1 else "")
    )
    return (
        f"Create the test with planned_units={planned} ({looked}{time}). To look at any time without a plan, "
        f"create it with horizon={free}."
    )


def _check(
    share: float, treatments: int, *, goals: int, looks: int, correlation: float, units_per_day: float | None
) -> None:
    if treatments < 1 or goals < 1 or not 1 <= looks <= MOST_LOOKS:
        raise Invalid(
            f"{treatments} treatments, {goals} goals and {looks} looks: at least one each, at most {MOST_LOOKS} looks."
        )
    if not (share > 0 and share * treatments < 1):
        raise Invalid(f"{treatments} treatments with {share} of the units each leave the control nothing.")
    if not -1 < correlation < 1:
        raise Invalid(f"A covariate cannot correlate by {correlation} with the metric.")
    if units_per_day is not None and not units_per_day > 0:
        raise Invalid(f"{units_per_day} units a day never make a test.")
