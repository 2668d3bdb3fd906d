"""Request counts by endpoint, arm and code over all processes and since ever, as Prometheus text.

Each slot has two files and one writer: `.keys` names a row a line, `.bin` holds the rows (count, summed microseconds,
a count for each bucket). A process that dies leaves its rows; the next one in its slot goes on with them.
"""

from __future__ import annotations

import mmap
import os
import resource
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.serving import calls, compaction, segments
from modelyard.serving.counters import Counters
from modelyard.serving.exposition import COUNTER, GAUGE, HISTOGRAM, Family, text
from modelyard.serving.places import Places, SlotReport
from modelyard.serving.replies import TEXT
from modelyard.serving.vigil import replaced

# seconds; the default buckets of Prometheus's clients, with three more below for answers within a millisecond
EDGES = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MICROS = tuple(edge * 1e6 for edge in EDGES)
COUNT, SUM, FIRST, WIDTH = 0, 1, 2, 17
ROWS = 2048
SIZE = ROWS * WIDTH * 8

Key = tuple[str, str, int]  # endpoint, arm, status code; of work: endpoint and arm or model and version, what
WORK = "work"
QUEUED, JOINED, LOADED = WORKS = 1, 2, 3  # no status codes, so that rows of both kinds can be told apart
SIZES = tuple(float(2**power) for power in range(len(EDGES)))
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Rows:
    """One process's rows in a folder."""

    def __init__(self, folder: Path, slot: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._keys = folder / f"{slot}.keys"
        self._rows: dict[Key, int] = {key: row for row, key in enumerate(_read_keys(self._keys))}
        self._lock = threading.Lock()
        with (folder / f"{slot}.bin").open("a+b") as stream:
            stream.truncate(SIZE)
            self._words = memoryview(mmap.mmap(stream.fileno(), SIZE)).cast("q")

    def observe(self, key: Key, value: float, edges: tuple[float, ...]) -> None:
        """Count a value. Beyond 2,048 keys the rest is counted under the endpoint `other`."""
        row = self._rows.get(key)
        if row is None:
            row = self._new_row(key)
        base = row * WIDTH
        with self._lock:
            self._words[base + COUNT] += 1
            self._words[base + SUM] += int(value)
            self._words[base + FIRST + bisect_left(edges, value)] += 1

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


class RequestMetrics(Rows):
    """The answered requests of one process, and beside them what else it measures, as `work`."""

    def __init__(self, places: Places, slot: int) -> None:
        super().__init__(places.metrics, slot)
        self.work = Rows(places.metrics / WORK, slot)

    def count(self, endpoint: str, arm: str, code: int, micros: float) -> None:
        """Count one answered request."""
        self.observe((endpoint, arm, code), micros, MICROS)

    def queued(self, endpoint: str, arm: str, micros: float) -> None:
        """Count how long a request waited for its call."""
        self.work.observe((endpoint, arm, QUEUED), micros, MICROS)

    def joined(self, model: str, version: str, rows: int) -> None:
        """Count a joined call."""
        self.work.observe((model, version, JOINED), rows, SIZES)

    def loaded(self, model: str, version: str, micros: float) -> None:
        """Count how long a version took to load."""
        self.work.observe((model, version, LOADED), micros, MICROS)


def _read_keys(path: Path) -> list[Key]:
    if not path.exists():
        return []
    lines = path.read_text("utf-8").split("\n")[:-1]  # a line without its end was never used
    parts = [line.split("\t") for line in lines]
    return [(endpoint, arm, int(code)) for endpoint, arm, code in parts]


def row_of(values: Sequence[int]) -> np.ndarray:
    """A row told as numbers."""
    return np.array(values, np.int64)


def merged(places: Places, *, slots: Sequence[int] | None = None, work: bool = False) -> dict[Key, np.ndarray]:
    """Each key's row, summed over the slots (all of them by default): of the requests, or of the work."""
    found: dict[Key, np.ndarray] = {}
    for path in sorted((places.metrics / WORK if work else places.metrics).glob("*.keys")):
        if slots is not None and int(path.stem) not in slots:
            continue
        keys = _read_keys(path)
        rows = np.fromfile(path.with_suffix(".bin"), np.int64).reshape(-1, WIDTH)
        for key, row in zip(keys, rows, strict=False):
            found[key] = found[key] + row if key in found else row
    return found


def prometheus(places: Places, kind: bytes = TEXT) -> str:
    """What Prometheus scrapes, in one of the content types of `exposition`."""
    reports = places.slot_reports()
    reports = dict(sorted(reports.items()))
    living = {slot: report.pid for slot, report in reports.items()}
    families = [*_requests(places), *_work(places), *_arms(places), *_payloads(places)]
    ready = sum(report.ready for report in reports.values())
    families.append(Family("modelyard_workers", GAUGE, "Serving processes that are ready.").add(ready))
    here = {slot: pid for slot, pid in living.items() if not reports[slot].node}
    return text([*families, *_workers(places, reports), *_processes(here)], kind)


def _requests(places: Places) -> list[Family]:
    total = Family("modelyard_requests", COUNTER, "Requests answered, by endpoint, arm and status code.")
    duration = Family(
        "modelyard_request_duration_seconds",
        HISTOGRAM,
        "Time from the whole request to its answer (a stream's beginning).",
    )
    for (endpoint, arm, code), row in sorted(merged(places).items()):
        labels = {"endpoint": endpoint, "arm": arm, "code": code}
        total.add(int(row[COUNT]), **labels)
        duration.spread(EDGES, row[FIRST:], row[SUM] / 1e6, **labels)
    return [total, duration]


def _work(places: Places) -> list[Family]:
    """What is counted besides: waiting, joined calls, loading."""
    queue = Family(
        "modelyard_queue_duration_seconds", HISTOGRAM, "Time that a request waited for its model's call to begin."
    )
    joined = Family(
        "modelyard_batch_size", HISTOGRAM, "Rows that were asked in one call of a model that joins requests."
    )
    load = Family("modelyard_model_load_duration_seconds", HISTOGRAM, "Time to load a version and have it answer.")
    for (one, other, what), row in sorted(merged(places, work=True).items()):
        if what == QUEUED:
            queue.spread(EDGES, row[FIRST:], row[SUM] / 1e6, endpoint=one, arm=other)
        elif what == JOINED:
            joined.spread(SIZES, row[FIRST:], float(row[SUM]), model=one, version=other)
        elif what == LOADED:
            load.spread(EDGES, row[FIRST:], row[SUM] / 1e6, model=one, version=other)
    return [queue, joined, load]


def _arms(places: Places) -> list[Family]:
    """What each arm should get and has done in the present generation."""
    weight = Family("modelyard_arm_weight", GAUGE, "The share of an endpoint's requests that an arm is to get.")
    generation = Family("modelyard_generation", GAUGE, "The number of the routing that an endpoint should carry out.")
    errors = Family(
        "modelyard_arm_errors", COUNTER, "Failures of an arm in the present generation, as its guard counts them."
    )
    shadow = Family(
        "modelyard_shadow_comparisons", COUNTER, "Copies of requests for the shadow, by what became of them."
    )
    rolled = Family(
        "modelyard_guard_tripped",
        GAUGE,
        "Whether the guard has sent everything back to the baseline, or a test's control.",
    )
    for endpoint in sorted(places.traffic_files()):
        try:
            traffic = places.read_traffic(endpoint).traffic
            file = places.counters(endpoint, traffic.generation)
            counters = Counters(file) if file.exists() else None
        except (FileNotFoundError, Damaged):  # removed meanwhile, or the workers' to tell of
            continue
        generation.add(traffic.generation, endpoint=endpoint)
        counted = counters.merged_here(traffic) if counters else None
        for arm in traffic.arms:
            weight.add(arm.weight, endpoint=endpoint, arm=arm.name, model=arm.model, version=arm.version)
            if counted:
                errors.add(counted.arms[arm.name].errors, endpoint=endpoint, arm=arm.name)
        if counted and counted.shadow:
            for name in ("compared", "agreed", "errors", "dropped"):
                shadow.add(getattr(counted.shadow, name), endpoint=endpoint, outcome=name)
        if counters and traffic.guard:
            rolled.add(int(counters.tripped), endpoint=endpoint)
    return [weight, generation, errors, shadow, rolled]


def _payloads(places: Places) -> list[Family]:
    """The payload log's rows, by what became of them; `lost` went with processes that were killed."""
    rows = Family("modelyard_payload_rows", COUNTER, "Answered rows for the payload log, by what became of them.")
    for folder in sorted((places.root / "payloads").glob("*")):
        found = [one for path in folder.glob("*.tally") if (one := segments.counted(path)) is not None]
        ended = compaction.losses(folder)
        for name in ("offered", "written", "dropped", "failed"):
            rows.add(sum(getattr(one, name) for one in (*found, *ended)), endpoint=folder.name, state=name)
        for name in ("lost", "damaged"):
            rows.add(sum(getattr(one, name) for one in ended), endpoint=folder.name, state=name)
    return [rows]


def _workers(places: Places, reports: Mapping[int, SlotReport]) -> list[Family]:
    """What each process holds now, and how many were replaced."""
    told = {
        "in_flight": Family("modelyard_requests_in_flight", GAUGE, "Requests whose answer is being waited for."),
        "waiting": Family("modelyard_requests_waiting", GAUGE, "Calls that wait for a prediction thread."),
        "connections": Family("modelyard_connections", GAUGE, "Open connections of clients."),
        "logging": Family("modelyard_payload_queue_rows", GAUGE, "Answered rows that are still to be written."),
    }
    stuck = Family("modelyard_threads_stuck", GAUGE, "Prediction threads at a call that nobody waits for any more.")
    abandoned = Family("modelyard_requests_abandoned", COUNTER, "Requests whose client hung up before the answer.")
    for slot, report in reports.items():
        vitals = report.vitals or calls.gauges(places.slots / f"{slot}.vitals", report.pid)
        for name, family in {**told, "stuck": stuck, "abandoned": abandoned}.items():
            if name in vitals:
                family.add(vitals[name], worker=slot)
    restarts = Family("modelyard_worker_restarts", COUNTER, "Serving processes that were replaced, by reason.")
    for reason, count in replaced(places).items():
        restarts.add(count, reason=reason)
    return [*told.values(), stuck, abandoned, restarts]


def _processes(living: Mapping[int, int]) -> list[Family]:
    """What the operating system tells of each process, under the names of Prometheus's own clients."""
    cpu = Family("process_cpu_seconds", COUNTER, "Total user and system CPU time spent in seconds.")
    resident = Family("process_resident_memory_bytes", GAUGE, "Resident memory size in bytes.")
    virtual = Family("process_virtual_memory_bytes", GAUGE, "Virtual memory size in bytes.")
    started = Family("process_start_time_seconds", GAUGE, "Start time of the process since unix epoch in seconds.")
    opened = Family("process_open_fds", GAUGE, "Number of open file descriptors.")
    limit = Family("process_max_fds", GAUGE, "Maximum number of open file descriptors.")
    boot = _boot_time()
    for slot, pid in living.items():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        cpu.add((int(fields[11]) + int(fields[12])) / _TICKS, worker=slot)
        started.add(boot + int(fields[19]) / _TICKS, worker=slot)
        virtual.add(int(fields[20]), worker=slot)
        resident.add(int(fields[21]) * _PAGE, worker=slot)
        opened.add(descriptors, worker=slot)
        limit.add(resource.getrlimit(resource.RLIMIT_NOFILE)[0], worker=slot)
    return [cpu, resident, virtual, started, opened, limit]


def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


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
