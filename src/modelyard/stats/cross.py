"""Exact sums of several numbers a unit and of their products: all that ratios, covariates and their variances take.

Every number is an integer over a power of two, so shards merge in any order to the very same sums, and what a unit had
before can be taken out again when it has more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import NDArray

Values: TypeAlias = "Sequence[float] | NDArray[Any]"  # finite floats
Exact = tuple[int, int]  # (numerator, power): numerator / 2**power


def exact(value: float) -> Exact:
    """A finite float as it is.

    >>> exact(0.75)
    (3, 2)
    """
    number, denominator = value.as_integer_ratio()
    return number, denominator.bit_length() - 1  # a float's denominator is a power of two


def plus(first: Exact, second: Exact) -> Exact:
    """The exact sum.

    >>> plus(exact(0.5), exact(0.25))
    (3, 2)
    """
    power = max(first[1], second[1])
    return (first[0] << (power - first[1])) + (second[0] << (power - second[1])), power


def reduced(number: Exact) -> Exact:
    """The same number over the least power of two.

    >>> reduced((12, 4))
    (3, 2)
    """
    shared = _shared_zeros([number[0]], [], number[1])
    return number[0] >> shared, number[1] - shared


def nearest_float(number: Exact) -> float:
    """The float that is nearest; infinite beyond them all.

    >>> nearest_float((3, 2))
    0.75
    """
    try:
        return number[0] / (1 << number[1])
    except OverflowError:
        return math.copysign(math.inf, number[0])


def exact_sums(values: Values) -> tuple[int, int, int]:
    """(power, total in units of 2**-power, sum of squares in units of 2**(-2 power)) of finite floats, exactly.

    Whole mantissas are summed in three limbs of 18 bits, whose products leave room for millions of values in 64 bits.

    >>> power, total, square = exact_sums([0.5, 0.75])
    >>> total / 2**power, square / 4**power
    (1.25, 0.8125)
    """
    import numpy as np  # only where many values are counted at once

    mantissas, exponents = np.frexp(np.asarray(values, dtype=np.float64))
    whole = (mantissas * float(1 << 53)).astype(np.int64)
    power = max(0, 53 - int(exponents.min())) if len(whole) else 0
    total = square = 0
    for exponent in np.unique(exponents):
        part = whole[exponents == exponent]
        limbs = part >> 36, (part >> 18) & 0x3FFFF, part & 0x3FFFF
        a, b, c = limbs
        shift = power - 53 + int(exponent)
        total += ((int(a.sum()) << 36) + (int(b.sum()) << 18) + int(c.sum())) << shift
        high, cross, middle = int(a @ a) << 72, int(a @ b) << 55, (2 * int(a @ c) + int(b @ b)) << 36
        square += (high + cross + middle + (int(b @ c) << 19) + int(c @ c)) << 2 * shift
    return power, total, square


def whole_numbers(values: Values) -> tuple[int, list[int]]:
    """(power, integers): finite floats in units of 2**-power, exactly, for the least power that all of them have.

    >>> whole_numbers([0.5, 3.0])
    (1, [1, 6])
    """
    import numpy as np  # only where many values are counted at once

    mantissas, exponents = np.frexp(np.asarray(values, dtype=np.float64))
    whole = (mantissas * float(1 << 53)).astype(np.int64)
    ends = np.frexp((whole & -whole).astype(np.float64))[1] - 1  # zeros at the end of each; -1 for 0 itself
    power = int(np.max(np.where(whole == 0, 0, 53 - exponents - ends), initial=0))
    shifts = np.where(whole == 0, 0, exponents + (power - 53)).tolist()
    return power, [n << by if by >= 0 else n >> -by for n, by in zip(whole.tolist(), shifts, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """n units' means and sums of products of deviations from them, each rounded once."""

    n: int
    means: tuple[float, ...]
    products: tuple[tuple[float, ...], ...]


class Cross:
    """Exact n, totals and products of `size` numbers a unit.

    >>> cross = Cross(2)
    >>> cross.add([exact(1.0), exact(2.0)]); cross.add([exact(3.0), exact(5.0)])
    >>> cross.spread().means, cross.spread().products[0]
    ((2.0, 3.5), (2.0, 3.0))
    """

    __slots__ = ("n", "power", "products", "size", "totals")

    def __init__(self, size: int) -> None:
        self.size, self.n, self.power = size, 0, 0
        self.totals = [0] * size  # in units of 2**-power
        self.products = [0] * (size * (size + 1) // 2)  # of i <= j, row by row, in units of 2**(-2 power)

    def add(self, values: Sequence[Exact], times: int = 1) -> None:
        """Count a unit, `times` over; with -1, take out what it had."""
        self._refine(max(power for _, power in values))
        whole = [number << (self.power - power) for number, power in values]
        self.n += times
        at = 0
        for i, first in enumerate(whole):
            self.totals[i] += first * times
            for second in whole[i:]:
                self.products[at] += first * second * times
                at += 1

    def add_values(self, values: Values) -> None:
        """Count units that have a value and a 1 each: as `add([exact(value), (1, 0)])` for all of them, but quicker."""
        made = Cross(2)
        made.n = len(values)
        made.power, total, square = exact_sums(values)
        one = made.n << made.power
        made.totals, made.products = [total, one], [square, total << made.power, one << made.power]
        self.merge(made)

    def add_columns(self, columns: Sequence[tuple[int, Sequence[int]]], n: int, times: int = 1) -> None:
        """Count `n` units: a column of each of their numbers, (power, integers), rows without any zeros throughout.

        As `add` for each of the rows, but quicker.
        """
        self._refine(max(power for power, _ in columns))
        shifts = [self.power - power for power, _ in columns]
        self.n += n * times
        at = 0
        for i, (_, first) in enumerate(columns):
            self.totals[i] += (sum(first) << shifts[i]) * times
            for (_, second), shift in zip(columns[i:], shifts[i:], strict=True):
                products = sum([a * b for a, b in zip(first, second, strict=True)])
                self.products[at] += (products << (shifts[i] + shift)) * times
                at += 1

    def merge(self, other: Cross) -> None:
        """Count every unit that the other has counted."""
        self._refine(other.power)
        shift = self.power - other.power
        self.n += other.n
        self.totals = [a + (b << shift) for a, b in zip(self.totals, other.totals, strict=True)]
        self.products = [a + (b << 2 * shift) for a, b in zip(self.products, other.products, strict=True)]

    def spread(self, n: int | None = None) -> Spread:
        """Means and centred products over `n` units: those counted, and others that had only zeros."""
        n = self.n if n is None else n
        if not n:
            zero = (0.0,) * self.size
            return Spread(n=0, means=zero, products=(zero,) * self.size)
        unit = 1 << self.power
        rows = [[0.0] * self.size for _ in range(self.size)]
        at = 0
        for i in range(self.size):
            for j in range(i, self.size):
                centred = n * self.products[at] - self.totals[i] * self.totals[j]
                rows[i][j] = rows[j][i] = centred / (n * unit * unit)
                at += 1
        means = tuple(total / (n * unit) for total in self.totals)
        return Spread(n=n, means=means, products=tuple(map(tuple, rows)))

    def plain(self) -> dict[str, Any]:
        """JSON form, the same for equal sums; the long integers as hexadecimal text."""
        shared = _shared_zeros(self.totals, self.products, self.power)
        return {
            "n": self.n,
            "power": self.power - shared,
            "totals": [f"{total >> shared:x}" for total in self.totals],
            "products": [f"{product >> 2 * shared:x}" for product in self.products],
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Cross:
        """The sums that plain() wrote."""
        made = cls(len(data["totals"]))
        made.n, made.power = int(data["n"]), int(data["power"])
        made.totals = [int(total, 16) for total in data["totals"]]
        made.products = [int(product, 16) for product in data["products"]]
        return made

    def _refine(self, power: int) -> None:
        shift = power - self.power
        if shift > 0:
            self.totals = [total << shift for total in self.totals]
            self.products = [product << 2 * shift for product in self.products]
            self.power = power


def _shared_zeros(totals: Iterable[int], products: Iterable[int], power: int) -> int:
    """How far all sums can be written in a coarser unit without loss."""
    zeros = [_zeros(total) for total in totals if total]
    zeros += [_zeros(product) // 2 for product in products if product]
    return min([power, *zeros])


def _zeros(number: int) -> int:
    return (number & -number).bit_length() - 1
