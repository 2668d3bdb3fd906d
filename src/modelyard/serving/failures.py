"""What the payload log keeps of requests that a model failed to answer: the error, and what was asked.

They stand in the raw segments beside the answered rows. When a segment becomes Parquet, its failures become a file of JSON
lines beside that, WRITER-N.failures, so that the tables of answers have no rows without an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelyard.core.errors import YardError
from modelyard.core.files import replace_whole
from modelyard.core.traffic import Arm
from modelyard.serving import segments
from modelyard.serving.segments import Failure
from modelyard.serving.values import EndpointConfig

ENDING = ".failures"
ROWS = 20  # of one request whose features are kept
LONGEST = 2_000  # characters of an error, or of a text that was asked
MOST_BYTES = 64 << 20  # of an endpoint's failures: the oldest go
_encode, _pack = msgspec.json.Encoder(enc_hook=str).encode, msgspec.msgpack.Encoder(enc_hook=str).encode
Gone = Callable[[Sequence[str], Sequence[str | None], np.ndarray], np.ndarray]


def failure(
    arm: Arm,
    config: EndpointConfig,
    *,
    names: tuple[str, ...],
    request_id: str,
    at: float,
    micros: float,
    unit: str | None,
    batch: np.ndarray,
    error: YardError,
    pinned: bool,
) -> Failure:
    """What is kept of a failed request: without features where none of the answers' are kept, or they are to be hidden."""
    kept = config.payload_sampling > 0
    return Failure(
        at=at,
        request_id=_text(request_id),
        unit=None if unit is None else _text(unit),
        arm=arm.name,
        model=arm.model,
        version=arm.version,
        micros=micros,
        status=error.status,
        error=_text(_words(error, hidden=not kept or bool(config.payload_hidden))),
        pinned=pinned,
        rows=len(batch),
        names=names if kept else (),
        batch=_inputs(batch, names, config.payload_hidden) if kept else [],
    )


def packed(one: Failure) -> bytes:
    """It as it stands in a raw segment."""
    return _pack(one)


def _text(value: str) -> str:
    """Without half surrogate pairs, which are no text elsewhere, and of a bounded length."""
    short = value if len(value) <= LONGEST else f"{value[:LONGEST]} ..."
    return short.encode("utf-8", "replace").decode()


def _inputs(batch: np.ndarray, names: Sequence[str], hidden: Sequence[str]) -> list[list[Any]]:
    """The first rows of a batch as they are kept: what is to be hidden is missing."""
    places = [place for place, name in enumerate(names) if name in hidden]
    rows: list[list[Any]] = batch[:ROWS].tolist()
    return [
        [
            None if place in places else _text(value) if isinstance(value, str) else value
            for place, value in enumerate(row)
        ]
        for row in rows
    ]


def _words(error: BaseException, *, hidden: bool) -> str:
    """What is kept of an error. Where features are hidden, the words of what the model raised are too: they may tell them."""
    told, root = str(error), error
    while root.__cause__ is not None:
        root = root.__cause__
    if hidden and root is not error and str(root):
        told = told.replace(str(root), "(its words are not kept, since features are hidden)")
    return told


def rows_of(failure: Failure, endpoint: str) -> Iterator[dict[str, Any]]:
    """A failed request's rows as the readers of the payload log give them; at least one."""
    for row, values in enumerate(failure.batch or [[]]):
        yield {
            "request_id": failure.request_id,
            "row": row,
            "at": round(failure.at * 1e6) / 1e6,
            "endpoint": endpoint,
            "arm": failure.arm,
            "model": failure.model,
            "version": failure.version,
            "unit": failure.unit,
            "features": {
                name: None if value is None or value != value else value  # noqa: PLR0124 - not-a-number
                for name, value in zip(failure.names, values, strict=False)
            },
            "prediction": None,
            "probabilities": None,
            "latency_ms": failure.micros / 1000,
            "sampling": 1.0,
            "split": failure.split,
            "error": failure.error,
            "status": failure.status,
            "rows": failure.rows,
            "pinned": failure.pinned,
            "missed": failure.missed,
        }


def known(folder: Path, raw: Iterable[Path], opened: Callable[[Path], segments.Segment]) -> Iterator[Failure]:
    """Every failure of an endpoint's folder, once: of its raw segments, and of those that have become files.

    The raw ones are to be listed first: one that becomes a file meanwhile is in both lists, and never in none.
    """
    files = {path.stem: path for path in sorted(folder.glob(f"*{ENDING}"))}
    for path in raw:
        if path.name not in files:
            yield from opened(path).failures
    for file in files.values():
        yield from read(file)


def read(path: Path) -> list[Failure]:
    """The failures in a file."""
    return [Failure(**msgspec.json.decode(line)) for line in path.read_bytes().splitlines()]


def keep(path: Path, failures: Sequence[Failure], gone: Gone) -> None:
    """Write failures to a file, which appears whole, but for those that are to be forgotten."""
    lasting = _without(failures, gone)
    if lasting:
        replace_whole(path, "".join(f"{_encode(msgspec.structs.asdict(one)).decode()}\n" for one in lasting))


def forget(folder: Path, gone: Gone) -> None:
    """Write each file anew that has something to be forgotten. The caller holds the folder's lock."""
    for path in sorted(folder.glob(f"*{ENDING}")):
        failures = read(path)
        lasting = _without(failures, gone)
        if not lasting:
            path.unlink()
        elif len(lasting) < len(failures):
            keep(path, lasting, gone)


def _without(failures: Sequence[Failure], gone: Gone) -> list[Failure]:
    at = np.array([round(one.at * 1e6) for one in failures], dtype=np.int64)
    forgotten = gone([one.request_id for one in failures], [one.unit for one in failures], at).tolist()
    return [one for one, out in zip(failures, forgotten, strict=True) if not out]


def drop_old(folder: Path, *, until: float) -> None:
    """Remove files that were written before a moment (seconds since 1970), and the oldest of more than 64 MiB."""
    size = 0
    for path in sorted(folder.glob(f"*{ENDING}"), reverse=True):
        stat = path.stat()
        size += stat.st_size
        if stat.st_mtime < until or size > MOST_BYTES:
            path.unlink()
