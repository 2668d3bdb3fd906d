"""What journals hold, read column by column: results that are told alike are counted together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing.journal import ALONE, BETWEEN, INNER
from modelyard.ab_testing.metrics import LATENCY
from modelyard.ab_testing.runs import Keys, unpacked_keys

Arm = tuple[str, str, int]  # test, variant and round
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Results of one arm that ended alike and are told alike: all of them have a unit, an id and these numbers, or none has.

    `calls` says which were told earlier.
    """

    arm: Arm
    success: int
    count: int
    numbers: Mapping[str, Floats]
    units: Keys | None = None
    ids: Keys | None = None
    calls: NDArray[np.int64] | None = None

    def some(self, which: NDArray[np.bool_]) -> Group:
        """Some of them."""
        return replace(
            self,
            count=int(which.sum()),
            numbers={name: values[which] for name, values in self.numbers.items()},
            units=None if self.units is None else self.units[which],
            ids=None if self.ids is None else self.ids[which],
            calls=None if self.calls is None else self.calls[which],
        )


@dataclass(frozen=True, slots=True)
class Read:
    """What lines hold: results that bring a latency at most, as (arm, success, how many) and latencies, and all others."""

    alone: Sequence[tuple[tuple[Arm, int, int], Floats]]
    groups: Sequence[Group]


@dataclass(slots=True)
class _Columns:
    """What is told of results alike, as digits."""

    calls: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    latencies: list[str] = field(default_factory=list)
    units: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    numbers: list[list[str]] = field(default_factory=list)


def read(lines: bytes) -> Read:
    """What a journal's lines hold; ValueError for what was never written so."""
    heads: dict[str, list[str]] = {}  # their latencies
    alike: dict[tuple[str, ...], _Columns] = {}
    ends = ALONE.decode()
    texts = lines.replace(b"\n", BETWEEN).decode().split(BETWEEN.decode())[:-1]
    for call, text in enumerate(texts):
        if text.endswith(ends):
            head, latencies, _, _, _ = text.rsplit("\t", 4)
            heads.setdefault(head, []).append(latencies)
        else:
            _sort_in(alike, call, text)
    alone = []
    for head, told in heads.items():
        test_id, variant, number, success, times = head.split("\t")
        key = (test_id, variant, int(number)), _success(success), int(times) * len(told)
        alone.append((key, _floats("".join(told))))
    return Read(alone, [_group(shape, columns) for shape, columns in alike.items()])


def _sort_in(alike: dict[tuple[str, ...], _Columns], call: int, text: str) -> None:
    test_id, variant, number, success, times, latencies, units, ids, numbers = text.split("\t", 8)
    parts = numbers.split(INNER) if numbers else []
    shape = (test_id, variant, number, success, latencies[:1], *parts[::2], units[:1] and "unit", ids[:1] and "id")
    columns = alike.get(shape)
    if columns is None:
        columns = alike[shape] = _Columns()
    columns.calls.append(call)
    columns.times.append(int(times))
    columns.latencies.append(latencies)
    columns.units.append(units)
    columns.ids.append(ids)
    columns.numbers.append(parts[1::2])


def _group(shape: Sequence[str], columns: _Columns) -> Group:
    test_id, variant, number, success, latency, *names, has_units, has_ids = shape
    count = sum(columns.times)
    numbers = {LATENCY: _floats("".join(columns.latencies))} if latency else {}
    numbers |= {
        name: _floats("".join(told)) for name, told in zip(names, zip(*columns.numbers, strict=True), strict=True)
    }
    units = unpacked_keys(bytes.fromhex("".join(columns.units))) if has_units else None
    ids = unpacked_keys(bytes.fromhex("".join(columns.ids))) if has_ids else None
    for column in (*numbers.values(), units, ids):
        if column is not None and len(column) != count:
            raise ValueError(f"{len(column)} values of {count} results")
    calls = np.repeat(columns.calls, columns.times)
    return Group((test_id, variant, int(number)), _success(success), count, numbers, units, ids, calls)


def _success(told: str) -> int:
    return ("0", "1").index(told)


def _floats(digits: str) -> Floats:
    found = np.frombuffer(bytes.fromhex(digits), "<f8").astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError("not a number")
    return found


def arms(read_: Read) -> Iterable[tuple[str, str]]:
    """The (test, variant) of everything that was read."""
    return {arm[:2] for (arm, _, _), _ in read_.alone} | {group.arm[:2] for group in read_.groups}
