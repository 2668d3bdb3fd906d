"""Counting within one transaction: results into tallies, each once, and what was counted wrongly out of them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelyard.ab_testing import store
from modelyard.ab_testing.journal import Result
from modelyard.ab_testing.metrics import LATENCY, Layout, layout
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.core.errors import NotFound
from modelyard.core.ports import Connection

Arm = tuple[str, str, int]  # test, variant and round


@dataclass(slots=True)
class Changed:
    """A unit as the database has it, and as it is after what was counted."""

    number: int
    before: Unit
    after: Unit


class Counting:
    """What one transaction counts, before it is written."""

    def __init__(self, rows: Connection) -> None:
        self._rows = rows
        self._tallies: dict[Arm, Tally] = defaultdict(Tally)
        self._units: dict[tuple[str, str, str], Changed] = {}
        self._plans: dict[str, tuple[Layout, frozenset[str]]] = {}

    def plan(self, test_id: str, variant: str) -> Layout:
        """What counting asks of a test's plan; NotFound for an unknown test or variant."""
        if test_id not in self._plans:
            test = store.find_test(self._rows, test_id)
            self._plans[test_id] = (layout(test.metrics), frozenset(test.shares)) if test else (Layout(), frozenset())
        plan, variants = self._plans[test_id]
        if variant not in variants:
            raise NotFound(f"There is no variant {variant!r} of a test {test_id!r}.")
        return plan

    def add_alone(self, arm: Arm, success: int, latencies: Sequence[float], times: int) -> None:
        """Count `times` results of units that make no other, some of them with a latency: as one by one, but quicker."""
        plan, tally = self.plan(*arm[:2]), self._tallies[arm]
        if not plan.summed:
            tally.count_alone(success, {LATENCY: latencies} if latencies else {}, times, plan)
            return
        tally.count_result(success, {}, plan, times - len(latencies))
        for latency in latencies:
            tally.count_result(success, {LATENCY: latency}, plan)
            tally.spot({LATENCY: latency}, plan)

    def add(self, results: Iterable[Result]) -> None:
        """Count results. One whose id was counted before is left out."""
        new = self._new(list(results))
        self._look_up(new)
        alone: dict[tuple[Arm, int], list[dict[str, float]]] = defaultdict(list)
        for result in new:
            if result.unit or self.plan(result.test_id, result.variant).summed:
                self._count(result, 1)
            else:
                alone[(result.test_id, result.variant, result.number), result.success].append(result.numbers)
        for (arm, success), told in alone.items():
            numbers: dict[str, list[float]] = defaultdict(list)
            for one in told:
                for name, value in one.items():
                    numbers[name].append(value)
            self._tallies[arm].count_alone(success, numbers, len(told), self.plan(*arm[:2]))

    def change(self, before: Result, after: Result | None) -> None:
        """Count what a result says now instead of what it said; None: it is not to count."""
        self._look_up([before])
        self._count(before, -1)
        if after is not None:
            self._settle_covariates(after)
            self._count(after, 1)
        self._tallies[before.test_id, before.variant, before.number].corrected += 1
        store.change_result(self._rows, before.test_id, before.result_id, after)

    def write(self) -> None:
        """Bring what was counted into the tables."""
        for (test_id, variant, _), unit in self._units.items():
            tally = self._tallies[test_id, variant, unit.number]
            tally.count_unit(unit.before, unit.after, self.plan(test_id, variant))
        store.save_units(self._rows, {key: unit.after for key, unit in self._units.items()})
        for (test_id, variant, number), tally in self._tallies.items():
            tally.merge(store.arm_tally(self._rows, test_id, variant, number))
            store.save_tally(self._rows, test_id, variant, number, tally)

    def _count(self, result: Result, times: int) -> None:
        """Count a result, or with -1 take it out."""
        plan, numbers = self.plan(result.test_id, result.variant), result.numbers
        tally = self._tallies[result.test_id, result.variant, result.number]
        tally.spot(numbers, plan, times)
        if not result.unit:
            tally.count_result(result.success, numbers, plan, times)
            return
        unit = self._units[result.test_id, result.variant, result.unit].after
        unit.add(result.success, numbers, plan, times)

    def _settle_covariates(self, after: Result) -> None:
        """A covariate that a correction tells takes the place of the one that was known."""
        if after.unit:
            unit = self._units[after.test_id, after.variant, after.unit].after
            told = self.plan(after.test_id, after.variant).covariates & after.numbers.keys()
            unit.known |= {name: after.numbers[name] for name in told}

    def _new(self, results: Sequence[Result]) -> list[Result]:
        """Those that have not been counted; they have from now on."""
        told: dict[str, dict[str, Result]] = defaultdict(dict)
        for result in results:
            if result.result_id:
                told[result.test_id].setdefault(result.result_id, result)
        for test_id, by_id in told.items():
            for known in store.results_of(self._rows, test_id, by_id):
                del by_id[known]
        new = [one for by_id in told.values() for one in by_id.values()]
        store.add_results(self._rows, new)
        return [*(one for one in results if not one.result_id), *new]

    def _look_up(self, results: Iterable[Result]) -> None:
        """Have the units of results at hand."""
        wanted: dict[str, set[str]] = defaultdict(set)
        numbers: dict[tuple[str, str, str], int] = {}
        for result in results:
            key = (result.test_id, result.variant, result.unit)
            if result.unit and key not in self._units:
                wanted[result.test_id].add(result.unit)
                numbers[key] = result.number
        known = {
            (test_id, *key): unit
            for test_id, units in wanted.items()
            for key, unit in store.find_units(self._rows, test_id, units).items()
        }
        for key, number in numbers.items():
            before = known.get(key, Unit())
            self._units[key] = Changed(number, before, before.copy())
