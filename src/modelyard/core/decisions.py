"""Decision: a verdict, why, and the measurements it was taken from."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelyard.core.measures import Measurement


class Verdict(Enum):
    """What a rule can say."""

    PROMOTE = "promote"
    HOLD = "hold"
    ROLL_BACK = "roll_back"
    ALLOW = "allow"
    REFUSE = "refuse"
    ALARM = "alarm"
    QUIET = "quiet"
    UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict with its reasons (one sentence each) and its measurements."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    measurements: tuple[Measurement, ...] = ()
