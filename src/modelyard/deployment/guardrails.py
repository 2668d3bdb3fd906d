"""Guardrails: metrics that somebody else measures, a rollout's own or a Prometheus query, that may take a version back. Pure.

Each look brings one value of the canary and one of the baseline. A version goes back when it is shown that it is expected to
be worse by more than is tolerated, all along or lately (stats.bounded): whatever is expected of a look may depend on those
before, but while it is at most what is tolerated, that happens with the guardrail's part of alpha at most, ever.

What wanders is not taken for harm: where the baseline's values are like the ones before, and so is the harm, the mean of as
many looks as it takes to wander there and back is one piece of evidence (stats.likeness); how many is settled before the
first of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from modelyard.core.decisions import Decision, Verdict
from modelyard.core.errors import Invalid, nearest
from modelyard.core.measures import Measurement
from modelyard.deployment.rollouts import Guardrail, Rollout
from modelyard.stats.bounded import STAKES, Risen, Running
from modelyard.stats.likeness import NUMBERS, Likeness, needed

PART = 0.04  # of alpha, shared by all guardrails of a rollout
MISSED, LEAST_S = (
    3,
    20.0,
)  # looks at a server that may fail before its silence holds a rollout, so many seconds at least


@dataclass(frozen=True, slots=True)
class Seen:
    """What a guardrail has seen: all looks, the evidence, the looks of the mean that is under way, and what is alike."""

    looks: Running = field(default_factory=Running)
    at: float = -math.inf  # the last look, in seconds since 1970
    evidence: Risen = field(default_factory=Risen)
    size: int = 1  # of the mean that is under way, so many looks of which are there, which add up to `total`
    there: int = 0
    total: float = 0.0
    baseline: Likeness = field(default_factory=Likeness)
    harm: Likeness = field(default_factory=Likeness)

    @property
    def numbers(self) -> tuple[float, ...]:
        """It as plain numbers."""
        looks, found = self.looks, self.evidence
        own = (looks.n, looks.total, looks.spread, self.at, found.n, *found.logs, self.size, self.there, self.total)
        return (*own, *self.baseline.numbers, *self.harm.numbers)

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Seen:
        """What `numbers` wrote; nothing seen where there are none."""
        if not numbers:
            return cls()
        n, total, spread, at, means, *rest = numbers
        logs, (size, there, part, *alike) = rest[: len(STAKES)], rest[len(STAKES) :]
        return cls(
            looks=Running(int(n), total, spread),
            at=at,
            evidence=Risen(int(means), tuple(logs)),
            size=int(size),
            there=int(there),
            total=part,
            baseline=Likeness.of(alike[:NUMBERS]),
            harm=Likeness.of(alike[NUMBERS:]),
        )

    def after(self, harm: float, baseline: float, limit: float, now: float) -> Seen:
        """With one look more; all are in [0, 1]."""
        more = replace(
            self,
            looks=self.looks.after(harm),
            at=now,
            there=self.there + 1,
            total=self.total + harm,
            baseline=self.baseline.after(baseline),
            harm=self.harm.after(harm),
        )
        if more.there < more.size:
            return more
        evidence = self.evidence.after(more.total / more.there, limit)
        return replace(more, evidence=evidence, size=needed(more.baseline, more.harm), there=0, total=0.0)


def guardrails_from(given: Sequence[Mapping[str, Any]]) -> tuple[Guardrail, ...]:
    """The guardrails that plain values describe; Invalid names a key that is unknown or missing.

    >>> guardrails_from([{"name": "queue", "lowest": 0, "highest": 100, "tolerated": 5}])[0].worse
    'up'
    """
    found = []
    for one in given:
        for key in one:
            if key not in Guardrail.__slots__:
                raise Invalid(f"A guardrail has an unknown key {key!r}. {nearest(str(key), list(Guardrail.__slots__))}")
        for key in ("name", "lowest", "highest"):
            if key not in one:
                raise Invalid(f"A guardrail does not say its {key}. Give name, lowest, highest and tolerated.")
        found.append(Guardrail(**one))
    names = [one.name for one in found]
    if len(set(names)) != len(names):
        raise Invalid(f"Two guardrails have one name: {', '.join(names)}. Name each once.")
    return tuple(found)


def guardrail_named(rollout: Rollout, name: str) -> Guardrail:
    """The rollout's guardrail of a name; Invalid for an unknown one."""
    known = {one.name: one for one in rollout.terms.guardrails}
    if name not in known:
        raise Invalid(f"{rollout.deployment_id} has no guardrail {name!r}. {nearest(name, list(known))}")
    return known[name]


def seen(rollout: Rollout, name: str) -> Seen:
    """What a guardrail has seen so far."""
    return Seen.of(rollout.progress.guardrails.get(name, ()))


def due(rollout: Rollout, now: float) -> list[Guardrail]:
    """The guardrails whose Prometheus server is to be asked now (in seconds), for the last look is long enough ago."""
    found = []
    for one in rollout.terms.guardrails:
        last = seen(rollout, one.name).at
        if one.prometheus and not 0 <= now - last < one.every:  # before 0: the clock has been set back
            found.append(one)
    return found


def within(one: Guardrail, value: float) -> float:
    """The value, or the end of the guardrail's range beyond which it lies: where things are worst is no time to stop counting."""
    return min(max(value, one.lowest), one.highest)


def taken_in(rollout: Rollout, name: str, canary: float, baseline: float, now: float) -> tuple[float, ...]:
    """What is kept of a guardrail after one more pair of values; Invalid for values outside its bounds."""
    one = guardrail_named(rollout, name)
    for what, value in (("canary", canary), ("baseline", baseline)):
        if not one.lowest <= value <= one.highest:
            told = f"{name} of the {what} is {value}"
            raise Invalid(f"{told}; the guardrail was declared to lie from {one.lowest:g} to {one.highest:g}.")
    harm = canary - baseline if one.worse == "up" else baseline - canary
    scaled = (baseline - one.lowest) / _width(one)
    return seen(rollout, name).after(0.5 + harm / (2 * _width(one)), scaled, _limit(one), now).numbers


def judged(rollout: Rollout) -> Decision:
    """Roll back where a guardrail's evidence of harm above what is tolerated suffices; hold else, with the measurements."""
    measured, broken = [], []
    for one in rollout.terms.guardrails:
        known = seen(rollout, one.name)
        many = known.looks
        alpha = PART * rollout.terms.alpha / len(rollout.terms.guardrails)
        low, high = ((bound - 0.5) * 2 * _width(one) for bound in many.bounds(alpha))
        value = (many.total / many.n - 0.5) * 2 * _width(one) if many.n else None
        found, need = known.evidence.log_evidence, -math.log(alpha)
        measured.append(
            Measurement(
                name=f"guardrail_{one.name}",
                value=value,
                low=low,
                high=high,
                n=many.n,
                method="mean harm against the baseline; empirical-Bernstein confidence sequence",
                details={
                    "tolerated": one.tolerated,
                    "alpha": alpha,
                    "worse": one.worse,
                    "log_evidence": found if many.n else 0.0,
                    "needed": need,
                    "alike": known.size,
                },
            )
        )
        if found >= need:
            broken.append(
                f"guardrail {one.name}: worse than the baseline by more than {one.tolerated:g}, all along or lately; by "
                f"{value:.4g} in the mean of {many.n} looks; evidence {math.exp(found):.4g} passes {math.exp(need):.4g}"
            )
    verdict = Verdict.ROLL_BACK if broken else Verdict.HOLD
    return Decision(verdict=verdict, reasons=tuple(broken) or ("guardrails hold",), measurements=tuple(measured))


def missing(rollout: Rollout, now: float) -> str:
    """Why a step cannot be left yet (now, in seconds) as far as guardrails go: one without a value, or without a new one."""
    unseen = [one.name for one in rollout.terms.guardrails if not seen(rollout, one.name).looks.n]
    if unseen:
        return f"not enough evidence: guardrail {', '.join(unseen)} has no value yet"
    for one in rollout.terms.guardrails:
        since = now - seen(rollout, one.name).at
        if one.prometheus and since > MISSED * max(one.every, LEAST_S):
            return f"guardrail silent: {one.name} has had no value for {since:.0f} seconds; ask {one.prometheus} why"
    return ""


def _limit(one: Guardrail) -> float:
    """What is tolerated, as a value in [0, 1]."""
    return 0.5 + one.tolerated / (2 * _width(one))


def _width(one: Guardrail) -> float:
    width = one.highest - one.lowest
    assert math.isfinite(width)  # checked where the guardrail was made
    return width
