"""Each request once: what was logged more than once by attempts of one request, and what became of those asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SAME = ("model", "version", "prediction", "probabilities")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """`rows` has each row of each request once. Of the requests: how often each was answered beyond once, which of those
    were not answered alike every time, which were asked and are not in the log, and which are there and were not asked.
    """

    rows: Sequence[Mapping[str, Any]] = field(repr=False)
    repeated: Mapping[str, int]
    unlike: frozenset[str]
    missing: frozenset[str]
    unknown: frozenset[str]


def reconciled(rows: Iterable[Mapping[str, Any]], asked: Iterable[str] | None = None) -> Reconciliation:
    """The log's rows (`ModelServer.payload_rows`) reconciled by request id: of a request's attempts the first is kept.

    A client that got no answer asks again with the same request id, and both attempts may have been answered and logged.
    `asked` are the request ids that were used, if they are known.

    >>> row = {"request_id": "r1", "row": 0, "model": "m", "version": "v1", "prediction": 1, "probabilities": None}
    >>> once = reconciled([row, row], asked=["r1", "r2"])
    >>> len(once.rows), once.repeated, sorted(once.missing)
    (1, {'r1': 1}, ['r2'])
    """
    kept: dict[tuple[str, int], Mapping[str, Any]] = {}
    times: dict[tuple[str, int], int] = {}
    unlike = set()
    for row in rows:
        key = (row["request_id"], row["row"])
        first = kept.setdefault(key, row)
        times[key] = times.get(key, 0) + 1
        if any(row[name] != first[name] for name in SAME):
            unlike.add(key[0])
    repeated: dict[str, int] = {}
    for (request, _), count in times.items():
        if count > 1:
            repeated[request] = max(repeated.get(request, 0), count - 1)
    there = {request for request, _ in kept}
    wanted = there if asked is None else set(asked)
    return Reconciliation(
        rows=list(kept.values()),
        repeated=repeated,
        unlike=frozenset(unlike),
        missing=frozenset(wanted - there),
        unknown=frozenset(there - wanted),
    )
