"""Writer processes that are killed at any moment, and what must hold afterwards. The benchmark uses it too."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from modelyard.audit import AuditLogger
from modelyard.core.events import EventType
from modelyard.core.refs import Resource
from modelyard.core.work import Store

WRITERS = 8


def write(place: str, files: str, number: int, acknowledged: str) -> None:
    """Change rows with their events, and tell of events, for ever; each is written down once it was answered."""
    store = Store.at(place, files=files or None)
    logger = AuditLogger(store)
    handle = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, b"ready\n")
    chance, n = random.Random(number), 0
    while True:
        n += 1
        if chance.random() < 0.5:
            with store.work(f"w{number}") as work:
                reader = f"row-{number}-{os.getpid()}-{n}"
                work.rows.run("INSERT INTO event_cursors (reader, position) VALUES (:reader, 0)", reader=reader)
                event = work.emit(EventType.MODEL_UPDATED, Resource("row", reader), {"n": n})
        else:
            subject = f"p{number}" if chance.random() < 0.3 else None
            event = logger.log_event(
                EventType.DATA_ACCESSED, "dataset", f"d{n}", user=f"w{number}", subject=subject, details={"n": n}
            )
        os.write(handle, f"{event.event_id}\n".encode())
        if chance.random() < 0.1:
            logger.integrate()


def started(place: str, files: str, number: int, folder: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A writer process, and the file of what it was answered."""
    file = folder / f"acknowledged-{number}-{time.monotonic_ns()}"
    arguments = json.dumps([place, files, number, str(file)])
    process = subprocess.Popen([sys.executable, __file__, arguments], stderr=subprocess.PIPE)
    return process, file


def kill_often(place: str, files: str, folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Run the writers, kill one after the other at random moments, and say what was found then."""
    chance = random.Random(seed)
    running = [started(place, files, number, folder) for number in range(WRITERS)]
    every = [file for _, file in running]
    try:
        for _ in range(kills):
            victim = chance.randrange(WRITERS)
            wait_for(running[victim])
            time.sleep(chance.random() * 0.2)
            stopped(running[victim][0])
            running[victim] = started(place, files, victim, folder)
            every.append(running[victim][1])
        for process, _ in running:
            stopped(process)
    finally:
        for process, _ in running:
            process.kill()  # they write for ever
    return found(place, files, [file for file in every if file.exists()])


def wait_for(running: tuple[subprocess.Popen[bytes], Path]) -> None:
    """Until a writer has begun to write."""
    process, file = running
    while not (file.exists() and file.stat().st_size > len("ready\n")):
        if process.poll() is not None:
            raise AssertionError(process.communicate()[1].decode())
        time.sleep(0.005)


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Kill a writer; it must have been alive until then."""
    ended = process.poll()
    process.send_signal(signal.SIGKILL)
    told = process.communicate()[1]
    if ended is not None:
        raise AssertionError(told.decode())


def found(place: str, files: str, acknowledged: list[Path]) -> dict[str, Any]:
    """What is there after the last kill."""
    logger = AuditLogger(Store.at(place, files=files or None))
    told = {line for file in acknowledged for line in file.read_text().split("\n")[1:-1]}
    with logger.store.reading() as rows:
        events = rows.all("SELECT event_id, event_type, resource_id FROM events")
        changed = {row["reader"] for row in rows.all("SELECT reader FROM event_cursors WHERE reader LIKE 'row-%'")}
    verification = logger.verify()
    logger.close()
    return {
        "acknowledged": len(told),
        "events": len(events),
        "lost": len(told - {row["event_id"] for row in events}),
        "apart": len(changed ^ {row["resource_id"] for row in events if row["event_type"] == "model_updated"}),
        "ok": verification.ok,
        "problems": verification.problems[:3],
        "leaves": verification.size,
        "waiting": verification.waiting,
    }


if __name__ == "__main__":
    write(*json.loads(sys.argv[1]))
