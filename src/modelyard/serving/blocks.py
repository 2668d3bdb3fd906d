"""Answers that wait to be logged, and the blocks of columns that are made of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from modelyard.serving.segments import Block

# request id, time, microseconds, unit, rows, then the batch, the predictions and the probabilities, each as its type and
# its bytes (a list where the type is object; None and None without probabilities)
Entry = tuple[str, float, float, str | None, int, Any, Any, Any, Any, Any, Any]
_encode = msgspec.msgpack.Encoder(
    enc_hook=lambda value: value.tolist() if hasattr(value, "tolist") else str(value)
).encode


def alike(entries: list[Entry]) -> Iterator[tuple[Any, ...]]:
    """The entries in columns; in several groups where their arrays are not all of the same types."""
    columns = tuple(zip(*entries, strict=True))
    kinds = [columns[place] for place in (5, 7, 9)]
    if all(some.count(some[0]) == len(some) for some in kinds):
        yield columns
        return
    groups: dict[Any, list[Entry]] = {}
    for one in entries:
        groups.setdefault((one[5], one[7], one[9]), []).append(one)
    for some in groups.values():
        yield tuple(zip(*some, strict=True))


def packed(
    columns: tuple[Any, ...], *, layout: int, total: int, names: tuple[str, ...], hidden: Sequence[str]
) -> bytes:
    """The block of some entries' columns as it stands in a segment; ValueError and its like for an answer that is no
    plain value. `total` is how many rows were written before, `names` and `hidden` are of the inputs."""
    ids, at, micros, units, sizes, taken, batches, kinds, predictions, share_kinds, shares = columns
    rows = sum(sizes)
    places = [place for place, name in enumerate(names) if name in hidden]
    block = Block(
        layout=layout,
        total=total + rows,
        rows=rows,
        ids=ids,
        counts=b"" if rows == len(ids) else array("i", sizes).tobytes(),
        at=array("d", at).tobytes(),
        micros=array("f", micros).tobytes(),
        units=None if units.count(None) == len(units) else units,
        batch=_hidden(_joined(batches), taken[0], len(names), places) if places else _joined(batches),
        batch_kind=taken[0].str,
        predictions=_joined(predictions),
        kind=kinds[0].str,
        shares=None if share_kinds[0] is None else b"".join(shares),
        share_kind="" if share_kinds[0] is None else share_kinds[0].str,
    )
    try:
        return _encode(block)
    except UnicodeEncodeError:  # half a surrogate pair, in an id say: told as a question mark
        block.ids, block.units, block.batch = _clean(ids), _clean(block.units), _clean(block.batch)
        return _encode(block)


def _joined(parts: tuple[Any, ...]) -> Any:
    return b"".join(parts) if isinstance(parts[0], bytes) else [value for part in parts for value in part]


def _hidden(batch: Any, kind: np.dtype[Any], width: int, places: list[int]) -> Any:
    """A block's inputs, some of them missing in every row."""
    if isinstance(batch, bytes):
        matrix = np.frombuffer(batch, kind).reshape(-1, width).copy()
        matrix[:, places] = np.nan
        return matrix.tobytes()
    return [[None if place in places else value for place, value in enumerate(row)] for row in batch]


def _clean(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_clean(one) for one in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
