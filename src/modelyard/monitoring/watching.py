"""The life-long test of a monitor: one conformal test martingale a column, carried from window to window.

A column alarms when its wealth reaches columns / alpha. By Ville's inequality and the union bound the chance that any
column of an unchanged stream ever does is at most alpha, whatever the dependence between columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelyard.monitoring.profile import Array, ColumnProfile, Columns, Profile, bucketed, level_cells, number_cells
from modelyard.monitoring.values import Watched
from modelyard.stats.martingale import SUMS, conformal_sums, log_restart_weight, log_wealth

CELLS = 64
LEVEL_CELLS = 256
_COMMON = 30
BETS = 32  # restarts that go on betting; one that is dropped keeps its wealth


@dataclass(slots=True)
class Stream:
    """One column's state: the bag's counts, the sums so far, each bet's window and sums at its start, dropped wealth."""

    bag: Array
    sums: Array
    starts: list[tuple[int, Array]] = field(default_factory=list)
    cash: float = -math.inf  # log wealth of the bets that stopped

    def advance(self, window: int, cells: Array, random: np.random.Generator) -> tuple[float, int]:
        """Bet on one more window; returns the log wealth and the window at which the best bet began."""
        self.starts.append((window, self.sums.copy()))
        self.sums += conformal_sums(self.bag, cells, random)
        wealth = log_wealth(self.sums - np.stack([start for _, start in self.starts]))
        wealth = wealth + [log_restart_weight(k) for k, _ in self.starts]
        unborn = -math.log(window + 1)  # the weight of all bets still to start
        total = float(np.logaddexp.reduce([*wealth, self.cash, unborn]))
        began = self.starts[int(np.argmax(wealth))][0]
        if len(self.starts) > BETS:
            least = int(np.argmin(wealth))
            self.cash = float(np.logaddexp(self.cash, wealth[least]))
            del self.starts[least]
        return total, began


@dataclass(slots=True)
class Watch:
    """A monitor's life-long test: windows and rows so far, a stream for each column, and the columns that alarmed."""

    streams: dict[str, Stream]
    window: int = 0
    rows: int = 0
    alarms: dict[str, int] = field(default_factory=dict)

    def advance(self, reference: Profile, columns: Columns, *, model: str, alpha: float) -> Watched:
        """Take one more window of rows in, in the order they came."""
        self.window += 1
        self.rows += len(next(iter(columns.values())))
        random = np.random.default_rng(self.window)  # a fixed stream: a replay gives the same answer
        threshold = len(self.streams) / alpha
        logs = {}
        for name, stream in self.streams.items():
            column = reference.columns[name]
            logs[name], began = stream.advance(self.window, cells(column, columns[name]), random)
            if logs[name] >= math.log(threshold):
                self.alarms.setdefault(name, began)
        e_values = {name: _exp(log - math.log(len(self.streams))) for name, log in logs.items()}
        return Watched(
            model=model,
            window=self.window,
            rows=self.rows,
            e_value=max(e_values.values()),
            threshold=1 / alpha,
            alarmed=bool(self.alarms),
            columns=dict(self.alarms),
            e_values=e_values,
        )


def new_watch(reference: Profile) -> Watch:
    """A test that has seen nothing but the reference."""
    streams = {}
    for name, column in reference.columns.items():
        streams[name] = Stream(bag=_bag(column), sums=np.zeros(SUMS))
    return Watch(streams=streams)


def cells(column: ColumnProfile, values: Array) -> Array:
    """The cell of each row: one of 64 equal shares of the reference, or the level's; the last is for missing values."""
    if column.shape.kind == "number":
        return _shares(column)[number_cells(column.shape, values)]
    return level_cells(column.shape, values, _level_cell(column))


def _bag(column: ColumnProfile) -> Array:
    """The reference's rows by cell."""
    if column.shape.kind == "number":
        return np.bincount(_shares(column), column.table, minlength=CELLS + 1).astype(np.int64)
    cell_of = _level_cell(column)
    cells = [cell_of(level) for level in (*column.shape.levels, None)]
    counts = [*column.counts[:-1], column.missing]
    return np.bincount(cells, counts, minlength=LEVEL_CELLS + 1).astype(np.int64)


def _shares(column: ColumnProfile) -> Array:
    before = np.cumsum(column.counts) - column.counts
    group = np.minimum(before * CELLS // max(int(column.counts.sum()), 1), CELLS - 1)
    return np.append(group, CELLS).astype(np.int64)


def _level_cell(column: ColumnProfile) -> Callable[[str | None], int]:
    """A cell for each level where all are common; else by a fixed hash, for a cell of the levels that the reference
    happens to lack would fill on a stream that has not changed."""
    levels, missing = column.shape.levels, LEVEL_CELLS
    if len(levels) < LEVEL_CELLS and column.counts[:-1].min() >= _COMMON:
        own: dict[str | None, int] = {level: i for i, level in enumerate(levels)}
        return lambda level: missing if level is None else own.get(level, LEVEL_CELLS - 1)
    return lambda level: missing if level is None else int(bucketed(level, LEVEL_CELLS)[1:])


def written(watch: Watch) -> str:
    """The state as JSON text."""
    streams = {
        name: {
            "bag": stream.bag.tolist(),
            "sums": stream.sums.tolist(),
            "starts": [[window, sums.tolist()] for window, sums in stream.starts],
            "cash": stream.cash if math.isfinite(stream.cash) else None,
        }
        for name, stream in watch.streams.items()
    }
    return json.dumps({"window": watch.window, "rows": watch.rows, "alarms": watch.alarms, "streams": streams})


def read(text: str) -> Watch:
    """The state that `written` wrote."""
    value: dict[str, Any] = json.loads(text)
    streams = {
        name: Stream(
            bag=np.array(stream["bag"], dtype=np.int64),
            sums=np.array(stream["sums"]),
            starts=[(window, np.array(sums)) for window, sums in stream["starts"]],
            cash=-math.inf if stream["cash"] is None else stream["cash"],
        )
        for name, stream in value["streams"].items()
    }
    return Watch(streams=streams, window=value["window"], rows=value["rows"], alarms=value["alarms"])


def _exp(log: float) -> float:
    return math.exp(min(log, 700.0))
