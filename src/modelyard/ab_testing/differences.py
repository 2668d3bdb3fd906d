"""How a test that is asked for differs from one that stands, and which of that may change while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from modelyard.ab_testing import plans
from modelyard.ab_testing.experiments import ANY_GOAL, ABTest, Variant
from modelyard.ab_testing.metrics import Metric
from modelyard.core.canonical import plain
from modelyard.core.declared import Change

OWN = ("test_id", "status", "created_by", "created_at", "started_at", "ended_at", "group_start")  # what it came to
ENDED = ("winner", "conclusion", "taken_back")
PARTS = ("name", "variants", "metrics", "holdouts")
COMPARED = tuple(field.name for field in fields(ABTest) if field.name not in (*OWN, *ENDED, *PARTS))


def changes(one: ABTest, stands: ABTest) -> tuple[Change, ...]:
    """What is asked for otherwise than a test has it, by key: of a variant or metric as variants.NAME.share."""
    found = [
        *(Change(key=name, now=_said(stands, name), wanted=_said(one, name)) for name in COMPARED),
        *_each("variants", _by_name(stands.variants), _by_name(one.variants)),
        *_each("metrics", _by_name(stands.metrics), _by_name(one.metrics)),
        *(_held(held.name, held.share, stands) for held in one.holdouts),
    ]
    return tuple(change for change in found if change.now != change.wanted)


def new(one: ABTest) -> tuple[Change, ...]:
    """A test that is not there yet, as changes: its arms, and what else differs from how a test is by default."""
    least = plans.wanted(one.name, control_variant=one.control.model, treatment_variant=one.treatments[0].model)
    return changes(one, replace(least, variants=(), metrics=(ANY_GOAL,)))


def amendable(change: Change) -> bool:
    """Whether a change may be made to a test that runs: nothing counted comes to mean something else, no unit leaves a
    treatment, and no rule of decision is chosen after what was seen.
    """
    if change.key == "endpoint":
        return change.now is None  # its units keep their variants there
    sooner = (
        change.key == "ramp_seconds" and 0 < change.wanted < change.now
    )  # units join the treatments, and none leaves
    return change.key == "description" or sooner


def _said(test: ABTest, name: str) -> Any:
    found = plain(getattr(test, name))
    return None if found == "" else found


def _held(name: str, share: float, stands: ABTest) -> Change:
    now = next((held.share for held in stands.holdouts if held.name == name), None)
    return Change(key=f"holdouts.{name}", now=now, wanted=share)


def _by_name(parts: Sequence[Variant] | Sequence[Metric]) -> dict[str, dict[str, Any]]:
    return {part.name: {key: one for key, one in plain(part).items() if key != "name"} for part in parts}


def _each(what: str, now: Mapping[str, Mapping[str, Any]], then: Mapping[str, Mapping[str, Any]]) -> list[Change]:
    """What differs in parts that have names: a part as a whole, or one thing of it, or their order."""
    found = [
        Change(key=f"{what}.{name}", now=_told(now.get(name)), wanted=_told(then.get(name)))
        for name in {**now, **then}
        if (name in now) != (name in then)
    ]
    found += [
        Change(key=f"{what}.{name}.{key}", now=now[name][key], wanted=then[name][key])
        for name in now
        if name in then
        for key in now[name]
    ]
    if now.keys() == then.keys():
        found.append(Change(key=what, now=list(now), wanted=list(then)))
    return found


def _told(part: Mapping[str, Any] | None) -> str | None:
    """A part in a line."""
    if part is None:
        return None
    bare = ("model", "kind", "role")
    return ", ".join(
        str(one) if key in bare else f"{key} {one:.4g}" if isinstance(one, float) else f"{key} {one}"
        for key, one in part.items()
        if one not in ("", 0.0)
    )
