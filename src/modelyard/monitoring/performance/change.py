"""Concept drift, with labels: has a model become worse than it was on its labelled reference?"""

from __future__ import annotations

from modelyard.core.measures import Measurement
from modelyard.monitoring.tally import Tally
from modelyard.stats.two_sample import mean_difference, rate_difference


def changes(reference: Tally, current: Tally) -> tuple[Measurement, ...]:
    """Accuracy, mean squared error and mean residual: window minus reference, each with interval and p-value.

    Each is one look. For a test that stays valid over a monitor's life, keep the residual (or a right/wrong column) in
    the watched table.
    """
    found = []
    if reference.pairs and current.pairs:
        found.append(_accuracy(reference, current))
    if reference.errors[0] and current.errors[0]:
        found += [_squared(reference, current), _residual(reference, current)]
    return tuple(found)


def _accuracy(reference: Tally, current: Tally) -> Measurement:
    first, second = ((_right(tally), tally.pairs.total()) for tally in (reference, current))
    value, low, high, p_value = rate_difference(first, second)
    return Measurement(
        name="accuracy_change",
        value=value,
        low=low,
        high=high,
        n=second[1],
        p_value=p_value,
        method="score test, Newcombe 95 %",
    )


def _squared(reference: Tally, current: Tally) -> Measurement:
    first, second = ((t.errors[2], t.errors[3], int(t.errors[0])) for t in (reference, current))
    value, low, high, p_value = mean_difference(first, second)
    n = second[2]
    return Measurement(
        name="squared_error_change", value=value, low=low, high=high, n=n, p_value=p_value, method="Welch"
    )


def _residual(reference: Tally, current: Tally) -> Measurement:
    first, second = ((t.errors[1], t.errors[2], int(t.errors[0])) for t in (reference, current))
    value, low, high, p_value = mean_difference(first, second)
    n = second[2]
    return Measurement(name="residual_change", value=value, low=low, high=high, n=n, p_value=p_value, method="Welch")


def _right(tally: Tally) -> int:
    return sum(n for (truth, said), n in tally.pairs.items() if truth == said)
