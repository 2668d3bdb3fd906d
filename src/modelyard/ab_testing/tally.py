"""What one arm has counted: integers, exact sums and an integer histogram, the same in whatever order it was merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard.stats.means import Sums
from modelyard.stats.sketch import bucket, merged


@dataclass(slots=True)
class Tally:
    """Sums over requests and over units.

    With n the requests and s the successes of a unit, `nn`, `ss` and `ns` are the sums of n*n, s*s and n*s over units:
    all that the variance of the success rate takes when a unit makes several requests (delta method). A request without a
    unit is a unit of its own.
    """

    requests: int = 0
    successes: int = 0
    units: int = 0
    nn: int = 0
    ss: int = 0
    ns: int = 0
    latency: Sums = field(default_factory=Sums)
    histogram: dict[int, int] = field(default_factory=dict)
    metrics: dict[str, Sums] = field(default_factory=dict)

    def count(self, success: int, times: int = 1) -> None:
        """Count requests without a unit that all ended alike."""
        self.requests += times
        self.units += times
        self.nn += times
        if success:
            self.successes += times
            self.ss += times
            self.ns += times

    def count_unit(self, before: tuple[int, int], more: tuple[int, int]) -> None:
        """Count more (requests, successes) of one unit that had made `before`."""
        n, s = before[0] + more[0], before[1] + more[1]
        self.requests += more[0]
        self.successes += more[1]
        self.units += before[0] == 0
        self.nn += n * n - before[0] ** 2
        self.ss += s * s - before[1] ** 2
        self.ns += n * s - before[0] * before[1]

    def measure(self, latency: float | None, metrics: Mapping[str, float] | None, times: int = 1) -> None:
        """Count a latency in seconds and named numbers."""
        if latency is not None:
            self.latency.add(latency, times)
            index = bucket(latency * 1e6)
            self.histogram[index] = self.histogram.get(index, 0) + times
        for name, value in (metrics or {}).items():
            self.metrics.setdefault(name, Sums()).add(value, times)

    def merge(self, other: Tally) -> None:
        """Count what another shard has counted. Units must not be shared between shards."""
        for name in ("requests", "successes", "units", "nn", "ss", "ns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.latency.merge(other.latency)
        self.histogram = merged(self.histogram, other.histogram)
        for name, sums in other.metrics.items():
            self.metrics.setdefault(name, Sums()).merge(sums)

    def plain(self) -> dict[str, Any]:
        """JSON form."""
        return {
            **{name: getattr(self, name) for name in ("requests", "successes", "units", "nn", "ss", "ns")},
            "latency": self.latency.plain(),
            "histogram": {str(index): count for index, count in sorted(self.histogram.items())},
            "metrics": {name: sums.plain() for name, sums in sorted(self.metrics.items())},
        }

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> Tally:
        """The tally that plain() wrote."""
        return cls(
            **{name: int(data[name]) for name in ("requests", "successes", "units", "nn", "ss", "ns")},
            latency=Sums.from_plain(data["latency"]),
            histogram={int(index): count for index, count in data["histogram"].items()},
            metrics={name: Sums.from_plain(sums) for name, sums in data["metrics"].items()},
        )
