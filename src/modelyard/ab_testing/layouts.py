"""How the values of runs are written: results that were told with an id, and what units have brought.

A value begins with the number of its layout, and is of one length in each. The layouts of a test are few: one for each way
in which results are told, and for each width that sums have grown to.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing import store
from modelyard.ab_testing.tally import Unit
from modelyard.ab_testing.units import Units
from modelyard.core.ports import Connection

WHOLE = '"whole"'  # the layout of units that are written as JSON, since what they hold has no fixed length
_HEAD = struct.Struct("<IQQ")  # layout, requests, successes
Bytes = NDArray[np.uint8]


class Layouts:
    """The numbers of a test's layouts."""

    def __init__(self, rows: Connection, test_id: str) -> None:
        self._rows, self._test_id = rows, test_id
        self._numbers = store.layouts(rows, test_id)
        self._told = {number: told for told, number in self._numbers.items()}

    def number(self, told: str) -> int:
        """The number of a layout, which it keeps."""
        found = self._numbers.get(told)
        if found is None:
            found = self._numbers[told] = len(self._numbers)
            self._told[found] = told
            store.add_layout(self._rows, self._test_id, found, told)
        return found

    def told(self, number: int) -> str:
        """The layout of a number."""
        return self._told[number]


@dataclass(frozen=True, slots=True)
class Form:
    """What results were told alike: whose they are, how they ended (None: withdrawn), and which numbers they brought."""

    variant: str
    number: int
    success: int | None
    has_unit: bool
    names: tuple[str, ...]

    def told(self) -> str:
        """The layout as it is kept."""
        return json.dumps([self.variant, self.number, self.success, self.has_unit, self.names])


def written_results(layouts: Layouts, form: Form, units: Bytes | None, numbers: Sequence[NDArray[Any]]) -> list[bytes]:
    """Results as values: whose they are by their units' keys, (n, 16), and the numbers of the form's names."""
    count = len(units) if units is not None else len(numbers[0]) if numbers else 1
    columns: list[Bytes] = [np.full(count, layouts.number(form.told()), "<u4").view(np.uint8).reshape(count, 4)]
    columns += [] if units is None else [units]
    columns += [one.astype("<f8").view(np.uint8).reshape(count, 8) for one in numbers]
    return rows_of(np.concatenate(columns, axis=1))


def written_result(layouts: Layouts, form: Form, unit: str, told: Mapping[str, float]) -> bytes:
    """One result as a value, its unit by its key in hexadecimal digits."""
    whose = np.frombuffer(bytes.fromhex(unit), np.uint8).reshape(1, 16) if unit else None
    (value,) = written_results(layouts, form, whose, [np.array([told[name]]) for name in form.names])
    return value


def rows_of(table: Bytes) -> list[bytes]:
    """Each row's bytes."""
    width, whole = table.shape[1], table.tobytes()
    return [whole[at : at + width] for at in range(0, len(whole), width)]


def read_result(layouts: Layouts, value: bytes) -> tuple[Form, str, dict[str, float]]:
    """How a result was told, its unit's key in hexadecimal digits ("": it has none), and its numbers."""
    (layout,) = struct.unpack_from("<I", value)
    variant, number, success, has_unit, names = json.loads(layouts.told(layout))
    at = 20 if has_unit else 4
    told = dict(zip(names, struct.unpack_from(f"<{len(names)}d", value, at), strict=True))
    return Form(variant, number, success, has_unit, tuple(names)), value[4:at].hex(), told


def write_unit(layouts: Layouts, unit: Unit) -> bytes:
    """One unit with all that it holds."""
    if not unit.requests:
        return b""
    head = _HEAD.pack(layouts.number(WHOLE), unit.requests, unit.successes)
    told = json.dumps(unit.plain()).encode()
    return head + told + b" " * (-len(told) % 4)  # runs are merged by words of four bytes


def read_unit(layouts: Layouts, value: bytes) -> Unit:
    """The unit of a value, of either layout; a new one of none."""
    if not value:
        return Unit()
    layout, requests, successes = _HEAD.unpack_from(value)
    if layouts.told(layout) == WHOLE:
        return Unit.from_plain(requests, successes, json.loads(value[_HEAD.size :]))
    return read_units(layouts, [value]).unit(0)


def write_units(layouts: Layouts, units: Units) -> list[bytes]:
    """Units as values, side by side; those that have nothing any more are empty."""
    names = [*units.totals, *units.known]
    has = [units.counts[name].astype(bool) for name in units.totals]
    has += [~np.isnan(values) for values in units.known.values()]
    found: list[bytes] = [b""] * len(units)
    kinds = np.zeros(len(units), np.int64)
    for column in has:  # units that have the same names are written alike
        kinds = np.unique(kinds * 2 + column, return_inverse=True)[1].reshape(-1)
    for kind in np.unique(kinds):
        which = np.flatnonzero((kinds == kind) & (units.requests > 0))
        if len(which):
            some = [name for name, column in zip(names, has, strict=True) if column[which[0]]]
            for place, value in zip(which.tolist(), _alike(layouts, units, which, some), strict=True):
                found[place] = value
    return found


def _alike(layouts: Layouts, units: Units, which: NDArray[np.int64], names: Sequence[str]) -> list[bytes]:
    """Values of units that have something of each of these names."""
    count, totals, columns = len(which), [], []
    for name in names:
        if name in units.known:
            columns.append(units.known[name][which].astype("<f8").view(np.uint8).reshape(count, 8))
            continue
        power = -units.powers[name] % 8 + units.powers[name]  # a few layouts, not one for each power
        shift, all_of = power - units.powers[name], units.totals[name]
        numbers = [all_of[place] << shift for place in which.tolist()]
        width = 4 * (max(map(int.bit_length, numbers)) // 32 + 1)
        packed = b"".join([number.to_bytes(width, "little", signed=True) for number in numbers])
        totals.append([name, power, width])
        columns.append(units.counts[name][which].astype("<u8").view(np.uint8).reshape(count, 8))
        columns.append(np.frombuffer(packed, np.uint8).reshape(count, width))
    known = [name for name in names if name in units.known]
    head = np.empty(count, [("layout", "<u4"), ("requests", "<u8"), ("successes", "<u8")])
    head["layout"] = layouts.number(json.dumps([totals, known]))
    head["requests"], head["successes"] = units.requests[which], units.successes[which]
    return rows_of(np.concatenate([head.view(np.uint8).reshape(count, _HEAD.size), *columns], axis=1))


def read_units(layouts: Layouts, values: Sequence[bytes]) -> Units:
    """The units of values, side by side; new ones of empty values. None of them holds histograms."""
    units = Units.empty(len(values))
    by_layout: dict[bytes, list[int]] = {}
    for place, value in enumerate(values):
        if value:
            by_layout.setdefault(value[:4], []).append(place)
    for layout, places in by_layout.items():
        told = layouts.told(int.from_bytes(layout, "little"))
        if told == WHOLE:
            units.take(np.array(places), Units.of([read_unit(layouts, values[place]) for place in places]))
            continue
        table = np.frombuffer(b"".join([values[place] for place in places]), np.uint8).reshape(len(places), -1)
        _read_alike(units, np.array(places), table, json.loads(told))
    return units


def _read_alike(units: Units, places: NDArray[np.int64], table: Bytes, told: Sequence[Any]) -> None:
    """Fill in units of one layout."""

    def column(begin: int, width: int) -> bytes:
        return np.ascontiguousarray(table[:, begin : begin + width]).tobytes()

    totals, known = told
    units.requests[places] = np.frombuffer(column(4, 8), "<i8")
    units.successes[places] = np.frombuffer(column(12, 8), "<i8")
    at = _HEAD.size
    for name, power, width in totals:
        whole = column(at + 8, width)
        numbers = [int.from_bytes(whole[i : i + width], "little", signed=True) for i in range(0, len(whole), width)]
        units.have(name, places, np.frombuffer(column(at, 8), "<i8"), power, numbers)
        at += 8 + width
    for name in known:
        units.know(name, places, np.frombuffer(column(at, 8), "<f8"))
        at += 8
