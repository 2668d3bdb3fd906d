"""Mergeable one-pass summaries of a table: counts on the reference's own bins and levels, so that windows add up.

A number column is counted on up to 1,024 quantile bins of the reference, with one bin below its smallest value and one
above its largest, and the sum of the values in each bin; a category, and a number with at most ten distinct values, by
level. Missing values are counted apart. Levels that the reference does not have are counted one by one as well: putting
them together because the reference lacks them would make every fresh sample look different. Above 2,048 levels, levels
are counted in 1,024 buckets of a fixed hash. A state takes at most tens of KB a column however many rows it has seen.
"""

from __future__ import annotations

import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid, nearest

Array = np.ndarray[Any, np.dtype[Any]]
Columns = dict[str, Array]

BINS = 1024  # KS within 0.0001 of the exact one at a million rows
FEW_VALUES = 10
MAX_LEVELS = 2048
MAX_NEW = 20_000
BUCKETS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a column is counted: as a number, on right-closed bins that end at `edges`, or by `levels`. The last count is
    for what lies beyond them. The levels of a `hashed` column are buckets."""

    name: str
    kind: Literal["number", "level"]
    edges: Array
    levels: tuple[str, ...] = ()
    numeric: bool = True  # whether text in the column is an error
    hashed: bool = False

    @property
    def cells(self) -> int:
        """How many counts there are."""
        return (len(self.edges) if self.kind == "number" else len(self.levels)) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """What one column of a table held: counts (and sums, for numbers) in the cells of its shape, and missing values.

    `new` says what levels the last cell is made of.
    """

    shape: Shape
    counts: Array
    sums: Array
    missing: int
    new: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> int:
        """All rows, missing values included."""
        return int(self.counts.sum()) + self.missing

    @property
    def table(self) -> Array:
        """The counts with the missing values as one more cell."""
        return np.append(self.counts, self.missing)

    def __add__(self, other: ColumnProfile) -> ColumnProfile:
        """The profile of both sets of rows; counts are exact, in any order."""
        return ColumnProfile(
            shape=self.shape,
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            missing=self.missing + other.missing,
            new=self.new + other.new,
        )

    def quantiles(self, shares: Array) -> Array:
        """Quantiles of a number column, as upper ends of bins."""
        bounds = np.append(self.shape.edges, self.shape.edges[-1])
        reached = np.searchsorted(np.cumsum(self.counts), shares * self.counts.sum(), side="left")
        found: Array = bounds[np.minimum(reached, len(bounds) - 1)]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a table held, column by column."""

    rows: int
    columns: Mapping[str, ColumnProfile]

    def __add__(self, other: Profile) -> Profile:
        columns = {name: column + other.columns[name] for name, column in self.columns.items()}
        return Profile(rows=self.rows + other.rows, columns=columns)


def columns_of(table: Any) -> Columns:
    """Name -> array from a DataFrame, a mapping of columns or a list of records; Invalid where there are no rows."""
    columns: Columns = plugins.load("tables", "pandas").columns(table)
    if not columns or not len(next(iter(columns.values()))):
        raise Invalid("The table has no rows. Pass at least one row of features.")
    return columns


def reference_profile(columns: Columns) -> Profile:
    """The profile of a reference table, which fixes the bins and levels of all that is compared with it."""
    rows = len(next(iter(columns.values())))
    return Profile(rows=rows, columns={name: _reference_column(name, values) for name, values in columns.items()})


def profile(reference: Profile, columns: Columns) -> Profile:
    """The profile of a table with exactly the reference's columns, on its bins and levels."""
    _check_names(list(reference.columns), list(columns))
    rows = len(next(iter(columns.values())))
    return Profile(
        rows=rows, columns={name: _count(column.shape, columns[name]) for name, column in reference.columns.items()}
    )


def aligned(first: ColumnProfile, second: ColumnProfile) -> tuple[Array, Array]:
    """Both tables of counts over the same cells: known levels, the rest, missing, and each new level."""
    names = sorted({*first.new, *second.new})
    tables = []
    for column in (first, second):
        table, new = column.table, np.array([column.new[name] for name in names], dtype=np.int64)
        table[-2] -= new.sum()
        tables.append(np.append(table, new))
    return tables[0], tables[1]


def number_cells(shape: Shape, values: Array) -> Array:
    """The cell of each row of a number column, in order: 0 to cells - 1, and `cells` for a missing value."""
    numbers = _numbers(shape.name, values)
    cells: Array = np.searchsorted(shape.edges, numbers, side="left")
    return np.where(np.isfinite(numbers), cells, shape.cells)


def level_cells(shape: Shape, values: Array, cell_of: Callable[[str | None], int]) -> Array:
    """What `cell_of` says of each row's level (None where it is missing), in order."""
    known: dict[Any, int] = {}
    rows = (_numbers(shape.name, values) if shape.numeric else values).tolist()
    for value in rows:
        if value not in known:
            level = _level(value)
            known[value] = cell_of(bucketed(level) if shape.hashed and level is not None else level)
    return np.array([known[value] for value in rows], dtype=np.int64)


def bucketed(level: str, buckets: int = BUCKETS) -> str:
    """The bucket of a level, by a hash that is the same everywhere."""
    return f"#{zlib.crc32(level.encode('utf-8', 'surrogatepass')) % buckets}"


def packed(whole: Profile) -> bytes:
    """A profile as bytes; `unpacked` gives it back."""
    arrays: dict[str, Array] = {}
    heads = []
    for i, (name, column) in enumerate(whole.columns.items()):
        shape = column.shape
        heads.append(
            [name, shape.kind, list(shape.levels), shape.numeric, shape.hashed, column.missing, dict(column.new)]
        )
        arrays |= {f"e{i}": shape.edges, f"c{i}": column.counts, f"s{i}": column.sums}
    arrays["head"] = np.frombuffer(json.dumps({"rows": whole.rows, "columns": heads}).encode(), dtype=np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **arrays)
    return stream.getvalue()


def unpacked(data: bytes) -> Profile:
    """The profile that `packed` made bytes of."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        head = json.loads(arrays["head"].tobytes())
        columns = {}
        for i, (name, kind, levels, numeric, hashed, missing, new) in enumerate(head["columns"]):
            edges = arrays[f"e{i}"]
            shape = Shape(name=name, kind=kind, edges=edges, levels=tuple(levels), numeric=numeric, hashed=hashed)
            columns[name] = ColumnProfile(
                shape=shape, counts=arrays[f"c{i}"], sums=arrays[f"s{i}"], missing=missing, new=Counter(new)
            )
    return Profile(rows=head["rows"], columns=columns)


def _check_names(known: list[str], given: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise Invalid(
            f"Column {unknown[0]!r} is not in the reference. {nearest(unknown[0], known)} "
            "Leave it out, or set a reference that has it."
        )
    absent = [name for name in known if name not in given]
    if absent:
        raise Invalid(f"Column {absent[0]!r} of the reference is not in the table. {nearest(absent[0], given)}")


def _reference_column(name: str, values: Array) -> ColumnProfile:
    if values.dtype.kind in "iuf":
        numbers = _numbers(name, values)
        finite = np.sort(numbers[np.isfinite(numbers)])
        _refuse_empty(name, len(finite))
        if 1 + np.count_nonzero(np.diff(finite)) > FEW_VALUES:
            ends = np.ceil(np.arange(1, BINS + 1) * (len(finite) / BINS)).astype(np.int64) - 1
            edges = np.unique(np.append(finite[ends], np.nextafter(finite[0], -np.inf)))
            return _count_numbers(Shape(name=name, kind="number", edges=edges), finite, len(values))
    counts = _level_counts(values)
    _refuse_empty(name, len(counts) - (None in counts))
    levels = tuple(level for level, _ in counts.most_common() if level is not None)
    hashed = len(levels) > MAX_LEVELS
    if hashed:
        levels = tuple(f"#{bucket}" for bucket in range(BUCKETS))
    numeric = values.dtype.kind in "iufb"
    shape = Shape(name=name, kind="level", edges=np.zeros(0), levels=levels, numeric=numeric, hashed=hashed)
    return _count_levels(shape, counts)


def _refuse_empty(name: str, present: int) -> None:
    if not present:
        raise Invalid(f"Column {name!r} of the reference has no value at all. Leave it out.")


def _count(shape: Shape, values: Array) -> ColumnProfile:
    if shape.kind == "number":
        numbers = _numbers(shape.name, values)
        return _count_numbers(shape, np.sort(numbers[np.isfinite(numbers)]), len(values))
    return _count_levels(shape, _level_counts(_numbers(shape.name, values) if shape.numeric else values))


def _count_numbers(shape: Shape, finite: Array, rows: int) -> ColumnProfile:
    """Counts and sums of sorted finite values."""
    bounds = np.concatenate([[0], np.searchsorted(finite, shape.edges, side="right"), [len(finite)]])
    counts = np.diff(bounds)
    sums = np.zeros(len(counts))
    filled = counts > 0
    if len(finite):
        sums[filled] = np.add.reduceat(finite, bounds[:-1][filled])
    return ColumnProfile(shape=shape, counts=counts, sums=sums, missing=rows - len(finite))


def _count_levels(shape: Shape, counts: Counter[str | None]) -> ColumnProfile:
    missing = counts.pop(None, 0)
    present: Counter[str] = Counter()
    for level, count in counts.items():
        if level is not None:
            present[bucketed(level) if shape.hashed else level] += count
    known = np.array([present.pop(level, 0) for level in shape.levels], dtype=np.int64)
    rest = present.total()
    new = present if len(present) <= MAX_NEW else Counter(dict(present.most_common(MAX_NEW)))
    return ColumnProfile(shape=shape, counts=np.append(known, rest), sums=np.zeros(0), missing=missing, new=new)


def _numbers(name: str, values: Array) -> Array:
    """The column as float64; missing and infinite values are not finite."""
    if values.dtype.kind in "iufb":
        return values.astype(float)
    try:
        return np.array([np.nan if value is None else float(value) for value in values.tolist()], dtype=float)
    except (TypeError, ValueError) as error:
        bad = next(value for value in values.tolist() if isinstance(value, str) or not _is_number(value))
        raise Invalid(
            f"Column {name!r} is a number in the reference, and here it holds {bad!r}. Pass numbers."
        ) from error


def _is_number(value: object) -> bool:
    return value is None or hasattr(value, "__float__")


def _level_counts(values: Array) -> Counter[str | None]:
    """Rows by level; None counts the missing ones."""
    if values.dtype.kind in "iufb":
        distinct, counts = np.unique(values.astype(float), return_counts=True)
        found: Counter[str | None] = Counter()
        for value, count in zip(distinct.tolist(), counts.tolist(), strict=True):
            found[_level(value)] += count
        return found
    found = Counter()
    for value, count in Counter(values.tolist()).items():
        found[_level(value)] += count
    return found


def _level(value: Any) -> str | None:
    """The name of a level: 1, 1.0 and True are one."""
    if value is None:
        return None
    if isinstance(value, (bool, int, float)):
        if not np.isfinite(value):
            return None
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    return str(value)
