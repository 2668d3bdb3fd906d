"""All that a test remembers of units and results, as rows, and back: for documents."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from modelyard.ab_testing import store
from modelyard.ab_testing.layouts import Form, Layouts, read_result, read_unit, write_units, written_result
from modelyard.ab_testing.layouts import write_unit as write_whole
from modelyard.ab_testing.metrics import LATENCY, layout
from modelyard.ab_testing.runs import Kept, Shelf, entries, unpacked_keys
from modelyard.ab_testing.tally import Unit
from modelyard.ab_testing.units import Units
from modelyard.core.canonical import dumps
from modelyard.core.errors import Damaged
from modelyard.core.ports import Connection, Row

RESULTS = ""  # who owns the results that were told with an id; units are their variant's


def units(rows: Connection, test_id: str) -> list[Row]:
    """What units have brought, by variant and key."""
    how, shelf = Layouts(rows, test_id), Shelf()
    found: list[Row] = []
    for owner in [owner for owned, owner in store.owners(rows) if owned == test_id and owner != RESULTS]:
        for key, value in Kept(rows, shelf, test_id, owner).everything():
            unit = read_unit(how, value)
            counts = {"requests": unit.requests, "successes": unit.successes}
            found.append({"variant": owner, "unit": key.hex(), **counts, "sums": dumps(unit.plain())})
    return found


def results(rows: Connection, test_id: str) -> list[Row]:
    """The results that were told with an id, by key."""
    how = Layouts(rows, test_id)
    found: list[Row] = []
    for key, value in Kept(rows, Shelf(), test_id, RESULTS).everything():
        form, unit, told = read_result(how, value)
        latency = told.pop(LATENCY, None)
        whose = {"result_id": key.hex(), "variant": form.variant, "round": form.number, "unit": unit}
        found.append({**whose, "success": form.success, "latency": latency, "metrics": dumps(told)})
    return found


def write_units_of(rows: Connection, test_id: str, told: Sequence[Row]) -> None:
    """Remember units as rows tell them."""
    test = store.find_test(rows, test_id)
    columnar = test is not None and layout(test.metrics).columnar
    how = Layouts(rows, test_id)
    by_variant: dict[str, dict[str, Unit]] = defaultdict(dict)
    for row in told:
        try:
            unit = Unit.from_plain(int(row["requests"]), int(row["successes"]), json.loads(row["sums"]))
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise Damaged(f"A unit of {test_id} cannot be read: {row['sums']!r:.80}.") from error
        by_variant[row["variant"]][_key(row["unit"])] = unit
    for variant, found in by_variant.items():
        some = [found[key] for key in sorted(found)]
        values = write_units(how, Units.of(some)) if columnar else [write_whole(how, one) for one in some]
        _put(rows, test_id, variant, dict(zip(sorted(found), values, strict=True)))


def write_results_of(rows: Connection, test_id: str, told: Iterable[Mapping[str, Any]]) -> None:
    """Remember results as rows tell them."""
    how, found = Layouts(rows, test_id), {}
    for row in told:
        numbers = {} if row["latency"] is None else {LATENCY: float(row["latency"])}
        numbers |= json.loads(row["metrics"])
        unit = _key(row["unit"]) if row["unit"] else ""
        form = Form(row["variant"], row["round"], row["success"], bool(unit), tuple(numbers))
        found[_key(row["result_id"])] = written_result(how, form, unit, numbers)
    _put(rows, test_id, RESULTS, found)


def _put(rows: Connection, test_id: str, owner: str, found: Mapping[str, bytes]) -> None:
    names = sorted(found)
    keys = unpacked_keys(bytes.fromhex("".join(names)))
    Kept(rows, Shelf(), test_id, owner).put(entries(keys, [found[name] for name in names]))


def _key(told: Any) -> str:
    """The key of a unit or a result; Damaged for what is none."""
    try:
        if len(bytes.fromhex(told)) == 16:
            return str(told)
    except (TypeError, ValueError):
        pass
    raise Damaged(f"{told!r:.80} is no key of a unit or a result: 32 hexadecimal digits.")
