"""Canary: growing shares, each step left only on evidence that the new version is no worse than the live baseline."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.core.errors import Invalid
from modelyard.deployment.rollouts import Step, check_number

SHARES = (0.05, 0.25, 0.5, 1.0)


def plan(shares: Sequence[float] | None = None) -> tuple[Step, ...]:
    """One step a share. The shares rise and end at 1, so that the rollout has an end.

    >>> [step.share for step in plan()]
    [0.05, 0.25, 0.5, 1.0]
    >>> plan([0.5, 0.2])
    Traceback (most recent call last):
    modelyard.core.errors.Invalid: The steps 0.5, 0.2 must rise from above 0 to 1, for example 0.05, 0.25, 0.5, 1.0.
    """
    for share in shares or ():
        check_number("A step's share", share)
    given = tuple(float(share) for share in (SHARES if shares is None else shares))
    rising = all(a < b for a, b in zip((0.0, *given), given, strict=False))
    if not given or not rising or given[-1] != 1.0:
        written = ", ".join(f"{share:g}" for share in given) or "(none)"
        raise Invalid(f"The steps {written} must rise from above 0 to 1, for example 0.05, 0.25, 0.5, 1.0.")
    return tuple(Step(share=share) for share in given)
