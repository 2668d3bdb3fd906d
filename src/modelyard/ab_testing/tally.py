"""What one arm has counted: integers, exact sums and integer histograms, the same in whatever order it was merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelyard.ab_testing.metrics import LATENCY, RESULTS, SUCCESS, Kind, Layout, Metric, average
from modelyard.stats.cross import Cross, Exact, exact, plus
from modelyard.stats.sketch import bucket, merged

INTEGERS = ("requests", "successes", "units", "nn", "ss", "ns")
ONE: Exact = (1, 0)
NONE: Exact = (0, 0)
NOTHING_PLANNED = Layout()


@dataclass(slots=True)
class Unit:
    """What one unit has brought so far. A covariate told several times counts once: the largest that was told."""

    requests: int = 0
    successes: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    totals: dict[str, Exact] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)  # covariates

    def add(self, success: int, numbers: Mapping[str, float], before: frozenset[str] = frozenset()) -> None:
        """Count one result; `before` names the covariates among its numbers."""
        self.requests += 1
        self.successes += success
        for name, value in numbers.items():
            if name in before:
                self.known[name] = max(value, self.known.get(name, value))
            else:
                self.counts[name] = self.counts.get(name, 0) + 1
                self.totals[name] = plus(self.totals.get(name, NONE), exact(value))

    def copy(self) -> Unit:
        """The same, for later comparison."""
        return Unit(self.requests, self.successes, dict(self.counts), dict(self.totals), dict(self.known))

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
        return found if any(number for number, _ in found) else None

    def _total(self, name: str) -> Exact:
        if name == RESULTS:
            return self.requests, 0
        return (self.successes, 0) if name == SUCCESS else self.totals.get(name, NONE)

    def plain(self) -> dict[str, Any]:
        """JSON form of what is beside the counts of results."""
        totals = {name: [self.counts[name], f"{total[0]:x}", total[1]] for name, total in sorted(self.totals.items())}
        return {"totals": totals, "known": dict(sorted(self.known.items()))} if totals or self.known else {}

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
        )


@dataclass(slots=True)
class Tally:
    """Sums over requests and over units.

    With n the requests and s the successes of a unit, `nn`, `ss` and `ns` are the sums of n*n, s*s and n*s over units:
    all that the variance of the success rate takes when a unit makes several requests (delta method). `metrics` has the
    same of every other metric. A request without a unit is a unit of its own.
    """

    requests: int = 0
    successes: int = 0
    units: int = 0
    nn: int = 0
    ss: int = 0
    ns: int = 0
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

    def count_result(self, success: int, numbers: Mapping[str, float], plan: Layout = NOTHING_PLANNED) -> None:
        """Count one result of a unit that makes no other."""
        if not numbers and not plan.summed:
            self.count(success)
            return
        unit = Unit()
        unit.add(success, numbers, plan.covariates)
        self.count_unit(Unit(), unit, plan)

    def count_unit(self, before: Unit, after: Unit, plan: Layout = NOTHING_PLANNED) -> None:
        """Count what one unit has now instead of what it had."""
        self.requests += after.requests - before.requests
        self.successes += after.successes - before.successes
        self.units += (after.requests > 0) - (before.requests > 0)
        self.nn += after.requests**2 - before.requests**2
        self.ss += after.successes**2 - before.successes**2
        self.ns += after.requests * after.successes - before.requests * before.successes
        for metric in _measured(after, plan):
            had, has = before.values(metric), after.values(metric)
            if had == has:
                continue
            sums = self.metrics.setdefault(metric.name, Cross(metric.size))
            if had is not None:
                sums.add(had, -1)
            if has is not None:
                sums.add(has)

    def spot(self, numbers: Mapping[str, float], plan: Layout = NOTHING_PLANNED) -> None:
        """Count numbers in the histograms that quantiles are read from."""
        for name in plan.spotted & numbers.keys():
            counts = self.histograms.setdefault(name, {})
            index = bucket(numbers[name] * 1e6)
            counts[index] = counts.get(index, 0) + 1

    def count_alone(self, success: int, latencies: Sequence[float], times: int) -> None:
        """Count `times` results of units that make no other, some of them with a latency: as one by one, but quicker."""
        self.count(success, times)
        if not latencies:
            return
        self.metrics.setdefault(LATENCY, Cross(2)).add_values(latencies)
        counts = self.histograms.setdefault(LATENCY, {})
        for index, count in Counter(bucket(latency * 1e6) for latency in latencies).items():
            counts[index] = counts.get(index, 0) + count

    def merge(self, other: Tally) -> None:
        """Count what another shard has counted. Units must not be shared between shards."""
        for name in INTEGERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, counts in other.histograms.items():
            self.histograms[name] = merged(self.histograms.get(name, {}), counts)
        for name, sums in other.metrics.items():
            self.metrics.setdefault(name, Cross(sums.size)).merge(sums)

    def plain(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **{name: getattr(self, name) for name in INTEGERS},
            "histograms": {
                name: {str(index): count for index, count in sorted(counts.items())}
                for name, counts in sorted(self.histograms.items())
            },
            "metrics": {name: sums.plain() for name, sums in sorted(self.metrics.items())},
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


def _measured(unit: Unit, plan: Layout) -> Iterable[Metric]:
    """The metrics that a unit's results count for: the planned ones, and the average of every other number."""
    return [*plan.summed, *(average(name) for name in unit.totals if name not in plan.taken)]
