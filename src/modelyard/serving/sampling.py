"""Which answers the payload log keeps, where it keeps a share of them."""

from __future__ import annotations

from modelyard.core.assignment import position, unit_hash


def drawn(share: float, request_id: str) -> bool:
    """Whether an answer is in the sample: the same in every process and for a request that comes again.

    Its request id decides, by a hash of its own, so that the sample has the arms, units and rows as the traffic has them. A
    smaller share is a part of a larger one.

    >>> drawn(1.0, "r1"), drawn(0.0, "r1"), [drawn(0.5, f"r{n}") for n in range(4)]
    (True, False, [True, True, False, False])
    """
    return share >= 1 or (share > 0 and position(unit_hash("payload", request_id)) < share)
