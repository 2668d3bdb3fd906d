"""Error rate: the share of requests that got no answer."""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally
from modelyard.stats.two_sample import wilson


def error_rate(tally: Tally) -> Measurement:
    """The failed share with Wilson's 95 % interval; None without requests."""
    if not tally.count:
        return Measurement(name="error_rate", value=None, note="no requests")
    low, high = wilson(tally.failed, tally.count)
    value = tally.failed / tally.count
    return Measurement(name="error_rate", value=value, low=low, high=high, n=tally.count, method="Wilson 95 %")
