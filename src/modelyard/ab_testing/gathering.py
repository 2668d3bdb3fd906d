"""The results of one call that have a unit, an id or numbers of their own, put together where they are told alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelyard.ab_testing import journal
from modelyard.ab_testing.experiments import ABTest
from modelyard.ab_testing.metrics import Kind
from modelyard.core.errors import Invalid

Shape = tuple[str, int, Any, tuple[Any, ...]]  # variant, round, success, names of numbers


class _Alike:
    """Results of one shape, column by column."""

    __slots__ = ("begin", "count", "ids", "latencies", "names", "rows", "units")

    def __init__(self, begin: tuple[str, str, int, Any], names: tuple[str, ...]) -> None:
        self.begin, self.names, self.count = begin, names, 0
        self.latencies: list[Any] = []
        self.units: list[str] = []
        self.ids: list[str] = []
        self.rows: list[Any] = []

    def record(self, test: ABTest) -> bytes:
        """All of them as one record; Invalid for numbers that are none."""
        columns = dict(zip(self.names, zip(*self.rows, strict=True), strict=True))
        found = journal.block(
            journal.head(*self.begin, self.count), self.latencies, "".join(self.units), "".join(self.ids), columns
        )
        for name in quantiled(test) & columns.keys():
            check_quantiled(test, {name: min(columns[name])})
        return found


class Gathered:
    """What one call has told so far. Of what is told twice under one id the first counts."""

    def __init__(self, test: ABTest) -> None:
        self.test = test
        self._alike: dict[Any, _Alike] = {}
        self._ids: set[str] = set()

    def add(self, shape: Shape, latency: Any, unit: str, result_id: str, numbers: Mapping[str, Any] | None) -> None:
        """Put a result to those like it; Invalid for names of numbers that cannot be."""
        kind = (shape, latency is None, not unit, not result_id)
        try:
            alike = self._alike.get(kind)
        except TypeError:  # an array of one, say, which cannot be hashed
            shape = (*shape[:2], journal.judged(shape[2]), shape[3])
            kind, alike = (shape, *kind[1:]), None
        if alike is None:
            variant, number, success, names = shape
            if names:
                journal.named(numbers)
            alike = _Alike((self.test.test_id, variant, number, journal.judged(success)), names)
            self._alike[kind] = alike
        if result_id:
            if result_id in self._ids:
                alike = _Alike(alike.begin, alike.names)  # is checked as the others are, and left out
                _fill(alike, latency, unit, result_id, numbers)
                alike.record(self.test)
                return
            self._ids.add(result_id)
        _fill(alike, latency, unit, result_id, numbers)

    def records(self) -> list[bytes]:
        """What was told, a record for each shape."""
        return [alike.record(self.test) for alike in self._alike.values() if alike.count]


def _fill(alike: _Alike, latency: Any, unit: str, result_id: str, numbers: Mapping[str, Any] | None) -> None:
    alike.count += 1
    if latency is not None:
        alike.latencies.append(latency)
    if unit:
        alike.units.append(unit)
    if result_id:
        alike.ids.append(result_id)
    if numbers is not None and alike.names:
        alike.rows.append(numbers.values())


def quantiled(test: ABTest) -> frozenset[str]:
    """The names of numbers whose quantiles are planned."""
    return frozenset(metric.numerator for metric in test.metrics if metric.kind is Kind.QUANTILE)


def check_quantiled(test: ABTest, numbers: Mapping[str, float]) -> None:
    """Invalid for numbers below 0 where a quantile of them is planned."""
    for name in quantiled(test) & numbers.keys():
        if not numbers[name] >= 0:
            raise Invalid(f"{name} is {numbers[name]!r:.40}; quantiles are of numbers of 0 or more.")
