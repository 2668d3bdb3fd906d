"""Direct: the new version takes everything at once. No comparison, and so no automatic rollback."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.deployment.rollouts import Step


def plan(shares: Sequence[float] | None = None) -> tuple[Step, ...]:  # noqa: ARG001 - every strategy has this signature
    """One step that completes as it starts.

    >>> [step.share for step in plan()]
    [1.0]
    """
    return (Step(share=1.0),)
