"""Unit errors: is a moved column a scaled or shifted copy of what it was?"""

from __future__ import annotations

import numpy as np

from modelyard.monitoring.profile import Array, ColumnProfile

_SHARES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
_CONSTANT = 0.06  # spread of the quantiles' ratios that sampling a few hundred rows explains
_NEAR = 0.02
_KNOWN = {
    12: "years in months, or feet in inches", 365.25: "years in days", 52.18: "years in weeks", 7: "weeks in days",
    24: "days in hours", 60: "minutes in seconds, or hours in minutes", 3600: "hours in seconds", 100: "a share in percent",
    1000: "thousands in units, or kilo- in base units", 1e6: "millions in units", 2.54: "inches in centimetres",
    2.2046: "kilograms in pounds", 1.6093: "miles in kilometres", 3.2808: "metres in feet", 10: "one decimal place",
    86400: "days in seconds", 1024: "KiB in bytes",
}  # fmt: skip


def unit_error(reference: ColumnProfile, values: Array) -> str:
    """What the change looks like ("looks multiplied by about 12 (a unit error? years in months)"), or "".

    The ratio of the two samples' deciles, or else their difference, has to be nearly the same at all deciles.
    """
    finite = values[np.isfinite(values)]
    if reference.shape.kind != "number" or len(finite) < 20:
        return ""
    old, new = reference.quantiles(_SHARES), np.quantile(finite, _SHARES, method="inverted_cdf")
    return _scaled(old, new) or _fahrenheit(old, new)


def _scaled(old: Array, new: Array) -> str:
    used = np.abs(old) > 1e-9 * max(float(np.abs(old).max()), 1e-300)
    if used.sum() < 3 or np.any(new[used] == 0):
        return ""
    ratios = new[used] / old[used]
    factor = float(np.median(ratios))
    left, moved = np.abs(new - factor * old).mean(), np.abs(new - old).mean()
    shifted = np.abs(new - old - np.median(new - old)).mean()
    constant = np.quantile(np.abs(ratios / factor - 1), 0.8) < _CONSTANT
    if 0.8 < factor < 1.25 or not constant or left > 0.25 * moved or left > shifted:
        return ""
    return f"looks multiplied by about {_named(factor)}"


def _named(factor: float) -> str:
    """The factor, as the known conversion that it is near, if any."""
    for known, words in _KNOWN.items():
        if abs(factor / known - 1) < _NEAR:
            return f"{known:g} (a unit error? {words})"
        if abs(factor * known - 1) < _NEAR:
            return f"1/{known:g} (a unit error? the reverse of {words})"
    return f"{factor:.3g} (a unit error?)"


def _fahrenheit(old: Array, new: Array) -> str:
    for words, guess in (("Celsius in Fahrenheit", 1.8 * old + 32), ("Fahrenheit in Celsius", (old - 32) / 1.8)):
        if np.abs(new - guess).mean() < 0.05 * np.abs(new - old).mean():
            return f"looks like {words} (a unit error?)"
    return ""
