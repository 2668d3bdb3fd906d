"""The statements by which servers of one database tell each other what they have counted."""

from __future__ import annotations

from dataclasses import dataclass

from modelyard.core.ports import Connection
from modelyard.core.work import Work


@dataclass(frozen=True, slots=True)
class Line:
    """One row. A source's part is replaced by a new row, so a revision never stands for two contents."""

    revision: int
    endpoint: str
    generation: int
    source: str
    part: int
    body: bytes


def after(rows: Connection, revision: int) -> list[Line]:
    """What has been told since, in order: writers take turns, so nothing appears behind what has been read."""
    found = rows.tuples(
        "SELECT revision, endpoint, generation, source, part, body FROM serving_fleet WHERE revision > :revision "
        "ORDER BY revision",
        revision=revision,
    )
    return [Line(*row) for row in found]


def put(work: Work, endpoint: str, generation: int, *, source: str, part: int, body: bytes) -> int:
    """Tell a part in the place of what it said before; the new revision."""
    row = work.rows.one(
        "INSERT INTO serving_fleet (endpoint, generation, source, part, body) "
        "VALUES (:endpoint, :generation, :source, :part, :body) RETURNING revision",
        endpoint=endpoint,
        generation=generation,
        source=source,
        part=part,
        body=body,
    )
    assert row is not None  # RETURNING always answers
    work.rows.run(
        "DELETE FROM serving_fleet WHERE endpoint = :endpoint AND generation = :generation AND source = :source "
        "AND part = :part AND revision < :revision",
        endpoint=endpoint,
        generation=generation,
        source=source,
        part=part,
        revision=row["revision"],
    )
    return int(row["revision"])


def sweep(work: Work, endpoint: str, below: int) -> None:
    """Forget what was told of generations below one."""
    work.rows.run(
        "DELETE FROM serving_fleet WHERE endpoint = :endpoint AND generation < :below", endpoint=endpoint, below=below
    )


def remove(work: Work, endpoint: str) -> None:
    """Forget what was told of an endpoint."""
    work.rows.run("DELETE FROM serving_fleet WHERE endpoint = :endpoint", endpoint=endpoint)
