"""What many units have brought, column by column: as `tally.Unit` for each of them, but quicker to add to and to sum up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing.metrics import RESULTS, SUCCESS, Kind, Layout, Metric, average
from modelyard.ab_testing.tally import LARGEST_STRATUM, STRATUM, Tally, Unit
from modelyard.stats.cross import Cross, whole_numbers

Column = tuple[int, list[int]]  # (power, numbers): each over 2**power
Told = tuple[NDArray[np.int64], NDArray[np.float64]]  # (whose, what): units by their places


@dataclass(slots=True)
class Units:
    """Some units. A name's totals are integers over 2**power, beside how many values they are of."""

    requests: NDArray[np.int64]
    successes: NDArray[np.int64]
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    totals: dict[str, list[int]] = field(default_factory=dict)
    powers: dict[str, int] = field(default_factory=dict)
    known: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # covariates; NaN where none was told

    def __len__(self) -> int:
        return len(self.requests)

    @classmethod
    def empty(cls, count: int) -> Units:
        """Units that have brought nothing yet."""
        return cls(np.zeros(count, np.int64), np.zeros(count, np.int64))

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Units:
        """The same units. None of them holds histograms."""
        made = cls(
            np.array([one.requests for one in units], np.int64), np.array([one.successes for one in units], np.int64)
        )
        for place, one in enumerate(units):
            at = np.array([place])
            for name, (number, power) in one.totals.items():
                made.have(name, at, one.counts[name], power, [number])
            for name, value in one.known.items():
                made.know(name, at, np.array([value]))
        return made

    def take(self, places: NDArray[np.int64], others: Units) -> None:
        """Be what others are, some of them, of which nothing is known yet."""
        self.requests[places], self.successes[places] = others.requests, others.successes
        for name, totals in others.totals.items():
            self.have(name, places, others.counts[name], others.powers[name], totals)
        for name, values in others.known.items():
            self.know(name, places, values)

    def have(self, name: str, places: NDArray[np.int64], counts: Any, power: int, numbers: Sequence[int]) -> None:
        """Give some of them a total that they had none of."""
        counted = self.counts.setdefault(name, np.zeros(len(self), np.int64))
        counted[places] = counts
        totals = self._at(name, power)
        shift = self.powers[name] - power
        for place, number in zip(places.tolist(), numbers, strict=True):
            totals[place] = number << shift

    def know(self, name: str, places: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Tell a covariate of some of them; of what was told several times, the largest counts."""
        known = self.known.setdefault(name, np.full(len(self), np.nan))
        np.fmax.at(known, places, values)

    def and_then(self, requests: Any, successes: Any, numbers: Mapping[str, Told], plan: Layout) -> Units:
        """The same units with further results."""
        made = Units(
            self.requests + requests,
            self.successes + successes,
            dict(self.counts),
            {name: list(totals) for name, totals in self.totals.items()},
            dict(self.powers),
            {name: values.copy() for name, values in self.known.items()},
        )
        for name, (places, values) in numbers.items():
            if name in plan.covariates:
                made.know(name, places, values)
                continue
            power, whole = whole_numbers(values)
            totals = made._at(name, power)
            shift = made.powers[name] - power
            for place, number in zip(places.tolist(), whole, strict=True):
                totals[place] += number << shift
            more = np.bincount(places, minlength=len(self))
            made.counts[name] = made.counts[name] + more if name in made.counts else more
        return made

    def unit(self, place: int) -> Unit:
        """One of them."""
        names = [name for name in self.totals if self.counts[name][place]]
        return Unit(
            int(self.requests[place]),
            int(self.successes[place]),
            {name: int(self.counts[name][place]) for name in names},
            {name: (self.totals[name][place], self.powers[name]) for name in names},
            {name: float(values[place]) for name, values in self.known.items() if not np.isnan(values[place])},
        )

    def column(self, name: str) -> Column:
        """A name's totals."""
        if name in (RESULTS, SUCCESS):
            return 0, (self.requests if name == RESULTS else self.successes).tolist()
        return (self.powers[name], self.totals[name]) if name in self.totals else (0, [0] * len(self))

    def covariate(self, name: str) -> Column:
        """What was known of each, 0 where nothing was."""
        return whole_numbers(np.nan_to_num(self.known[name])) if name in self.known else (0, [0] * len(self))

    def strata(self, name: str) -> NDArray[np.int64]:
        """The groups that they belong to by a covariate, as `Unit.stratum` says."""
        told = self.known.get(name, np.full(len(self), np.nan))
        whole = (told >= 0) & (told <= LARGEST_STRATUM) & (told == np.floor(told))
        return np.where(whole, told, -1.0).astype(np.int64)

    def _at(self, name: str, power: int) -> list[int]:
        """A name's totals, over 2**power at least."""
        had = self.powers.setdefault(name, power)
        if power > had:
            self.powers[name] = power
            self.totals[name] = [number << (power - had) for number in self.totals[name]]
        return self.totals.setdefault(name, [0] * len(self))


def count_units(tally: Tally, before: Units, after: Units, plan: Layout) -> None:
    """Count what units have now instead of what they had. The plan compares no quantiles over units."""
    for units, times in ((before, -1), (after, 1)):
        requests, successes = units.requests.tolist(), units.successes.tolist()
        tally.requests += times * sum(requests)
        tally.successes += times * sum(successes)
        tally.units += times * int(np.count_nonzero(units.requests))
        tally.nn += times * _product(requests, requests)
        tally.ss += times * _product(successes, successes)
        tally.ns += times * _product(requests, successes)
        others = [name for name in units.totals if name not in plan.taken]
        for metric in (*plan.summed, *map(average, others)):
            _sum_up(tally, metric, units, times)


def _sum_up(tally: Tally, metric: Metric, units: Units, times: int) -> None:
    if metric.kind is Kind.AVERAGE:
        counts = units.counts.get(metric.numerator)
        if counts is None:
            return
        columns = [units.column(metric.numerator), (0, counts.tolist())]
        n = int(np.count_nonzero(counts))
    else:
        columns = [units.column(metric.numerator)]
        columns += [units.column(metric.denominator)] if metric.kind is Kind.RATIO else []
        columns += [units.covariate(name) for name in (metric.covariate, metric.covariate_denominator) if name]
        n = sum(map(any, zip(*[numbers for _, numbers in columns], strict=True)))
    if metric.strata:
        n = int(np.count_nonzero(units.requests))  # groups count all units
        _sum_up_groups(tally, metric, units, columns, times)
    if n:
        tally.metrics.setdefault(metric.name, Cross(metric.size)).add_columns(columns, n, times)


def _sum_up_groups(tally: Tally, metric: Metric, units: Units, columns: Sequence[Column], times: int) -> None:
    groups = units.strata(metric.strata)
    there = units.requests > 0
    for group in np.unique(groups[there]).tolist():
        which = np.flatnonzero(there & (groups == group)).tolist()
        some = [(power, [numbers[place] for place in which]) for power, numbers in columns]
        cross = tally.metrics.setdefault(f"{metric.name}{STRATUM}{group}", Cross(metric.size))
        cross.add_columns(some, len(which), times)


def _product(first: Sequence[int], second: Sequence[int]) -> int:
    return sum([a * b for a, b in zip(first, second, strict=True)])
