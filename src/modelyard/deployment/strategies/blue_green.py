"""Blue-green: the new version (green) first answers a copy of all requests, then takes over at one stroke."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard.core.errors import Invalid
from modelyard.deployment.rollouts import Step, check_number


def plan(shares: Sequence[float] | None = None) -> tuple[Step, ...]:
    """A shadow step and the switch. `shares`, if given, is the one share of requests that are copied.

    Blue stays the baseline of the deployment: rolling back a completed one sends everything there again at once.

    >>> plan()[0].shadow_share, plan()[1].share
    (1.0, 1.0)
    """
    for share in shares or ():
        check_number("A step's share", share)
    copied = (1.0,) if shares is None else tuple(shares)
    if len(copied) != 1 or not 0 < copied[0] <= 1:
        raise Invalid(f"Blue-green takes one share of copied requests above 0, not {list(copied)}.")
    return Step(share=0.0, shadow_share=copied[0]), Step(share=1.0)
