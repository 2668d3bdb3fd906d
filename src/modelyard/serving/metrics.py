"""Request counts by endpoint, arm and code over all processes and since ever, as Prometheus text.

Each slot has two files and one writer: `.keys` names a row a line, `.bin` holds the rows (count, summed microseconds,
a count for each bucket). A process that dies leaves its rows; the next one in its slot goes on with them.
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelyard.serving.places import Places

# seconds; the default buckets of Prometheus's clients, with three more below for answers within a millisecond
EDGES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MICROS = tuple(edge * 1e6 for edge in EDGES)
COUNT, SUM, FIRST, WIDTH = 0, 1, 2, 17
ROWS = 2048
SIZE = ROWS * WIDTH * 8

Key = tuple[str, str, int]  # endpoint, arm, status code


class RequestMetrics:
    """This process's own rows."""

    def __init__(self, places: Places, slot: int) -> None:
        places.metrics.mkdir(parents=True, exist_ok=True)
        self._keys = places.metrics / f"{slot}.keys"
        self._rows: dict[Key, int] = {key: row for row, key in enumerate(_read_keys(self._keys))}
        self._lock = threading.Lock()
        with (places.metrics / f"{slot}.bin").open("a+b") as stream:
            stream.truncate(SIZE)
            self._words = memoryview(mmap.mmap(stream.fileno(), SIZE)).cast("q")

    def count(self, endpoint: str, arm: str, code: int, micros: float) -> None:
        """Count one answered request. Beyond 2,048 combinations the rest is counted under the endpoint `other`."""
        key = (endpoint, arm, code)
        row = self._rows.get(key)
        if row is None:
            row = self._new_row(key)
        base = row * WIDTH
        with self._lock:
            self._words[base + COUNT] += 1
            self._words[base + SUM] += int(micros)
            self._words[base + FIRST + bisect_left(MICROS, micros)] += 1

    def add(self, key: Key, more: np.ndarray) -> None:
        """Add to a key's row what a process elsewhere has counted: count, summed microseconds, a count for each bucket."""
        row = self._rows.get(key)
        base = (self._new_row(key) if row is None else row) * WIDTH
        with self._lock:
            for place, value in enumerate(more.tolist()):
                self._words[base + place] += value

    def _new_row(self, key: Key) -> int:
        with self._lock:
            if len(self._rows) >= ROWS - 1:
                key = ("other", "", 0)
            if key not in self._rows:
                with self._keys.open("a", encoding="utf-8") as stream:
                    stream.write("\t".join(map(str, key)) + "\n")
                self._rows[key] = len(self._rows)
            return self._rows[key]


def _read_keys(path: Path) -> list[Key]:
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]  # a line without its end was never used
    parts = [line.split("\t") for line in lines]
    return [(endpoint, arm, int(code)) for endpoint, arm, code in parts]


def row_of(values: Sequence[int]) -> np.ndarray:
    """A row told as numbers."""
    return np.array(values, np.int64)


def merged(places: Places, *, slots: Sequence[int] | None = None) -> dict[Key, np.ndarray]:
    """Each key's row, summed over the slots (all of them by default)."""
    found: dict[Key, np.ndarray] = {}
    for path in sorted(places.metrics.glob("*.keys")):
        if slots is not None and int(path.stem) not in slots:
            continue
        keys = _read_keys(path)
        rows = np.fromfile(path.with_suffix(".bin"), np.int64).reshape(-1, WIDTH)
        for key, row in zip(keys, rows, strict=False):
            found[key] = found[key] + row if key in found else row
    return found


def prometheus(places: Places) -> str:
    """The text that Prometheus scrapes (exposition format 0.0.4)."""
    rows = sorted(merged(places).items())
    lines = [
        "# HELP modelyard_requests_total Requests answered, by endpoint, arm and status code.",
        "# TYPE modelyard_requests_total counter",
    ]
    lines += [f"modelyard_requests_total{_labels(key)} {row[COUNT]}" for key, row in rows]
    lines += [
        "# HELP modelyard_request_duration_seconds Time from the whole request to its answer.",
        "# TYPE modelyard_request_duration_seconds histogram",
    ]
    for key, row in rows:
        within = np.cumsum(row[FIRST : FIRST + len(EDGES)])
        for edge, count in zip(EDGES, within, strict=True):
            lines.append(f"modelyard_request_duration_seconds_bucket{_labels(key, f'{edge:g}')} {count}")
        lines.append(f"modelyard_request_duration_seconds_bucket{_labels(key, '+Inf')} {row[COUNT]}")
        lines.append(f"modelyard_request_duration_seconds_sum{_labels(key)} {row[SUM] / 1e6}")
        lines.append(f"modelyard_request_duration_seconds_count{_labels(key)} {row[COUNT]}")
    reports = places.slot_reports()
    lines += [
        "# HELP modelyard_workers Serving processes that are ready.",
        "# TYPE modelyard_workers gauge",
        f"modelyard_workers {sum(report.ready for report in reports.values())}",
    ]
    return "\n".join(lines) + "\n"


def _labels(key: Key, edge: str = "") -> str:
    endpoint, arm, code = key
    limit = f',le="{edge}"' if edge else ""
    return f'{{endpoint="{endpoint}",arm="{arm}",code="{code}"{limit}}}'


class LatencyWindow:
    """The p95 over all endpoints since the last look, for scaling: the upper edge of the bucket it falls in."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._before = np.zeros(WIDTH, np.int64)

    def p95(self) -> float | None:
        """Milliseconds; None if nothing was answered since."""
        rows = list(merged(self._places).values())
        now = np.sum(rows, axis=0) if rows else np.zeros(WIDTH, np.int64)
        new = (now - self._before)[FIRST:]
        self._before = now
        if new.sum() <= 0:
            return None
        place = int(np.searchsorted(np.cumsum(new), 0.95 * new.sum()))
        return 1000 * EDGES[min(place, len(EDGES) - 1)]
