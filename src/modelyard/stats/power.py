"""How many units a test needs, and what it can find with those it has."""

from __future__ import annotations

import math

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import normal_isf, normal_sf


def sample_size(
    base_rate: float, relative_lift: float, *, alpha: float = 0.05, power: float = 0.8, treatment_share: float = 0.5
) -> int:
    """The units of both arms together that find a relative lift of a rate with the given power, two-sided.

    Uses the variance under the alternative; the null variance alone is up to 9 % short.

    >>> sample_size(0.10, 0.05)  # 57,760 an arm
    115520
    """
    treated = base_rate * (1 + relative_lift)
    _checked(base_rate, treated, treatment_share)
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise Invalid(f"alpha {alpha} and power {power} must lie between 0 and 1.")
    variance = base_rate * (1 - base_rate) / (1 - treatment_share) + treated * (1 - treated) / treatment_share
    z = normal_isf(alpha / 2) + normal_isf(1 - power)
    per_half = math.ceil(z * z * variance / (treated - base_rate) ** 2 / 2)
    return 2 * per_half


def power_of(
    base_rate: float, relative_lift: float, *, units: int, alpha: float = 0.05, treatment_share: float = 0.5
) -> float:
    """The chance that a two-sided test of `units` in both arms together finds the lift.

    >>> round(power_of(0.10, 0.05, units=115_520), 3)
    0.8
    """
    treated = base_rate * (1 + relative_lift)
    _checked(base_rate, treated, treatment_share)
    variance = base_rate * (1 - base_rate) / (1 - treatment_share) + treated * (1 - treated) / treatment_share
    z = abs(treated - base_rate) / math.sqrt(variance / units) if units else 0.0
    return normal_sf(normal_isf(alpha / 2) - z) + normal_sf(normal_isf(alpha / 2) + z)


def detectable_lift(
    base_rate: float, *, units: int, alpha: float = 0.05, power: float = 0.8, treatment_share: float = 0.5
) -> float | None:
    """The smallest positive relative lift found with the given power, None where even a rate of 1 is not.

    >>> round(detectable_lift(0.10, units=115_520), 4)
    0.05
    """
    low, high = 0.0, (1 - base_rate) / base_rate * (1 - 1e-9)
    if power_of(base_rate, high, units=units, alpha=alpha, treatment_share=treatment_share) < power:
        return None
    for _ in range(100):
        half = (low + high) / 2
        enough = half > 0 and (
            power_of(base_rate, half, units=units, alpha=alpha, treatment_share=treatment_share) >= power
        )
        low, high = (low, half) if enough else (half, high)
    return high


def _checked(base_rate: float, treated: float, share: float) -> None:
    if not 0 < base_rate < 1:
        raise Invalid(f"The base rate {base_rate} must lie between 0 and 1.")
    if not 0 < treated < 1 or treated == base_rate:
        raise Invalid(f"A treatment rate of {treated} cannot be told from {base_rate}. Pass another relative lift.")
    if not 0 < share < 1:
        raise Invalid(f"The treatment's share {share} must lie between 0 and 1.")


def mean_sample_size(
    lift: float, *, mean: float, deviation: float, alpha: float = 0.05, power: float = 0.8, treatment_share: float = 0.5
) -> int:
    """The units of both arms together that find a relative lift of a mean with the given standard deviation.

    >>> mean_sample_size(0.05, mean=10.0, deviation=10.0)  # 2 (1.96 + 0.84)^2 / 0.05^2 an arm
    12560
    """
    if not mean or not lift or not deviation > 0 or not 0 < treatment_share < 1:
        raise Invalid(f"A mean of {mean} with the deviation {deviation} and a lift of {lift} give no sample size.")
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise Invalid(f"alpha {alpha} and power {power} must lie between 0 and 1.")
    z = normal_isf(alpha / 2) + normal_isf(1 - power)
    variance = deviation**2 * (1 / (1 - treatment_share) + 1 / treatment_share)
    return 2 * math.ceil(z * z * variance / (mean * lift) ** 2 / 2)
