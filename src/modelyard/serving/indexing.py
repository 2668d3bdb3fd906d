"""Which Parquet segments may hold a request id: four bytes a request beside each segment, so that an outcome that comes by
itself is joined without a look into a month of predictions. A segment without such a file is looked into.

    FOLDER/ids/STEM   the sorted checksums of the request ids in STEM.parquet
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

FOLDER = "ids"


def checksums(ids: Iterable[str]) -> np.ndarray:
    """What stands for some request ids, sorted and each once."""
    return np.unique(np.array([zlib.crc32(one.encode("utf-8", "replace")) for one in ids], dtype="<u4"))


def note(segment: Path, known: np.ndarray) -> None:
    """Say what ids a segment holds, before it appears."""
    place = _place(segment)
    place.parent.mkdir(exist_ok=True)
    part = place.with_name(f".{place.name}.part")
    part.write_bytes(known.tobytes())
    part.replace(place)


def merge(sources: Sequence[Path], into: Path) -> None:
    """Say of a segment that it holds what others hold, where that is known of all of them."""
    places = [_place(path) for path in sources]
    if all(place.exists() for place in places):
        note(into, np.unique(np.concatenate([np.fromfile(place, "<u4") for place in places])))


def among(segments: Iterable[Path], ids: Iterable[str]) -> list[Path]:
    """The segments that may hold one of these ids."""
    asked = checksums(ids)
    return [path for path in segments if _may_hold(path, asked)]


def _may_hold(segment: Path, asked: np.ndarray) -> bool:
    try:
        known = np.memmap(_place(segment), "<u4", mode="r")
    except (FileNotFoundError, ValueError):  # none, or an empty one
        return True
    places = np.minimum(np.searchsorted(known, asked), len(known) - 1)
    return bool((known[places] == asked).any())


def sweep(folder: Path) -> None:
    """Remove what was said of segments that are gone. The caller holds the folder's lock."""
    for place in (folder / FOLDER).glob("*"):
        if not (folder / f"{place.name}.parquet").exists():
            place.unlink(missing_ok=True)


def _place(segment: Path) -> Path:
    return segment.parent / FOLDER / segment.stem
