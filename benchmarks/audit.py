"""The audit log: appending by many callers, integrating, verifying, proving, and asking, at a million events.

Run: python benchmarks/audit.py [--events 1000000] [--only append,processes,verify,prove,query] [--kills 200]
Appending is compared with the disk's own fdatasync rate, counted right before; the rest is in CPU seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelyard.audit import AuditLogger, EventSeverity, EventType, check_proof
from modelyard.core.canonical import dumps
from modelyard.core.instants import micros
from modelyard.core.work import Store, insert_events
from modelyard.testing.postgres import PostgresServer

CALLERS = 64
SECONDS = 3.0
ACTORS, RESOURCES = 50, 1_000
KINDS = [EventType.DATA_ACCESSED, EventType.FEATURES_READ, EventType.MODEL_REGISTERED, EventType.SECURITY_VIOLATION]


def fdatasync_rate(folder: Path, seconds: float = 1.0) -> float:
    """How often a second the disk makes 4 kB appended to a file durable."""
    with (folder / "probe").open("wb", buffering=0) as file:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            count += 1
    (folder / "probe").unlink()
    return count / seconds


def told(number: int) -> dict[str, Any]:
    """Details that make a leaf of about 300 bytes."""
    return {"n": number, "why": "training on last month's cases", "path": f"/data/{number % 97}"}


def append_all(logger: AuditLogger, callers: int, seconds: float) -> tuple[int, float, float, list[float]]:
    """(events, wall, CPU, latencies) of callers that each wait for their own event before they tell the next one."""
    logger.log_event(EventType.DATA_ACCESSED, "dataset", "d", user="u")
    end, gate = time.perf_counter() + seconds + 0.5, threading.Barrier(callers + 1)
    latencies: list[list[float]] = [[] for _ in range(callers)]

    def call(number: int) -> None:
        gate.wait()
        mine = latencies[number]
        while (now := time.perf_counter()) < end:
            logger.log_event(
                EventType.DATA_ACCESSED, "dataset", f"d{number}", user=f"u{number % 7}", details=told(len(mine))
            )
            mine.append(time.perf_counter() - now)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    gate.wait()
    started, cpu = time.perf_counter(), time.process_time()
    end = started + seconds
    for thread in threads:
        thread.join()
    every = sorted(value for mine in latencies for value in mine)
    return len(every), time.perf_counter() - started, time.process_time() - cpu, every


@contextmanager
def places(folder: Path) -> Iterator[dict[str, Callable[[], Store]]]:
    """An empty store of each kind."""
    with PostgresServer() as server:
        url = server.url(server.new_database())
        yield {
            "SQLite": lambda: Store.at(folder / "sqlite"),
            "PostgreSQL": lambda: Store.at(url, files=folder / "postgres"),
        }


def append(folder: Path) -> None:
    """64 waiting callers."""
    with places(folder) as stores:
        for name, open_store in stores.items():
            for callers in (1, 8, CALLERS):
                rate = fdatasync_rate(folder)
                logger = AuditLogger(open_store())
                count, wall, cpu, every = append_all(logger, callers, SECONDS)
                p50, p99 = every[len(every) // 2], every[int(len(every) * 0.99)]
                print(
                    f"append, {name}, {callers} waiting callers: {count / wall:,.0f}/s = {count / wall / rate:.1f} x the disk's "
                    f"{rate:,.0f} fdatasync/s; CPU {cpu / count * 1e6:.0f} us an event; p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms"
                )
                logger.close()


def _process(place: Any, seconds: float, gate: Any, answers: Any) -> None:
    logger = AuditLogger(Store.at(*place[0], **place[1]))
    logger.log_event(EventType.DATA_ACCESSED, "dataset", "d", user="u")
    gate.wait()
    end, mine = time.perf_counter() + seconds, []
    while (now := time.perf_counter()) < end:
        logger.log_event(EventType.DATA_ACCESSED, "dataset", "d", user="u", details=told(len(mine)))
        mine.append(time.perf_counter() - now)
    mine.sort()
    answers.put((len(mine), mine[len(mine) // 2], mine[int(len(mine) * 0.99)], mine[-1]))


def processes(folder: Path) -> None:
    """8 processes on one store."""
    fork = multiprocessing.get_context("spawn")
    with PostgresServer() as server:
        url = server.url(server.new_database())
        for name, place in {
            "SQLite": ((folder / "eight",), {}),
            "PostgreSQL": ((url,), {"files": folder / "eight_pg"}),
        }.items():
            AuditLogger(Store.at(*place[0], **place[1])).close()
            rate = fdatasync_rate(folder)
            gate, answers = fork.Barrier(8), fork.Queue()
            workers = [fork.Process(target=_process, args=(place, SECONDS * 2, gate, answers)) for _ in range(8)]
            for worker in workers:
                worker.start()
            found = [answers.get() for _ in workers]
            for worker in workers:
                worker.join()
            median = statistics.median(p50 for _, p50, _, _ in found)
            worst, slowest = max(p99 for _, _, p99, _ in found), max(top for *_, top in found)
            total = sum(count for count, *_ in found) / SECONDS / 2
            print(
                f"append, {name}, 8 processes: {total:,.0f}/s = {total / rate:.1f} x fdatasync; median {median * 1e3:.2f} ms, "
                f"worst process's p99 {worst * 1e3:.1f} ms = {worst / median:.1f} x the median; slowest call {slowest * 1e3:.0f} ms"
            )


def filled(store: Store, events: int) -> None:
    """A store with many events in it that nobody has taken into the tree."""
    chance = random.Random(0)
    start = micros(store.clock.now()) - events * 1_000
    for first in range(0, events, 20_000):
        rows = [
            {
                "event_id": f"evt_{number:016x}",
                "event_type": KINDS[(number % 1_000 == 0) * 3 or number % 3].value,
                "severity": "critical" if number % 1_000 == 0 else "info",
                "actor": f"user{chance.randrange(ACTORS)}@example.org",
                "resource_type": "dataset",
                "resource_id": f"d{chance.randrange(RESOURCES)}",
                "occurred_at": start + number * 1_000,
                "details": dumps(told(number)),
            }
            for number in range(first, min(first + 20_000, events))
        ]
        with store.work("benchmark") as work:
            insert_events(work.rows, rows)


def cpu_of(task: Callable[[], Any]) -> tuple[Any, float]:
    """The answer and its CPU seconds in this process."""
    started = time.process_time()
    answer = task()
    return answer, time.process_time() - started


def million(folder: Path, events: int, wanted: set[str]) -> None:
    """Integrate, verify, prove and ask."""
    logger = AuditLogger(Store.at(folder / "million"))
    _, seconds = cpu_of(lambda: filled(logger.store, events))
    print(f"write {events:,} events in bulk: {seconds:.1f} CPU s")
    _, seconds = cpu_of(logger.integrate)
    print(f"integrate: {seconds:.2f} CPU s = {seconds / events * 1e6:.1f} us an event")
    size = (folder / "million" / "modelyard.db").stat().st_size
    print(f"database: {size / events:.0f} bytes an event")
    if "verify" in wanted:
        found, seconds = cpu_of(logger.verify)
        print(f"verify: {seconds:.2f} CPU s (ok {found.ok}, {found.size:,} leaves, {found.checkpoints} checkpoints)")
    if "prove" in wanted:
        prove(logger, events)
    if "query" in wanted:
        query(logger, events)
    logger.close()


def prove(logger: AuditLogger, events: int) -> None:
    """Proofs of random events."""
    chance, times, hashes = random.Random(1), [], 0
    ids = [f"evt_{chance.randrange(events):016x}" for _ in range(3_000)]
    key = str(logger.keys.public())
    for event_id in ids:
        started = time.perf_counter()
        text = logger.prove(event_id)
        times.append(time.perf_counter() - started)
        hashes = max(hashes, 32 * (len(text.partition("\n\n")[0].split("\n")) - 3))
    _, seconds = cpu_of(lambda: [check_proof(logger.prove(event_id), key) for event_id in ids[:200]])
    times = sorted(times[1_000:])
    print(
        f"prove: p50 {times[len(times) // 2] * 1e6:.0f} us, p99 {times[int(len(times) * 0.99)] * 1e6:.0f} us, at most "
        f"{hashes} bytes of hashes; made and checked {seconds / 200 * 1e6:.0f} us"
    )


def query(logger: AuditLogger, events: int) -> None:
    """A page of 100 by each kind of condition, at the end of the log and in its middle."""
    middle = logger.query_events(after=events // 2, limit=1)[0].occurred_at
    for name, conditions in {
        "type": {"event_type": EventType.SECURITY_VIOLATION},
        "severity": {"severity": EventSeverity.CRITICAL},
        "actor": {"by": "user7@example.org"},
        "resource": {"resource_type": "dataset", "resource_id": "d7"},
        "time": {"start_date": middle},
        "type and time": {"event_type": EventType.SECURITY_VIOLATION, "start_date": middle},
        "actor, newest": {"by": "user7@example.org", "order": "newest"},
        "before a time, newest": {"end_date": middle, "order": "newest"},
    }.items():
        found, seconds = cpu_of(lambda c=conditions: [logger.query_events(limit=100, **c) for _ in range(20)])
        print(f"query by {name}: {seconds / 20 * 1e3:.2f} ms for {len(found[0])} events")


def kill(folder: Path, kills: int) -> None:
    """8 writers, killed with SIGKILL at random moments and started anew; see tests/audit/writers.py."""
    file = Path(__file__).parents[1] / "tests" / "audit" / "writers.py"
    spec = importlib.util.spec_from_file_location("audit_writers", file)
    assert spec is not None
    assert spec.loader is not None
    writers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writers)
    with places(folder) as stores:
        for seed, (name, open_store) in enumerate(stores.items()):
            store = open_store()
            place = store.database.url if name == "PostgreSQL" else str(store.folder)
            found = writers.kill_often(place, str(store.folder) if name == "PostgreSQL" else "", folder, kills, seed)
            print(f"kill -9, {name}, {kills} times: {found}")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--only", default="append,processes,verify,prove,query")
    options = parser.parse_args()
    wanted = set(options.only.split(","))
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "append" in wanted:
            append(folder)
        if "processes" in wanted:
            processes(folder)
        if options.kills:
            kill(folder, options.kills)
        if wanted & {"verify", "prove", "query"}:
            million(folder, options.events, wanted)


if __name__ == "__main__":
    main()
