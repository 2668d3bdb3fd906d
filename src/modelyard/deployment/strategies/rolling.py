"""Rolling: equal steps, as a fleet is replaced part by part."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.deployment.rollouts import Step
from modelyard.deployment.strategies import canary

PARTS = 4


def plan(shares: Sequence[float] | None = None) -> tuple[Step, ...]:
    """Quarters, or the given rising shares; judged at each step as a canary is.

    >>> [step.share for step in plan()]
    [0.25, 0.5, 0.75, 1.0]
    """
    return canary.plan([part / PARTS for part in range(1, PARTS + 1)] if shares is None else shares)
