"""The payload log's rows in the order of time, a page at a time: what is held in memory does not grow with the log.

A page looks only into segments that may hold some of it, and takes from each the rows that it wants, found by DuckDB. A
place in the log is a row's time, request id and number, not a file, so a reader goes on wherever segments are compacted,
merged or dropped between two pages; nobody waits for readers, and readers for nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Invalid, NotFound, nearest
from modelyard.core.instants import micros, written
from modelyard.core.pages import Page, read_token
from modelyard.core.pages import page_token as made_token
from modelyard.serving import erasing, failures, indexing, logged, merging, segments
from modelyard.serving.segments import Columns

T = TypeVar("T")
Place = tuple[int, str, int]  # a row's time in microseconds, request id and number: what rows are ordered by
FILTERS = ("arm", "model", "version", "request_id", "unit")
ANSWERED, FAILED, ALL = RESULTS = ("answered", "failed", "all")
MOST = 10_000  # rows of a page that is sent
STEP = 10_000  # rows of a page where all are wanted: some ten MiB as mappings
FOREVER = 253_402_300_799_999_999  # the last microsecond of the year 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which rows: from a moment on and before another (microseconds since 1970), and what some columns are."""

    since: int = 0
    until: int = FOREVER
    equal: tuple[tuple[str, str], ...] = ()  # (column, value)
    result: str = ANSWERED  # of RESULTS


Find = Callable[[Wanted, Place | None, int], list[dict[str, Any]]]  # up to so many rows behind a place


def wanted(since: float | str, until: float | str, *, result: str = ANSWERED, **equal: str) -> Wanted:
    """The rows between two moments, in seconds since 1970 or ISO 8601 (UTC where no zone is said); "" is any value."""
    if result not in RESULTS:
        raise Invalid(f"result is {result!r:.80}. {nearest(result, list(RESULTS))}")
    return Wanted(
        since=_moment(since, "since") if since else 0,
        until=_moment(until, "until") if until else FOREVER,
        equal=tuple((name, value) for name, value in equal.items() if value),
        result=result,
    )


def _moment(value: float | str, name: str) -> int:
    try:
        return min(max(round(float(value) * 1e6), 0), FOREVER)
    except (ValueError, OverflowError):
        pass
    try:
        return micros(written(str(value)))
    except ValueError as error:
        raise Invalid(
            f"{name} is {value!r}. Write a time as 2026-01-31T12:00:00Z, or in seconds since 1970."
        ) from error


def place_of(row: dict[str, Any]) -> Place:
    """Where a row stands in the log."""
    return round(row["at"] * 1e6), row["request_id"], row["row"]


def which(since: float | str, until: float | str, equal: Mapping[str, str]) -> Wanted:
    """`wanted`; Invalid for a column that no filter is for."""
    for name in equal:
        if name not in (*FILTERS, "result"):
            raise Invalid(f"Payloads cannot be chosen by {name!r}. {nearest(name, [*FILTERS, 'result'])}")
    return wanted(since, until, **equal)


def rows(folder: Path, which: Wanted, *, after: Place | None = None, step: int = STEP) -> Iterator[dict[str, Any]]:
    """Every wanted row of an endpoint's folder behind a place, oldest first."""
    while some := page(folder, which, after, step):
        yield from some
        if len(some) < step:
            return
        after = place_of(some[-1])


def page(folder: Path, which: Wanted, after: Place | None, limit: int) -> list[dict[str, Any]]:
    """Up to so many wanted rows behind a place, oldest first."""
    return steady(folder, lambda: _page(folder, which, after, limit))


def paged(what: str, which: Wanted, find: Find, *, limit: int, page_token: str) -> Page[dict[str, Any]]:
    """A page of the wanted rows that `find` finds behind a place, and the token of the next, good for the same of `what`."""
    query = f"{what} {which}"
    if type(limit) is not int or not 1 <= limit <= MOST:
        raise Invalid(f"limit is {limit!r:.40}. Pass 1 to {MOST:,}, and page on with next_page_token.")
    after: Any = tuple(read_token(page_token, query)) if page_token else None
    if after is not None and [type(one) for one in after] != [int, str, int]:
        raise Invalid("The page token is none of this query's. Pass the next_page_token of its last answer.")
    some = find(which, after, limit + 1)
    items = tuple(some[:limit])
    return Page(items=items, next_page_token=made_token(place_of(items[-1]), query) if len(some) > limit else "")


def places(folder: Path, which: Wanted) -> Iterator[Place]:
    """Where the wanted rows stand."""
    return (place_of(row) for row in rows(folder, which))


def steady(folder: Path, look: Callable[[], T]) -> T:
    """What is found in a folder; looked for anew, while nobody changes the files, where one vanished during the look."""
    try:
        return look()
    except (FileNotFoundError, NotFound):
        if not folder.is_dir():
            raise
        with segments.locked(folder, shared=True):
            return look()


def _page(folder: Path, which: Wanted, after: Place | None, limit: int) -> list[dict[str, Any]]:
    if not folder.is_dir():
        return []
    start = which.since if after is None else max(which.since, after[0])
    found: list[tuple[Place, dict[str, Any]]] = []
    gone = erasing.read(folder)
    if which.result != ANSWERED:
        found = _least(_failed_rows(folder, which, after, gone), limit)
    if which.result == FAILED:
        return [row for _, row in found]
    raw, whole = _listed(folder)
    for path in raw:
        found += _raw_rows(path, folder.name, which, after, limit, gone)
    found = _least(found, limit)
    whole = (
        indexing.among(whole, asked)
        if (asked := [value for name, value in which.equal if name == "request_id"])
        else whole
    )
    spans = sorted((_oldest(path), path) for path in whole if path.stat().st_mtime * 1e6 >= start - 1)
    for oldest, path in spans:
        if oldest >= which.until or (len(found) == limit and found[-1][0][0] < oldest):
            break
        found = _least(found + _whole_rows(path, which, after, limit), limit)
    return [row for _, row in found]


def _failed_rows(
    folder: Path, which: Wanted, after: Place | None, gone: erasing.Erased
) -> list[tuple[Place, dict[str, Any]]]:
    """The wanted rows of failed requests: all of them, since they are few."""
    found = []
    for one in failures.known(folder, logged.raw(folder), logged.opened):
        at = round(one.at * 1e6)
        if at < which.since or at >= which.until or any(getattr(one, name) != value for name, value in which.equal):
            continue
        if not gone.of([one.request_id], [one.unit], np.array([at])).any():
            found += [
                (place, row)
                for row in failures.rows_of(one, folder.name)
                if (place := place_of(row)) > (after or (-1, "", 0))
            ]
    return found


def _least(found: list[tuple[Place, dict[str, Any]]], limit: int) -> list[tuple[Place, dict[str, Any]]]:
    return sorted(found, key=lambda one: one[0])[:limit]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """The raw and the Parquet segments, which hold each row once.

    Raw ones are listed first: a row that becomes Parquet meanwhile is then in both lists, or in a file that has vanished
    when it is opened, and never in none.
    """
    raw = logged.raw(folder)
    whole = merging.valid(folder)
    stems = {path.stem for path in whole}
    return [path for path in raw if path.name not in stems], whole


def _oldest(path: Path) -> int:
    stat = path.stat()
    told = _beside(path, stat.st_mtime_ns, stat.st_size)
    return int(told.get("from", 0))


@functools.lru_cache(maxsize=4096)
def _beside(path: Path, modified: int, size: int) -> dict[str, Any]:  # noqa: ARG001 - another file has others
    return merging.beside(path)


def _whole_rows(path: Path, which: Wanted, after: Place | None, limit: int) -> list[tuple[Place, dict[str, Any]]]:
    """The wanted rows of a Parquet segment."""
    some = plugins.load("parquet", "segment")(path).rows(
        since=which.since, until=which.until, equal=dict(which.equal), after=after, limit=limit
    )
    return _told(path, some)


def _told(path: Path, some: list[dict[str, Any]]) -> list[tuple[Place, dict[str, Any]]]:
    """A Parquet segment's rows as mappings with their features."""
    stat = path.stat()
    beside = _beside(path, stat.st_mtime_ns, stat.st_size)
    named = {name: column for column, name in beside["features"].items()}
    taken = {
        (one["model"], one["version"]): [(name, named[name]) for name in one["features"]] for one in beside["versions"]
    }
    found = []
    for row in some:
        place = row["at"], row["request_id"], row["row"]
        told = {name: row[name] for name in (*logged.BASE, "prediction", "probabilities")}
        told["at"] = row["at"] / 1e6
        told["features"] = {name: row[column] for name, column in taken[row["model"], row["version"]]}
        found.append((place, told))
    return found


def _raw_rows(  # noqa: PLR0917 - one call, right above
    path: Path, endpoint: str, which: Wanted, after: Place | None, limit: int, gone: erasing.Erased
) -> list[tuple[Place, dict[str, Any]]]:
    """The wanted rows of a raw segment."""
    segment = logged.opened(path)
    found: list[tuple[Place, dict[str, Any]]] = []
    for block in segment.blocks:
        some = segments.columns(block, segment.layouts[block.layout])
        at = np.round(some.at * 1e6).astype(np.int64)
        places = np.flatnonzero(_fit(some, at, which, after) & ~gone.of(some.request_id, some.unit, at))
        if len(places) > limit:
            last = np.partition(at[places], limit - 1)[limit - 1]
            places = places[at[places] <= last]
        found += [(place_of(row), row) for row in logged.rows_of(some, endpoint, places)]
    return found


def _fit(some: Columns, at: np.ndarray, which: Wanted, after: Place | None) -> np.ndarray:
    start = which.since if after is None else max(which.since, after[0])
    fit = (at >= start) & (at < which.until)
    if after is not None:
        for n in np.flatnonzero(fit & (at == start)).tolist():
            fit[n] = (start, some.request_id[n], int(some.row[n])) > after
    told = {"arm": some.layout.arm, "model": some.layout.model, "version": some.layout.version}
    for name, value in which.equal:
        if name in told:
            fit &= told[name] == value
        else:
            fit &= np.array(
                [one == value for one in (some.request_id if name == "request_id" else some.unit)], dtype=bool
            )
    return fit


def _only_answered(which: Wanted) -> None:
    if which.result != ANSWERED:
        raise Invalid("Tables and files have the answered rows only. Read the failed ones by payloads or payload_rows.")


def frame(folder: Path, which: Wanted, columns: tuple[str, ...] = ()) -> Any:
    """The wanted rows as a frame."""
    _only_answered(which)

    def read() -> Any:
        found = chosen(folder, which, columns)
        if found is not None:
            return found.frame()
        kinds = {**logged.BASE, "prediction": "float", "probabilities": "string"}
        return plugins.load("parquet", "chosen").empty({name: kinds.get(name, "float") for name in columns or kinds})

    return steady(folder, read)


def chosen(folder: Path, which: Wanted, columns: tuple[str, ...] = ()) -> Any:
    """The wanted rows as they stand in Parquet, as a frame or as one file; None where the folder has no segment."""
    _only_answered(which)
    if not folder.is_dir():
        return None
    tables = []
    gone, (raw, whole) = erasing.read(folder), _listed(folder)
    for path in raw:
        blocks = [one for one in _blocks(path, which, gone) if one.request_id]
        if blocks:
            told = logged.table(blocks, folder.name)
            tables.append((told.columns, told.types, {"probabilities": told.probabilities}))
    near = [path for path in whole if path.stat().st_mtime * 1e6 >= which.since - 1 and _oldest(path) < which.until]
    files = near or whole[:1]  # one that has no row of these still has the columns
    if not files and not tables:
        return None
    return plugins.load("parquet", "chosen")(
        sorted(files, key=_oldest),
        tables,
        since=which.since,
        until=which.until,
        equal=dict(which.equal),
        columns=columns,
    )


def _blocks(path: Path, which: Wanted, gone: erasing.Erased) -> Iterator[Columns]:
    segment = logged.opened(path)
    for block in segment.blocks:
        some = segments.columns(block, segment.layouts[block.layout])
        at = np.round(some.at * 1e6).astype(np.int64)
        yield segments.taken(
            some, np.flatnonzero(_fit(some, at, which, None) & ~gone.of(some.request_id, some.unit, at))
        )


def answers(folder: Path, ids: set[str]) -> dict[tuple[str, int], dict[str, Any]]:
    """(request id, row) -> the logged row, of those whose request id is one of these."""
    return steady(folder, lambda: _answers(folder, ids)) if ids and folder.is_dir() else {}


def _answers(folder: Path, ids: set[str]) -> dict[tuple[str, int], dict[str, Any]]:
    found = []
    gone, (raw, whole) = erasing.read(folder), _listed(folder)
    for path in indexing.among(whole, ids):
        found += [row for _, row in _told(path, plugins.load("parquet", "segment")(path).among(sorted(ids)))]
    for path in raw:
        segment = logged.opened(path)
        for block in segment.blocks:
            if ids.isdisjoint(block.ids):
                continue
            some = segments.columns(block, segment.layouts[block.layout])
            meant = np.array([one in ids for one in some.request_id], dtype=bool)
            meant &= ~gone.of(some.request_id, some.unit, np.round(some.at * 1e6).astype(np.int64))
            found += logged.rows_of(some, folder.name, np.flatnonzero(meant))
    return {(row["request_id"], row["row"]): row for row in found}
