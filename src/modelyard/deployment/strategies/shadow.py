"""Shadow: the new version answers a copy of the requests and nobody sees its answers. It takes no traffic in the end."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.core.errors import Invalid
from modelyard.deployment.rollouts import Step, check_number


def plan(shares: Sequence[float] | None = None) -> tuple[Step, ...]:
    """One step of copies, then an end with the baseline alone. `shares`, if given, is the one share that is copied.

    >>> [(step.share, step.shadow_share) for step in plan([0.5])]
    [(0.0, 0.5), (0.0, 0.0)]
    """
    for share in shares or ():
        check_number("A step's share", share)
    copied = (1.0,) if shares is None else tuple(shares)
    if len(copied) != 1 or not 0 < copied[0] <= 1:
        raise Invalid(f"Shadow takes one share of copied requests above 0, not {list(copied)}.")
    return Step(share=0.0, shadow_share=copied[0]), Step(share=0.0)
