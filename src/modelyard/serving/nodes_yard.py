"""The yard's side of serving on other nodes: what is published goes out, what was counted, logged and decided comes in.

Each process elsewhere gets a slot of the yard's own shared counters, as if it ran here, so that counts, guards, metrics
and `processes` know no difference.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modelyard.core.errors import Damaged
from modelyard.core.traffic import Guard, GuardTrip, Traffic
from modelyard.serving import guard, metrics, nodes
from modelyard.serving.compaction import LOSSES
from modelyard.serving.counters import Counters
from modelyard.serving.metrics import RequestMetrics
from modelyard.serving.nodes import Counts, MetricRow, Model, Piece, Reply, Report, Snapshot
from modelyard.serving.places import Places, Slot, SlotReport, read, write_once
from modelyard.serving.values import Installed

SILENT_S = 5.0  # after so long without a word a process is no longer listed; what it says later counts all the same
GONE_S = 600.0
FORGOTTEN_S = 7 * 86_400.0  # nothing of a process is awaited any more
log = logging.getLogger("modelyard.serving")

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Watched:
    """A guarded traffic whose late faults are looked for here, over the counts of all."""

    traffic: Traffic
    counters: Counters
    watched: Mapping[int, Guard]
    baseline: int


@dataclass(slots=True)
class Known:
    """What the yard has taken of one process so far."""

    number: int = -1
    counts: dict[Key, np.ndarray] = field(default_factory=dict)
    metrics: dict[metrics.Key, np.ndarray] = field(default_factory=dict)
    slot: Slot | None = None
    own: RequestMetrics | None = None
    heard: float = 0.0
    said: SlotReport | None = None
    losses: set[str] = field(default_factory=set)


class Headquarters:
    """Makes snapshots and takes reports. One at a time for a yard."""

    def __init__(self, places: Places) -> None:
        places.make()
        self.places = places
        self._nodes = places.root / "nodes"
        self._nodes.mkdir(exist_ok=True)
        for file in self._nodes.glob("*.counted"):
            if time.time() - file.stat().st_mtime > FORGOTTEN_S:
                file.unlink(missing_ok=True)
        self._known: dict[str, Known] = {}
        self._stamps: object = None
        self._snapshot, self._name = Snapshot(), ""
        self._packed: dict[str, tuple[object, str]] = {}  # path -> (stamp, digest)
        self._paths: dict[str, Path] = {}  # digest -> path
        self._totals: dict[Key, np.ndarray] = {}  # of one round, since each process is told them
        self._metrics: dict[metrics.Key, np.ndarray] = {}
        self._marks: tuple[nodes.Marks, ...] | None = None
        self._watched: dict[Key, Watched] = {}

    @property
    def yard(self) -> str:
        """A name that no other yard has."""
        file = self._nodes / "yard"
        write_once(file, secrets.token_hex(8))
        name: str = read(file, str)
        return name

    def snapshot(self) -> tuple[str, bytes]:
        """The name and the bytes of what is to be carried out now."""
        models = self.places.models
        stamps = (
            self.places.traffic_files(),
            models.stat().st_mtime_ns if models.exists() else 0,
            sorted(path.name for path in self.places.trips.glob("*.json")),
        )
        if stamps != self._stamps:
            self._snapshot = self._make()
            self._stamps = stamps
        data = nodes.encode(self._snapshot)
        return hashlib.sha256(data).hexdigest()[:16], data

    def packed(self, digest: str) -> bytes:
        """A model's bytes; Damaged where its file has changed since the snapshot."""
        data = nodes.pack(self._paths[digest])
        if nodes.digest_of(data) != digest:
            raise Damaged(f"{self._paths[digest]} has changed since it was published. Install it again.")
        return data

    @property
    def digests(self) -> set[str]:
        """The models that the newest snapshot names."""
        return {digest for model in self._snapshot.models for digest in model.digests}

    def take(self, uid: str, data: bytes, snapshot: str) -> bytes:
        """Take a process's report; the reply to it. The same report again changes nothing."""
        report: Report = nodes.decode(data, Report)
        known = self._known.get(uid)
        if known is None:
            known = self._known[uid] = self._remembered(uid)
        if report.number > known.number:
            self._count(uid, known, report)
            known.number = report.number
        for marks in report.marks:
            file = self.places.counters(marks.endpoint, marks.generation)
            if file.exists():
                nodes.set_marks(marks, Counters(file))
        for trip in report.trips:
            self._trip(trip)
        kept = {f"{piece.endpoint}/{piece.name}": self._keep(piece) for piece in report.pieces}
        known.heard = time.monotonic()
        if report.ended:
            self._lost(known, report.losses)
            self._leave(known)
        elif known.slot is not None and report.said != known.said:
            known.said = report.said
            known.slot.report(report.said)
        reply = Reply(
            number=known.number,
            snapshot=snapshot,
            held={name: size for name, (size, _) in kept.items()},
            closed=tuple(name for name, (_, closed) in kept.items() if closed),
            rest=self._rest(known),
            rest_metrics=self._rest_metrics(known),
            marks=self._marked(),
        )
        return nodes.encode(reply)

    def look(self) -> None:
        """Begin a round: judge what all have counted, see anew what this machine's own processes count, and let go of the
        slots of the silent."""
        guard.look(self.places, self._guarded())
        self._totals, self._metrics, self._marks = {}, metrics.merged(self.places), None
        now = time.monotonic()
        for uid, known in list(self._known.items()):
            if known.slot is not None and now - known.heard > SILENT_S:
                self._leave(known)
            if now - known.heard > GONE_S:
                del self._known[uid]  # should it speak again, what was counted of it is in its file

    def _guarded(self) -> list[Watched]:
        """What is guarded now. A process of a node sees no more than plain evidence: late faults are looked for once."""
        before, self._watched = self._watched, {}
        for one in self._snapshot.published:
            traffic, names = one.traffic, [arm.name for arm in one.traffic.arms]
            key = (traffic.endpoint, traffic.generation)
            file = self.places.counters(*key)
            if traffic.guard is None or not file.exists():
                continue
            watched = {names.index(guarded.arm): guarded for guarded in traffic.guards}
            found = before.get(key) or Watched(traffic, Counters(file), watched, names.index(traffic.guard.control))
            if not found.counters.warm and all(
                found.counters.requests(arm) >= guarded.warmup for arm, guarded in watched.items()
            ):
                found.counters.warm_up()
            self._watched[key] = found
        return list(self._watched.values())

    def close(self) -> None:
        """Give every slot back."""
        for known in self._known.values():
            self._leave(known)

    def _make(self) -> Snapshot:
        published = []
        for name in sorted(self.places.traffic_files()):
            try:
                published.append(self.places.read_traffic(name))
            except FileNotFoundError:
                continue
        used = {
            (arm.model, arm.version)
            for one in published
            for arm in (*one.traffic.arms, *([one.traffic.shadow] if one.traffic.shadow else []))
        }
        models = [self._model(one) for key, one in sorted(self.places.read_models().items()) if key in used]
        return Snapshot(models=tuple(models), published=tuple(published), trips=tuple(self.places.all_trips()))

    def _model(self, installed: Installed) -> Model:
        if installed.framework == "python":  # code of the cluster's own machines, which must have it
            return Model(installed=installed, uses=tuple(self._model(used.installed) for used in installed.uses))
        form = installed.compiled
        compiled = "" if form is None or not form.path else self._digest(Path(form.path))
        return Model(installed=installed, digest=self._digest(Path(installed.path)), compiled=compiled)

    def _digest(self, path: Path) -> str:
        """The digest of a model's bytes; "" for one that is gone, which the nodes then tell of."""
        files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
        try:
            stamp = [(str(one), one.stat().st_mtime_ns, one.stat().st_size) for one in files]
            known = self._packed.get(str(path))
            if known is None or known[0] != stamp:
                self._packed[str(path)] = known = (stamp, nodes.digest_of(nodes.pack(path)))
        except OSError as error:
            log.warning("%s cannot be sent to the nodes: %s", path, error)
            return ""
        self._paths[known[1]] = path
        return known[1]

    def _slot(self, known: Known) -> Slot:
        if known.slot is None:
            known.slot = Slot(self.places)
            known.own = RequestMetrics(self.places, known.slot.number)
        return known.slot

    def _leave(self, known: Known) -> None:
        if known.slot is not None:
            known.slot.release()
        known.slot = known.own = known.said = None

    def _count(self, uid: str, known: Known, report: Report) -> None:
        """Add what a process has counted since its last report to its slot."""
        changed = False
        slot = self._slot(known)
        for one in report.counts:
            file = self.places.counters(one.endpoint, one.generation)
            if not file.exists():
                continue  # a generation that is forgotten here
            row = Counters(file).row(slot.number)
            words = nodes.dense(one.words, row)
            before = known.counts.get((one.endpoint, one.generation))
            more = words if before is None else words - before
            if more.any():
                row += more
                if (one.endpoint, one.generation) in self._totals:
                    self._totals[one.endpoint, one.generation] += more
                known.counts[one.endpoint, one.generation] = words
                changed = True
        for endpoint, arm, code, values in report.metrics:
            key, now = (endpoint, arm, code), np.array(values, np.int64)
            more = now - known.metrics[key] if key in known.metrics else now
            if more.any() and known.own is not None:
                if code in metrics.WORKS:
                    known.own.work.add(key, more)
                else:
                    known.own.add(key, more)
                    self._metrics[key] = self._metrics[key] + more if key in self._metrics else more
                known.metrics[key] = now
                changed = True
        if changed:
            self._remember(uid, known)

    def _remember(self, uid: str, known: Known) -> None:
        """Keep what was counted, so that the next process that looks after the nodes counts it once too."""
        kept = (
            [(endpoint, generation, nodes.sparse(words)) for (endpoint, generation), words in known.counts.items()],
            [(*key, row.tolist()) for key, row in known.metrics.items()],
        )
        part = self._nodes / f".{uid}.part"
        part.write_bytes(nodes.encode(kept))
        os.replace(part, self._nodes / f"{uid}.counted")

    def _remembered(self, uid: str) -> Known:
        known = Known(heard=time.monotonic())
        file = self._nodes / f"{uid}.counted"
        if not file.exists():
            return known
        counts, rows = nodes.decode(file.read_bytes(), tuple[list[tuple[str, int, nodes.Sparse]], list[MetricRow]])
        for endpoint, generation, words in counts:
            path = self.places.counters(endpoint, generation)
            if path.exists():
                known.counts[endpoint, generation] = nodes.dense(words, Counters(path).total())
        known.metrics = {(endpoint, arm, code): np.array(row, np.int64) for endpoint, arm, code, row in rows}
        return known

    def _rest(self, known: Known) -> tuple[Counts, ...]:
        """What all others have counted of the endpoints as they are routed now."""
        found = []
        for one in self._snapshot.published:
            key = (one.traffic.endpoint, one.traffic.generation)
            total = self._total(key)
            if total is not None:
                words = nodes.sparse(total - known.counts[key] if key in known.counts else total)
                found.append(Counts(endpoint=key[0], generation=key[1], words=words))
        return tuple(found)

    def _total(self, key: Key) -> np.ndarray | None:
        total = self._totals.get(key)
        if total is None:
            file = self.places.counters(*key)
            if not file.exists():
                return None
            total = self._totals[key] = Counters(file).total()
        return total

    def _marked(self) -> tuple[nodes.Marks, ...]:
        """The marks of all, as they were when this round began or a little later."""
        if self._marks is None:
            guarded = [one.traffic for one in self._snapshot.published if one.traffic.guard is not None]
            keys = [(one.endpoint, one.generation) for one in guarded]
            files = {key: self.places.counters(*key) for key in keys}
            found = [nodes.marks_of(*key, Counters(file)) for key, file in files.items() if file.exists()]
            self._marks = tuple(one for one in found if one is not None)
        return self._marks

    def _rest_metrics(self, known: Known) -> tuple[MetricRow, ...]:
        found = []
        for key, row in self._metrics.items():
            rest = row - known.metrics[key] if key in known.metrics else row
            if rest.any():
                found.append((*key, rest.tolist()))
        return tuple(found)

    def _trip(self, trip: GuardTrip) -> None:
        if write_once(self.places.trip(trip.rollout_id, trip.step), trip):
            log.warning("%s rolled back to the baseline: %s", trip.endpoint, trip.reason)
        file = self.places.counters(trip.endpoint, trip.generation)
        if file.exists():
            Counters(file).trip()

    def _keep(self, piece: Piece) -> tuple[int, bool]:
        """Write what is new of a segment; how many of its bytes are here, and whether it is whole."""
        folder = self.places.payloads(piece.endpoint)
        folder.mkdir(parents=True, exist_ok=True)
        growing, whole = folder / f"{piece.name}.open", folder / f"{piece.name}.rows"
        end = piece.start + len(piece.data)
        if whole.exists() or whole.with_suffix(".parquet").exists():
            return end, True
        size = growing.stat().st_size if growing.exists() else 0
        if piece.start <= size < end:
            with growing.open("ab", buffering=0) as stream:
                stream.write(piece.data[size - piece.start :])
            size = end
        closing = piece.closed and size == end
        if closing and growing.exists():
            growing.rename(whole)
        return size, closing

    def _lost(self, known: Known, losses: Mapping[str, bytes]) -> None:
        """Note once what a process that died had been offered and did not write."""
        for endpoint, lines in losses.items():
            if endpoint not in known.losses:
                known.losses.add(endpoint)
                folder = self.places.payloads(endpoint)
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / LOSSES).open("ab") as stream:
                    stream.write(lines)
