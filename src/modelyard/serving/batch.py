"""Batch prediction: the rows of files answered into Parquet, chunk by chunk, in processes of this machine or on a cluster.

    OUTPUT/
        manifest.json          what is predicted with what, and the chunks; `complete` at the end
        part-00000.parquet     the answers of chunk 0, there once they are whole
        .chunk-00000.json      how many rows that chunk had, and .rejects-00000.jsonl those that it left out; until the end

A part depends on its chunk alone, so a run that was killed goes on with the chunks that have no part, and what stands there
in the end is the same, byte for byte, as without the kill.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.core import plugins
from modelyard.core.errors import Conflict, Damaged, Invalid, Unavailable, YardError
from modelyard.serving import batch_files, loaded, segments
from modelyard.serving.batch_files import BadRow, Chunk, Source
from modelyard.serving.batch_parts import column_of, write_part
from modelyard.serving.loaded import LoadedModel
from modelyard.serving.places import write
from modelyard.serving.values import Installed

CHUNK_ROWS = 50_000
MANIFEST = "manifest.json"
Tell = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that the answers depend on."""

    installed: Installed
    digest: str  # of the model's files
    sources: tuple[Source, ...]
    chunks: tuple[Chunk, ...]
    carried: Mapping[str, str]  # column -> type, over all files
    rejects: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What stands in an output folder."""

    job: Job
    complete: bool = False
    predicted: int = 0
    rejected: int = 0
    format_version: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchReport:
    """A finished batch prediction: rows answered and left out, parts written, and how many of them stood there already.

    `rejects` is the file that tells the rows that were left out, empty if there are none.
    """

    output: str
    model: str
    version: str
    predicted: int
    rejected: int
    parts: int
    resumed: int
    rejects: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What became of one chunk."""

    predicted: int
    rejected: int


def predict(
    installed: Installed,
    given: Path,
    output: Path,
    *,
    keep: Sequence[str] | None,
    rejects: bool,
    chunk_rows: int,
    workers: int,
    runner: str,
    tell: Tell,
) -> BatchReport:
    """The finished prediction of a file or folder; begun anew, or gone on with where it was interrupted."""
    if chunk_rows < 1:
        raise Invalid(f"chunk_rows is {chunk_rows}. Choose 1 or more rows.")
    new = not output.exists()
    _make(output)
    with _alone(output):
        try:
            job = _job(installed, given, output, keep=keep, rejects=rejects, chunk_rows=chunk_rows)
        except YardError:
            _swept(output, ".plain-*", *([".lock"] if new else []))
            if new:
                output.rmdir()
            raise
        manifest = _begun(job, output)
        done = _done(job, output)
        resumed = len(job.chunks) if manifest.complete else len(done)
        if not manifest.complete:
            _run(job, output, done, runner=runner, workers=workers, tell=tell)
            manifest = _finished(job, output, done)
        _swept(output, ".plain-*")
    return BatchReport(
        output=str(output),
        model=installed.model,
        version=installed.version,
        predicted=manifest.predicted,
        rejected=manifest.rejected,
        parts=len(job.chunks),
        resumed=resumed,
        rejects=str(output / "rejects.jsonl") if manifest.rejected else "",
    )


def _job(
    installed: Installed, given: Path, output: Path, *, keep: Sequence[str] | None, rejects: bool, chunk_rows: int
) -> Job:
    signature = _model(installed).signature
    found = batch_files.sources(given, signature, keep, output)
    carried: dict[str, str] = {}
    for source in found:
        for name, kind in source.carried.items():
            carried[name] = kind if carried.get(name, kind) == kind else "string"
    columns = [column_of(name).lower() for name in carried]
    for name in carried:
        if columns.count(column_of(name).lower()) > 1:
            raise Invalid(f"Two columns are named {name!r} but for their case. Choose one with keep.")
    return Job(
        installed=installed,
        digest=digest_of(installed),
        sources=tuple(found),
        chunks=tuple(batch_files.chunks(found, chunk_rows)),
        carried=carried,
        rejects=rejects,
    )


def digest_of(installed: Installed) -> str:
    """What changes when the model's file does; of a reference to code, the reference."""
    told = hashlib.sha256(f"{installed.framework}\n".encode())
    path = Path(installed.path)
    if installed.framework == "python" or not path.exists():
        told.update(installed.path.encode())
        return told.hexdigest()
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        told.update(f"{'' if file == path else file.relative_to(path).as_posix()}\n{digest}\n".encode())
    return told.hexdigest()


def _make(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise Invalid(f"{output} is no folder. Choose a folder for the answers.") from error
    except OSError as error:
        raise Unavailable(f"{output} cannot be made: {error.strerror}. Choose another folder.") from error


@contextmanager
def _alone(output: Path) -> Iterator[None]:
    handle = os.open(output / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Conflict(f"Another process writes to {output}. Wait for it, or choose another folder.") from error
    finally:
        os.close(handle)


def _begun(job: Job, output: Path) -> Manifest:
    """The folder's manifest, written now if there is none; Conflict for that of another prediction."""
    path = output / MANIFEST
    if not path.exists():
        if any(not one.name.startswith(".") for one in output.iterdir()):
            raise Conflict(f"{output} holds other files. Choose an empty or a new folder.")
        write(path, Manifest(job=_placeless(job)))
        segments.sync_folder(output)
        return Manifest(job=job)
    try:
        found: Manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except msgspec.MsgspecError as error:
        raise Damaged(f"{path} is not what modelyard wrote: {error}. Choose another folder.") from error
    differs = _difference(found.job, job)
    if differs:
        raise Conflict(f"{output} holds the answers of another prediction: {differs} differs. Choose another folder.")
    return found


def _difference(one: Job, other: Job) -> str:
    """What differs between two predictions, in words; empty if nothing does."""
    if one.digest != other.digest:
        return "the model"
    if [(s.name, s.size, s.modified) for s in one.sources] != [(s.name, s.size, s.modified) for s in other.sources]:
        return "an input file"
    if [asdict(c) for c in one.chunks] != [asdict(c) for c in other.chunks]:
        return "chunk_rows"
    if dict(one.carried) != dict(other.carried):
        return "keep"
    return "" if one.rejects == other.rejects else "rejects"


def _placeless(job: Job) -> Job:
    """The job without where its files stand uncompressed."""
    return replace(job, sources=tuple(replace(source, plain="") for source in job.sources))


def _part(output: Path, number: int) -> Path:
    return output / f"part-{number:05d}.parquet"


def _note(output: Path, number: int) -> Path:
    return output / f".chunk-{number:05d}.json"


def _rejects(output: Path, number: int) -> Path:
    return output / f".rejects-{number:05d}.jsonl"


def _done(job: Job, output: Path) -> dict[int, Done]:
    """The chunks whose part stands. The note is written after the part, so with the note everything is there."""
    decode = msgspec.json.Decoder(Done).decode
    found = {}
    for chunk in job.chunks:
        note = _note(output, chunk.number)
        if note.exists() and _part(output, chunk.number).exists():
            found[chunk.number] = decode(note.read_bytes())
    return found


def _run(job: Job, output: Path, done: dict[int, Done], *, runner: str, workers: int, tell: Tell) -> None:
    """Answer the chunks that are not done; `done` grows with each. Invalid for the first bad row of a strict run."""
    left = [chunk for chunk in job.chunks if chunk.number not in done]
    total = sum(chunk.rows for chunk in job.chunks)
    seen = total - sum(chunk.rows for chunk in left)
    tell(seen, total)
    for part in (*output.glob(".part-*"), *output.glob(".*.part")):
        part.unlink(missing_ok=True)  # of a run that was killed
    bare = replace(job, chunks=())  # the others' places need not travel with every chunk
    calls = [(bare, chunk, str(output)) for chunk in left]
    for index, one in _mapped(calls, runner, workers):
        done[left[index].number] = one
        seen += left[index].rows
        tell(seen, total)


def _mapped(calls: list[tuple[Any, ...]], runner: str, workers: int) -> Iterator[tuple[int, Done]]:
    if runner == "processes" and min(workers, len(calls)) <= 1:
        yield from ((index, answer_chunk(*call)) for index, call in enumerate(calls))
        return
    pool = plugins.load("runner", runner)(min(workers, len(calls)) or 1)
    try:
        yield from pool.map(answer_chunk, calls)
    finally:
        pool.close()


def answer_chunk(job: Job, chunk: Chunk, output: str) -> Done:
    """One chunk's part, written whole; it may run anywhere, and twice."""
    model = _model(job.installed)
    source = job.sources[chunk.source]
    rows = batch_files.read(source, chunk, model.signature)
    batch, fine, wrong = _checked(model, rows, source.name)
    bad = sorted([*rows.bad, *wrong], key=lambda one: one.row)
    if bad and not job.rejects:
        more = f" {len(bad) - 1} more rows of this chunk are bad." if len(bad) > 1 else ""
        raise Invalid(
            f"{bad[0]}{more} Mend the rows, or pass rejects=True (--rejects) to leave them out and have them told."
        )
    place = Path(output)

    def fill(path: Path) -> None:
        write_part(path, model, rows, file=source.name, batch=batch, fine=fine, carried=job.carried)

    try:
        if bad:
            lines = b"".join(msgspec.json.encode(one) + b"\n" for one in bad)
            _whole(_rejects(place, chunk.number), lambda path: path.write_bytes(lines))
        _whole(_part(place, chunk.number), fill)
        done = Done(predicted=len(fine), rejected=len(bad))
        write(_note(place, chunk.number), done)
    except OSError as error:
        raise Unavailable(f"{place} cannot be written: {error}. Make room, and run it again: it goes on.") from error
    return done


def _whole(path: Path, fill: Callable[[Path], Any]) -> None:
    """Have a file appear at once, to last."""
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        fill(part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    segments.sync_folder(path.parent)


def _checked(model: LoadedModel, rows: batch_files.Rows, file: str) -> tuple[np.ndarray, list[int], list[BadRow]]:
    """The batch of the rows that the model takes, which rows of the chunk they are, and what is wrong with the others."""
    if isinstance(rows.records, np.ndarray):
        return rows.records, list(range(len(rows.records))), []
    width = len(model.signature.inputs)
    try:
        batch = model.read(rows.records)
        return model.array(batch).reshape(len(batch), width), list(range(len(batch))), []
    except Invalid:
        pass
    fine, taken, wrong = [], [], []
    for place, record in enumerate(rows.records):
        try:
            fine.extend(model.read([record]))
            taken.append(place)
        except Invalid as error:
            text = str(error).removeprefix("Row 0: ").replace("Row 0 ", "it ")
            wrong.append(BadRow(file=file, row=rows.row[place], line=rows.line[place], error=text))
    return model.array(fine).reshape(len(fine), width), taken, wrong


def _finished(job: Job, output: Path, done: Mapping[int, Done]) -> Manifest:
    """The manifest of the whole: the rejects stand in one file, and what only a resumption needs is gone."""
    rejected = sum(one.rejected for one in done.values())
    if rejected:
        with (output / ".rejects.part").open("wb") as stream:
            for chunk in job.chunks:
                if _rejects(output, chunk.number).exists():
                    stream.write(_rejects(output, chunk.number).read_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        (output / ".rejects.part").replace(output / "rejects.jsonl")
    manifest = Manifest(
        job=_placeless(job), complete=True, predicted=sum(one.predicted for one in done.values()), rejected=rejected
    )
    write(output / MANIFEST, manifest)
    segments.sync_folder(output)
    _swept(output, ".chunk-*", ".rejects-*")
    return manifest


def _swept(output: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in output.glob(pattern):
            path.unlink()


@lru_cache(maxsize=2)
def _model(installed: Installed) -> LoadedModel:
    """A process loads a model once. Its form is the one that serves, so the answers are those of the endpoint."""
    return loaded.load(installed)


@contextmanager
def progress_bar() -> Iterator[Tell]:
    """Draws how far it is on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return

    def draw(done: int, total: int) -> None:
        share = done / total if total else 1.0
        bar = "#" * round(30 * share)
        sys.stderr.write(f"\r\x1b[K[{bar:<30}] {share:4.0%}  {done:,} of {total:,} rows")
        sys.stderr.flush()

    try:
        yield draw
    finally:
        sys.stderr.write("\n")
