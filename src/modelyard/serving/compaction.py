"""Raw payload segments become Parquet, and old ones go: in a process of its own, at the lowest priority.

    python -m modelyard.serving.compaction FOLDER

Each closed segment WRITER-N.rows becomes WRITER-N.parquet, which appears whole and whose presence makes the raw one void,
so a process that dies here loses nothing and repeats nothing. One process at a time works in a folder. A writer that died
is settled: what it had been offered and did not write is told, once, in `losses.jsonl`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import YardError
from modelyard.serving import erasing, failures, indexing, logged, merging, retention, segments
from modelyard.serving.places import Places, held
from modelyard.serving.values import EndpointConfig

LOSSES = "losses.jsonl"
log = logging.getLogger("modelyard.serving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a writer that ended was offered and what became of it, in rows; `lost` is what nobody wrote or counted.

    `damaged` are rows that it wrote and that cannot be read any more.
    """

    writer: str
    at: float
    offered: int = 0
    written: int = 0
    dropped: int = 0
    failed: int = 0
    lost: int = 0
    damaged: int = 0


def compact(folder: Path, *, wait: bool = True, days: float = 0.0, mib: float = 0.0) -> int:
    """How many raw segments of an endpoint became Parquet. What cannot be written now is tried again next time.

    Small segments are merged, and what is older than so many days or beyond so many MiB goes; 0 keeps all.
    """
    if not folder.is_dir():
        return 0
    with segments.locked(folder, wait=wait) as alone:
        if not alone:
            return 0
        settle(folder)
        merging.finish(folder)
        for part in folder.glob("*.part"):
            part.unlink()
        done = 0
        for raw in sorted(folder.glob("*+*.rows")):
            whole = raw.with_suffix(".parquet")
            if not whole.exists() and not _written(raw, whole, folder):
                continue
            raw.unlink()
            done += 1
        try:
            erasing.finish(folder, now=round(time.time() * 1e6))
        except OSError as error:
            log.error("What is to be forgotten still stands in %s: %s", folder.name, error)  # noqa: TRY400 - that says all
        retention.drop_old(folder, now=time.time(), days=days, mib=mib)
        indexing.sweep(folder)
        try:
            merging.merge(folder)
        except OSError as error:
            log.error("The segments of %s cannot be merged now: %s", folder.name, error)  # noqa: TRY400 - that says all
        return done


def _written(raw: Path, whole: Path, folder: Path) -> bool:
    """Whether the raw segment's rows now stand in Parquet, or there are none."""
    segment = segments.read(raw)
    missing = _missing(segment)
    if segment.skipped:
        log.warning("%s: %d bytes are damaged and hold %d rows or more.", raw, segment.skipped, missing)
    if missing:
        _tell(folder, Loss(writer=_writer(raw), at=time.time(), damaged=missing))
    kept = raw.with_suffix(failures.ENDING)
    if segment.failures and not kept.exists():
        try:
            failures.keep(kept, segment.failures, erasing.read(folder).of)
        except YardError as error:
            log.error("The failed requests of %s cannot be kept now: %s", raw, error)  # noqa: TRY400 - that says all
            return False
    blocks = [one for block in segment.blocks if len((one := _lasting(block, segment, folder)).request_id)]
    if not blocks:
        return True
    table = logged.table(blocks, folder.name)
    part = whole.with_suffix(".part")
    try:
        plugins.load("parquet", "write_segment")(
            part,
            table.columns,
            table.types,
            lists={"probabilities": table.probabilities},
            beside={merging.KEY: json.dumps(table.beside)},
        )
        merging.seal(part, float(table.columns["at"].max()) / 1e6)
        indexing.note(whole, indexing.checksums(table.columns["request_id"]))
    except OSError as error:
        log.error("%s cannot become Parquet now: %s", raw, error)  # noqa: TRY400 - the reason is all there is to say
        part.unlink(missing_ok=True)
        return False
    part.rename(whole)
    segments.sync_folder(folder)
    return True


def _lasting(block: segments.Block, segment: segments.Segment, folder: Path) -> segments.Columns:
    """A block's rows but those that the log has been told to forget."""
    some = segments.columns(block, segment.layouts[block.layout])
    gone = erasing.read(folder).of(some.request_id, some.unit, np.round(some.at * 1e6).astype(np.int64))
    return segments.taken(some, np.flatnonzero(~gone)) if gone.any() else some


def _missing(segment: segments.Segment) -> int:
    """How many rows lie between the first and the last block that were read, and were not."""
    if not segment.blocks:
        return 0
    before = min(block.total - block.rows for block in segment.blocks)
    return segment.total - before - segment.rows


def settle(folder: Path) -> list[Loss]:
    """What each writer that ended since left behind: its last segment is closed, and what it lost is told once."""
    found = []
    for path in sorted(folder.glob("*.tally")):
        if held(path):
            continue
        counted = segments.counted(path)
        raw = sorted(folder.glob(f"{path.stem}+*"))
        last = max((segments.read(one).total for one in raw if one.suffix in (".open", ".rows")), default=0)
        for one in raw:
            if one.suffix == ".open":
                one.rename(one.with_suffix(".rows"))
        if counted is not None:
            written = max(counted.written, last)
            loss = Loss(
                writer=path.stem,
                at=time.time(),
                offered=counted.offered,
                written=written,
                dropped=counted.dropped,
                failed=counted.failed,
                lost=max(counted.offered - counted.dropped - counted.failed - written, 0),
            )
            _tell(folder, loss)
            found.append(loss)
        path.unlink()
    return found


def _tell(folder: Path, loss: Loss) -> None:
    with (folder / LOSSES).open("ab") as stream:
        stream.write(msgspec.json.encode(loss) + b"\n")
    if loss.lost:
        log.warning(
            "%s: the process of %s ended without its last %d payloads (%d were offered, %d written).",
            folder.name,
            loss.writer,
            loss.lost,
            loss.offered,
            loss.written,
        )


def losses(folder: Path) -> list[Loss]:
    """Everything that was not kept, oldest first."""
    path = folder / LOSSES
    if not path.exists():
        return []
    decode = msgspec.json.Decoder(Loss).decode
    return [decode(line) for line in path.read_bytes().splitlines() if line.endswith(b"}")]


def _writer(path: Path) -> str:
    return path.stem.partition("+")[0]


def main(arguments: list[str]) -> None:
    """Compact every endpoint's log of a folder once."""
    parser = argparse.ArgumentParser(prog="python -m modelyard.serving.compaction", description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    os.nice(19)
    places = Places(given.folder)
    for folder in sorted((places.root / "payloads").glob("*")):
        try:
            config = (
                places.read_traffic(folder.name).config if places.traffic(folder.name).exists() else EndpointConfig()
            )
            compact(folder, wait=False, days=config.payload_days, mib=config.payload_mib)
        except (OSError, YardError):
            log.exception("%s cannot be compacted.", folder)


if __name__ == "__main__":
    main(sys.argv[1:])
