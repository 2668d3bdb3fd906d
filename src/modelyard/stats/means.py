"""Means from sums alone: exact running sums that merge in any order, and Welch's comparison of two arms.

`Sums` keeps n, the sum and the sum of squares as exact rationals with a power of two below, so that merging shards in
any order gives the very same numbers and no digits cancel; `Moments` is what tests are computed from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from modelyard.core.errors import Invalid
from modelyard.stats.distributions import t_isf, t_sf


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """n values: their mean and M2, the sum of squared deviations from it."""

    n: int
    mean: float
    m2: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """The moments of some values, in one pass (Welford 1962).

        >>> Moments.of([1.0, 2.0, 3.0])
        Moments(n=3, mean=2.0, m2=2.0)
        """
        n, mean, m2 = 0, 0.0, 0.0
        for value in values:
            n += 1
            delta = value - mean
            mean += delta / n
            m2 += delta * (value - mean)
        return cls(n=n, mean=mean, m2=m2)

    @property
    def variance(self) -> float:
        """The unbiased sample variance; 0 for fewer than two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else 0.0

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of values (Chan, Golub, LeVeque 1979), up to rounding.

        >>> Moments.of([1.0, 2.0]).merged(Moments.of([3.0])) == Moments.of([1.0, 2.0, 3.0])
        True
        """
        n = self.n + other.n
        if not n:
            return self
        delta = other.mean - self.mean
        return Moments(
            n=n, mean=self.mean + delta * other.n / n, m2=self.m2 + other.m2 + delta * delta * self.n * other.n / n
        )


class Sums:
    """Exact n, sum and sum of squares of floats. Merging is associative and commutative to the last bit.

    >>> a, b = Sums(), Sums()
    >>> a.add(0.1); b.add(0.2); a.merge(b); a.moments().n
    2
    """

    __slots__ = ("n", "power", "square", "total")

    def __init__(self, n: int = 0, total: int = 0, square: int = 0, power: int = 0) -> None:
        self.n = n
        self.total = total  # the sum, in units of 2**-power
        self.square = square  # the sum of squares, in units of 2**-(2 * power)
        self.power = power

    def add(self, value: float, times: int = 1) -> None:
        """Count a finite value, `times` over."""
        number, denominator = value.as_integer_ratio()
        power = denominator.bit_length() - 1  # a float's denominator is a power of two
        if power > self.power:
            self._refine(power)
        else:
            number <<= self.power - power
        self.n += times
        self.total += number * times
        self.square += number * number * times

    def merge(self, other: Sums) -> None:
        """Count everything that the other has counted."""
        if other.power > self.power:
            self._refine(other.power)
        shift = self.power - other.power
        self.n += other.n
        self.total += other.total << shift
        self.square += other.square << (2 * shift)

    def moments(self) -> Moments:
        """n, mean and M2, each rounded once."""
        if not self.n:
            return Moments(n=0, mean=0.0, m2=0.0)
        unit = 1 << self.power
        return Moments(
            n=self.n,
            mean=self.total / (self.n * unit),
            m2=(self.n * self.square - self.total**2) / (self.n * unit * unit),
        )

    def plain(self) -> dict[str, Any]:
        """JSON form; the long integers as hexadecimal text."""
        shared = _trailing_zeros(self.total, self.power, self.square)
        total, square = self.total >> shared, self.square >> (2 * shared)
        return {"n": self.n, "total": f"{total:x}", "square": f"{square:x}", "power": self.power - shared}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Sums:
        """The sums that plain() wrote."""
        return cls(int(data["n"]), int(data["total"], 16), int(data["square"], 16), int(data["power"]))

    def _refine(self, power: int) -> None:
        shift = power - self.power
        self.total <<= shift
        self.square <<= 2 * shift
        self.power = power


def _trailing_zeros(total: int, power: int, square: int) -> int:
    """How far both sums can be written in a coarser unit without loss, so that equal sums have one form."""
    if not square:
        return power
    zeros = (square & -square).bit_length() - 1
    if total:
        zeros = min(zeros, 2 * ((total & -total).bit_length() - 1))
    return min(power, zeros // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanDifference:
    """Treatment mean less control mean with its standard error, degrees of freedom, two-sided p and interval."""

    difference: float
    error: float
    df: float
    p_value: float
    low: float
    high: float


def welch(control: Moments, treatment: Moments, *, level: float = 0.95) -> MeanDifference | None:
    """Welch's t comparison from moments alone (Welch 1947); None for fewer than two values in an arm.

    >>> result = welch(Moments.of([1.0, 2.0, 3.0]), Moments.of([2.0, 3.0, 4.0]))
    >>> result.difference, round(result.p_value, 4)
    (1.0, 0.2879)
    """
    if control.n < 2 or treatment.n < 2:
        return None
    if not 0 < level < 1:
        raise Invalid(f"{level} is no confidence level. Pass a number between 0 and 1, for example 0.95.")
    c, t = control.variance / control.n, treatment.variance / treatment.n
    difference, error = treatment.mean - control.mean, math.sqrt(c + t)
    if error == 0:
        p = 1.0 if difference == 0 else 0.0
        return MeanDifference(difference=difference, error=0.0, df=math.inf, p_value=p, low=difference, high=difference)
    total = c + t  # scaled, so that tiny variances do not underflow when squared
    df = 1 / ((c / total) ** 2 / (control.n - 1) + (t / total) ** 2 / (treatment.n - 1))
    half = t_isf((1 - level) / 2, df) * error
    p = min(1.0, 2 * t_sf(abs(difference) / error, df))
    return MeanDifference(
        difference=difference, error=error, df=df, p_value=p, low=difference - half, high=difference + half
    )
