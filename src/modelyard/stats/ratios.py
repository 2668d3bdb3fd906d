"""Means and ratios over units from their exact sums, with or without a covariate: estimates, differences and lifts.

A ratio's variance is the delta method's (Deng, Knoblich & Lu 2018, arXiv 1803.06336). A covariate known before the test
takes out the part of the noise that it explains (CUPED: Deng, Xu, Kohavi & Walker 2013), with one slope for both arms,
that of the regression within arms, so that no treatment effect leaks into it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from modelyard.core.errors import Invalid
from modelyard.stats.cross import Spread
from modelyard.stats.distributions import normal_isf, normal_sf, t_isf, t_sf

MANY = 1e5  # degrees of freedom from which on Student's t is the normal law to five digits, at one standard error
FEW = 30.0
TINY = 1e-50  # a denominator below it is none: its powers would leave the range of floats

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One arm's estimate with the variance of its error, and those of its covariate (zero without one)."""

    n: int
    value: float
    variance: float
    covariate: float = 0.0
    covariate_variance: float = 0.0
    covariance: float = 0.0
    steady: float = math.inf  # how many standard errors its denominator lies off zero


def mean(spread: Spread) -> Estimate | None:
    """The mean of the first number over units, with the second as its covariate; None for fewer than two units.

    >>> mean(Spread(n=4, means=(2.0,), products=((12.0,),)))
    Estimate(n=4, value=2.0, variance=1.0, covariate=0.0, covariate_variance=0.0, covariance=0.0, steady=inf)
    """
    if spread.n < 2:
        return None
    scale = 1 / (spread.n - 1) / spread.n
    plain = Estimate(n=spread.n, value=spread.means[0], variance=spread.products[0][0] * scale)
    if len(spread.means) == 1:
        return plain
    return replace(
        plain,
        covariate=spread.means[1],
        covariate_variance=spread.products[1][1] * scale,
        covariance=spread.products[0][1] * scale,
    )


def ratio(spread: Spread) -> Estimate | None:
    """The first number over the second, both summed over units; the third over the fourth as its covariate.

    None for fewer than two units or a denominator of zero (below 1e-50); a covariate's denominator of zero leaves it out.
    """
    if spread.n < 2 or abs(spread.means[1]) < TINY:
        return None
    main = _weights(spread, 0, 1)
    value = spread.means[0] / spread.means[1]
    error = math.sqrt(spread.products[1][1] / (spread.n - 1) / spread.n)
    plain = Estimate(
        n=spread.n,
        value=value,
        variance=max(0.0, _product(spread, main, main)),
        steady=abs(spread.means[1]) / error if error else math.inf,
    )
    if len(spread.means) == 2 or abs(spread.means[3]) < TINY:
        return plain
    covariate = _weights(spread, 2, 3)
    return replace(
        plain,
        covariate=spread.means[2] / spread.means[3],
        covariate_variance=max(0.0, _product(spread, covariate, covariate)),
        covariance=_product(spread, main, covariate),
    )


def _weights(spread: Spread, top: int, bottom: int) -> tuple[float, ...]:
    """A ratio's derivatives by the means."""
    weights = [0.0] * len(spread.means)
    weights[top] = 1 / spread.means[bottom]
    weights[bottom] = -spread.means[top] / spread.means[bottom] ** 2
    return tuple(weights)


def _product(spread: Spread, first: tuple[float, ...], second: tuple[float, ...]) -> float:
    total = math.fsum(
        a * b * spread.products[i][j] for i, a in enumerate(first) for j, b in enumerate(second) if a and b
    )
    return total / (spread.n - 1) / spread.n


def adjusted(control: Estimate, treatment: Estimate) -> tuple[Estimate, Estimate, float]:
    """Both arms less what the covariate explains, and the part of the variance that went; unchanged without a covariate.

    The slope is that of the regression of the units' values on the covariate within arms (ANCOVA's), and so is the error:
    the slope takes a degree of freedom, and its own error counts by how far apart the arms' covariates lie.
    """
    arms = control, treatment
    weights = [one.n * (one.n - 1) for one in arms]  # back from errors of means to sums over units
    explained = sum(w * one.covariance for w, one in zip(weights, arms, strict=True))
    spread = sum(w * one.covariate_variance for w, one in zip(weights, arms, strict=True))
    units = control.n + treatment.n
    if units < 4 or not all(
        one.covariate_variance > 0 for one in arms
    ):  # one arm's covariates may not have come at all
        return control, treatment, 0.0
    slope = explained / spread
    middle = (control.n * control.covariate + treatment.n * treatment.covariate) / units
    apart = (treatment.covariate - control.covariate) ** 2 / spread / (1 / control.n + 1 / treatment.n)
    known = (units - 2) / (units - 3) * (1 + apart)
    found = []
    for one in arms:
        variance = one.variance - 2 * slope * one.covariance + slope * slope * one.covariate_variance
        value = one.value - slope * (one.covariate - middle)
        found.append(Estimate(n=one.n, value=value, variance=max(0.0, variance) * known, steady=one.steady))
    before = control.variance + treatment.variance
    return found[0], found[1], 1 - (found[0].variance + found[1].variance) / before if before else 0.0


def imbalance(control: Estimate, treatment: Estimate) -> float:
    """The z score of the covariate's difference between the arms: a standard normal where units were assigned soundly.

    >>> a = Estimate(n=50, value=1.0, variance=0.01, covariate=1.0, covariate_variance=0.02)
    >>> round(imbalance(a, replace(a, covariate=1.4)), 3)
    2.0
    """
    own, pooled = _errors(control.n, control.covariate_variance, treatment.n, treatment.covariate_variance)
    error = math.sqrt(max(own, pooled))
    return (treatment.covariate - control.covariate) / error if error else 0.0


def cautious(control: Estimate, treatment: Estimate) -> tuple[Estimate, Estimate]:
    """Both arms with the wider of Welch's error and the pooled one: for tests that are looked at again and again.

    A small arm that has not met a rare large value yet takes its own spread for far too small, and a test that stops at
    the first difference that stands out stops there: with 5 % of the units in one arm, half of all comparisons of equal
    arms whose values are 0 or (in 2 of 100 units) 1. The spread of both arms together knows better.
    """
    own, pooled = _errors(control.n, control.variance, treatment.n, treatment.variance)
    if pooled <= own:
        return control, treatment
    wider = pooled / own
    return replace(control, variance=control.variance * wider), replace(treatment, variance=treatment.variance * wider)


def _errors(control: int, control_variance: float, treatment: int, treatment_variance: float) -> tuple[float, float]:
    """The variance of a difference of means: from each arm's own spread, and from that of both."""
    squares = control * (control - 1) * control_variance + treatment * (treatment - 1) * treatment_variance
    pooled = squares / (control + treatment - 2) * (1 / control + 1 / treatment)
    return control_variance + treatment_variance, pooled


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Treatment less control: the error, degrees of freedom (Welch 1947), two-sided p and the z score as far out."""

    value: float
    error: float
    df: float
    p_value: float
    z: float


def difference(control: Estimate, treatment: Estimate) -> Difference:
    """How far two arms lie apart.

    >>> a, b = Estimate(n=50, value=1.0, variance=0.01), Estimate(n=50, value=1.5, variance=0.01)
    >>> found = difference(a, b)
    >>> round(found.df), round(found.p_value, 5), round(found.z, 2)
    (98, 0.00062, 3.42)
    """
    c, t = control.variance, treatment.variance
    value, error = treatment.value - control.value, math.sqrt(c + t)
    if not error:
        return Difference(
            value=value,
            error=0.0,
            df=math.inf,
            p_value=1.0 if not value else 0.0,
            z=0.0 if not value else math.copysign(math.inf, value),
        )
    df = 1 / ((c / (c + t)) ** 2 / (control.n - 1) + (t / (c + t)) ** 2 / (treatment.n - 1))
    score = value / error
    tail = t_sf(abs(score), df) if df < MANY else normal_sf(abs(score))
    far = abs(score) if df >= MANY or tail < 1e-300 else max(0.0, normal_isf(tail)) if tail < 0.5 else 0.0
    return Difference(value=value, error=error, df=df, p_value=min(1.0, 2 * tail), z=math.copysign(far, value))


def wide(z: float, df: float) -> float:
    """How many standard errors take in as much as z of a normal law, for an error estimated with df degrees of freedom.

    Above 30 degrees, and more for a large z, Fisher's expansion (Abramowitz & Stegun 26.7.5), below by bisection.

    >>> round(wide(1.959964, 10), 3), round(wide(1.959964, 100), 4)
    (2.228, 1.984)
    """
    if not math.isfinite(z) or df >= MANY * max(1.0, z * z):  # the two differ by a part (z^2 + 1) / 4 df
        return z
    if df < max(FEW, 3 * z * z) or z > 8:  # the expansion is within 3 in 100,000 of it elsewhere
        tail = normal_sf(z)
        return t_isf(tail, df) if tail > 1e-300 else math.inf
    cube, fifth, seventh = z**3, z**5, z**7
    first = (cube + z) / 4
    second = (5 * fifth + 16 * cube + 3 * z) / 96
    third = (3 * seventh + 19 * fifth + 17 * cube - 15 * z) / 384
    return z + first / df + second / df**2 + third / df**3


def lift(control: Estimate, treatment: Estimate, width: float) -> Interval | None:
    """Fieller's interval of the relative change, as parts of the control's size, `width` standard errors wide (Fieller 1954).

    Up is up for a negative control too: from -10 to -8 is +0.2. None where the interval of the control itself reaches
    zero: any relative change is possible then.

    >>> [round(x, 3) for x in lift(Estimate(n=99, value=2.0, variance=0.01), Estimate(n=99, value=2.2, variance=0.01), 1.96)]
    [-0.036, 0.257]
    """
    if width < 0:
        raise Invalid(f"An interval {width} standard errors wide cannot be.")
    if not math.isfinite(width):
        return None
    c, t, wide = control.value, treatment.value, width**2
    leading = c * c - wide * control.variance
    if not c or leading <= 0:
        return None
    # Solved for the lift itself, not for the ratio: large means with a small spread would lose all digits there.
    middle = (t - c) * c + wide * control.variance
    both = c * c * treatment.variance + t * t * control.variance - wide * control.variance * treatment.variance
    root = width * math.sqrt(max(0.0, both))
    low, high = (middle - root) / leading, (middle + root) / leading
    return (low, high) if c > 0 else (-high, -low)
