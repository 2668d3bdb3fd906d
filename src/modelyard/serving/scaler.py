"""Looks at what the serving processes do and says how many there should be: `scaling` decides, this measures."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from modelyard.core.errors import Damaged
from modelyard.serving.places import Places
from modelyard.serving.scaling import LOOK_BACK_S, MEMORY_S, Load, Targets, replicas
from modelyard.serving.values import EndpointConfig

SCALE_S = 2.0
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class Scaler:
    """The number of processes that the load asks for, from one look to the next."""

    def __init__(self, places: Places, targets: Callable[[], Targets], latency_ms: Callable[[], float | None]) -> None:
        self._places, self._targets, self._latency_ms = places, targets, latency_ms
        self._seen: deque[Load] = deque(maxlen=int((MEMORY_S + LOOK_BACK_S) / SCALE_S))
        self._cpu: dict[int, float] = {}
        self._seen_at, self._followed = 0.0, targets()

    def least(self) -> int:
        """How many to begin with."""
        self._followed = self._targets()
        return self._followed.min_replicas

    def count(self, pids: Sequence[int]) -> int:
        """How many there should be now, with these there are."""
        targets, before = self._targets(), self._followed
        self._followed = targets
        load = self._load(pids, time.monotonic())
        if load is not None:
            self._seen.append(load)
        if targets.max_replicas > targets.min_replicas:
            return replicas(self._seen, targets)
        # one number and no scaling: what somebody has told stands until another number is published
        return targets.min_replicas if targets != before else len(pids)

    def why(self, now: int) -> str:
        """Why there should not be as many as there are now, in words."""
        if not self._seen or not self._followed.min_replicas <= now <= self._followed.max_replicas:
            return "as the endpoints' settings say"
        seen = self._seen[-1]
        slow = "" if seen.latency_ms is None else f", and 95 % of the answers came within {seen.latency_ms:.3g} ms"
        return f"each was busy {seen.cpu:.0%} of the time{slow}"

    def _load(self, pids: Sequence[int], now: float) -> Load | None:
        """What they did since the last look; None at the first. One counts once it has been ready all the time."""
        ready = {report.pid for report in self._places.slot_reports().values() if report.ready}
        used = {pid: cpu for pid in pids if pid in ready and (cpu := cpu_seconds(pid)) is not None}
        known = [used[pid] - self._cpu[pid] for pid in used if pid in self._cpu]
        since, self._seen_at, self._cpu = self._seen_at, now, used
        if not known or not since:
            return None
        busy = sum(known) / (now - since) / len(pids)
        return Load(at=now, replicas=len(pids), cpu=busy, latency_ms=self._latency_ms())


class PublishedTargets:
    """The targets of all endpoints together, as they are published now: the strictest loads, and room for the largest.

    At least `least` workers, or what the endpoints ask for as their least; at most `most`, or what they allow.
    """

    def __init__(self, places: Places, *, least: int | None = None, most: int = 0) -> None:
        self._places, self._least, self._most = places, least, most
        self._stamps: object = None
        self._targets = self._read()

    def __call__(self) -> Targets:
        """The targets; read anew when something has been published."""
        stamps = self._places.traffic_files()
        if stamps != self._stamps:
            self._stamps, self._targets = stamps, self._read()
        return self._targets

    def _read(self) -> Targets:
        configs = []
        for name in self._places.traffic_files():
            with suppress(FileNotFoundError, Damaged):  # removed meanwhile; a damaged one is the workers' to tell of
                configs.append(self._places.read_traffic(name).config)
        configs = configs or [EndpointConfig()]
        least = self._least or max(config.min_replicas for config in configs)
        return Targets(
            min_replicas=least,
            max_replicas=max(least, self._most, *(config.max_replicas for config in configs)),
            target_cpu=min(config.target_cpu for config in configs),
            target_latency_ms=min(config.target_latency_ms for config in configs),
        )


def cpu_seconds(pid: int) -> float | None:
    """The CPU time that a process has used; None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
