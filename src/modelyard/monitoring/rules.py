"""What counts as drift, how grave it is, and how healthy a model is: pure decisions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid
from modelyard.core.events import EventSeverity
from modelyard.core.instants import Instant
from modelyard.core.measures import Measurement
from modelyard.monitoring.drift.units import unit_error
from modelyard.monitoring.profile import ColumnProfile, Columns, Profile
from modelyard.monitoring.values import DriftAlert
from modelyard.stats.multiple import benjamini_hochberg

DECIDING = ("anderson_darling", "chi_square", "missing")
_GRAVE, _SERIOUS = 0.5, 0.2  # Jensen-Shannon distances: about 1.4 and 0.5 standard deviations for a normal column
_TOLERATED_FAILURES = 0.05


def checked_sensitivity(value: float) -> float:
    """The sensitivity itself if it is in (0, 1)."""
    if not 0 < value < 1:
        raise Invalid(
            f"A sensitivity of {value} is no chance of a false alarm. Pass a number between 0 and 1, such as 0.05."
        )
    return value


def measured(reference: Profile, current: Profile) -> dict[str, tuple[Measurement, ...]]:
    """Every drift statistic of the plugin table, for every column."""
    statistics = [plugins.load("drift", name) for name in plugins.names("drift")]
    return {
        name: tuple(statistic(column, current.columns[name]) for statistic in statistics)
        for name, column in reference.columns.items()
    }


def p_value(measurements: tuple[Measurement, ...]) -> float:
    """One column's p-value: the smallest of its deciding tests, times their number (Bonferroni)."""
    found = [m.p_value or 0.0 for m in deciding(measurements)]
    return min(1.0, min(found) * len(found)) if found else 1.0


def deciding(measurements: tuple[Measurement, ...]) -> list[Measurement]:
    """The tests that decide: Anderson-Darling or chi-square, and the missing rate. The others are only reported."""
    return [m for m in measurements if m.name in DECIDING and m.p_value is not None]


def alerts(
    reference: Profile,
    columns: Mapping[str, tuple[Measurement, ...]],
    *,
    rows: Columns,
    sensitivity: float,
    at: Instant,
) -> tuple[DriftAlert, ...]:
    """The columns that changed, the surest first. If nothing has, the chance of any alert is at most `sensitivity`."""
    names = list(columns)
    p_values = np.array([p_value(columns[name]) for name in names])
    adjusted = benjamini_hochberg(p_values)
    found = [
        alert(reference.columns[names[i]], columns[names[i]], adjusted=float(adjusted[i]), values=rows, at=at)
        for i in np.argsort(p_values, kind="stable")
        if adjusted[i] <= sensitivity
    ]
    return tuple(found)


def alert(
    reference: ColumnProfile,
    measurements: tuple[Measurement, ...],
    *,
    adjusted: float,
    values: Columns,
    at: Instant,
) -> DriftAlert:
    """The alert about one column that has changed."""
    name = reference.shape.name
    test = min(deciding(measurements), key=lambda m: m.p_value or 0.0)
    by_name = {m.name: m for m in measurements}
    magnitude = by_name["jensen_shannon"].value or 0.0
    parts = [f"{name} has changed: {test.name} {test.value or 0.0:.3g}, adjusted p {adjusted:.2g}"]
    if reference.shape.kind == "number" and test.name != "missing":
        parts.append(unit_error(reference, np.asarray(values[name], dtype=float)))
    if test.name == "missing":
        parts.append(f"the share of missing values moved by {100 * (test.value or 0.0):+.1f} points")
    return DriftAlert(
        feature_name=name,
        test=test.name,
        statistic=float(test.value or 0.0),
        p_value=p_value(measurements),
        adjusted_p_value=adjusted,
        magnitude=magnitude,
        severity=severity(magnitude),
        message="; ".join(part for part in parts if part) + ".",
        at=at,
        measurements=measurements,
    )


def severity(magnitude: float) -> EventSeverity:
    """How grave a proven change is, by its Jensen-Shannon distance."""
    if magnitude >= _GRAVE:
        return EventSeverity.CRITICAL
    return EventSeverity.ERROR if magnitude >= _SERIOUS else EventSeverity.WARNING


def worst(found: tuple[DriftAlert, ...]) -> EventSeverity:
    """The gravest severity among alerts."""
    order = list(EventSeverity)
    return max((alert.severity for alert in found), key=order.index, default=EventSeverity.INFO)


def health(components: Mapping[str, float]) -> float | None:
    """0 (broken) to 100 (as the reference): the mean of what was measured and the worst of it; None where nothing was.

    >>> health({"data": 1.0, "failures": 0.5})
    62.5
    """
    if not components:
        return None
    values = [min(max(value, 0.0), 1.0) for value in components.values()]
    return 50 * (sum(values) / len(values) + min(values))


def components(
    *,
    magnitudes: list[float] | None,
    failed: Measurement | None,
    accuracy: float | None,
    reference_accuracy: float | None,
) -> dict[str, float]:
    """The parts of the health score, each 0 to 1; a part that was not measured is left out.

    data: 1 less the largest magnitude among the last check's alerts. failures: 1 less the failed share over 5 %.
    quality: accuracy as a share of the reference's.
    """
    parts: dict[str, float] = {}
    if magnitudes is not None:
        parts["data"] = 1 - max(magnitudes, default=0.0)
    if failed is not None and failed.value is not None:
        parts["failures"] = 1 - min(1.0, failed.value / _TOLERATED_FAILURES)
    if accuracy is not None and reference_accuracy:
        parts["quality"] = min(1.0, accuracy / reference_accuracy)
    return parts
