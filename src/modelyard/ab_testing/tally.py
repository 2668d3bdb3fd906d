"""What one arm has counted: integers, exact sums and integer histograms, the same in whatever order it was merged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.ab_testing.metrics import LATENCY, RESULTS, SUCCESS, Kind, Layout, Metric, average
from modelyard.stats.cross import Cross, Exact, Values, exact, plus, reduced
from modelyard.stats.sketch import bucket, clustered, histogram, merged

INTEGERS = ("requests", "successes", "units", "nn", "ss", "ns", "corrected")
ONE: Exact = (1, 0)
NONE: Exact = (0, 0)
NOTHING_PLANNED = Layout()
STRATUM = "\x1fstratum "  # sums of one group beside those of all units: `name`, this, and the group's number
LARGEST_STRATUM = 999  # numbers of groups that are told apart
PAIRS, WEIGHTS = "\x1fpairs", "\x1fweights"  # histograms beside that of a name; no name of a metric ends so


@dataclass(slots=True)
class Unit:
    """What one unit has brought so far. A covariate told several times counts once: the largest that was told."""

    requests: int = 0
    successes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    totals: dict[str, Exact] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)  # covariates
    spots: dict[str, dict[int, int]] = field(default_factory=dict)  # histograms of what quantiles are compared of

    def add(self, success: int, numbers: Mapping[str, float], plan: Layout = NOTHING_PLANNED, times: int = 1) -> None:
        """Count one result, or with -1 take it out."""
        self.requests += times
        self.successes += success * times
        for name, value in numbers.items():
            if name in plan.clustered:
                counts, index = self.spots.setdefault(name, {}), bucket(value * 1e6)
                counts[index] = counts.get(index, 0) + times
            if name not in plan.covariates:
                self._sum(name, exact(value), times)
            elif times > 0:
                self.known[name] = max(value, self.known.get(name, value))
        if not self.requests:
            self.known.clear()

    def _sum(self, name: str, value: Exact, times: int) -> None:
        count = self.counts.get(name, 0) + times
        if not count:
            del self.counts[name], self.totals[name]
            return
        self.counts[name] = count
        self.totals[name] = plus(self.totals.get(name, NONE), (value[0] * times, value[1]))

    def copy(self) -> Unit:
        """The same, for later comparison."""
        spots = {name: dict(counts) for name, counts in self.spots.items()}
        return Unit(self.requests, self.successes, dict(self.counts), dict(self.totals), dict(self.known), spots)

    def values(self, metric: Metric) -> list[Exact] | None:
        """The numbers that it gives to a metric; None where it has nothing for it."""
        if metric.kind is Kind.AVERAGE:
            count = self.counts.get(metric.numerator, 0)
            return [self.totals[metric.numerator], (count, 0)] if count else None
        names = [metric.numerator] if metric.kind is Kind.MEAN else [metric.numerator, metric.denominator]
        found = [self._total(name) for name in names]
        for name in (metric.covariate, metric.covariate_denominator):
            if name:
                found.append(exact(self.known.get(name, 0.0)))
        counts = bool(self.requests) if metric.strata else any(number for number, _ in found)  # groups count all units
        return found if counts else None

    def stratum(self, metric: Metric) -> int:
        """The group that the unit belongs to; -1 for one that was not told, or is no whole number up to 999."""
        told = self.known.get(metric.strata, -1.0)
        return int(told) if told.is_integer() and 0 <= told <= LARGEST_STRATUM else -1

    def _total(self, name: str) -> Exact:
        if name == RESULTS:
            return self.requests, 0
        return (self.successes, 0) if name == SUCCESS else self.totals.get(name, NONE)

    def plain(self) -> dict[str, Any]:
        """JSON form of what is beside the counts of results."""
        exactly = {name: reduced(total) for name, total in sorted(self.totals.items())}
        totals = {name: [self.counts[name], f"{total[0]:x}", total[1]] for name, total in exactly.items()}
        spots = {
            name: {str(index): n for index, n in sorted(counts.items()) if n}
            for name, counts in sorted(self.spots.items())
        }
        told = {"totals": totals, "known": dict(sorted(self.known.items()))} if totals or self.known else {}
        return {**told, "spots": spots} if any(spots.values()) else told

    @classmethod
    def from_plain(cls, requests: int, successes: int, data: Mapping[str, Any]) -> Unit:
        """The unit of a row."""
        told = data.get("totals", {})
        return cls(
            requests,
            successes,
            {name: int(one[0]) for name, one in told.items()},
            {name: (int(one[1], 16), int(one[2])) for name, one in told.items()},
            {name: float(value) for name, value in data.get("known", {}).items()},
            {name: {int(i): n for i, n in counts.items()} for name, counts in data.get("spots", {}).items()},
        )


@dataclass(slots=True)
class Tally:
    """Sums over requests and over units.

    With n the requests and s the successes of a unit, `nn`, `ss` and `ns` are the sums of n*n, s*s and n*s over units:
    all that the variance of the success rate takes when a unit makes several requests (delta method). `metrics` has the
    same of every other metric. A request without a unit is a unit of its own. `corrected` counts corrections.
    """

    requests: int = 0
    successes: int = 0
    units: int = 0
    nn: int = 0
    ss: int = 0
    ns: int = 0
    corrected: int = 0
    metrics: dict[str, Cross] = field(default_factory=dict)
    histograms: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def histogram(self) -> dict[int, int]:
        """The latencies' histogram, in microseconds."""
        return self.histograms.get(LATENCY, {})

    def count(self, success: int, times: int = 1) -> None:
        """Count requests without a unit that all ended alike and brought no numbers."""
        self.requests += times
        self.units += times
        self.nn += times
        if success:
            self.successes += times
            self.ss += times
            self.ns += times

    def count_result(
        self, success: int, numbers: Mapping[str, float], plan: Layout = NOTHING_PLANNED, times: int = 1
    ) -> None:
        """Count `times` results alike of units that make no other; with -1, take one out."""
        if not numbers and not plan.summed:
            self.count(success, times)
            return
        unit = Unit()
        unit.add(success, numbers, plan)
        self.count_unit(Unit(), unit, plan, times)

    def count_unit(self, before: Unit, after: Unit, plan: Layout = NOTHING_PLANNED, times: int = 1) -> None:
        """Count what one unit has now instead of what it had, `times` over."""
        self.requests += times * (after.requests - before.requests)
        self.successes += times * (after.successes - before.successes)
        self.units += times * ((after.requests > 0) - (before.requests > 0))
        self.nn += times * (after.requests**2 - before.requests**2)
        self.ss += times * (after.successes**2 - before.successes**2)
        self.ns += times * (after.requests * after.successes - before.requests * before.successes)
        for metric in _measured(before, after, plan):
            had, has = before.values(metric), after.values(metric)
            if had != has:
                self._add(metric.name, metric, had, -times)
                self._add(metric.name, metric, has, times)
            if metric.strata:
                self._add(f"{metric.name}{STRATUM}{before.stratum(metric)}", metric, had, -times)
                self._add(f"{metric.name}{STRATUM}{after.stratum(metric)}", metric, has, times)
        for name in plan.clustered & (before.spots.keys() | after.spots.keys()):
            self._count_clusters(name, before.spots.get(name, {}), -times)
            self._count_clusters(name, after.spots.get(name, {}), times)

    def _add(self, name: str, metric: Metric, values: Sequence[Exact] | None, times: int) -> None:
        if values is not None:
            self.metrics.setdefault(name, Cross(metric.size)).add(values, times)

    def _count_clusters(self, name: str, counts: Mapping[int, int], times: int) -> None:
        """Count how one unit's values stand together: what the spread of a quantile over units takes."""
        for part, found in zip((PAIRS, WEIGHTS), clustered(counts), strict=True):
            kept = self.histograms.setdefault(f"{name}{part}", {}) if found else {}
            for index, count in found.items():
                kept[index] = kept.get(index, 0) + count * times

    def spot(self, numbers: Mapping[str, float], plan: Layout = NOTHING_PLANNED, times: int = 1) -> None:
        """Count numbers in the histograms that quantiles are read from; with -1, take them out."""
        for name in plan.spotted & numbers.keys():
            counts = self.histograms.setdefault(name, {})
            index = bucket(numbers[name] * 1e6)
            counts[index] = counts.get(index, 0) + times

    def spot_all(self, numbers: Mapping[str, Values], plan: Layout = NOTHING_PLANNED) -> None:
        """Count many numbers in the histograms: as one by one, but quicker."""
        import numpy as np  # only where many values are counted at once

        for name in plan.spotted & numbers.keys():
            found = histogram(np.asarray(numbers[name], dtype=np.float64) * 1e6)
            self.histograms[name] = merged(self.histograms.get(name, {}), found)

    def count_alone(
        self, success: int, numbers: Mapping[str, Values], times: int, plan: Layout = NOTHING_PLANNED
    ) -> None:
        """Count `times` results of units that make no other: as one by one, but quicker. The plan sums nothing up."""
        self.count(success, times)
        self.spot_all(numbers, plan)
        for name, values in numbers.items():
            if name not in plan.taken:
                self.metrics.setdefault(name, Cross(2)).add_values(values)

    def merge(self, other: Tally) -> None:
        """Count what another shard has counted. Units must not be shared between shards."""
        for name in INTEGERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, counts in other.histograms.items():
            self.histograms[name] = merged(self.histograms.get(name, {}), counts)
        for name, sums in other.metrics.items():
            self.metrics.setdefault(name, Cross(sums.size)).merge(sums)

    def plain(self) -> dict[str, Any]:
        """JSON form, the same for whatever way the same results were counted."""
        kept = {name: {i: n for i, n in counts.items() if n} for name, counts in self.histograms.items()}
        return {
            **{name: getattr(self, name) for name in INTEGERS},
            "histograms": {
                name: {str(index): count for index, count in sorted(counts.items())}
                for name, counts in sorted(kept.items())
                if counts
            },
            "metrics": {name: sums.plain() for name, sums in sorted(self.metrics.items()) if sums.n},
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Tally:
        """The tally that plain() wrote."""
        return cls(
            **{name: int(data[name]) for name in INTEGERS},
            histograms={
                name: {int(index): count for index, count in counts.items()}
                for name, counts in data["histograms"].items()
            },
            metrics={name: Cross.from_plain(sums) for name, sums in data["metrics"].items()},
        )


def _measured(before: Unit, after: Unit, plan: Layout) -> Iterable[Metric]:
    """The metrics that a unit's results count for: the planned ones, and the average of every other number."""
    others = [name for name in {**before.totals, **after.totals} if name not in plan.taken]
    return [*plan.summed, *map(average, others)]
