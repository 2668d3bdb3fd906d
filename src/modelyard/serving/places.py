"""Where serving keeps its files, and how they are written so that a reader sees a whole one or none.

FOLDER/serving/
    models.json               every installed version
    loaded.json               those that answer by request, without an endpoint's traffic
    traffic/ENDPOINT.json     the routing each endpoint should have
    carried/ENDPOINT.json     the routing that was last carried out
    trials/KEY.*              which versions a process has loaded, or has begun to
    counters/ENDPOINT/N.bin   the counts of generation N, shared memory of all processes; .json: whose they are,
                              .signatures: what its arms take and give, where a shadow is compared with them
    metrics/SLOT.bin .keys    request counts by endpoint, arm and code, since ever
    slots/SLOT.lock .json     who writes slot SLOT, and what it has loaded
    trips/ROLLOUT-STEP.json   a guard's decision; .recorded beside it once it is known
    compiled/DIGEST.npz .json a faster form of the model file with that digest, and how alike it answers
    payloads/ENDPOINT/*       what was asked and answered: Parquet, and raw segments on their way there
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from modelyard.core.errors import Damaged, Unavailable
from modelyard.core.traffic import GuardTrip, Traffic
from modelyard.serving.values import EndpointConfig, Installed

MAX_SLOTS = 64
# No process's: what other servers of the same database have counted, and what all have told each other. Twice, so that a
# reader sees the one while the other is written.
ELSEWHERE, TOLD = (MAX_SLOTS - 4, MAX_SLOTS - 3), (MAX_SLOTS - 2, MAX_SLOTS - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a traffic file holds: the routing and the endpoint's settings."""

    traffic: Traffic
    config: EndpointConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotReport:
    """What the process in a slot says of itself: which generation of each endpoint it carries out, and what it cannot."""

    pid: int
    ready: bool
    generations: dict[str, int] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    loaded: tuple[tuple[str, str], ...] = ()  # (model, version) that answer because somebody asked for it
    node: str = ""  # where it runs, unless that is this machine
    vitals: dict[str, int] = field(default_factory=dict)  # of one elsewhere: its gauges, as `calls` has them here
    shadows: bool = False  # whether it answers nobody and asks shadows: `generations` are those whose shadow it has


class Places:
    """The paths under one folder."""

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder) / "serving"
        self.models = self.root / "models.json"
        self.loaded = self.root / "loaded.json"
        self.trips = self.root / "trips"
        self.trials = self.root / "trials"
        self.metrics = self.root / "metrics"
        self.slots = self.root / "slots"
        self._traffic = self.root / "traffic"

    def make(self) -> None:
        """Make the folders."""
        try:
            for folder in (self._traffic, self.trips, self.metrics, self.slots, self.root / "counters"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"{self.root} cannot be made: {error.strerror}. Check its permissions.") from error

    def traffic(self, endpoint: str) -> Path:
        """The endpoint's routing."""
        return self._traffic / f"{endpoint}.json"

    def traffic_files(self) -> dict[str, tuple[int, int, int]]:
        """Endpoint -> a stamp that changes with its file."""
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._traffic) as entries:
            for entry in entries:
                if entry.name.endswith(".json"):
                    with suppress(FileNotFoundError):  # removed between listing and stat
                        stat = entry.stat()
                        found[entry.name[:-5]] = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        return found

    def carried(self, endpoint: str) -> Path:
        """The endpoint's routing that was last carried out: what a fresh process falls back to."""
        return self.root / "carried" / f"{endpoint}.json"

    def counters(self, endpoint: str, generation: int) -> Path:
        """The counts of one generation."""
        return self.root / "counters" / endpoint / f"{generation}.bin"

    def signatures(self, endpoint: str, generation: int) -> Path:
        """What the arms of one generation take and give."""
        return self.counters(endpoint, generation).with_suffix(".signatures")

    def trip(self, rollout_id: str, step: int) -> Path:
        """The decision of one step's guard."""
        return self.trips / f"{rollout_id}-{step}.json"

    def compiled(self, digest: str) -> Path:
        """The compiled form of a model file."""
        return self.root / "compiled" / f"{digest}.npz"

    def payloads(self, endpoint: str) -> Path:
        """The folder of an endpoint's payload segments."""
        return self.root / "payloads" / endpoint

    @contextmanager
    def publishing(self) -> Iterator[None]:
        """Only one process at a time writes what the workers read."""
        self.make()
        handle = os.open(self.root / "publish.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def read_traffic(self, endpoint: str) -> Published:
        """The endpoint's published routing."""
        found: Published = read(self.traffic(endpoint), Published)
        return found

    def read_models(self) -> dict[tuple[str, str], Installed]:
        """Every installed version by (model, version)."""
        if not self.models.exists():
            return {}
        return {(one.model, one.version): one for one in read(self.models, list[Installed])}

    def read_loaded(self) -> list[tuple[str, str]]:
        """The (model, version) pairs that are to answer by request, in the order in which they were asked for."""
        return read(self.loaded, list[tuple[str, str]]) if self.loaded.exists() else []

    def loaded_stamp(self) -> tuple[int, int, int] | None:
        """What changes with that list."""
        try:
            stat = self.loaded.stat()
        except FileNotFoundError:
            return None
        return (stat.st_ino, stat.st_mtime_ns, stat.st_size)

    def read_trip(self, rollout_id: str, step: int) -> GuardTrip | None:
        """The decision, if that step's guard has tripped."""
        path = self.trip(rollout_id, step)
        return read(path, GuardTrip) if path.exists() else None

    def all_trips(self) -> list[GuardTrip]:
        """Every decision, oldest first."""
        return sorted((read(path, GuardTrip) for path in self.trips.glob("*.json")), key=lambda trip: trip.at)

    def slot_reports(self) -> dict[int, SlotReport]:
        """What each live process says of itself; the word of one that has let go of its slot does not count."""
        reports = {}
        for path in self.slots.glob("*.json"):
            slot = int(path.stem)
            if not held(self.slots / f"{slot}.lock"):
                continue
            reports[slot] = read(path, SlotReport)
        return reports


def read(path: Path, kind: Any) -> Any:
    """The value of a kind that a JSON file holds."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{path} is not what modelyard wrote: {error}. Publish the endpoint again.") from error


def write(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Replace the file at once; `lasting` if it is to outlive a power cut."""
    part = _part(path, value, lasting=lasting)
    os.replace(part, path)


def write_once(path: Path, value: Any) -> bool:
    """Write the file whole if it is not there; True for the one process that did."""
    part = _part(path, value, lasting=True)
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(part)
    return True


def _part(path: Path, value: Any, *, lasting: bool) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
    with os.fdopen(handle, "wb") as stream:
        stream.write(msgspec.json.encode(value))
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())
    return part


def held(lock: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(handle)


class Slot:
    """The right to write one slot of every shared counter; the kernel gives it back when the process ends."""

    def __init__(self, places: Places) -> None:
        self.places = places
        places.make()
        for number in range(ELSEWHERE[0]):
            handle = os.open(places.slots / f"{number}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            self._handle = handle
            self.number = number
            return
        raise Unavailable(f"{ELSEWHERE[0]} processes serve from {places.root} already. Stop one of them.")

    def report(self, report: SlotReport) -> None:
        """Tell what this process carries out."""
        write(self.places.slots / f"{self.number}.json", report, lasting=False)

    def release(self) -> None:
        """Give the slot back."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", -1) >= 0:
            self.release()
