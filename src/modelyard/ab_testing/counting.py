"""Counting within one transaction: results into tallies, each once, and what was counted wrongly out of them again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing import batches, layouts, store
from modelyard.ab_testing.batches import Arm, Group, Read
from modelyard.ab_testing.journal import Result, key
from modelyard.ab_testing.layouts import Form, Layouts
from modelyard.ab_testing.metrics import LATENCY, Layout, layout
from modelyard.ab_testing.runs import Entries, Kept, Keys, Shelf, entries, packed_key, unpacked_keys
from modelyard.ab_testing.tally import Tally, Unit
from modelyard.ab_testing.units import Told, Units, count_units
from modelyard.core.errors import NotFound
from modelyard.core.ports import Connection

RESULTS = ""  # who owns the results that were told with an id; units are their variant's


@dataclass(slots=True)
class Changed:
    """A unit as the database has it, and as it is after what was counted."""

    number: int
    before: Unit
    after: Unit


class Counting:
    """What one transaction counts, before it is written."""

    def __init__(self, rows: Connection, shelf: Shelf) -> None:
        self._rows, self._shelf = rows, shelf
        self._tallies: dict[Arm, Tally] = defaultdict(Tally)
        self._units: dict[tuple[str, str, str], Changed] = {}
        self._results: dict[tuple[str, str], bytes] = {}
        self._plans: dict[str, tuple[Layout, frozenset[str]]] = {}
        self._kept: dict[tuple[str, str], Kept] = {}
        self._layouts: dict[str, Layouts] = {}

    def plan(self, test_id: str, variant: str) -> Layout:
        """What counting asks of a test's plan; NotFound for an unknown test or variant."""
        if test_id not in self._plans:
            test = store.find_test(self._rows, test_id)
            self._plans[test_id] = (layout(test.metrics), frozenset(test.shares)) if test else (Layout(), frozenset())
        plan, variants = self._plans[test_id]
        if variant not in variants:
            raise NotFound(f"There is no variant {variant!r} of a test {test_id!r}.")
        return plan

    def read(self, lines: bytes) -> Read:
        """What a journal's lines hold; ValueError or LookupError for what was never written so."""
        found = batches.read(lines)
        for test_id, variant in batches.arms(found):
            self.plan(test_id, variant)
        return found

    def add(self, read: Read) -> None:
        """Count what was read from journals. A result whose id was counted before is left out."""
        for (arm, success, times), latencies in read.alone:
            numbers = {LATENCY: latencies} if len(latencies) else {}
            bare = times - len(latencies)
            self._add_alone(Group(arm, success, len(latencies), numbers))
            self._add_alone(Group(arm, success, bare, {}))
        with_units: dict[Arm, list[Group]] = defaultdict(list)
        for group in self._once(read.groups):
            if group.units is None:
                self._add_alone(group)
            else:
                with_units[group.arm].append(group)
        for arm, groups in with_units.items():
            self._add_units(arm, groups)

    def results(self, test_id: str, ids: Sequence[str]) -> dict[str, Result | None]:
        """What the results of these ids say, None for a withdrawn one; those are left out that were never counted."""
        names = sorted(set(ids))
        found = self._owned(test_id, RESULTS).find(unpacked_keys(bytes.fromhex("".join(names))))
        how = self._layouts_of(test_id)
        said: dict[str, Result | None] = {}
        for name, value in zip(names, found, strict=True):
            if value:
                form, unit, told = layouts.read_result(how, value)
                said[name] = (
                    None
                    if form.success is None
                    else Result(test_id, form.variant, form.number, form.success, unit, name, told)
                )
        return said

    def change(self, before: Result, after: Result | None) -> None:
        """Count what a result says now instead of what it said; None: it is not to count."""
        self._count(before, -1)
        if after is not None:
            self._settle_covariates(after)
            self._count(after, 1)
        self._tallies[before.test_id, before.variant, before.number].corrected += 1
        told = {} if after is None else after.told
        success = None if after is None else after.success
        form = Form(before.variant, before.number, success, bool(before.unit), tuple(told))
        how = self._layouts_of(before.test_id)
        self._results[before.test_id, before.result_id] = layouts.written_result(how, form, before.unit, told)

    def forget(self, units: Sequence[str]) -> int:
        """Leave out all that units have brought, in every test; returns how many units of arms and results that were."""
        removed = 0
        for test_id, owner in store.owners(self._rows):
            keys = unpacked_keys(bytes.fromhex("".join(sorted({key(test_id, unit) for unit in units}))))
            kept = self._owned(test_id, owner)
            removed += kept.drop(keys) if owner != RESULTS else kept.rewrite_without(self._results_of(test_id, keys))
        return removed

    def write(self) -> None:
        """Bring what was counted into the tables."""
        changed: dict[tuple[str, str], dict[str, bytes]] = defaultdict(dict)
        for (test_id, variant, unit), one in self._units.items():
            self._tallies[test_id, variant, one.number].count_unit(one.before, one.after, self.plan(test_id, variant))
            changed[test_id, variant][unit] = self._written_unit(test_id, variant, one.after)
        for (test_id, result_id), value in self._results.items():
            changed[test_id, RESULTS][result_id] = value
        for (test_id, owner), values in changed.items():
            names = sorted(values)
            keys = unpacked_keys(bytes.fromhex("".join(names)))
            self._owned(test_id, owner).put(entries(keys, [values[name] for name in names]))
        for (test_id, variant, number), tally in self._tallies.items():
            tally.merge(store.arm_tally(self._rows, test_id, variant, number))
            store.save_tally(self._rows, test_id, variant, number, tally)

    def _add_alone(self, group: Group) -> None:
        """Count results of units that make no other."""
        plan, tally = self.plan(*group.arm[:2]), self._tallies[group.arm]
        if not group.count:
            return
        if not plan.summed:
            tally.count_alone(group.success, group.numbers, group.count, plan)
            return
        tally.spot_all(group.numbers, plan)
        places, successes = np.arange(group.count), np.full(group.count, group.success)
        before = Units.empty(group.count)
        told = {name: (places, values) for name, values in group.numbers.items()}
        count_units(tally, before, before.and_then(1, successes, told, plan), plan)

    def _add_units(self, arm: Arm, groups: Sequence[Group]) -> None:
        """Count results of units that may have made others."""
        plan, tally = self.plan(*arm[:2]), self._tallies[arm]
        for group in groups:
            tally.spot_all(group.numbers, plan)
        found = [group.units for group in groups if group.units is not None]
        keys, whose = _each(np.concatenate(found))
        kept, how = self._owned(*arm[:2]), self._layouts_of(arm[0])
        values = kept.find(keys)
        if plan.columnar:
            before = layouts.read_units(how, values)
            after = before.and_then(*_told(groups, whose, len(keys)), plan)
            count_units(tally, before, after, plan)
            kept.put(entries(keys, layouts.write_units(how, after)))
            return
        units = [layouts.read_unit(how, value) for value in values]
        were = [unit.copy() for unit in units]
        at = iter(whose.tolist())
        for group in groups:
            for row in _rows(group.numbers, group.count):
                units[next(at)].add(group.success, row, plan)
        for was, unit in zip(were, units, strict=True):
            tally.count_unit(was, unit, plan)
        kept.put(entries(keys, [layouts.write_unit(how, unit) for unit in units]))

    def _once(self, groups: Sequence[Group]) -> list[Group]:
        """The results that were not counted before; they are known from now on. Of one told twice the first counts."""
        by_test: dict[str, list[Group]] = defaultdict(list)
        for group in groups:
            if group.ids is not None:
                by_test[group.arm[0]].append(group)
        new = [group for group in groups if group.ids is None]
        for test_id, told in by_test.items():
            new += self._first_told(test_id, told)
        return new

    def _first_told(self, test_id: str, groups: Sequence[Group]) -> list[Group]:
        ids = np.concatenate([group.ids for group in groups if group.ids is not None])
        calls = np.concatenate([group.calls for group in groups if group.calls is not None])
        order = np.lexsort((calls, ids[:, 1], ids[:, 0]))
        ordered = ids[order]
        order = order[np.insert((ordered[1:] != ordered[:-1]).any(axis=1), 0, True)]
        kept, how = self._owned(test_id, RESULTS), self._layouts_of(test_id)
        order = order[~kept.known(ids[order])]
        values: list[bytes] = []
        for group in groups:
            values += _values(how, group)
        kept.put(entries(ids[order], [values[place] for place in order.tolist()]))
        fresh = np.zeros(len(ids), np.bool_)
        fresh[order] = True
        parts = np.split(fresh, np.cumsum([group.count for group in groups])[:-1])
        return [
            group if part.all() else group.some(part) for group, part in zip(groups, parts, strict=True) if part.any()
        ]

    def _count(self, result: Result, times: int) -> None:
        """Count a result, or with -1 take it out."""
        plan = self.plan(result.test_id, result.variant)
        tally = self._tallies[result.test_id, result.variant, result.number]
        tally.spot(result.told, plan, times)
        if result.unit:
            self._unit(result).after.add(result.success, result.told, plan, times)
        else:
            tally.count_result(result.success, result.told, plan, times)

    def _settle_covariates(self, after: Result) -> None:
        """A covariate that a correction tells takes the place of the one that was known."""
        if after.unit:
            told = self.plan(after.test_id, after.variant).covariates & after.told.keys()
            self._unit(after).after.known |= {name: after.told[name] for name in told}

    def _unit(self, result: Result) -> Changed:
        """The unit of a result."""
        test_id, variant, unit = whose = result.test_id, result.variant, result.unit
        if whose not in self._units:
            (value,) = self._owned(test_id, variant).find(unpacked_keys(bytes.fromhex(unit)))
            before = layouts.read_unit(self._layouts_of(test_id), value)
            self._units[whose] = Changed(result.number, before, before.copy())
        return self._units[whose]

    def _written_unit(self, test_id: str, variant: str, unit: Unit) -> bytes:
        how = self._layouts_of(test_id)
        if not self.plan(test_id, variant).columnar:
            return layouts.write_unit(how, unit)
        return layouts.write_units(how, Units.of([unit]))[0]

    def _results_of(self, test_id: str, keys: Keys) -> Callable[[Entries], list[int]]:
        """Says which entries are results of these units."""
        how, names = self._layouts_of(test_id), [packed_key(*one) for one in keys]

        def found(held: Entries) -> list[int]:
            whole, places = held.values.tobytes(), []
            for name in names:
                at = whole.find(name)
                while at >= 0:
                    place = int(np.searchsorted(held.starts, at, "right")) - 1
                    if layouts.read_result(how, held.value(place))[1] == name.hex():
                        places.append(place)
                    at = whole.find(name, at + 1)
            return places

        return found

    def _owned(self, test_id: str, owner: str) -> Kept:
        if (test_id, owner) not in self._kept:
            self._kept[test_id, owner] = Kept(self._rows, self._shelf, test_id, owner)
        return self._kept[test_id, owner]

    def _layouts_of(self, test_id: str) -> Layouts:
        if test_id not in self._layouts:
            self._layouts[test_id] = Layouts(self._rows, test_id)
        return self._layouts[test_id]


def _each(keys: Keys) -> tuple[Keys, NDArray[np.int64]]:
    """The keys in order, each once, and which of them every one is."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    first = np.insert((ordered[1:] != ordered[:-1]).any(axis=1), 0, True)
    whose = np.empty(len(keys), np.int64)
    whose[order] = np.cumsum(first) - 1
    return ordered[first], whose


def _told(
    groups: Sequence[Group], whose: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Told]]:
    """How many results each unit has brought, how many successes, and which numbers; `whose` the results are, in order."""
    successes, begin = np.zeros(count, np.int64), 0
    parts: dict[str, list[Told]] = defaultdict(list)
    for group in groups:
        mine = whose[begin : begin + group.count]
        begin += group.count
        successes += group.success * np.bincount(mine, minlength=count)
        for name, values in group.numbers.items():
            parts[name].append((mine, values))
    numbers = {
        name: (np.concatenate([places for places, _ in told]), np.concatenate([values for _, values in told]))
        for name, told in parts.items()
    }
    return np.bincount(whose, minlength=count), successes, numbers


def _values(how: Layouts, group: Group) -> list[bytes]:
    """A group's results as they are remembered."""
    form = Form(group.arm[1], group.arm[2], group.success, group.units is not None, tuple(group.numbers))
    units = None if group.units is None else group.units.astype(">u8").view(np.uint8).reshape(-1, 16)
    columns = [*group.numbers.values()]
    if units is None and not columns:
        return layouts.written_results(how, form, None, []) * group.count
    return layouts.written_results(how, form, units, columns)


def _rows(numbers: Mapping[str, NDArray[np.float64]], count: int) -> list[dict[str, float]]:
    """The numbers of each result."""
    columns = [values.tolist() for values in numbers.values()]
    if not columns:
        return [{} for _ in range(count)]
    return [dict(zip(numbers, row, strict=True)) for row in zip(*columns, strict=True)]
